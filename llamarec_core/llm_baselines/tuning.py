"""Tuning of the strategies that answer in text: a task of the one training loop.

    L = − mean over the answers' tokens of log softmax(logits before the token)[token]

Prefixes, targets and random negatives are the paper's, one question a prompt; what a strategy makes of them is its
``example``. The last weights are kept: validation, on a few users because generating is slow, only shows what was
reached.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from llamarec_core.data import Dataset
from llamarec_core.files import write_json
from llamarec_core.llm_baselines.base import GeneratingStrategy, Strategy, answer_rows
from llamarec_core.ranking.adapter import (
    adapter_tensors,
    add_adapter,
    freeze_adapter,
    load_adapter,
    save_adapter,
    set_adapter_tensors,
)
from llamarec_core.ranking.backbone import backbone_name, default_device, load_backbone
from llamarec_core.ranking.examples import TrainingExamples, draw_examples
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.rerank import ndcg_at_10, rerank_by_scores, retrieved_rows
from llamarec_core.ranking.verbalizer import NextTokenLogits, pad
from llamarec_core.settings import RankerSettings
from llamarec_core.training import Plan, Tensors, train

MAX_GRADIENT_NORM = 1.0
"""A gradient of a larger norm is scaled down to this one."""

VALIDATIONS = 4
"""Most validations of a tuning."""

IGNORED = -100
"""Stands where an answer has no more tokens."""


def fit_strategy(
    kind: type[Strategy],
    dataset: Dataset,
    candidates: pd.DataFrame,
    settings: RankerSettings,
    *,
    seed: int,
    folder: Path,
    progress: bool = True,
) -> Strategy:
    """Tune a strategy, or go on with the tuning that ``folder`` holds, or return the one it holds finished.

    The global generator of torch is seeded on the way.

    Args:
        kind: one of :data:`llamarec_core.llm_baselines.TUNED`.
        dataset: prefixes of its training split are learnt.
        candidates: the retriever's candidates of the validation split.
        settings: backbone, adapter and tuning, one question a prompt.
        seed: of the adapter's initial weights, the examples, dropout and the choice of validation users.
        folder: gets what :func:`llamarec_core.training.train` leaves, ``ranker.json`` and ``adapter/``.
        progress: show a progress bar on stderr.

    Raises:
        InputError: ``folder`` holds a run of other settings, data or seed; no user's target is among the candidates;
            the loss is no longer a number; or backbone, prompts or adapter are refused.
    """
    identity = _identity(kind, dataset, settings) | {"seed": seed}
    if not (folder / "adapter").is_dir():
        model, tokenizer = load_backbone(settings)
        strategy = kind(add_adapter(model, settings, seed=seed), PromptBuilder(tokenizer, dataset.titles, settings))
        chosen = {"size": settings.candidates, "users": settings.validation_users, "seed": seed}
        task = TextTask(strategy, dataset, retrieved_rows(candidates, "validation", **chosen), settings, seed=seed)
        plan = Plan(
            steps=task.steps,
            validate_every=max(settings.validate_every, -(-task.steps // VALIDATIONS)),
            kept_by="step",
            warmup_steps=min(settings.warmup_steps, task.steps // 2),
        )

        def save(tensors: Tensors, row: dict[str, Any]) -> None:
            kept = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
            write_json(folder / "ranker.json", identity | {"best": row})
            save_adapter(folder / "adapter", strategy.model, kept, progress={"best": row}, settings=identity)

        description = f"Tuning {kind.name} on {dataset.name}"
        train(task, plan, folder=folder, identity=identity, save=save, description=description, progress=progress)
    return load_strategy(kind, dataset, settings, folder, tuned=True, seed=seed)


def load_strategy(
    kind: type[Strategy], dataset: Dataset, settings: RankerSettings, folder: Path, *, tuned: bool, **identity: Any
) -> Strategy:
    """Load the strategy that :func:`fit_strategy` left in ``folder``, or its backbone alone (zero-shot).

    A strategy that generates runs in float32 on a processor, where a single token takes longer in bfloat16.

    Args:
        kind: of the strategy.
        dataset: its titles are read.
        settings: those of the tuning.
        folder: not read when ``tuned`` is false.
        tuned: with the adapter, or the backbone as it came.
        identity: what else the tuning must have been of, e.g. its seed.

    Raises:
        InputError: there is no finished tuning, or it was of other settings or data.
    """
    tensors = (
        load_adapter(folder / "adapter", settings=_identity(kind, dataset, settings) | identity)[0] if tuned else None
    )
    if issubclass(kind, GeneratingStrategy) and default_device().type == "cpu":
        settings = settings.model_copy(update={"dtype": "float32"})
    model, tokenizer = load_backbone(settings)
    if tensors:
        model = add_adapter(model, settings, seed=0)
        freeze_adapter(model, tensors)
    return kind(model, PromptBuilder(tokenizer, dataset.titles, settings))


class TextTask:
    """A tuning under way, of the adapter of a strategy's model.

    Attributes:
        steps: optimiser steps of the whole run.
        counts: columns of the curve: prompts read, tokens of answers learnt, tokens read without padding.

    Args: as of :func:`fit_strategy`; ``validation`` holds the rows to validate on.
    """

    counts = ("examples", "answers", "tokens")

    def __init__(
        self, strategy: Strategy, dataset: Dataset, validation: pd.DataFrame, settings: RankerSettings, *, seed: int
    ):
        self.strategy, self.dataset, self.validation, self.settings = strategy, dataset, validation, settings
        self.seed = seed
        self._examples = self._epoch(0)
        self._per_step = settings.batch_size * settings.gradient_accumulation
        self._steps_per_epoch = -(-len(self._examples[1]) // self._per_step)
        self.steps = settings.epochs * self._steps_per_epoch
        self._network = NextTokenLogits(strategy.model)
        self._trained = [parameter for parameter in strategy.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self._trained, lr=settings.learning_rate, weight_decay=0.0)

    def step(self, number: int) -> list[dict[str, float]]:
        """Take one optimiser step, over as many forward passes as the settings accumulate."""
        self._network.train()
        passes = [self._forward_pass(number, part) for part in range(self.settings.gradient_accumulation)]
        torch.nn.utils.clip_grad_norm_(self._trained, MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return passes

    def validate(self, steps: int) -> dict[str, float]:
        """Return NDCG@10 of the validation users' candidates in the strategy's order."""
        scores = answer_rows(self.strategy, self.dataset, self.validation, "validation").scores
        return {"ndcg@10": ndcg_at_10(rerank_by_scores(self.validation, scores)["rank"].to_numpy())}

    def tensors(self) -> Tensors:
        """Return the adapter's weights."""
        return adapter_tensors(self.strategy.model)

    def restore(self, tensors: Tensors) -> None:
        """Put the adapter's weights back."""
        set_adapter_tensors(self.strategy.model, tensors)

    def batch(self, number: int, part: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Return what a forward pass of a step reads.

        Returns:
            Tokens ``(batch, length)``; after how many of them each token of an answer stands, and that token or
            :data:`IGNORED`, ``(batch, answer length)`` each; and how many tokens are no padding.
        """
        epoch, step = divmod(number, self._steps_per_epoch)
        if epoch != self._examples[0]:
            self._examples = self._epoch(epoch)
        first = step * self._per_step + part * self.settings.batch_size
        # every step is full: an epoch's last is filled up from its beginning
        rows = np.arange(first, first + self.settings.batch_size) % len(self._examples[1])
        examples = [self._example(int(row)) for row in rows]
        longest = max(len(answer) for _, answer in examples)
        ends = [
            [len(prompt) + index if index < len(answer) else 1 for index in range(longest)]
            for prompt, answer in examples
        ]
        targets = [answer + [IGNORED] * (longest - len(answer)) for _, answer in examples]
        sequences = [prompt + answer[:-1] for prompt, answer in examples]
        device = self.strategy.model.device
        tokens = pad(sequences, device=device)[0]
        return tokens, torch.tensor(ends, device=device), torch.tensor(targets, device=device), sum(map(len, sequences))

    def loss(self, tokens: torch.Tensor, ends: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of the answers' tokens."""
        logits = self._network(tokens, ends)  # (batch, answer length, vocabulary)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def _forward_pass(self, number: int, part: int) -> dict[str, float]:
        accumulation = self.settings.gradient_accumulation
        state = np.random.SeedSequence([self.seed, number * accumulation + part]).generate_state(1)
        torch.manual_seed(int(state[0]))  # dropout depends on nothing that was drawn before
        tokens, ends, targets, n_tokens = self.batch(number, part)
        loss = self.loss(tokens, ends, targets)
        (loss / accumulation).backward()
        learnt = int((targets != IGNORED).sum())
        return {"loss": loss.item(), "examples": len(tokens), "answers": learnt, "tokens": n_tokens}

    def _epoch(self, epoch: int) -> tuple[int, TrainingExamples]:
        return epoch, draw_examples(self.dataset, self.settings, seed=self.seed, epoch=epoch)

    def _example(self, row: int) -> tuple[list[int], list[int]]:
        users, positions, candidates = (part[row] for part in self._examples[1].parts())
        history = self.dataset.train(int(users[0]))[: positions[0]].tolist()
        answer = int(self._examples[1].answers[row, 0, 0])
        return self.strategy.example(row, history, candidates.tolist(), answer)


def _identity(kind: type[Strategy], dataset: Dataset, settings: RankerSettings) -> dict[str, Any]:
    """Return what an adapter belongs to: the strategy, the data and all settings that shaped it."""
    shaping = settings.model_dump(mode="json", exclude={"evaluation_batch_size", "weight_users"})
    about = {"strategy": kind.name, "backbone": backbone_name(settings)}
    return shaping | about | {"dataset": dataset.name, "data": dataset.content_hash}
