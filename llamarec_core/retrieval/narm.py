"""NARM: neural attentive session-based recommendation (Li et al., 2017, arXiv 1711.04725).

A gated recurrent unit reads the items (their section 3.3). Its last state is the *global* encoder's summary; the
*local* encoder adds up all states so far, each weighted by how it fits the last (section 3.4, equations 5 to 8)::

    α_tj = v^⊤ σ(A_1 h_t + A_2 h_j),        c_t = [h_t ; Σ_{j ≤ t} α_tj h_j],

and a bilinear decoder compares the two with an item (equation 10): ``s = (c_t B) E^⊤``. Every prefix of a sequence is
a session here, so that NARM learns from every position, as the other retrievers do.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from llamarec_core.retrieval.recommender import SequentialRecommender
from llamarec_core.settings import RetrieverSettings


class NARM(SequentialRecommender):
    """The sequential recommender of Li et al. (2017)."""

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
        """Read whole histories, (batch, length) to (batch, length, dim); see the base class."""
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
