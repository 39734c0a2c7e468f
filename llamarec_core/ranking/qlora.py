"""QLoRA: tune the ranker, and load it again (LlamaRec, sections 3.2.3 and 4.1; QLoRA, arXiv 2305.14314).

The backbone stays frozen; an adapter is trained, and the best is kept, by the retriever's own validation candidates.
Examples follow from (seed, number), dropout from (seed, micro-batch), so that a run that was killed ends with the same
adapter as one that was not. A step's micro-batches are shared out to the processes that ``accelerate launch`` or
``torchrun`` started, which need a folder that all of them see.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamarec_core.data import Dataset
from llamarec_core.files import InputError, read_json, sha256
from llamarec_core.ranking import rerank, verbalizer
from llamarec_core.ranking.adapter import WEIGHTS, AdapterTask, attach_adapter, identity, load_adapter, refuse_unfit
from llamarec_core.ranking.backbone import backbone_name, backbone_sha256, backbone_without_weights, load_backbone
from llamarec_core.ranking.examples import Example
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.verbalizer import Batch, VerbalizerRanker
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.settings import RankerSettings
from llamarec_core.training import Plan, Tensors

SHUFFLED_USERS = 200
"""Validation users whose candidates are also ranked in shuffled order, which shows a preference for early labels."""


def fit_ranker(
    dataset: Dataset, validation: Candidates, settings: RankerSettings, *, seed: int, folder: Path
) -> VerbalizerRanker:
    """Tune a ranker, or go on with the tuning that ``folder`` holds, or return the one it holds finished.

    ``validation`` holds the retriever's candidates for the validation targets, which decide which adapter is kept. An
    :class:`InputError` refuses a folder of another run, candidates without any target, and a loss that is no number.
    """
    users = {"size": settings.candidates, "users": settings.validation_users, "seed": seed}
    validation = rerank.retrieved_candidates(validation, **users)
    columns = (validation.users, validation.targets, validation.items)
    content = hashlib.sha256(b"".join(column.astype("<i4").tobytes() for column in columns)).hexdigest()
    run, start = identity(dataset, settings) | {"seed": seed, "validation": content}, starting_adapter(settings)
    run["started_from_sha256"] = sha256(Path(settings.start_from) / WEIGHTS) if start else None
    if (folder / "adapter").is_dir():
        tuned = read_json(folder / "ranker.json").get("minutes", settings.minutes)  # older files do not have it
        if tuned != settings.minutes:
            raise InputError(
                f"{folder} holds a ranker that was tuned for {tuned} minutes, but this run has {settings.minutes}: "
                "delete it to start this step again, or name its adapter in start_from and tune in another folder."
            )
    else:
        task = RankerTask(dataset, validation, settings, seed=seed)
        if start:
            task.restore(start)
        plan = Plan(
            steps=task.steps,
            validate_every=settings.validate_every,
            kept_by=settings.kept_by,
            warmup_steps=settings.warmup_steps,
            minutes=settings.minutes,
            validate_first=True,
            first_counts=start is not None,  # a fresh adapter counts only while there is no other
        )
        description = f"Tuning {backbone_name(settings)} on {dataset.name}"
        task.tune(plan, folder=folder, identity=run, description=description)
        del task  # a large backbone fits into memory once
    load_adapter(folder / "adapter", settings=run)  # refuses the adapter of another run
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # a kill at the very end leaves it behind
    return load_ranker(dataset, settings, folder)


def load_ranker(
    dataset: Dataset, settings: RankerSettings, folder: Path, *, tuned: bool = True, **changes: Any
) -> VerbalizerRanker:
    """Load the ranker that :func:`fit_ranker` left in ``folder``, or (not ``tuned``) its backbone alone, zero-shot.

    ``changes`` to the settings of the tuning are of the prompt or of the backbone's precision to rank with.
    """
    tensors = load_adapter(folder / "adapter", settings=identity(dataset, settings)) if tuned else None
    settings = settings.model_copy(update=changes)
    model, tokenizer = load_backbone(settings)
    if tensors:
        attach_adapter(model, tensors, settings)
    return VerbalizerRanker(model, PromptBuilder(tokenizer, dataset.titles, settings))


def starting_adapter(settings: RankerSettings) -> Tensors | None:
    """Return the adapter to start from, if the settings name one; refuse it, or the backbone, where they do not fit."""
    model = backbone_without_weights(settings)
    if settings.start_from is None:
        return None
    backbone = {"backbone": backbone_name(settings), "backbone_sha256": backbone_sha256(settings)}
    start = load_adapter(Path(settings.start_from), settings=backbone)
    refuse_unfit(start, model, settings)
    return start


class RankerTask(AdapterTask):
    """A ranker's steps and validations, with these columns.

    ``ndcg@10`` is on the validation users' candidates, ``ndcg@10_with_retriever`` by a weight fitted on the same users,
    ``ndcg@10_shuffled`` of some; ``nats`` is the meter on the prefixes held out, ``nats_se`` its standard error.
    """

    counts = ("answers", "tokens")

    def __init__(self, dataset: Dataset, validation: Candidates | None, settings: RankerSettings, *, seed: int):
        super().__init__(dataset, validation, settings, seed=seed)
        self.ranker = VerbalizerRanker(self.model, self.prompts)
        self._target_ids = torch.tensor(self.prompts.target_ids[: settings.candidates], device=self.model.device)

    def loss(self, numbers: range) -> tuple[torch.Tensor, dict[str, int]]:
        """Return the mean loss of the examples of these numbers, and how many answers and tokens they have."""
        batch = self._batch([self.examples.draw(number) for number in numbers])
        if self.settings.loss == "vocabulary":
            losses = verbalizer.vocabulary_loss(self._network(**batch.prompts), batch, self._target_ids)
        else:
            losses = -self._expected(batch)[0]
        return losses.mean(), {"answers": batch.n_answers, "tokens": batch.n_tokens}

    def validate(self, steps: int) -> dict[str, Any]:
        """Rank the validation users' candidates, and read the meter."""
        scores = self._scores(self.validation)
        fused = rerank.with_retriever(self.validation, scores, rerank.fit_retriever_weight(self.validation, scores))
        some = self.validation.take(np.arange(min(SHUFFLED_USERS, len(self.validation))))
        columns = {
            "ndcg@10": rerank.ndcg_at_10(self.validation, scores),
            "ndcg@10_with_retriever": rerank.ndcg_at_10(self.validation, fused),
            "ndcg@10_shuffled": rerank.ndcg_at_10(some, self._scores(some, order="shuffled")),
        }
        if self.settings.meter_answers:
            gains = self._gains()
            columns |= {"nats": float(gains.mean()), "nats_se": float(gains.std() / len(gains) ** 0.5)}
        return columns

    def _batch(self, examples: list[Example]) -> Batch:
        return verbalizer.make_batch(self.prompts, examples, device=self.model.device)

    def _expected(self, batch: Batch) -> list[torch.Tensor]:
        """Return the expected log p and log q of each question's answer, ``(n,)`` each."""
        logits = self._network(**batch.prompts, token_ids=self._target_ids)
        logs = verbalizer.label_log_probabilities(logits, batch, temperature=self.settings.temperature)
        return [verbalizer.expected(batch.answers, log) for log in logs]

    def _scores(self, candidates: Candidates, *, order: str = "descending") -> np.ndarray:
        """Return the ranker's scores of validation users' candidates, ``(n, n_candidates)``."""
        options = {"order": order, "seed": self.seed}
        read = rerank.candidate_probabilities(self.ranker, self.dataset, candidates, "validation", **options)
        return rerank.log_probabilities(read)

    def _gains(self) -> np.ndarray:
        """Return the held-out answers' log-probability over the prior, ``(n,)``, the same in all processes."""
        gains, asked, number = [], 0, 0
        self._network.eval()
        with torch.inference_mode():
            while asked < self.settings.meter_answers and number < len(self.examples.held_out):
                batch = self._batch([self.examples.draw_held_out(place) for place in range(number, number + 4)])
                by_ranker, by_prior = self._expected(batch)
                gains.append((by_ranker - by_prior).cpu().numpy())
                number += 4
                asked += batch.n_answers
        return np.concatenate(gains)
