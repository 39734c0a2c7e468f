"""BERT4Rec: sequential recommendation with bidirectional encoder representations (Sun et al., 2019, arXiv 1904.06690).

A transformer that looks both ways (their equations 1 to 6) restores hidden items: in training a share of each
sequence is replaced by a mask, and the loss is the cross-entropy over the catalogue at the masked places only
(equation 8). To predict the next item a mask is put behind the history, and its state scores the catalogue
(equation 7)::

    s(h) = LayerNorm(GELU(h W + b)) E^⊤ + b_items.

The paper's equation has no LayerNorm there; the authors' code has, and learns badly without. Published with
LayerNorms behind each residual connection; here they stand before each layer, as in SASRec, which trains a small
model more steadily.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from llamarec_core.retrieval.recommender import HEADS, SequentialRecommender
from llamarec_core.settings import RetrieverSettings

MASKED = 0.2
"""Share of a training sequence that is hidden and restored."""


class BERT4Rec(SequentialRecommender):
    """The sequential recommender of Sun et al. (2019)."""

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
        padding = sequences == 0
        age = (~padding).sum(1, keepdim=True) - 1 - torch.arange(sequences.shape[1], device=sequences.device)
        x = self.embedding(sequences) + self.positions(age.clamp(min=0))  # positions count back from the newest
        x = self.encoder(self.dropout(self.embedding_norm(x)), src_key_padding_mask=padding)
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
