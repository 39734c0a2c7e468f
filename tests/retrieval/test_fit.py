"""The training loop: what it learns from, when it stops, and that a kill leaves no trace in the weights."""

import re
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from llamarec_core import training
from llamarec_core.files import InputError
from llamarec_core.retrieval import fit, fit_retriever, load_retriever, target_ranks
from llamarec_core.retrieval.lru import LRURec
from llamarec_core.settings import RetrieverSettings
from tests.conftest import dataset_of, interrupted

SETTINGS = RetrieverSettings(dim=8, max_length=8, batch_size=16, epochs=4, validate_every=5, learning_rate=0.01)


def test_it_leaves_the_curve_and_the_weights_of_its_best_row(cycle, tmp_path, capsys):
    model = fit_retriever(cycle, SETTINGS, seed=0, folder=tmp_path)
    shown = capsys.readouterr()
    assert "LRURec on cycle" in shown.err
    assert re.search(r"validation recall@10 [01]\.\d{4}", shown.err)
    assert shown.out == ""
    left = [".lock", "circumstances.json", "retriever.safetensors", "training.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    curve = pd.read_csv(tmp_path / "training.csv")
    columns = ["step", "seconds", "training_loss", "epoch", "recall@10", "ndcg@10"]
    assert list(curve.columns) == columns
    batches = -(-len(fit.training_sequences(cycle, max_length=8)) // 16)
    assert list(curve["step"]) == [*range(5, 4 * batches, 5), 4 * batches]
    assert curve["epoch"].iloc[-1] == 4
    assert not model.training
    ranks = target_ranks(model, cycle, "validation")
    best = curve.sort_values("recall@10", kind="stable", ascending=False).iloc[0]
    assert best["recall@10"] == pytest.approx(np.mean(ranks <= 10))
    assert best["ndcg@10"] == pytest.approx(np.mean([1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in ranks]))


def test_every_training_item_but_a_users_first_is_a_target_once_and_without_any_nothing_is_learnt(tmp_path):
    dataset = dataset_of([1, 2, 3, 4, 5, 6, 7, 98, 99], [1, 98, 99], [1, 2, 98, 99], n_items=99)
    sequences = fit.training_sequences(dataset, max_length=3)
    assert [sequence.tolist() for sequence in sequences] == [[4, 5, 6, 7], [1, 2, 3, 4], [1, 2]]
    with pytest.raises(InputError, match="nothing to learn from"):
        fit_retriever(dataset_of([1, 2, 3], n_items=3), SETTINGS, seed=0, folder=tmp_path)


def test_the_loss_is_the_mean_cross_entropy_over_real_positions(cycle):
    settings = RetrieverSettings(dim=8, dropout=0.0, max_length=50, batch_size=16)
    torch.manual_seed(0)
    model = LRURec(40, settings)
    expected = []
    for user in range(cycle.n_users):
        items = torch.from_numpy(cycle.train(user).astype(np.int64))
        scores = model.scores(model(items[None, :-1]))[0].detach()
        expected.extend(F.cross_entropy(scores, items[1:], reduction="none").tolist())
    task = fit.GradientTask(model, cycle, settings, seed=0)
    task.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    counted = [task.step(number)[0] for number in range(3)]
    loss = sum(step["loss"] for step in counted) / sum(step["terms"] for step in counted)
    assert loss == pytest.approx(np.mean(expected), abs=1e-5)


def test_an_epoch_holds_every_sequence_once_in_an_order_of_its_own(cycle):
    task = fit.GradientTask(LRURec(40, SETTINGS), cycle, SETTINGS, seed=0)
    epochs = [task.draw_batches(epoch) for epoch in (0, 1)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(len(task.sequences)))
    assert list(np.concatenate(epochs[0])) != list(np.concatenate(epochs[1]))
    lengths = np.random.default_rng(0).integers(2, 200, 512)
    task.sequences = [torch.zeros(length, dtype=torch.int64) for length in lengths]
    assert max(np.ptp(lengths[batch]) for batch in task.draw_batches(0)) < 60  # of 198: little padding


@pytest.mark.parametrize("batch_size", [7, 16])
def test_every_position_has_the_same_weight_whatever_its_batch(cycle, batch_size):
    """An epoch of tiny steps in small batches adds up to one step over all sequences."""
    moved = []
    for size in (batch_size, 48):
        settings = RetrieverSettings(dim=8, dropout=0.0, max_length=50, batch_size=size)
        torch.manual_seed(0)
        model = LRURec(40, settings).double()
        before = model.item_bias.detach().clone()
        task = fit.GradientTask(model, cycle, settings, seed=0)
        task.optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        for number in range(task.steps_per_epoch):
            task.step(number)
        moved.append((model.item_bias.detach() - before) / task.steps_per_epoch)
    torch.testing.assert_close(moved[0], moved[1], atol=0, rtol=1e-3)


@pytest.mark.parametrize("killed_at", [0, 7])
def test_a_run_that_breaks_off_and_goes_on_gives_the_same_weights_and_curve(cycle, tmp_path, killed_at):
    folders = [tmp_path / name for name in ("undisturbed", "disturbed")]
    fit_retriever(cycle, SETTINGS, seed=3, folder=folders[0])
    with interrupted(fit.GradientTask, "step", after=killed_at):
        fit_retriever(cycle, SETTINGS, seed=3, folder=folders[1])
    torch.rand(17)  # whatever the process drew in between
    fit_retriever(cycle, SETTINGS, seed=3, folder=folders[1])
    first, second = ((folder / "retriever.safetensors").read_bytes() for folder in folders)
    assert first == second
    curves = [pd.read_csv(folder / "training.csv").drop(columns="seconds") for folder in folders]
    pd.testing.assert_frame_equal(*curves, check_exact=True)


def test_a_finished_run_is_returned_and_not_repeated_unless_with_another_seed(cycle, tmp_path, monkeypatch):
    first = fit_retriever(cycle, SETTINGS, seed=0, folder=tmp_path)
    other = fit_retriever(cycle, SETTINGS, seed=1, folder=tmp_path / "other")
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    (tmp_path / "checkpoint.safetensors").touch()  # as a kill at the very end leaves it
    monkeypatch.setattr(fit, "train", None)
    second = fit_retriever(cycle, SETTINGS, seed=0, folder=tmp_path)
    for again in (second, load_retriever(cycle, SETTINGS, tmp_path)):
        torch.testing.assert_close(again.state_dict(), first.state_dict(), atol=0, rtol=0)
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("name", ["checkpoint", "retriever"])
def test_a_folder_of_another_run_is_refused_and_left_alone(cycle, tmp_path, name):
    file = tmp_path / f"{name}.safetensors"
    with pytest.raises(InputError, match="missing: train the retriever first"):
        load_retriever(cycle, SETTINGS, tmp_path)
    broken_off = interrupted(training, "write_json", after=0)  # after training, before the end
    with broken_off if name == "checkpoint" else nullcontext():
        fit_retriever(cycle, SETTINGS, seed=0, folder=tmp_path)
    before, other = file.read_bytes(), dataset_of(*[[1, 2, 3, 4, 5]] * 9, n_items=40, name="cycle")
    for dataset, changes, seed, named in [
        (cycle, {"dropout": 0.5}, 0, "dropout = 0.2"), (cycle, {}, 1, "seed = 0"), (other, {}, 0, "content_hash"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=named):
            fit_retriever(dataset, SETTINGS.model_copy(update=changes), seed=seed, folder=tmp_path)
    assert file.read_bytes() == before


def test_weight_decay_spares_biases_norms_and_the_recurrence(cycle):
    model = LRURec(40, SETTINGS)
    decayed, spared = fit.GradientTask(model, cycle, SETTINGS, seed=0).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == SETTINGS.weight_decay > spared["weight_decay"] == 0
    assert all("layer_norm" not in names[id(p)] and "bias" not in names[id(p)] for p in decayed["params"])
    assert {"blocks.0.0.nu", "blocks.0.0.theta", "item_bias"} <= {names[id(p)] for p in spared["params"]}
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_a_retriever_and_what_it_reads_are_where_the_gpu_is_but_item_knn_is_not(cycle, tmp_path, monkeypatch):
    sasrec, item_knn = (SETTINGS.model_copy(update={"method": method}) for method in ("sasrec", "item_knn"))
    fit_retriever(cycle, sasrec, seed=0, folder=tmp_path / "sasrec")
    monkeypatch.setattr(fit, "default_device", lambda: torch.device("meta"))  # stands for a GPU
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)  # which the stand-in cannot hold
    model, read = load_retriever(cycle, sasrec, tmp_path / "sasrec"), []
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    model.register_forward_pre_hook(lambda _, given: read.append(given[0].device.type))
    assert model.score([cycle.train(0)]).device.type == "meta"
    with pytest.raises(NotImplementedError):  # of the stand-in, after it has read the batch
        model.training_states(fit.training_sequences(cycle, max_length=8)[:4])
    assert read == ["meta", "meta"]
    knn = fit_retriever(cycle, item_knn, seed=0, folder=tmp_path / "item_knn")
    assert knn.decay.device.type == knn.score([cycle.train(0)]).device.type == "cpu"
