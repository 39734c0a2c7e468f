"""The paper's other retrievers: SASRec, BERT4Rec and NARM. All learn by cross-entropy over the whole catalogue."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llamarec_core.retrieval.recommender import SequentialRecommender
from llamarec_core.settings import RetrieverSettings

HEADS = 2
"""Attention heads of SASRec and BERT4Rec."""

MASKED = 0.2
"""Share of a training sequence that BERT4Rec hides and restores."""


class SASRec(SequentialRecommender):
    """Self-attentive sequential recommendation (Kang and McAuley, 2018, arXiv 1808.09781, equations 1 to 6).

    Its published loss, against one random other item, undersells it (Klenitskiy and Vasilev, 2023).
    """

    def __init__(self, n_items: int, settings: RetrieverSettings):
        super().__init__(n_items, settings)
        self.positions = nn.Embedding(settings.max_length, settings.dim)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(settings.dim, heads=HEADS, dropout=settings.dropout) for _ in range(settings.blocks)
        )
        self.layer_norm = nn.LayerNorm(settings.dim)
        self._initialise()

    def forward(self, sequences: Tensor) -> Tensor:
        """Read whole histories; attention looks back only, so that padding reaches no real position."""
        dim = self.embedding.embedding_dim
        x = self.dropout(self.embedding(sequences) * dim**0.5 + self.positions(_ages(sequences)))
        for block in self.blocks:
            x = block(x)
        return self.layer_norm(x)


class CausalBlock(nn.Module):
    """x ← x + Dropout(Attention(LayerNorm(x), x, x)), causal, then x ← x + Dropout(FFN(LayerNorm(x)))."""

    def __init__(self, dim: int, *, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out_projection = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, dim) to the same shape."""
        query = self._split(self.query(self.attention_norm(x)))  # (batch, heads, length, dim / heads)
        key, value = map(self._split, self.key_value(x).chunk(2, dim=-1))
        probability = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=probability, is_causal=True)
        x = x + self.dropout(self.out_projection(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class BERT4Rec(SequentialRecommender):
    """Bidirectional encoder representations (Sun et al., 2019, arXiv 1904.06690).

    A transformer that looks both ways restores hidden items, and only those are learnt (their equation 8). A mask
    behind the history predicts the next item: ``s(h) = LayerNorm(GELU(h W + b)) E^⊤ + b_items`` (equation 7; the
    LayerNorm is the authors' code's). The others stand before each layer, which trains small models more steadily.
    """

    def __init__(self, n_items: int, settings: RetrieverSettings):
        super().__init__(n_items, settings, extra_tokens=1)
        dim = settings.dim
        self.mask = n_items + 1
        self.positions = nn.Embedding(settings.max_length + 1, dim)  # one more for the mask behind a full history
        self.embedding_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(settings.dropout)
        layer = nn.TransformerEncoderLayer(
            dim, HEADS, 4 * dim, settings.dropout, F.gelu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, settings.blocks, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.out_projection = nn.Linear(dim, dim)
        self.out_norm = nn.LayerNorm(dim)
        self._initialise()

    def forward(self, sequences: Tensor) -> Tensor:
        """Read sequences with masks in them, (batch, length), into states, (batch, length, dim)."""
        x = self.embedding_norm(self.embedding(sequences) + self.positions(_ages(sequences)))
        x = self.encoder(self.dropout(x), src_key_padding_mask=sequences == 0)
        return self.out_norm(F.gelu(self.out_projection(x)))

    def last_states(self, histories: list[Tensor]) -> Tensor:
        """Read histories into the states at a mask behind each, (batch, dim)."""
        return super().last_states([F.pad(history, (0, 1), value=self.mask) for history in histories])

    def training_states(self, sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mask items at random; in one sequence of ten, and where chance masks none, the last alone (section 3.6)."""
        padded = self._padded([sequence[-self.max_length :] for sequence in sequences])
        device = padded.device
        masked = (torch.rand(padded.shape, device=device) < MASKED) & (padded > 0)  # (batch, length)
        last = F.one_hot((padded > 0).sum(1) - 1, padded.shape[1]).bool()
        only_last = (torch.rand(len(padded), 1, device=device) < 0.1) | ~masked.any(1, keepdim=True)
        masked = torch.where(only_last, last, masked)
        return self(padded.masked_fill(masked, self.mask))[masked], padded[masked]


class NARM(SequentialRecommender):
    """Neural attentive session-based recommendation (Li et al., 2017, arXiv 1711.04725, equations 5 to 10).

    The last state of a gated recurrent unit stands beside the sum of all states, weighted by how they fit the last::

        α_tj = v^⊤ σ(A_1 h_t + A_2 h_j),        c_t = [h_t ; Σ_{j ≤ t} α_tj h_j],        s = (c_t B) E^⊤.

    Every prefix of a sequence is a session here, so that NARM learns from every position, as the others do.
    """

    def __init__(self, n_items: int, settings: RetrieverSettings):
        super().__init__(n_items, settings)
        dim = settings.dim
        self.dropout = nn.Dropout(settings.dropout)
        self.recurrence = nn.GRU(dim, dim, settings.blocks, batch_first=True)
        self.query = nn.Linear(dim, dim, bias=False)  # A_1
        self.key = nn.Linear(dim, dim, bias=False)  # A_2
        self.fit = nn.Linear(dim, 1, bias=False)  # v
        self.decoder = nn.Linear(2 * dim, dim, bias=False)  # B
        for matrix in (self.embedding, self.query, self.key, self.fit, self.decoder):
            nn.init.xavier_normal_(matrix.weight)

    def forward(self, sequences: Tensor) -> Tensor:
        """Read whole histories; see the base class."""
        states = self._read(sequences)
        return self._decode(states, states)

    def last_states(self, histories: list[Tensor]) -> Tensor:
        """Read histories into their last states, (batch, dim): only these are compared with the others."""
        states = self._read(self._padded(histories))  # (batch, length, dim), zero behind a history
        last = torch.tensor([len(history) - 1 for history in histories])
        return self._decode(states[torch.arange(len(histories)), last, None], states)[:, 0]

    def _read(self, sequences: Tensor) -> Tensor:
        """Return the recurrent unit's states, (batch, length, dim), zero at padding."""
        lengths = (sequences > 0).sum(1).cpu()
        embedded = self.dropout(self.embedding(sequences))
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.recurrence(packed)[0], batch_first=True, total_length=sequences.shape[1])[0]

    def _decode(self, last: Tensor, states: Tensor) -> Tensor:
        """Compare the ends of sequences, (batch, ends, dim), with all states up to each, and map both to item space."""
        pairs = torch.sigmoid(self.query(last)[:, :, None] + self.key(states)[:, None])  # (batch, ends, length, dim)
        weights = self.fit(pairs)[..., 0].tril(states.shape[1] - last.shape[1])  # α, (batch, ends, length)
        return self.decoder(self.dropout(torch.cat([last, weights @ states], dim=-1)))


def _ages(sequences: Tensor) -> Tensor:
    """Count positions from the newest interaction backwards, as left padding does: int64 (batch, length)."""
    lengths = (sequences > 0).sum(1, keepdim=True)  # (batch, 1)
    return (lengths - 1 - torch.arange(sequences.shape[1], device=sequences.device)).clamp(min=0)
