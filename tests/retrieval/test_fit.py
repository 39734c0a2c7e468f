"""The training loop: what it learns from, when it stops, and that a kill leaves no trace in the weights."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

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
from llamarec_core.training import load_checkpoint

SETTINGS = RetrieverSettings(dim=8, max_length=8, batch_size=16, epochs=4, validate_every=5, learning_rate=0.01)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_runs(first: Path, second: Path) -> None:
    """Two finished runs left the same weights, and came to them by the same curve, to the last bit."""
    files = [load_checkpoint(folder / "retriever.safetensors", settings={}) for folder in (first, second)]
    assert_equal_weights(files[0][0], files[1][0])
    assert files[0][1] == files[1][1]
    curves = [pd.read_csv(folder / "training.csv").drop(columns="seconds") for folder in (first, second)]
    pd.testing.assert_frame_equal(*curves, check_exact=True)


def assert_equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def undisturbed(cycle, tmp_path):
    """The folder that a run leaves when nothing happens to it."""
    fit_retriever(cycle, SETTINGS, seed=3, folder=tmp_path / "undisturbed")
    return tmp_path / "undisturbed"


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


def test_every_training_item_but_a_users_first_is_a_target_once(make_dataset):
    dataset = make_dataset([1, 2, 3, 4, 5, 6, 7, 98, 99], [1, 98, 99], [1, 2, 98, 99], n_items=99)
    sequences = fit.training_sequences(dataset, max_length=3)
    assert [sequence.tolist() for sequence in sequences] == [[4, 5, 6, 7], [1, 2, 3, 4], [1, 2]]


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
        before = weights(model)["item_bias"]
        task = fit.GradientTask(model, cycle, settings, seed=0)
        task.optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        for number in range(task.steps_per_epoch):
            task.step(number)
        moved.append((weights(model)["item_bias"] - before) / task.steps_per_epoch)
    torch.testing.assert_close(moved[0], moved[1], atol=0, rtol=1e-3)


@pytest.mark.parametrize("killed_at", [0, 7])
def test_a_run_that_breaks_off_and_goes_on_gives_the_same_weights(cycle, tmp_path, monkeypatch, undisturbed, killed_at):
    folder, steps, take_step = tmp_path / "disturbed", iter(range(100)), fit.GradientTask.step

    def step_until_killed(*arguments, **options):
        if next(steps) == killed_at:
            raise KeyboardInterrupt
        return take_step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fit.GradientTask, "step", step_until_killed)
        with pytest.raises(KeyboardInterrupt):
            fit_retriever(cycle, SETTINGS, seed=3, folder=folder)
    torch.rand(17)  # whatever the process drew in between
    fit_retriever(cycle, SETTINGS, seed=3, folder=folder)
    assert_equal_runs(folder, undisturbed)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from llamarec_core.data import Dataset
from llamarec_core.retrieval import fit
from llamarec_core.settings import RetrieverSettings

folder, validations = Path(sys.argv[1]), []

def target_ranks(*arguments, **options):
    validations.append(1)
    if len(validations) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

original, fit.target_ranks = fit.target_ranks, target_ranks
dataset = Dataset.load(folder / "data")
settings = RetrieverSettings.model_validate_json(sys.argv[2])
fit.fit_retriever(dataset, settings, seed=3, folder=folder / "killed")
"""


def test_a_run_killed_outright_goes_on_to_the_same_weights(cycle, tmp_path, undisturbed):
    cycle.save(tmp_path / "data")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(tmp_path), SETTINGS.model_dump_json()],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [".lock", "checkpoint.safetensors"]
    fit_retriever(cycle, SETTINGS, seed=3, folder=tmp_path / "killed")
    assert_equal_runs(tmp_path / "killed", undisturbed)


def test_a_finished_run_is_returned_and_not_repeated(cycle, tmp_path, monkeypatch):
    first = fit_retriever(cycle, SETTINGS, seed=0, folder=tmp_path)
    (tmp_path / "checkpoint.safetensors").touch()  # as a kill at the very end leaves it
    monkeypatch.setattr(fit, "train", None)
    second = fit_retriever(cycle, SETTINGS, seed=0, folder=tmp_path)
    assert_equal_weights(weights(first), weights(second))
    assert_equal_weights(weights(first), weights(load_retriever(cycle, SETTINGS, tmp_path)))
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_the_seed_decides_the_weights(cycle, tmp_path, undisturbed):
    same, other = (fit_retriever(cycle, SETTINGS, seed=seed, folder=tmp_path / f"seed{seed}") for seed in (3, 4))
    assert_equal_runs(tmp_path / "seed3", undisturbed)
    assert not torch.equal(weights(same)["embedding.weight"], weights(other)["embedding.weight"])


@pytest.mark.parametrize("name", ["checkpoint", "retriever"])
def test_a_folder_of_another_run_is_refused_and_left_alone(cycle, make_dataset, tmp_path, monkeypatch, name):
    file = tmp_path / f"{name}.safetensors"
    with pytest.raises(InputError, match="missing: train the retriever first"):
        load_retriever(cycle, SETTINGS, tmp_path)
    with monkeypatch.context() as patch:
        if name == "checkpoint":  # breaks off after training, before the end
            patch.setattr(training, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                fit_retriever(cycle, SETTINGS, seed=0, folder=tmp_path)
        else:
            fit_retriever(cycle, SETTINGS, seed=0, folder=tmp_path)
    before, other = file.read_bytes(), make_dataset(*[[1, 2, 3, 4, 5]] * 9, n_items=40, name="cycle")
    for dataset, changes, seed, named in [
        (cycle, {"dropout": 0.5}, 0, "dropout = 0.2"), (cycle, {}, 1, "seed = 0"), (other, {}, 0, "content_hash"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=named):
            fit_retriever(dataset, SETTINGS.model_copy(update=changes), seed=seed, folder=tmp_path)
    assert file.read_bytes() == before


def test_data_without_anything_to_learn_from_is_refused(make_dataset, tmp_path):
    with pytest.raises(InputError, match="nothing to learn from"):
        fit_retriever(make_dataset([1, 2, 3], n_items=3), SETTINGS, seed=0, folder=tmp_path)


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
