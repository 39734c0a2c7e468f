"""The one training loop, of retrievers, ranker and tuned baselines: a :class:`Task`, trained by a :class:`Plan`.

A task's randomness must depend on the number of the step alone. Then a run that is killed and goes on from its
checkpoint ends with the same weights, bit for bit, as one that was left alone on the same machine, unless a time budget
lets the clock decide. Several processes (``accelerate launch``, ``torchrun``) all run this loop; the main one writes.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from llamarec_core.files import InputError, alone, replacing, write_json
from llamarec_core.provenance import circumstances, peak_memory_mib

if TYPE_CHECKING:
    from accelerate import Accelerator

Tensors = dict[str, torch.Tensor]

COOL_DOWN = 0.2  # share of a time budget over which the learning rate falls to zero


class Task(Protocol):
    """What is trained."""

    optimizer: torch.optim.Optimizer  # the plain one, also where accelerate wraps it; its rates are the run's highest
    counts: tuple[str, ...]  # what the curve adds up over the whole run, by name

    def step(self, number: int) -> list[dict[str, float]]:
        """Take optimiser step ``number``, from 0.

        Returns for each forward pass of this process ``loss``, ``terms`` (over how many it is summed; left out, 1) and
        the task's ``counts``.
        """

    def validate(self, steps: int) -> dict[str, Any]:
        """Return more columns of the curve, the metrics among them, the same in all processes."""

    def tensors(self) -> Tensors:
        """Return the weights that are trained, by name."""

    def restore(self, tensors: Tensors) -> None:
        """Put back what :meth:`tensors` returned."""


@dataclass(frozen=True)
class Plan:
    """How a task is trained."""

    steps: int  # at most
    validate_every: int  # steps; a checkpoint is written at each validation, and the last step is validated too
    kept_by: str  # the best weights have the highest value of this column of the curve, the earliest of equals
    patience: int | None = None  # validations without a better one after which training stops
    warmup_steps: int | None = None  # the learning rate rises, then falls to zero, linearly; None keeps it constant
    minutes: float | None = None  # time budget, validations included
    validate_first: bool = False  # before the first step too
    first_counts: bool = True  # as the best, which fresh weights should not be


def train(
    task: Task,
    plan: Plan,
    *,
    folder: Path,
    identity: dict[str, Any],
    save: Callable[[Tensors, dict[str, Any]], None],
    description: str = "Training",
    accelerator: "Accelerator | None" = None,
) -> Tensors:
    """Train a task in place, or go on with the run whose checkpoint ``folder`` holds; return the best weights.

    In the end the folder holds what ``save`` writes, ``circumstances.json`` (commit, machine, peak memory, steps,
    seconds) and the curve, ``training.csv``, with one row a validation: ``step``, ``seconds``, the task's counts,
    ``training_loss`` (mean since the row before) and what the validation returned.

    Args:
        folder: of the run; several processes need one that all of them see.
        identity: what a checkpoint must share with this run, as JSON values.
        save: writes the best weights, given them and their row without ``seconds``, which would change the bytes.
    """
    main = accelerator is None or accelerator.is_main_process
    made = circumstances(Path(__file__).parent)  # now, because the code on disk may change while it runs
    checkpoint = folder / "checkpoint.safetensors"
    run = _Run(task, plan, accelerator)
    with alone(folder) if main else nullcontext():
        if checkpoint.exists():
            run.restore(*load_checkpoint(checkpoint, settings=identity))
        shown = {"desc": description, "total": plan.steps, "initial": run.step, "unit": "step", "mininterval": 10}
        with tqdm(**shown, disable=not main) as bar:
            while not run.has_ended():
                if plan.steps and (run.curve or not plan.validate_first):
                    run.take_steps(bar)
                run.validate()
                bar.set_postfix_str(run.figures())
                if main:
                    save_checkpoint(checkpoint, settings=identity, **run.state())
        if main:
            with replacing(folder / "training.csv") as temporary:
                pd.DataFrame(run.curve).to_csv(temporary, index=False)
            ran = {"steps": run.step, "seconds": run.curve[-1]["seconds"], "peak_memory_mib": peak_memory_mib()}
            write_json(folder / "circumstances.json", made | ran)
            save(run.best, {name: value for name, value in run.curve[run.best_row()].items() if name != "seconds"})
            checkpoint.unlink()
    if accelerator:
        accelerator.wait_for_everyone()
    return run.best


class _Run:
    """A run under way: where it stands, and its moves."""

    def __init__(self, task: Task, plan: Plan, accelerator: "Accelerator | None"):
        self.task, self.plan, self.accelerator = task, plan, accelerator
        self.step = 0
        self.curve: list[dict[str, Any]] = []
        self.best: Tensors = {}
        self._rates = [group["lr"] for group in task.optimizer.param_groups]
        self._passes: list[dict[str, float]] = []  # of this process since the last validation
        self._validation_seconds = 0.0  # of the last one
        self._started = time.perf_counter()

    def take_steps(self, bar: tqdm) -> None:
        stop = min(self.step + self.plan.validate_every, self.plan.steps)
        left = self._time_left()
        while True:  # at least once
            for group, rate in zip(self.task.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * learning_rate_factor(self.plan, self.step, time_left=left)
            passes = self.task.step(self.step)
            # asked of all processes, so that none is left waiting for one that has given up
            if not all(self._gather([math.isfinite(counted["loss"]) for counted in passes])):
                raise InputError(
                    f"The loss is no longer a number at step {self.step + 1}, with learning rate {self._rates[0]:g}: "
                    "choose a smaller one."
                )
            self._passes += passes
            self.step += 1
            bar.set_postfix_str(self.figures(), refresh=False)
            bar.update()
            left = self._time_left()
            if self.step == stop or left == 0.0:
                return

    def validate(self) -> None:
        before = time.perf_counter()
        metrics = self.task.validate(self.step)
        self._validation_seconds = time.perf_counter() - before
        passes = self._gather(self._passes)
        earlier = self.curve[-1] if self.curve else {}
        counts = {name: earlier.get(name, 0) + sum(counted[name] for counted in passes) for name in self.task.counts}
        row = {"step": self.step, "seconds": round(time.perf_counter() - self._started, 1), **counts}
        self.curve.append(row | {"training_loss": _mean_loss(passes), **metrics})
        self._passes = []
        if self.best_row() == len(self.curve) - 1:
            self.best = {name: tensor.detach().clone() for name, tensor in self.task.tensors().items()}

    def has_ended(self) -> bool:
        if not self.curve:
            return False
        impatient = self.plan.patience is not None and len(self.curve) - 1 - self.best_row() >= self.plan.patience
        return self.step >= self.plan.steps or impatient or self._time_left() == 0.0

    def best_row(self) -> int:
        first = 1 if self.plan.validate_first and not self.plan.first_counts and len(self.curve) > 1 else 0
        values = [row[self.plan.kept_by] for row in self.curve[first:]]
        return first + values.index(max(values))

    def figures(self) -> str:
        # for the progress bar: the mean of the latest losses and the latest validation
        shown = [f"loss {_mean_loss(self._passes[-10:]):.3f}"] if self._passes else []
        if self.curve:
            shown.append(f"validation {self.plan.kept_by} {self.curve[-1][self.plan.kept_by]:.4f}")
        return ", ".join(shown)

    def state(self) -> dict[str, Any]:
        tensors = {f"present.{name}": tensor for name, tensor in self.task.tensors().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for number, state in self.task.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{quantity}": value for quantity, value in state.items()}
        return {"tensors": tensors, "progress": {"curve": self.curve, "validation_seconds": self._validation_seconds}}

    def restore(self, tensors: Tensors, progress: dict[str, Any]) -> None:
        self.task.restore(_under("present.", tensors))
        state: dict[int, Tensors] = defaultdict(dict)
        for name, value in _under("optimizer.", tensors).items():
            number, quantity = name.split(".")
            state[int(number)][quantity] = value
        optimizer = self.task.optimizer
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.best, self.curve = _under("best.", tensors), progress["curve"]
        self.step = self.curve[-1]["step"]
        self._started -= self.curve[-1]["seconds"]
        self._validation_seconds = progress["validation_seconds"]

    def _time_left(self) -> float:
        # the share of the budget that is left for steps; the main process's clock counts
        if self.plan.minutes is None:
            return 1.0
        budget = max(60 * self.plan.minutes - self._validation_seconds, 1e-9)  # one more validation follows
        return self._gather([max(0.0, 1 - (time.perf_counter() - self._started) / budget)])[0]

    def _gather(self, values: list[Any]) -> list[Any]:
        """Return the values of all processes, the main process's first."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return values
        from accelerate.utils import gather_object  # slow to import, and of no use to one process

        return gather_object(values)


