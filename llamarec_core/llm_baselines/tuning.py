"""Tuning of the strategies that answer in text: a task of the one training loop.

    L = − mean over the answers' tokens of log softmax(logits before the token)[token]

Prefixes and their candidates are those of the ranker's tuning, one question a prompt; what a strategy makes of them is
its ``example``. The last weights are kept: validation, on a few users because generating is slow, only shows what was
reached. One process tunes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from llamarec_core.data import Dataset
from llamarec_core.files import write_json
from llamarec_core.llm_baselines.base import GeneratingStrategy, Strategy, answer_candidates
from llamarec_core.ranking.adapter import (
    adapter_tensors,
    add_adapter,
    freeze_adapter,
    load_adapter,
    rounded,
    save_adapter,
    set_adapter_tensors,
)
from llamarec_core.ranking.backbone import backbone_name, default_device, load_backbone
from llamarec_core.ranking.examples import TrainingExamples
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.qlora import MAX_GRADIENT_NORM
from llamarec_core.ranking.rerank import ndcg_at_10, retrieved_candidates
from llamarec_core.ranking.verbalizer import NextTokenLogits, pad
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.seeds import torch_seed
from llamarec_core.settings import RankerSettings
from llamarec_core.training import Plan, Tensors, train

VALIDATIONS = 4
"""Most validations of a tuning."""

VALIDATION_USERS = 10
"""Most users of a validation."""

IGNORED = -100
"""Stands where an answer has no more tokens."""

OF_LABELS = (
    "template", "users_per_prompt", "names_per_prompt", "items_per_prompt", "loss", "temperature", "meter_answers",
    "kept_by", "start_from", "minutes",
)  # fmt: skip
"""The ranker's settings that make no sense where no label is learnt."""


def text_settings(settings: RankerSettings, *, examples: int | None) -> RankerSettings:
    """Return the settings with which text strategies are tuned: the ranker's, without what is for labels only.

    Args:
        settings: of the ranker.
        examples: prompts that each strategy learns from, in one epoch; ``None`` takes as many as the ranker.
    """
    plain = RankerSettings()
    changes: dict[str, Any] = {name: getattr(plain, name) for name in OF_LABELS}
    if examples:
        changes |= {"training_examples": examples, "epochs": 1}
    changes["validation_users"] = min(settings.validation_users or VALIDATION_USERS, VALIDATION_USERS)
    return settings.model_copy(update=changes)


