"""The published form of LRURec, written straight from the paper: the reference that ours is compared with.

Complex layers; sequences padded on the left to a power of two; the recurrence by recursive doubling, as the paper's
Algorithm 1 has it; scores and loss at every position, padding's being ignored. Yue et al., 2023, arXiv 2310.02367.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llamarec_core.retrieval.lru import LinearRecurrentUnit, LRURec


def pad_left(sequences: list[Tensor], length: int) -> Tensor:
    """Keep the last ``length`` items of each and pad with 0 on the left to the next power of two: (batch, 2^n)."""
    padded = torch.zeros(len(sequences), 1 << (length - 1).bit_length(), dtype=torch.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        kept = sequence[-length:]
        row[len(row) - len(kept) :] = kept
    return padded


def doubling_scan(drive: Tensor, decay: Tensor) -> Tensor:
    """Solve h_t = λ h_{t−1} + u_t, (batch, 2^n, hidden), in n rounds.

    In each round the solved blocks are joined by twos: the right one gains the left one's last state, decayed.
    """
    batch, length, hidden = drive.shape
    states, block = drive, 1
    powers = decay[None]  # λ¹ … λ^block, (block, hidden)
    while block < length:
        left, right = states.reshape(batch, -1, 2, block, hidden).unbind(2)
        right = right + powers * left[..., -1:, :]
        states = torch.stack([left, right], dim=2).reshape(batch, length, hidden)
        powers = torch.cat([powers, powers * powers[-1]])
        block *= 2
    return states


class PublishedUnit(nn.Module):
    """A linear recurrent unit with complex B and C, taking the weights of ours."""

    def __init__(self, unit: LinearRecurrentUnit):
        super().__init__()
        self.nu, self.theta = nn.Parameter(unit.nu.detach().clone()), nn.Parameter(unit.theta.detach().clone())
        real, imaginary = unit.in_projection.weight.unflatten(0, (-1, 2)).unbind(1)
        self.b = nn.Parameter(torch.complex(real, imaginary).detach())
        real, imaginary = unit.in_projection.bias.unflatten(0, (-1, 2)).unbind(1)
        self.b_bias = nn.Parameter(torch.complex(real, imaginary).detach())
        real, minus_imaginary = unit.out_projection.weight.unflatten(1, (-1, 2)).unbind(2)
        self.c = nn.Parameter(torch.complex(real, -minus_imaginary).detach())
        self.c_bias = nn.Parameter(unit.out_projection.bias.detach().to(torch.complex64))
        self.dropout, self.layer_norm = unit.dropout, unit.layer_norm

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Map (batch, length, dim) to the same; ``real`` bool (batch, length) is false at padding."""
        decay = torch.exp(torch.complex(-self.nu.exp(), self.theta.exp()))
        gain = torch.sqrt(1 - decay.abs() ** 2)
        drive = gain * F.linear(x.to(torch.complex64), self.b, self.b_bias)
        states = doubling_scan(drive * real[..., None], decay)
        return self.layer_norm(self.dropout(F.linear(states, self.c, self.c_bias).real) + x)


class PublishedLRURec(nn.Module):
    """LRURec in its published form, with the weights of ours."""

    def __init__(self, model: LRURec):
        super().__init__()
        self.embedding, self.item_bias = model.embedding, model.item_bias
        self.dropout, self.layer_norm = model.dropout, model.layer_norm
        self.blocks = nn.ModuleList(nn.ModuleList([PublishedUnit(unit), mlp]) for unit, mlp in model.blocks)

    def forward(self, padded: Tensor) -> Tensor:
        """Map (batch, 2^n) item ids to the scores of all items at every position, (batch, 2^n, n_items)."""
        x, real = self.layer_norm(self.dropout(self.embedding(padded))), padded > 0
        for unit, feed_forward in self.blocks:
            x = feed_forward(unit(x, real))
        return F.linear(x, self.embedding.weight[1:], self.item_bias[1:])

    def loss(self, sequences: list[Tensor], length: int) -> Tensor:
        """The mean cross-entropy of the next items; padding is scored too, and then ignored."""
        inputs = pad_left([sequence[:-1] for sequence in sequences], length)
        targets = pad_left([sequence[1:] for sequence in sequences], length)
        return F.cross_entropy(self(inputs).flatten(0, 1), targets.flatten() - 1, ignore_index=-1)