def _mean_loss(passes: list[dict[str, float]]) -> float | None:
    # an exact sum, so that the mean does not depend on the number of processes
    terms = sum(counted.get("terms", 1) for counted in passes)
    return math.fsum(counted["loss"] for counted in passes) / terms if passes else None


def default_device() -> torch.device:
    """Return the first CUDA device, of several processes this one's; or the CPU where there is none."""
    if torch.distributed.is_torchelastic_launched():
        from accelerate import PartialState

        return PartialState(cpu=not torch.cuda.is_available()).device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate_factor(plan: Plan, step: int, *, time_left: float = 1.0) -> float:
    """Return what a step's learning rate is multiplied by: a linear rise, then a linear fall to zero."""
    factor, warmup = 1.0, plan.warmup_steps
    if warmup is not None:
        factor = step / warmup if step < warmup else (plan.steps - step) / (plan.steps - warmup)
    return min(factor, time_left / COOL_DOWN)


def save_checkpoint(path: Path, *, tensors: Tensors, progress: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all: ``progress``, where the run stands, and ``settings`` are JSON values."""
    # one entry: safetensors writes several in an order that changes from run to run
    header = {"llamarec": json.dumps({"progress": progress, "settings": settings})}
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            if "No space left" in str(error):  # which safetensors reports as an error of its own
                raise OSError(28, str(error)) from error
            raise


def load_checkpoint(path: Path, *, settings: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Read a checkpoint of these settings back as (tensors, progress)."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["llamarec"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        progress, stored = header["progress"], header["settings"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a whole checkpoint ({error}): delete it to start this step again.") from None
    # a backbone's name says nothing beside the hash of its weights
    undecided = "backbone" if "backbone_sha256" in stored else "backbone_sha256"
    name = first_difference(stored, {name: value for name, value in settings.items() if name != undecided})
    if name:
        raise InputError(
            f"{path} was written with {name} = {stored.get(name)!r}, but this run has {name} = {settings[name]!r}: "
            "delete it to start this step again, or restore the setting."
        )
    return tensors, progress


def first_difference(stored: dict[str, Any], settings: dict[str, Any]) -> str | None:
    """Return the name of the run's first setting that is not as stored, or none; one that was not stored was off."""
    # through JSON, so that a tuple and the list that it was stored as count as equal
    for name, value in json.loads(json.dumps(settings)).items():
        if stored[name] != value if name in stored else bool(value):
            return name
    return None


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
