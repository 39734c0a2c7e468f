"""LRURec: its hand-written gradient is the true one, and it begins as published."""

import pytest
import torch

from llamarec_core.retrieval.lru import MAX_RADIUS, MIN_RADIUS, LRURec, linear_scan
from llamarec_core.settings import RetrieverSettings


@pytest.mark.parametrize("lengths", [[1, 1], [2, 1], [7, 7], [7, 4, 1]])
def test_the_scan_has_the_true_gradient(lengths):
    batch_sizes = (torch.arange(lengths[0])[:, None] < torch.tensor(lengths)).sum(1)
    torch.manual_seed(1)
    drive = torch.randn(sum(lengths), 3, dtype=torch.complex128, requires_grad=True)
    decay = (0.9 * torch.exp(1j * torch.tensor([0.1, 2.0, 4.0], dtype=torch.float64))).requires_grad_()
    assert torch.autograd.gradcheck(linear_scan, (drive, decay, batch_sizes))


def test_initial_values_are_the_published_ones():
    torch.manual_seed(0)
    model = LRURec(1000, RetrieverSettings(dim=64, blocks=2))
    for block in model.blocks:
        radius = torch.exp(-torch.exp(block[0].nu))
        assert radius.shape == (128,)
        assert MIN_RADIUS <= radius.min() < 0.85
        assert 0.95 < radius.max() <= MAX_RADIUS
    assert model.embedding.weight.abs().max() <= 0.04  # normal of deviation 0.02, cut at two deviations
    assert model.embedding.weight.std().item() == pytest.approx(0.0176, abs=2e-4)
    assert torch.equal(model.layer_norm.weight, torch.ones(64))
