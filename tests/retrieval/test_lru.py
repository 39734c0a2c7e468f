"""LRURec: its two forms agree, and its hand-written gradient is the true one."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from llamarec_core.retrieval.lru import MAX_RADIUS, MIN_RADIUS, LRURec, linear_scan
from llamarec_core.settings import RetrieverSettings

N_ITEMS = 30


@pytest.fixture
def model() -> LRURec:
    """A model in evaluation mode whose weights are large enough for the recurrence to matter."""
    torch.manual_seed(0)
    model = LRURec(N_ITEMS, RetrieverSettings(dim=16, blocks=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return model


def random_sequences(*lengths: int) -> torch.Tensor:
    """Random histories of these lengths, right-padded."""
    return pad_sequence([torch.randint(1, N_ITEMS + 1, (length,)) for length in lengths], batch_first=True)


@pytest.mark.parametrize("lengths", [[1, 1], [2, 1], [7, 7], [7, 4, 1]])
def test_the_scan_has_the_true_gradient(lengths):
    batch_sizes = (torch.arange(lengths[0])[:, None] < torch.tensor(lengths)).sum(1)
    torch.manual_seed(1)
    drive = torch.randn(sum(lengths), 3, dtype=torch.complex128, requires_grad=True)
    decay = (0.9 * torch.exp(1j * torch.tensor([0.1, 2.0, 4.0], dtype=torch.float64))).requires_grad_()
    assert torch.autograd.gradcheck(linear_scan, (drive, decay, batch_sizes))


@pytest.mark.parametrize("length", [1, 50, 200])
def test_one_step_at_a_time_equals_the_whole_sequence_and_changes_no_state_but_its_own(model, length):
    sequences = random_sequences(length, (length + 1) // 2, length)
    with torch.inference_mode():
        whole = model(sequences)  # (batch, length, dim)
        state = model.initial_state(3)
        for t in range(length):
            before = state.clone()
            hidden, new = model.step(sequences[:, t], state)
            assert torch.equal(state, before)
            real, state = sequences[:, t] > 0, new
            torch.testing.assert_close(hidden[real], whole[real, t], atol=1e-4, rtol=0)


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