def fit_strategy(
    kind: type[Strategy],
    dataset: Dataset,
    validation: Candidates,
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
        validation: the retriever's candidates for the validation targets.
        settings: of :func:`text_settings`.
        seed: of the adapter's initial weights, the examples, dropout and the choice of validation users.
        folder: gets what :func:`llamarec_core.training.train` leaves, ``ranker.json`` and ``adapter/``.
        progress: show a progress bar on stderr.

    Raises:
        InputError: ``folder`` holds another run, no user's target is among the candidates, the loss is no longer a
            number, or backbone, prompts or adapter are refused.
    """
    identity = _identity(kind, dataset, settings) | {"seed": seed}
    if not (folder / "adapter").is_dir():
        model, tokenizer = load_backbone(settings)
        strategy = kind(add_adapter(model, settings, seed=seed), PromptBuilder(tokenizer, dataset.titles, settings))
        chosen = {"size": settings.candidates, "users": settings.validation_users, "seed": seed}
        task = TextTask(strategy, dataset, retrieved_candidates(validation, **chosen), settings, seed=seed)
        plan = Plan(
            steps=task.steps,
            validate_every=max(settings.validate_every, -(-task.steps // VALIDATIONS)),
            kept_by="step",
            warmup_steps=min(settings.warmup_steps, task.steps // 2),
        )

        def save(tensors: Tensors, row: dict[str, Any]) -> None:
            write_json(folder / "ranker.json", identity | {"best": row})
            kept = {"progress": {"best": row}, "settings": identity}
            save_adapter(folder / "adapter", strategy.model, rounded(tensors), **kept)

        description = f"Tuning {kind.name} on {dataset.name}"
        train(task, plan, folder=folder, identity=identity, save=save, description=description, progress=progress)
    return load_strategy(kind, dataset, settings, folder, tuned=True, seed=seed)


def load_strategy(
    kind: type[Strategy], dataset: Dataset, settings: RankerSettings, folder: Path, *, tuned: bool, **identity: Any
) -> Strategy:
    """Load the strategy that :func:`fit_strategy` left in ``folder``, or its backbone alone (zero-shot).

    A strategy that generates runs in float32 on a processor, where a single token takes longer in bfloat16.

    Args:
        kind, dataset, settings: those of the tuning.
        folder: not read when ``tuned`` is false.
        tuned: with the adapter, or the backbone as it came.
        identity: what else the tuning must have been of, e.g. its seed.

    Raises:
        InputError: there is no finished tuning, or it was of other settings or data.
    """
    tensors = None
    if tuned:
        tensors, _ = load_adapter(folder / "adapter", settings=_identity(kind, dataset, settings) | identity)
    if issubclass(kind, GeneratingStrategy) and default_device().type == "cpu":
        settings = settings.model_copy(update={"dtype": "float32"})
    model, tokenizer = load_backbone(settings)
    if tensors:
        model = add_adapter(model, settings, seed=0)
        freeze_adapter(model, tensors)
    return kind(model, PromptBuilder(tokenizer, dataset.titles, settings))


class TextTask:
    """A strategy's steps and validations, for :func:`llamarec_core.training.train`.

    Attributes:
        steps: optimiser steps of the whole run.
        counts: columns of the curve: answers learnt, their tokens, and all tokens that were read.

    Args: as of :func:`fit_strategy`, with the strategy to tune and the candidates of its validation users.
    """

    counts = ("answers", "answer_tokens", "tokens")

    def __init__(
        self, strategy: Strategy, dataset: Dataset, validation: Candidates, settings: RankerSettings, *, seed: int
    ):
        self.strategy, self.dataset, self.validation, self.settings = strategy, dataset, validation, settings
        self.seed = seed
        self._examples = TrainingExamples(dataset, settings, dataset.titles, seed=seed)
        per_epoch = min(settings.training_examples or len(self._examples), len(self._examples))
        self.steps = settings.epochs * -(-per_epoch // (settings.batch_size * settings.gradient_accumulation))
        self._network = NextTokenLogits(strategy.model)
        self._trained = [parameter for parameter in strategy.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self._trained, lr=settings.learning_rate, weight_decay=0.0)

    def step(self, number: int) -> list[dict[str, float]]:
        """Take one optimiser step, over as many forward passes as the settings accumulate."""
        accumulation, passes = self.settings.gradient_accumulation, []
        self._network.train()
        for micro_batch in range(number * accumulation, (number + 1) * accumulation):
            torch.manual_seed(torch_seed(self.seed, micro_batch))
            first = micro_batch * self.settings.batch_size
            examples = [self.example(first + index) for index in range(self.settings.batch_size)]
            loss = self.loss(examples)
            (loss / accumulation).backward()
            read, learnt = (sum(map(len, part)) for part in zip(*examples, strict=True))
            counts = {"answers": len(examples), "answer_tokens": learnt, "tokens": read + learnt - len(examples)}
            passes.append({"loss": loss.item(), **counts})
        torch.nn.utils.clip_grad_norm_(self._trained, MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return passes

    def validate(self, steps: int) -> dict[str, float]:
        """Return NDCG@10 of the validation users' candidates in the strategy's order."""
        scores = answer_candidates(self.strategy, self.dataset, self.validation, "validation").scores
        return {"ndcg@10": ndcg_at_10(self.validation, scores)}

    def tensors(self) -> Tensors:
        """Return the adapter's weights."""
        return adapter_tensors(self.strategy.model)

    def restore(self, tensors: Tensors) -> None:
        """Put the adapter's weights back."""
        set_adapter_tensors(self.strategy.model, tensors)

    def example(self, number: int) -> tuple[list[int], list[int]]:
        """Return the tokens of a prompt and of its answer."""
        drawn = self._examples.draw(number)
        user, position = int(self._examples.users[drawn.prefix]), int(self._examples.positions[drawn.prefix])
        history, answer = self.dataset.train(user)[:position].tolist(), int(drawn.questions[0].answer.argmax())
        return self.strategy.example(number, history, drawn.candidates.tolist(), answer)

    def loss(self, examples: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
        """Return the mean cross-entropy of the answers' tokens, given prompts and answers."""
        device, longest = self.strategy.model.device, max(len(answer) for _, answer in examples)
        # what is asked for is the token after each beginning of the answer
        ends = [[len(prompt) + min(index, len(answer) - 1) for index in range(longest)] for prompt, answer in examples]
        targets = [answer + [IGNORED] * (longest - len(answer)) for _, answer in examples]
        tokens, _ = pad([prompt + answer[:-1] for prompt, answer in examples], device=device)
        logits = self._network(tokens, torch.tensor(ends, device=device))  # (batch, answer length, vocabulary)
        targets = torch.tensor(targets, device=device).flatten()
        return F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED)


def _identity(kind: type[Strategy], dataset: Dataset, settings: RankerSettings) -> dict[str, Any]:
    """Return what an adapter belongs to: the strategy, the data and all settings that shaped it."""
    about = {"strategy": kind.name, "backbone": backbone_name(settings), "dataset": dataset.name}
    return settings.model_dump(mode="json") | about | {"data": dataset.content_hash}
