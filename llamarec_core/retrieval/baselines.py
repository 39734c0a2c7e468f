"""The paper's other retrievers: SASRec, BERT4Rec and NARM. All learn by cross-entropy over the whole catalogue."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from llamarec_core.retrieval.recommender import SequentialRecommender
from llamarec_core.settings import RetrieverSettings

HEADS = 2
"""Attention heads of SASRec and BERT4Rec."""

MASKED = 0.2
"""Share of a training sequence that BERT4Rec hides and restores."""


class SASRec(SequentialRecommender):
    """Self-attentive sequential recommendation (Kang and McAuley, 2018, arXiv 1808.09781).

    Item embeddings, scaled by √dim, plus position embeddings (their equation 1) go through blocks of causal
    self-attention (equations 2 to 5) and a position-wise feed-forward network (equation 6)::

        x ← x + Dropout(Attention(LayerNorm(x), x, x)),        x ← x + Dropout(FFN(LayerNorm(x))),

    and a last LayerNorm. The published loss tells the next item from one random other item, which undersells SASRec
    (Klenitskiy and Vasilev, 2023).
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
        """Read whole histories; see the base class.

        Attention looks back only, so that padding on the right cannot reach a real position and no mask is needed.
        """
        dim = self.embedding.embedding_dim
        x = self.dropout(self.embedding(sequences) * dim**0.5 + self.positions(_ages(sequences)))
        for block in self.blocks:
            x = block(x)
        return self.layer_norm(x)


class CausalBlock(nn.Module):
    """Causal multi-head self-attention and a feed-forward network, each with LayerNorm before and residual after."""

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

    A transformer that looks both ways (their equations 1 to 6) restores hidden items, and only those are learnt
    (equation 8). To predict the next item a mask is put behind the history, and its state scores the catalogue
    (equation 7)::

        s(h) = LayerNorm(GELU(h W + b)) E^⊤ + b_items.

    The paper's equation has no LayerNorm there; the authors' code has, and learns badly without. Others stand before
    each layer here, as in SASRec, which trains a small model more steadily than behind it, as published.
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
        """Read sequences with masks in them, (batch, length), into the states of all places, (batch, length, dim)."""
        x = self.embedding_norm(self.embedding(sequences) + self.positions(_ages(sequences)))
        x = self.encoder(self.dropout(x), src_key_padding_mask=sequences == 0)
        return self.out_norm(F.gelu(self.out_projection(x)))

    def last_states(self, histories: list[Tensor]) -> Tensor:
        """Read histories into the states that predict what comes next, (batch, dim), at a mask behind each history."""
        mask = torch.tensor([self.mask], device=self.embedding.weight.device)
        return super().last_states([torch.cat([history, mask]) for history in histories])

    def training_states(self, sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Hide items at random and return the states at their places with the items: (positions, dim) and (positions,).

        Each place is masked with probability :data:`MASKED`. In one sequence of ten only the last item is, as when the
        next item is predicted (section 3.6), and so it is where chance masks nothing.
        """
        padded = pad_sequence([sequence[-self.max_length :] for sequence in sequences], batch_first=True)
        device = padded.device
        masked = (torch.rand(padded.shape, device=device) < MASKED) & (padded > 0)  # (batch, length)
        last = F.one_hot((padded > 0).sum(1) - 1, padded.shape[1]).bool()
        only_last = (torch.rand(len(padded), 1, device=device) < 0.1) | ~masked.any(1, keepdim=True)
        masked = torch.where(only_last, last, masked)
        return self(padded.masked_fill(masked, self.mask))[masked], padded[masked]


class NARM(SequentialRecommender):
    """Neural attentive session-based recommendation (Li et al., 2017, arXiv 1711.04725).

    A gated recurrent unit reads the items (their section 3.3). Its last state is the *global* encoder's summary; the
    *local* encoder adds up all states so far, each weighted by how it fits the last (section 3.4, equations 5 to 8)::

        α_tj = v^⊤ σ(A_1 h_t + A_2 h_j),        c_t = [h_t ; Σ_{j ≤ t} α_tj h_j],

    and a bilinear decoder compares the two with an item (equation 10): ``s = (c_t B) E^⊤``. Every prefix of a sequence
    is a session here, so that NARM learns from every position, as the other retrievers do.
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
        """Read histories into the states that predict what comes next, (batch, dim); only the last is compared."""
        states = self._read(pad_sequence(histories, batch_first=True))  # (batch, length, dim), zero behind a history
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
        weights = self.fit(pairs)[..., 0]  # α, (batch, ends, length)
        weights = weights.tril(states.shape[1] - last.shape[1])
        return self.decoder(self.dropout(torch.cat([last, weights @ states], dim=-1)))


def _ages(sequences: Tensor) -> Tensor:
    """Count positions from the newest interaction backwards, as left padding does: int64 (batch, length)."""
    lengths = (sequences > 0).sum(1, keepdim=True)  # (batch, 1)
    return (lengths - 1 - torch.arange(sequences.shape[1], device=sequences.device)).clamp(min=0)
