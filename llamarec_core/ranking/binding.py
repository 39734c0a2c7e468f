"""Label binding: an optional warm-up that teaches a small backbone which label a title stands under.

Llama-2-7B answers with the letter of a title at once. A model of a hundred million parameters does not: tuned by the
paper's recipe alone it stays at chance, because one loss a prompt is a slow teacher of two things at a time. So this
phase teaches the first thing alone, densely. One sequence lists a pool of candidates as the prompt does, then asks for
its titles in random order, each followed by its label::

    A. Alien
    B. Brazil …
    - Brazil
    B
    - Alien
    A …

with the cross-entropy over the label tokens at each of those places. A history never names a candidate, only what
resembles one. So some titles are asked for by another title of the catalogue that shares words with them, as the
settings say, and half of the others by half of their tokens. Titles are drawn from the whole catalogue; no user and no
preference enters. It is this study's addition; the paper has no such phase.

The tuning loop (:mod:`~llamarec_core.ranking.qlora`) runs it before the first prompt where the settings say so.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from torch.nn import functional as F
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from llamarec_core.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing, write_json
from llamarec_core.provenance import circumstances, peak_memory_mib
from llamarec_core.ranking.adapter import adapter_tensors, set_adapter_tensors
from llamarec_core.ranking.backbone import backbone_name
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.titles import resembling, title_vectors
from llamarec_core.ranking.verbalizer import NextTokenLogits, VerbalizerRanker, pad
from llamarec_core.settings import RankerSettings

SHAPING = {
    "quantization", "dtype", "template", "candidates", "title_tokens", "lora_rank", "lora_alpha", "lora_dropout",
    "target_modules", "binding_examples", "binding_resembling", "binding_learning_rate", "batch_size",
    "gradient_accumulation",
}  # fmt: skip
"""The settings that shape this phase; tunings that agree on them can share it."""

INTERVAL = 10
"""Optimiser steps between two rows of the curve, at each of which a checkpoint is written."""

LEARNING_RATE_WARMUP = 10
"""Optimiser steps over which the step size rises from zero."""

MAX_GRADIENT_NORM = 1.0


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
        settings: those of :data:`SHAPING` are read.
        seed: of the pools and of dropout.
        folder: gets ``binding.csv`` (the curve) and ``binding.safetensors`` (the adapter, or a checkpoint of it).
        writes: whether this process writes the files.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the folder holds a run of other settings, or the loss is no longer a number.
    """
    file, identity = folder / "binding.safetensors", _identity(dataset, settings) | {"seed": seed}
    size = settings.batch_size * settings.gradient_accumulation
    total = -(-settings.binding_examples // size)
    parameters = [parameter for parameter in ranker.model.parameters() if parameter.requires_grad]
    step_size = settings.binding_learning_rate  # the schedule starts from it, also when a run goes on
    optimizer = torch.optim.AdamW([{"params": parameters, "initial_lr": step_size}], lr=step_size, weight_decay=0.0)
    curve: list[dict[str, float]] = []
    if file.exists():
        tensors, reached = load_checkpoint(file, settings=identity)
        set_adapter_tensors(
            ranker.model, {name: tensors[name] for name in tensors if not name.startswith("optimizer.")}
        )
        restore_optimizer(optimizer, tensors)
        curve = reached["curve"]
    begun = curve[-1]["step"] if curve else 0
    made = circumstances(Path(__file__).parent)  # now, because the code on disk may change while it runs
    seconds, started = (curve[-1]["seconds"] if curve else 0.0), time.perf_counter()
    schedule = get_linear_schedule_with_warmup(optimizer, LEARNING_RATE_WARMUP, total, last_epoch=begun - 1)
    network, vectors = NextTokenLogits(ranker.model), title_vectors(dataset)
    network.train()
    figures, tokens = [], (curve[-1]["tokens"] if curve else 0)
    bar = tqdm(desc="Binding labels", total=total, initial=begun, unit="step", mininterval=10, disable=not progress)
    with bar:
        for step in range(begun, total):
            loss, accuracy, n_tokens = _step(
                network, optimizer, ranker, dataset, settings, parameters, vectors, generator_of=(seed, step)
            )
            figures.append((loss, accuracy))
            tokens += n_tokens
            schedule.step()
            bar.update()
            if (step + 1) % INTERVAL and step + 1 < total:
                continue
            loss, accuracy = np.mean(figures, axis=0)
            if not np.isfinite(loss):
                raise InputError(f"The loss is no longer a number at step {step + 1}: lower binding_learning_rate.")
            elapsed = round(seconds + time.perf_counter() - started, 1)
            examples = (step + 1) * size
            row = {"step": step + 1, "examples": examples, "answers": examples * settings.candidates, "tokens": tokens}
            row["seconds"] = elapsed
            curve.append(row | {"training_loss": float(loss), "accuracy": float(accuracy)})
            figures = []
            bar.set_postfix_str(f"right label {accuracy:.0%}", refresh=False)
            if writes:
                tensors = adapter_tensors(ranker.model) | optimizer_tensors(optimizer)
                save_checkpoint(file, tensors=tensors, progress={"curve": curve}, settings=identity)
    network.eval()
    if writes:
        if begun < total or not (folder / "circumstances.json").exists():
            write_json(folder / "circumstances.json", made | {"peak_memory_mib": peak_memory_mib()})
        with replacing(folder / "binding.csv") as temporary:
            pd.DataFrame(curve).to_csv(temporary, index=False)


def _identity(dataset: Dataset, settings: RankerSettings) -> dict[str, Any]:
    """Return what the phase's result belongs to."""
    shaping = settings.model_dump(mode="json", include=SHAPING)
    return shaping | {"backbone": backbone_name(settings), "dataset": dataset.name, "data": dataset.content_hash}


def _step(
    network: NextTokenLogits,
    optimizer: torch.optim.Optimizer,
    ranker: VerbalizerRanker,
    dataset: Dataset,
    settings: RankerSettings,
    parameters: list[torch.nn.Parameter],
    vectors: csr_matrix,
    *,
    generator_of: tuple[int, int],
) -> tuple[float, float, int]:
    """Take one optimiser step on fresh pools and return its mean loss, the share of right labels and tokens read."""
    generator = np.random.default_rng([*generator_of, 1])  # 1: apart from the draws of the ranking phase
    torch.manual_seed(int(generator.integers(2**31)))
    label_ids = torch.tensor(ranker.prompts.target_ids[: settings.candidates], device=ranker.model.device)
    losses, rights, read = [], [], 0
    for _ in range(settings.gradient_accumulation):
        sequences, ends, answers = [], [], []
        for _ in range(settings.batch_size):
            pool = generator.choice(dataset.n_items, size=settings.candidates, replace=False) + 1
            places = generator.permutation(settings.candidates)
            queries = [_query(ranker.prompts, pool, place, vectors, settings, generator) for place in places]
            tokens, before = ranker.prompts.build_binding(pool.tolist(), places.tolist(), queries)
            sequences.append(tokens)
            ends.append(before)
            answers.append(places)
        read += sum(map(len, sequences))
        tokens, _ = pad(sequences, device=ranker.model.device)
        logits = network(tokens, torch.tensor(ends, device=tokens.device), label_ids).flatten(0, 1)
        targets = torch.from_numpy(np.concatenate(answers)).to(tokens.device)  # (batch · n_candidates,)
        loss = F.cross_entropy(logits, targets)
        (loss / settings.gradient_accumulation).backward()
        losses.append(loss.item())
        rights.append((logits.argmax(1) == targets).float().mean().item())
    torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return float(np.mean(losses)), float(np.mean(rights)), read


def _query(
    prompts: PromptBuilder,
    pool: np.ndarray,
    place: int,
    vectors: csr_matrix,
    settings: RankerSettings,
    generator: np.random.Generator,
) -> list[int]:
    """Draw the token ids by which an item of a pool is asked for."""
    if generator.random() < settings.binding_resembling:
        others = np.setdiff1d(resembling(vectors, pool[place]), pool)
        if len(others):
            return prompts.title_tokens[generator.choice(others)]
    title = prompts.title_tokens[pool[place]]
    if generator.random() < 0.5:
        return title
    start = generator.integers(len(title) // 2 + 1)
    return title[start : start + (len(title) + 1) // 2]
