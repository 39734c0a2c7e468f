"""The one training loop, on a task small enough to follow by hand."""

import json

import pandas as pd
import pytest
import torch

from llamarec_core import training
from llamarec_core.files import InputError
from llamarec_core.training import Plan, learning_rate_factor, load_checkpoint, save_checkpoint, train

IDENTITY = {"seed": 0}


class Counting:
    """One weight that every step raises by the learning rate; the metric is scripted, by the number of steps."""

    counts = ("answers",)

    def __init__(self, metrics, *, losses=None, clock=None):
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)
        self.metrics, self.losses, self.clock = metrics, losses or {}, clock
        self.taken = []

    def step(self, number):
        self.taken.append(number)
        if self.clock:
            self.clock.now += 1.0
        self.optimizer.zero_grad()
        (-self.weight.sum()).backward()
        self.optimizer.step()
        return [{"loss": self.losses.get(number, 6.0), "terms": 2, "answers": 3}, {"loss": 2.0, "answers": 1}]

    def validate(self, steps):
        if self.clock:
            self.clock.now += 5.0
        return {"metric": self.metrics.get(steps, 0.0)}

    def tensors(self):
        return {"weight": self.weight}

    def restore(self, tensors):
        self.weight.data.copy_(tensors["weight"])


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def run(tmp_path):
    """Train a task by a plan; returns the best weight, its row and the curve."""

    def trained(task, *, folder=tmp_path, **plan):
        saved = {}
        options = {"folder": folder, "identity": IDENTITY}
        save = lambda best, row: saved.update(row)  # noqa: E731
        best = train(task, Plan(**{"validate_every": 2, "kept_by": "metric"} | plan), save=save, **options)
        assert not (folder / "checkpoint.safetensors").exists()
        return best["weight"].item(), saved, pd.read_csv(folder / "training.csv")

    return trained


def test_the_best_weights_are_kept_and_the_curve_tells_all(run, tmp_path):
    best, row, curve = run(Counting({2: 0.1, 4: 0.3, 5: 0.3}), steps=5)
    assert best == 4.0  # the earliest of equals
    assert row == {"step": 4, "answers": 16, "training_loss": pytest.approx(8 / 3), "metric": 0.3}
    assert curve["step"].tolist() == [2, 4, 5]
    assert curve["answers"].tolist() == [8, 16, 20]
    recorded = json.loads((tmp_path / "circumstances.json").read_text())
    assert recorded["steps"] == 5
    assert recorded["peak_memory_mib"] > 1


def test_it_stops_when_patience_is_over(run):
    task = Counting({2: 0.1, 4: 0.3, 6: 0.2, 8: 0.3, 10: 0.9})
    assert run(task, steps=100, patience=2)[0] == 4.0
    assert len(task.taken) == 8


