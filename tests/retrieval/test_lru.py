"""LRURec: its two forms agree, its hand-written gradient is the true one, padding changes nothing."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from llamarec_core.retrieval.lru import MAX_RADIUS, MIN_RADIUS, LinearRecurrentUnit, LRURec, linear_scan
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


def pack(padded: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pack (length, batch, …) of users from the longest to the shortest: (positions, …) and the batch sizes."""
    batch_sizes = (torch.arange(len(padded))[:, None] < torch.tensor(lengths)).sum(1)
    return torch.cat([row[:size] for row, size in zip(padded, batch_sizes, strict=True)]), batch_sizes


def naive_unit(unit: LinearRecurrentUnit, x: torch.Tensor) -> torch.Tensor:
    """The equations of the module's docstring, word by word, (length, batch, dim): complex numbers, one by one."""
    length, _, dim = x.shape
    b = torch.complex(*unit.in_projection.weight.unflatten(0, (2 * dim, 2)).unbind(1))  # B
    b_bias = torch.complex(*unit.in_projection.bias.unflatten(0, (2 * dim, 2)).unbind(1))
    c_real, c_minus_imaginary = unit.out_projection.weight.unflatten(1, (2 * dim, 2)).unbind(2)
    c = torch.complex(c_real, -c_minus_imaginary)  # Re((p + qi)(r + si)) = pr − qs
    decay = torch.exp(torch.complex(-torch.exp(unit.nu), torch.exp(unit.theta)))
    gain = torch.sqrt(1 - decay.abs() ** 2)
    state, outputs = torch.zeros_like(b_bias), []
    for t in range(length):
        state = decay * state + gain * (x[t].to(b.dtype) @ b.T + b_bias)
        outputs.append((state @ c.T).real + unit.out_projection.bias + x[t])
    return unit.layer_norm(torch.stack(outputs))


def complex_noise(*shape: int, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("lengths", [[1, 1], [2, 1], [7, 7], [7, 4, 1]])
def test_the_scan_has_the_true_gradient(lengths):
    drive, batch_sizes = pack(complex_noise(lengths[0], len(lengths), 3), lengths)
    decay = (0.9 * torch.exp(1j * torch.tensor([0.1, 2.0, 4.0], dtype=torch.float64))).requires_grad_()
    assert torch.autograd.gradcheck(linear_scan, (drive.requires_grad_(), decay, batch_sizes))


@pytest.mark.parametrize("lengths", [[1, 1, 1], [50, 50, 50], [200, 117, 1]])
def test_the_unit_equals_its_equations_in_complex_numbers(model, lengths):
    unit = model.blocks[0][0]
    x = torch.randn(lengths[0], 3, 16)
    expected, _ = pack(naive_unit(unit, x), lengths)
    torch.testing.assert_close(unit(*pack(x, lengths)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 50, 200])
def test_one_step_at_a_time_equals_the_whole_sequence(model, length):
    sequences = random_sequences(length, (length + 1) // 2, length)
    with torch.inference_mode():
        whole = model(sequences)  # (batch, length, dim)
        state = model.initial_state(3)
        for t in range(length):
            hidden, state = model.step(sequences[:, t], state)
            real = sequences[:, t] > 0
            torch.testing.assert_close(hidden[real], whole[real, t], atol=1e-4, rtol=0)


def test_a_step_changes_no_state_but_its_own(model):
    with torch.inference_mode():
        _, state = model.step(torch.tensor([3, 4]), model.initial_state(2))
        before = state.clone()
        first, _ = model.step(torch.tensor([5, 6]), state)
        second, _ = model.step(torch.tensor([5, 6]), state)
    assert torch.equal(state, before)
    assert torch.equal(first, second)


def test_scores_are_the_tied_dot_product_plus_a_bias_and_never_the_padding(model):
    hidden = model(random_sequences(4, 2))
    scores = model.scores(hidden)
    expected = hidden @ model.embedding.weight.T + model.item_bias
    assert scores.shape == (2, 4, N_ITEMS + 1)
    torch.testing.assert_close(scores[..., 1:], expected[..., 1:])
    assert scores[..., 0].isneginf().all()


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
