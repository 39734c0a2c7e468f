"""LRURec: linear recurrent units for sequential recommendation (Yue et al., 2023, arXiv 2310.02367).

A user's history is read by a stack of blocks, each a linear recurrent unit (their equations 1 to 4)::

    h_t = λ ⊙ h_{t−1} + γ ⊙ (B x_t + b),        y_t = Re(C h_t + c) + x_t,
    λ = exp(−exp ν + i exp θ),                  γ = sqrt(1 − |λ|²),

and a position-wise feed-forward network, each with a residual connection and a LayerNorm; an item's
score is the dot product of the last hidden state with the item's embedding, plus a bias.

The unit has two forms. :meth:`LRURec.forward` reads whole sequences, for training; the recurrence
then is :func:`linear_scan`, whose gradient is written by hand. :meth:`LRURec.step` reads one
interaction at a time and carries the state along: serving a new interaction costs O(1), whatever
the length of the history.

Sequences are padded on the right. The recurrence is causal and everything else acts on each
position alone, so padding cannot reach a real position and no mask is needed.

Only λ and the state h are complex numbers. B and C are real layers that write and read the real and
imaginary parts side by side, which is the same map at the price of real arithmetic. Inside the
model the time axis comes first, so that a step of the recurrence touches one block of memory.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from llamarec_core.settings import RetrieverSettings

MIN_RADIUS, MAX_RADIUS = 0.8, 0.99
"""Between these moduli ``|λ|`` is drawn, uniformly over the ring's area."""


