"""LRURec: linear recurrent units for sequential recommendation (Yue et al., 2023, arXiv 2310.02367).

A history is read by blocks of a linear recurrent unit (their equations 1 to 4) and a feed-forward network::

    h_t = λ ⊙ h_{t−1} + γ ⊙ (B x_t + b),        y_t = Re(C h_t + c) + x_t,
    λ = exp(−exp ν + i exp θ),                  γ = sqrt(1 − |λ|²).

:meth:`LRURec.forward` reads whole sequences, for training. :meth:`LRURec.step` reads one interaction and carries the
state along: serving costs O(1), however long the history. Only λ and h are complex numbers; B and C are real layers
over real and imaginary parts. A batch is packed as :func:`torch.nn.utils.rnn.pack_padded_sequence` packs it, so that
padding costs nothing: ``positions`` is the number of its real positions.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llamarec_core.retrieval.recommender import SequentialRecommender
from llamarec_core.settings import RetrieverSettings

MIN_RADIUS, MAX_RADIUS = 0.8, 0.99
"""Between these moduli ``|λ|`` is drawn, uniformly over the ring's area."""


class LRURec(SequentialRecommender):
    """The sequential recommender of Yue et al. (2023), as published but for the padding's side."""

    def __init__(self, n_items: int, settings: RetrieverSettings):
        super().__init__(n_items, settings)
        dim, dropout = settings.dim, settings.dropout
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            nn.ModuleList([LinearRecurrentUnit(dim, dropout=dropout), FeedForward(dim, dropout=dropout)])
            for _ in range(settings.blocks)
        )
        self._initialise("nu", "theta")

    def forward(self, sequences: Tensor) -> Tensor:
        """Read whole histories; see the base class."""
        lengths = (sequences > 0).sum(1).cpu()
        packed = pack_padded_sequence(sequences, lengths, batch_first=True, enforce_sorted=False)
        x = self._embed(packed.data)  # (positions, dim)
        for recurrence, feed_forward in self.blocks:
            x = feed_forward(recurrence(x, packed.batch_sizes))
        length = sequences.shape[1]
        return pad_packed_sequence(packed._replace(data=x), batch_first=True, total_length=length)[0]

    def initial_state(self, batch: int) -> Tensor:
        """Return the state before any interaction: complex zeros (blocks, batch, 2 dim)."""
        weight = self.embedding.weight
        return torch.zeros(
            len(self.blocks), batch, 2 * weight.shape[1], dtype=weight.dtype.to_complex(), device=weight.device
        )

    def step(self, items: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read one more interaction of each user, int64 (batch,), into hidden states (batch, dim) and a new state."""
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
    """One linear recurrent unit with residual connection and LayerNorm; its state is 2 dim complex numbers."""

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

    def forward(self, x: Tensor, batch_sizes: Tensor) -> Tensor:
        """Map packed positions (positions, dim) to the same shape."""
        return self._output(linear_scan(*self._drive_and_decay(x), batch_sizes), x)

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
    """Position-wise feed-forward network of width 4 dim, with residual connection and LayerNorm."""

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


def linear_scan(drive: Tensor, decay: Tensor, batch_sizes: Tensor) -> Tensor:
    """Solve h_t = λ ⊙ h_{t−1} + u_t, with h_{−1} = 0, for u packed, complex (positions, hidden), as h is returned.

    ``batch_sizes`` says how many users have a t-th position: int64 (length,) on the CPU, never rising.
    """
    return _LinearScan.apply(drive, decay, batch_sizes)


class _LinearScan(torch.autograd.Function):
    """The recurrence in place, and its exact adjoint, the same recurrence run backwards over gradients G_t of h_t::

    G_t = ∂L/∂h_t + λ̄ ⊙ G_{t+1},     ∂L/∂u_t = G_t,     ∂L/∂λ = Σ_t G_t ⊙ h̄_{t−1}.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, drive: Tensor, decay: Tensor, batch_sizes: Tensor) -> Tensor:
        states = drive.clone(memory_format=torch.contiguous_format)
        sizes = batch_sizes.tolist()
        rows = states.split(sizes)  # one (users, hidden) a time step
        for step in range(1, len(sizes)):
            rows[step].addcmul_(rows[step - 1][: sizes[step]], decay)
        ctx.save_for_backward(states, decay, batch_sizes)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        states, decay, batch_sizes = ctx.saved_tensors
        adjoint = gradient.clone(memory_format=torch.contiguous_format)
        conjugate, sizes = decay.conj().resolve_conj(), batch_sizes.tolist()
        rows = adjoint.split(sizes)
        for step in range(len(sizes) - 1, 0, -1):
            rows[step - 1][: sizes[step]].addcmul_(rows[step], conjugate)
        # where h_{t−1} lies that belongs to each h_t with t > 0: as many places before as time step t − 1 is long
        later = torch.arange(sizes[0], len(states)) - batch_sizes[:-1].repeat_interleave(batch_sizes[1:])
        decay_gradient = (adjoint[sizes[0] :] * states[later.to(states.device)].conj()).sum(0)
        return adjoint, decay_gradient, None
