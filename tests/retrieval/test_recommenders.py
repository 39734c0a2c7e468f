"""What the four retrievers share (padding, positions, the loss over the catalogue) and what sets each apart."""

import copy

import numpy as np
import pytest
import torch
from reference_lru import PublishedLRURec
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from llamarec_core.retrieval import fit_retriever, target_ranks
from llamarec_core.retrieval.baselines import CausalBlock
from llamarec_core.retrieval.fit import METHODS
from llamarec_core.retrieval.lru import MAX_RADIUS, MIN_RADIUS, LRURec, linear_scan
from llamarec_core.settings import RetrieverSettings

N_ITEMS = 30
SETTINGS = RetrieverSettings(dim=16, max_length=12)


def build(method: str):
    """A model in evaluation mode whose weights are large enough for every part to matter."""
    torch.manual_seed(0)
    model = METHODS[method](N_ITEMS, SETTINGS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10 if method != "narm" else 1)
    return model


def histories(*lengths: int) -> list[torch.Tensor]:
    return [torch.randint(1, N_ITEMS + 1, (length,)) for length in lengths]


@pytest.mark.parametrize("method", METHODS)
def test_padding_and_neighbours_change_no_history_and_the_past_counts(method):
    model, given = build(method), histories(7, 12, 1)
    together = model.last_states(given)
    assert together.shape == (3, 16)
    assert model.scores(together)[:, 0].isneginf().all()  # padding is never recommended
    for state, history in zip(together, given, strict=True):
        torch.testing.assert_close(model.last_states([history])[0], state, atol=1e-5, rtol=1e-4)
    changed = given[0].clone()
    changed[2] = changed[2] % N_ITEMS + 1
    assert (model.last_states([changed])[0] - together[0]).abs().max() > 1e-4


@pytest.mark.parametrize("method", ["lrurec", "sasrec", "narm"])
def test_each_item_but_the_first_is_the_target_of_the_state_before_it_which_sees_no_future(method):
    model, given = build(method), histories(5, 2, 9)
    states, targets = model.training_states(given)
    assert targets.tolist() == [int(item) for history in given for item in history[1:]]
    expected = torch.cat([model(history[None, :-1])[0] for history in given])
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)
    changed = given[2][:-1].clone()
    changed[6:] = changed[6:] % N_ITEMS + 1
    torch.testing.assert_close(model(changed[None])[0, :6], expected[-8:-2])


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_the_plain_cross_entropy_over_the_catalogue_and_so_is_its_gradient(method):
    given, gradients = histories(12, 4, 11, 7, 12, 12, 12, 9), []
    for plain in (False, True):
        model = build(method)
        torch.manual_seed(1)  # BERT4Rec draws its masks
        states, targets = model.training_states(given)
        if plain:
            loss = F.cross_entropy(model.scores(states)[:, 1:], targets - 1, reduction="sum")
        else:
            loss = model.loss(states, targets)
        loss.backward()
        gradients.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-3, rtol=1e-3)
    assert all(gradient.any() for gradient in gradients[0][1:])


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_a_pattern(method, cycle, tmp_path):
    sizes = {"dim": 16, "max_length": 8, "batch_size": 16, "epochs": 200, "validate_every": 100}
    settings = RetrieverSettings(method=method, learning_rate=0.01, dropout=0.1, **sizes)
    model = fit_retriever(cycle, settings, seed=0, folder=tmp_path)
    ranks = target_ranks(model, cycle, "test")
    assert np.mean(ranks <= 3) > 0.7  # 0.08 by chance


def test_bert4rec_masks_its_share_and_learns_from_the_masks_alone():
    model, given = build("bert4rec"), [torch.arange(1, 11)] * 400
    torch.manual_seed(0)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    states, targets = model.training_states(given)
    masked = seen[0] == model.mask
    assert targets.tolist() == torch.arange(1, 11).repeat(400, 1)[masked].tolist()
    assert len(states) == masked.sum()
    only_last = (masked.sum(1) == 1) & masked[:, -1]
    # one in ten by rule, one in ten of the others by chance masks nothing, and 0.2 · 0.8⁹ mask the last alone
    assert only_last.float().mean().item() == pytest.approx(0.1 + 0.9 * (0.8**10 + 0.2 * 0.8**9), abs=0.05)
    assert masked[~only_last].float().mean().item() == pytest.approx(0.2, abs=0.05)


def test_bert4rec_predicts_at_a_mask_behind_the_history():
    model, (history,) = build("bert4rec"), histories(5)
    expected = model(torch.cat([history, torch.tensor([model.mask])])[None])[0, -1]
    torch.testing.assert_close(model.last_states([history])[0], expected)
    assert model.scores(expected).shape == (N_ITEMS + 1,)  # the mask is never recommended


def test_sasrecs_attention_is_torchs_multi_head_attention():
    torch.manual_seed(0)
    block, x = CausalBlock(16, heads=2, dropout=0.0).eval(), torch.randn(3, 7, 16)
    reference = nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
        reference.out_proj.load_state_dict(block.out_projection.state_dict())
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    attended = x + reference(block.attention_norm(x), x, x, attn_mask=future)[0]
    torch.testing.assert_close(block(x), attended + block.feed_forward(attended))


def test_narm_equals_its_equations_position_by_position():
    model, (history,) = build("narm"), histories(6)
    states = model.recurrence(model.embedding(history)[None])[0][0]  # (length, dim)
    for t in range(6):
        fits = [model.fit(torch.sigmoid(model.query(states[t]) + model.key(states[j]))).squeeze() for j in range(t + 1)]
        local = sum(fit * states[j] for j, fit in enumerate(fits))
        expected = model.decoder(torch.cat([states[t], local]))
        torch.testing.assert_close(model(history[None])[0, t], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(2, 2), (12, 3, 7), (200, 117, 2)])
def test_the_published_form_has_the_loss_and_the_gradients_of_ours(lengths):
    ours, given = build("lrurec"), histories(*lengths)
    published = PublishedLRURec(copy.deepcopy(ours))
    states, targets = ours.training_states(given)
    (ours.loss(states, targets) / len(targets)).backward()
    loss = published.loss(given, max(lengths))
    loss.backward()
    assert loss.item() == pytest.approx(ours.loss(states, targets).item() / len(targets), rel=1e-5)
    for name in ("embedding.weight", "item_bias", "blocks.0.0.nu", "blocks.1.0.theta"):
        ours_gradient, reference = (model.get_parameter(name).grad for model in (ours, published))
        torch.testing.assert_close(ours_gradient[1:], reference[1:], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("length", [1, 50, 200])
def test_one_step_at_a_time_equals_the_whole_sequence_and_changes_no_state_but_its_own(length):
    model, sequences = build("lrurec"), pad_sequence(histories(length, (length + 1) // 2, length), batch_first=True)
    with torch.inference_mode():
        whole = model(sequences)  # (batch, length, dim)
        state = model.initial_state(3)
        for t in range(length):
            before = state.clone()
            hidden, new = model.step(sequences[:, t], state)
            assert torch.equal(state, before)
            real, state = sequences[:, t] > 0, new
            torch.testing.assert_close(hidden[real], whole[real, t], atol=1e-4, rtol=0)


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