class LRURec(nn.Module):
    """The sequential recommender of Yue et al. (2023), as in their published code but for the padding's side.

    Args:
        n_items: size of the catalogue; items are numbered 1 … n_items, 0 pads.
        settings: ``dim``, ``blocks`` and ``dropout`` are read.
    """

    def __init__(self, n_items: int, settings: RetrieverSettings):
        super().__init__()
        dim, dropout = settings.dim, settings.dropout
        self.embedding = nn.Embedding(n_items + 1, dim)
        self.item_bias = nn.Parameter(torch.zeros(n_items + 1))
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            nn.Sequential(LinearRecurrentUnit(dim, dropout=dropout), FeedForward(dim, dropout=dropout))
            for _ in range(settings.blocks)
        )
        for name, parameter in self.named_parameters():
            if "layer_norm" not in name and not name.endswith(("nu", "theta")):
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)

    def forward(self, sequences: Tensor) -> Tensor:
        """Read whole histories.

        Args:
            sequences: item ids, oldest first, padded with 0 on the right: int64 (batch, length).

        Returns:
            The hidden state after each interaction, (batch, length, dim). A state after padding means nothing.
        """
        x = self._embed(sequences.T)  # (length, batch, dim)
        for block in self.blocks:
            x = block(x)
        return x.transpose(0, 1)  # (batch, length, dim)

    def scores(self, hidden: Tensor) -> Tensor:
        """Score the whole catalogue: (…, dim) to (…, n_items + 1), with −inf for the padding's column 0."""
        scores = F.linear(hidden, self.embedding.weight, self.item_bias)
        scores[..., 0] = -torch.inf
        return scores

    def initial_state(self, batch: int) -> Tensor:
        """Return the state before any interaction: complex zeros (blocks, batch, 2 dim)."""
        weight = self.embedding.weight
        return torch.zeros(
            len(self.blocks), batch, 2 * weight.shape[1], dtype=weight.dtype.to_complex(), device=weight.device
        )

    def step(self, items: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read one more interaction of each user, at the same cost however long the history.

        Args:
            items: the newest item ids: int64 (batch,).
            state: from :meth:`initial_state` or the step before: complex (blocks, batch, 2 dim). It is not changed.

        Returns:
            The hidden states (batch, dim), to be given to :meth:`scores`, and the new state.
        """
        x = self._embed(items)  # (batch, dim)
        states = []
        for (recurrence, feed_forward), previous in zip(self.blocks, state, strict=True):
            x, new = recurrence.step(x, previous)
            x = feed_forward(x)
            states.append(new)
        return x, torch.stack(states)

    def _embed(self, items: Tensor) -> Tensor:
        return self.layer_norm(self.dropout(self.embedding(items)))


class LinearRecurrentUnit(nn.Module):
    """One linear recurrent unit with its residual connection and LayerNorm; the state has 2 dim complex numbers."""

    def __init__(self, dim: int, *, dropout: float):
        super().__init__()
        hidden = 2 * dim
        squared_radius = torch.empty(hidden).uniform_(MIN_RADIUS**2, MAX_RADIUS**2)
        angle = torch.empty(hidden).uniform_(0, 2 * math.pi)
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(squared_radius)))
        self.theta = nn.Parameter(torch.log(angle))
        self.in_projection = nn.Linear(dim, 2 * hidden)  # B, b: real and imaginary parts alternate
        self.out_projection = nn.Linear(2 * hidden, dim)  # Re(C h + c), as a real map of the same pairs
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (length, batch, dim) to the same shape."""
        return self._output(linear_scan(*self._drive_and_decay(x)), x)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map one position (batch, dim) and the state before it (batch, 2 dim) to the output and the state after it."""
        drive, decay = self._drive_and_decay(x)
        state = decay * state + drive
        return self._output(state, x), state

    def _drive_and_decay(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return γ ⊙ (B x + b), complex (…, 2 dim), and λ, complex (2 dim,)."""
        nu, theta = self.nu.exp(), self.theta.exp()
        decay = torch.polar(torch.exp(-nu), theta)
        gain = torch.sqrt(-torch.expm1(-2 * nu)).repeat_interleave(2)  # sqrt(1 − |λ|²), exact for |λ| near 1
        # the gain goes into the layer's few weights rather than into each of its many outputs
        weight, bias = self.in_projection.weight * gain[:, None], self.in_projection.bias * gain
        drive = F.linear(x, weight, bias).unflatten(-1, (-1, 2))  # (…, 2 dim, 2)
        return torch.view_as_complex(drive), decay

    def _output(self, states: Tensor, x: Tensor) -> Tensor:
        pairs = torch.view_as_real(states).flatten(-2)  # (…, 4 dim)
        return self.layer_norm(self.dropout(self.out_projection(pairs)) + x)


class FeedForward(nn.Module):
    """Position-wise feed-forward network of width 4 dim, with its residual connection and LayerNorm."""

    def __init__(self, dim: int, *, dropout: float):
        super().__init__()
        self.in_projection = nn.Linear(dim, 4 * dim)
        self.out_projection = nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, dim) to the same shape."""
        inner = self.dropout(F.gelu(self.in_projection(x)))  # (…, 4 dim)
        return self.layer_norm(self.dropout(self.out_projection(inner)) + x)


def linear_scan(drive: Tensor, decay: Tensor) -> Tensor:
    """Solve h_t = λ ⊙ h_{t−1} + u_t for all t, with h_{−1} = 0.

    Args:
        drive: u, complex (length, batch, hidden).
        decay: λ, complex (hidden,).

    Returns:
        h, complex (length, batch, hidden).
    """
    return _LinearScan.apply(drive, decay)


class _LinearScan(torch.autograd.Function):
    """The recurrence in place, and its exact adjoint, which is the same recurrence run backwards.

    With G_t the gradient that reaches h_t by all its ways,

        G_t = ∂L/∂h_t + λ̄ ⊙ G_{t+1},     ∂L/∂u_t = G_t,     ∂L/∂λ = Σ_t G_t ⊙ h̄_{t−1}.

    Autograd through the plain loop would keep every intermediate and build a node for each step.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, drive: Tensor, decay: Tensor) -> Tensor:
        states = drive.clone(memory_format=torch.contiguous_format)
        rows = states.unbind(0)
        for previous, row in pairwise(rows):
            row.addcmul_(previous, decay)
        ctx.save_for_backward(states, decay)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        states, decay = ctx.saved_tensors
        adjoint = gradient.clone(memory_format=torch.contiguous_format)
        conjugate = decay.conj().resolve_conj()
        rows = adjoint.unbind(0)[::-1]
        for following, row in pairwise(rows):
            row.addcmul_(following, conjugate)
        decay_gradient = (adjoint[1:] * states[:-1].conj()).sum((0, 1))
        return adjoint, decay_gradient
