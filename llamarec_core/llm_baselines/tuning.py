"""Tuning of the strategies that answer in text, by the steps with which the ranker is tuned::

    L = − mean over the answers' tokens of log softmax(logits before the token)[token]

Prefixes and their candidates are those of the ranker's tuning; what a strategy makes of them is its ``example``. The
last weights are kept: validation, on a few users because generating is slow, only shows what was reached.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from llamarec_core.data import Dataset
from llamarec_core.llm_baselines.base import Example, Strategy, TALLRec, answer_candidates
from llamarec_core.llm_baselines.text_strategies import GeneratingStrategy
from llamarec_core.ranking.adapter import AdapterTask, attach_adapter, identity, load_adapter
from llamarec_core.ranking.backbone import load_backbone
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.rerank import ndcg_at_10, retrieved_candidates
from llamarec_core.ranking.verbalizer import pad
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.settings import RankerSettings
from llamarec_core.training import Plan, default_device

VALIDATIONS = 4  # most of a tuning
VALIDATION_USERS = 10  # most of a validation
IGNORED = -100  # stands where an answer has no more tokens

OF_LABELS = (
    "template", "users_per_prompt", "names_per_prompt", "items_per_prompt", "loss", "temperature", "meter_answers",
    "kept_by", "start_from", "minutes",
)  # fmt: skip
"""The ranker's settings that make no sense where no label is learnt."""


def text_settings(settings: RankerSettings, *, examples: int | None) -> RankerSettings:
    """Return the ranker's settings for text strategies, without what is for labels only.

    ``examples`` prompts are learnt in one epoch; ``None`` takes as many as the ranker.
    """
    plain = RankerSettings()
    changes: dict[str, Any] = {name: getattr(plain, name) for name in OF_LABELS}
    if examples:
        changes |= {"training_examples": examples, "epochs": 1}
    changes["validation_users"] = min(settings.validation_users or VALIDATION_USERS, VALIDATION_USERS)
    return settings.model_copy(update=changes)


def fit_strategy(
    kind: type[Strategy], dataset: Dataset, validation: Candidates, settings: RankerSettings, *, seed: int, folder: Path
) -> Strategy:
    """Tune one of :data:`.TUNED` with its :func:`text_settings`, or go on, as :func:`.fit_ranker` does."""
    about = {"strategy": kind.name, "seed": seed}
    if not (folder / "adapter").is_dir():
        users = retrieved_candidates(validation, size=settings.candidates, users=settings.validation_users, seed=seed)
        task = TextTask(kind, dataset, users, settings, seed=seed)
        plan = Plan(
            steps=task.steps,
            validate_every=max(settings.validate_every, -(-task.steps // VALIDATIONS)),
            kept_by="step",
            warmup_steps=min(settings.warmup_steps, task.steps // 2),
        )
        run, description = identity(dataset, settings) | about, f"Tuning {kind.name} on {dataset.name}"
        task.tune(plan, folder=folder, identity=run, description=description)
        del task  # a large backbone fits into memory once
    return load_strategy(kind, dataset, settings, folder, tuned=True, seed=seed)


def load_strategy(
    kind: type[Strategy], dataset: Dataset, settings: RankerSettings, folder: Path, *, tuned: bool, **about: Any
) -> Strategy:
    """Load the strategy that :func:`fit_strategy` left in ``folder``, or its backbone alone (zero-shot).

    ``about`` is what else the tuning must have been of, such as its seed.
    """
    if tuned:
        run = identity(dataset, settings) | {"strategy": kind.name} | about
        tensors = load_adapter(folder / "adapter", settings=run)
    # on a processor, generating a single token takes longer in bfloat16
    if issubclass(kind, GeneratingStrategy) and default_device().type == "cpu":
        settings = settings.model_copy(update={"dtype": "float32"})
    model, tokenizer = load_backbone(settings)
    if tuned:
        attach_adapter(model, tensors, settings)
    return kind(model, PromptBuilder(tokenizer, dataset.titles, settings))


class TextTask(AdapterTask):
    """A strategy's steps and validations."""

    counts = ("answers", "answer_tokens", "tokens")

    def __init__(
        self, kind: type[Strategy], dataset: Dataset, validation: Candidates, settings: RankerSettings, *, seed: int
    ):
        super().__init__(dataset, validation, settings, seed=seed)
        self.strategy = kind(self.model, self.prompts)

    def loss(self, numbers: range) -> tuple[torch.Tensor, dict[str, int]]:
        """Return the loss of the examples of these numbers, and how many answers and tokens they have."""
        examples = [self.example(number) for number in numbers]
        read, learnt = (sum(map(len, part)) for part in zip(*examples, strict=True))
        counts = {"answers": len(examples), "answer_tokens": learnt, "tokens": read + learnt - len(examples)}
        return self.cross_entropy(examples), counts

    def validate(self, steps: int) -> dict[str, float]:
        """Return NDCG@10 of the validation users' candidates in the strategy's order."""
        scores = answer_candidates(self.strategy, self.dataset, self.validation, "validation").scores
        return {"ndcg@10": ndcg_at_10(self.validation, scores)}

    def example(self, number: int) -> Example:
        """Return the tokens of a prompt and of its answer."""
        drawn = self.examples.draw(number)
        user, position = int(self.examples.users[drawn.prefix]), int(self.examples.positions[drawn.prefix])
        history, question = self.dataset.train(user)[:position].tolist(), drawn.questions[0]
        listed, answer = drawn.candidates, question.answer
        if isinstance(self.strategy, TALLRec):  # whose "No" would be wrong about what else the user chose
            listed, answer = listed[~question.left_out], answer[~question.left_out]
        return self.strategy.example(number, history, listed.tolist(), int(answer.argmax()))

    def cross_entropy(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the mean cross-entropy of the answers' tokens."""
        device, longest = self.model.device, max(len(answer) for _, answer in examples)
        # what is asked for is the token after each beginning of the answer
        ends = [[len(prompt) + min(index, len(answer) - 1) for index in range(longest)] for prompt, answer in examples]
        targets = [answer + [IGNORED] * (longest - len(answer)) for _, answer in examples]
        tokens, _ = pad([prompt + answer[:-1] for prompt, answer in examples], device=device)
        logits = self._network(tokens, torch.tensor(ends, device=device))  # (batch, answer length, vocabulary)
        targets = torch.tensor(targets, device=device).flatten()
        return F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED)
