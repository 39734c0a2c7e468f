"""Label binding: an optional warm-up that teaches a small backbone which label a title stands under.

Llama-2-7B answers with the letter of a title at once. A model of a hundred million parameters does not: tuned by the
paper's recipe alone it stays at chance, because one loss a prompt is a slow teacher of two things at a time. So this
phase teaches the first thing alone, densely: first with titles, then, if the settings ask for it, with histories of
titles in the form of the prompt (:mod:`~llamarec_core.ranking.binding_questions` has both). It is this study's
addition; the paper has no such phase.

The tuning loop (:mod:`~llamarec_core.ranking.qlora`) runs it before the first prompt where the settings say so.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from llamarec_core.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing, write_json
from llamarec_core.provenance import circumstances, peak_memory_mib
from llamarec_core.ranking.adapter import adapter_tensors, set_adapter_tensors
from llamarec_core.ranking.backbone import backbone_name
from llamarec_core.ranking.binding_questions import HistoryQuestions, Questions, TitleQuestions
from llamarec_core.ranking.verbalizer import NextTokenLogits, VerbalizerRanker
from llamarec_core.settings import RankerSettings

SHAPING = {
    "quantization", "dtype", "template", "candidates", "title_tokens", "lora_rank", "lora_alpha", "lora_dropout",
    "target_modules", "binding_examples", "binding_resembling", "binding_learning_rate", "batch_size",
    "gradient_accumulation",
}  # fmt: skip
"""The settings that shape this phase; tunings that agree on them can share it."""

SHAPING_HISTORIES = {"history_length", "binding_histories"}
"""Those that shape its second part alone."""

INTERVAL = 10
"""Optimiser steps between two rows of the curve, at each of which a checkpoint is written."""

LEARNING_RATE_WARMUP = 10
"""Optimiser steps over which the step size rises from zero."""

MAX_GRADIENT_NORM = 1.0

QUESTIONS = {"binding": TitleQuestions, "binding_histories": HistoryQuestions}
"""What each part asks."""

EXAMPLES = {"binding": "binding_examples", "binding_histories": "binding_histories"}
"""The setting that says how many pools a part has."""


def bind_labels(
    ranker: VerbalizerRanker,
    dataset: Dataset,
    settings: RankerSettings,
    *,
    seed: int,
    folder: Path,
    writes: bool = True,
    progress: bool = True,
) -> None:
    """Teach the adapter in place to name the label of a title, or go on with it, or load what it had learnt.

    Several processes all take the same steps.

    Args:
        ranker: the backbone with its fresh adapter.
        dataset: its titles are read.
        settings: those of :data:`SHAPING` and :data:`SHAPING_HISTORIES` are read.
        seed: of the pools and of dropout.
        folder: gets ``binding.csv`` (the curve) and ``binding.safetensors`` (the adapter, or a checkpoint of it), and
            the same of ``binding_histories``.
        writes: whether this process writes the files.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the folder holds a run of other settings, or the loss is no longer a number.
    """
    shaping = {"binding": SHAPING}
    if settings.binding_histories:
        shaping["binding_histories"] = SHAPING | SHAPING_HISTORIES
    for name, of_part in shaping.items():
        questions = QUESTIONS[name](ranker.prompts, dataset, settings)
        identity = _identity(dataset, settings, of_part) | {"seed": seed}
        part = _Part(name, ranker, settings, questions, seed=seed, folder=folder, identity=identity)
        part.run(writes=writes, progress=progress)


class _Part:
    """One part of the phase: its loop, which goes on where a killed run left its checkpoint.

    Args:
        name: of its files.
        ranker: the backbone with its adapter, which is taught in place.
        settings: of the run.
        questions: makes its batches.
        seed: of the pools and of dropout.
        folder: of its files.
        identity: what a checkpoint must belong to.
    """

    def __init__(
        self,
        name: str,
        ranker: VerbalizerRanker,
        settings: RankerSettings,
        questions: Questions,
        *,
        seed: int,
        folder: Path,
        identity: dict[str, Any],
    ):
        self._name, self._file, self._identity, self._seed = name, folder / f"{name}.safetensors", identity, seed
        self._model, self._settings, self._questions = ranker.model, settings, questions
        self._size = settings.batch_size * settings.gradient_accumulation  # pools in a step
        self._total = -(-getattr(settings, EXAMPLES[name]) // self._size)
        self._parameters = [parameter for parameter in ranker.model.parameters() if parameter.requires_grad]
        step_size = settings.binding_learning_rate  # the schedule starts from it, also when a run goes on
        groups = [{"params": self._parameters, "initial_lr": step_size}]
        self._optimizer = torch.optim.AdamW(groups, lr=step_size, weight_decay=0.0)
        self._network = NextTokenLogits(ranker.model)
        self._label_ids = torch.tensor(ranker.prompts.target_ids[: settings.candidates], device=ranker.model.device)
        self._curve: list[dict[str, float]] = []

    def run(self, *, writes: bool, progress: bool) -> None:
        """Take the steps that are left, and write curve, checkpoints and circumstances.

        Raises:
            InputError: the folder holds a run of other settings, or the loss is no longer a number.
        """
        if self._file.exists():
            self._restore()
        begun = self._curve[-1]["step"] if self._curve else 0
        made = circumstances(Path(__file__).parent)  # now, because the code on disk may change while it runs
        seconds, tokens = (self._curve[-1][column] if self._curve else 0 for column in ("seconds", "tokens"))
        schedule = get_linear_schedule_with_warmup(
            self._optimizer, LEARNING_RATE_WARMUP, self._total, last_epoch=begun - 1
        )
        figures, started = [], time.perf_counter()
        description = self._name.replace("_", " ").capitalize()
        self._network.train()
        bar = tqdm(
            desc=description, total=self._total, initial=begun, unit="step", mininterval=10, disable=not progress
        )
        with bar:
            for step in range(begun, self._total):
                figures.append(self._step(step))
                tokens += figures[-1][2]
                schedule.step()
                bar.update()
                if (step + 1) % INTERVAL and step + 1 < self._total:
                    continue
                elapsed = round(seconds + time.perf_counter() - started, 1)
                self._add_row(step + 1, figures, tokens=tokens, seconds=elapsed)
                figures = []
                bar.set_postfix_str(f"right label {self._curve[-1]['accuracy']:.0%}", refresh=False)
                if writes:
                    tensors = adapter_tensors(self._model) | optimizer_tensors(self._optimizer)
                    curve = {"curve": self._curve}
                    save_checkpoint(self._file, tensors=tensors, progress=curve, settings=self._identity)
        self._network.eval()
        if writes:
            folder = self._file.parent
            if begun < self._total or not (folder / "circumstances.json").exists():
                write_json(folder / "circumstances.json", made | {"peak_memory_mib": peak_memory_mib()})
            with replacing(self._file.with_suffix(".csv")) as temporary:
                pd.DataFrame(self._curve).to_csv(temporary, index=False)

    def _restore(self) -> None:
        """Go back to where the checkpoint was written."""
        tensors, reached = load_checkpoint(self._file, settings=self._identity)
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
        set_adapter_tensors(self._model, own)
        restore_optimizer(self._optimizer, tensors)
        self._curve = reached["curve"]

    def _add_row(self, step: int, figures: list[tuple[float, float, int]], *, tokens: int, seconds: float) -> None:
        """Add the means since the row before to the curve."""
        loss, accuracy, _ = np.mean(figures, axis=0)
        if not np.isfinite(loss):
            raise InputError(f"The loss is no longer a number at step {step}: lower binding_learning_rate.")
        self._curve.append(
            {
                "step": step,
                "examples": step * self._size,
                "answers": step * self._size * self._questions.answers,
                "tokens": tokens,
                "seconds": seconds,
                "training_loss": float(loss),
                "accuracy": float(accuracy),
            }
        )

    def _step(self, step: int) -> tuple[float, float, int]:
        """Take one optimiser step on fresh pools; return its mean loss, the share of right labels, the tokens read."""
        generator = np.random.default_rng([self._seed, step, 1])  # 1: apart from the draws of the ranking phase
        torch.manual_seed(int(generator.integers(2**31)))
        accumulation = self._settings.gradient_accumulation
        losses, rights, read = [], [], 0
        for _ in range(accumulation):
            batch = self._questions.batch(self._settings.batch_size, generator, device=self._model.device)
            read += batch.n_tokens
            logits = self._network(
                batch.tokens,
                batch.lengths,
                self._label_ids,
                beginnings=batch.beginnings,
                beginning_lengths=batch.beginning_lengths,
            ).flatten(0, 1)  # (answers, n_candidates)
            targets = batch.targets.flatten(0, 1)
            loss = F.cross_entropy(logits, targets)
            (loss / accumulation).backward()
            losses.append(loss.item())
            rights.append((logits.argmax(1) == targets.argmax(1)).float().mean().item())
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(np.mean(losses)), float(np.mean(rights)), read


def _identity(dataset: Dataset, settings: RankerSettings, names: set[str]) -> dict[str, Any]:
    """Return what the phase's result belongs to."""
    shaping = settings.model_dump(mode="json", include=names)
    return shaping | {"backbone": backbone_name(settings), "dataset": dataset.name, "data": dataset.content_hash}
