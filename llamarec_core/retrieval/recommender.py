"""What all retrievers share: sequences of item ids in, padded on the right with 0, and scores over all items out."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from llamarec_core.settings import RetrieverSettings

LOSS_ROWS = 64  # positions that the loss scores at once, so that the scores stay in the processor's cache


class Retriever(Protocol):
    """What :mod:`~llamarec_core.retrieval.candidates` asks of a retriever of ``n_items`` items."""

    n_items: int

    def score(self, histories: list[np.ndarray]) -> Tensor:
        """Score the whole catalogue after each history, item ids (length,), oldest first: float32 (n, n_items + 1)."""


class SequentialRecommender(nn.Module):
    """Base of the trained retrievers: scores are dot products of a hidden state with embeddings, plus a bias an item.

    ``extra_tokens`` are embeddings after the items', such as a mask.
    """

    def __init__(self, n_items: int, settings: RetrieverSettings, *, extra_tokens: int = 0):
        super().__init__()
        self.n_items = n_items
        self.max_length = settings.max_length
        self.embedding = nn.Embedding(n_items + 1 + extra_tokens, settings.dim)
        self.item_bias = nn.Parameter(torch.zeros(n_items + 1))

    def forward(self, sequences: Tensor) -> Tensor:
        """Read whole histories, int64 (batch, length), into the state after each interaction, (batch, length, dim)."""
        raise NotImplementedError

    def last_states(self, histories: list[Tensor]) -> Tensor:
        """Read histories, int64 (length,) each, into the states that predict what comes next: (batch, dim)."""
        last = torch.tensor([len(history) - 1 for history in histories])
        states = self(self._padded(histories))  # (batch, length, dim)
        return states[torch.arange(len(histories)), last]

    @torch.no_grad()
    def score(self, histories: list[np.ndarray]) -> Tensor:
        """Score the whole catalogue after each history, of which the most recent ``max_length`` items are read."""
        recent = [torch.from_numpy(history[-self.max_length :].astype(np.int64)) for history in histories]
        return self.eval().scores(self.last_states(recent))

    def scores(self, states: Tensor) -> Tensor:
        """Score the whole catalogue: (…, dim) to (…, n_items + 1), with −inf for the padding's column 0."""
        scores = F.linear(states, self.embedding.weight[: self.n_items + 1], self.item_bias)
        scores[..., 0] = -torch.inf
        return scores

    def training_states(self, sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return states (positions, dim), of real positions alone, and the items int64 (positions,) that they predict.

        Here each item predicts the next one: ``L = − Σ_t log softmax(s(h_t))[x_{t+1}]``.
        """
        padded = self._padded(sequences)  # (batch, length)
        inputs, targets = padded[:, :-1], padded[:, 1:]
        real = targets > 0
        return self(inputs.where(real, 0))[real], targets[real]

    def loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Add up the cross-entropies of targets under the scores of states, which are never whole in memory."""
        return F.linear_cross_entropy(
            states,
            self.embedding.weight[1 : self.n_items + 1],
            targets - 1,
            linear_bias=self.item_bias[1:],
            reduction="sum",
            options=nn.LinearCrossEntropyOptions(batch_chunk_size=LOSS_ROWS),
        )

    def _padded(self, sequences: list[Tensor]) -> Tensor:
        """Put sequences, int64 (length,) each, into one tensor on the model's device, (batch, length)."""
        return pad_sequence(sequences, batch_first=True).to(self.item_bias.device)

    def _initialise(self, *kept: str) -> None:
        """Draw parameters from N(0, 0.02²), cut at two deviations, but for LayerNorms and those ``kept`` by name."""
        for name, parameter in self.named_parameters():
            if "norm" not in name and name.rsplit(".", 1)[-1] not in kept:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