@pytest.mark.parametrize(("first_counts", "steps", "kept"), [(True, 4, 0.0), (False, 4, 2.0), (False, 0, 0.0)])
def test_a_validation_before_the_first_step_counts_as_the_plan_says_or_is_all(run, first_counts, steps, kept):
    task = Counting({0: 0.9, 2: 0.5})
    best, row, curve = run(task, steps=steps, validate_first=True, first_counts=first_counts)
    assert (best, row["step"]) == (kept, kept)  # every step adds one
    assert curve["step"].tolist() == [0, 2, 4][: 1 + steps // 2]
    assert curve["answers"].tolist() == [0, 8, 16][: 1 + steps // 2]
    assert curve["training_loss"].isna().tolist() == [True, False, False][: 1 + steps // 2]


@pytest.mark.parametrize("validate_first", [True, False])
def test_without_steps_the_first_validation_is_all(run, validate_first):
    plan = {"steps": 0, "warmup_steps": 0, "validate_first": validate_first, "first_counts": False}
    best, row, _ = run(Counting({0: 0.9}), **plan)
    assert (best, row["step"]) == (0.0, 0)


def test_the_learning_rate_rises_and_falls_to_zero(run):
    plan = Plan(steps=6, validate_every=1, kept_by="metric", warmup_steps=2)
    assert [learning_rate_factor(plan, step) for step in range(7)] == [0, 0.5, 1, 0.75, 0.5, 0.25, 0]
    assert learning_rate_factor(plan, 2, time_left=0.05) == 0.25
    assert run(Counting({6: 1.0}), steps=6, warmup_steps=2, validate_every=6)[0] == pytest.approx(3.0)
    assert run(Counting({6: 1.0}), steps=6, validate_every=6)[0] == 6.0  # constant


def test_a_run_that_breaks_off_goes_on_to_the_same_end(run, tmp_path):
    plan = {"steps": 9, "warmup_steps": 3, "validate_first": True}
    undisturbed = run(Counting({4: 0.5, 9: 0.4}), folder=tmp_path / "a", **plan)
    broken = Counting({4: 0.5, 9: 0.4}, losses={7: float("nan")})
    with pytest.raises(InputError, match="no longer a number at step 8, with learning rate 1"):
        run(broken, folder=tmp_path / "b", **plan)
    resumed = Counting({4: 0.5, 9: 0.4})
    outcome = run(resumed, folder=tmp_path / "b", **plan)
    assert resumed.taken == [6, 7, 8]
    assert outcome[:2] == undisturbed[:2]
    assert outcome[2].drop(columns="seconds").equals(undisturbed[2].drop(columns="seconds"))


def test_a_folder_has_one_process_and_a_record_of_the_code_at_its_start(run, tmp_path, monkeypatch):
    state = {"git_commit": "before"}
    monkeypatch.setattr(training, "circumstances", lambda root: dict(state))
    task, step = Counting({}), Counting.step

    def beside_another(self, number):
        state["git_commit"] = "after"
        with pytest.raises(InputError, match="Another process is at work"):
            run(Counting({}), steps=1)
        return step(self, number)

    monkeypatch.setattr(task, "step", beside_another.__get__(task))
    run(task, steps=1)
    assert json.loads((tmp_path / "circumstances.json").read_text())["git_commit"] == "before"


def test_a_time_budget_ends_the_run_and_the_learning_rate_with_it(run, monkeypatch):
    """A step takes a second, a validation five: of 60 seconds 5 are left for the last validation."""
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    task = Counting({}, clock=clock)
    _, _, curve = run(task, steps=1000, validate_every=10, minutes=1.0, validate_first=True)
    assert curve["seconds"].tolist() == [5, 20, 35, 50, 60]
    assert len(task.taken) == 35
    assert task.optimizer.param_groups[0]["lr"] == pytest.approx(1 / 55 / 0.2)  # the last step had a second left


def test_a_checkpoint_returns_what_was_saved_to_a_run_of_the_same_settings_only(tmp_path):
    path, settings = tmp_path / "checkpoint.safetensors", {"dim": 4, "modules": ("q_proj", "v_proj")}
    saved = {"weight": torch.arange(6.0).reshape(2, 3).T, "step": torch.tensor(7, dtype=torch.int64)}
    save_checkpoint(path, tensors=saved, progress={"iteration": 3, "best": 0.25}, settings=settings)
    tensors, progress = load_checkpoint(path, settings=settings | {"younger": 0})  # which was off then
    assert torch.equal(tensors["weight"], saved["weight"])
    assert tensors["step"].dtype == torch.int64
    assert progress == {"iteration": 3, "best": 0.25}
    with pytest.raises(InputError, match="written with dim = 4, but this run has dim = 8: delete it"):
        load_checkpoint(path, settings=settings | {"dim": 8})
    with pytest.raises(InputError, match="written with younger = None, but this run has younger = 8"):
        load_checkpoint(path, settings=settings | {"younger": 8})
    whole = path.read_bytes()
    for keep in (0, 4, 40, 200):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match="not a whole checkpoint.*delete it to start this step again"):
            load_checkpoint(path, settings=settings)
