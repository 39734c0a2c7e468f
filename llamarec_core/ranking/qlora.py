"""QLoRA: tune the ranker, and load it again (LlamaRec, sections 3.2.3 and 4.1; QLoRA, arXiv 2305.14314).

The backbone stays frozen, and quantised if the settings say so; an adapter is trained. Validation ranks the retriever's
own candidates, before the first step and at intervals, and the best adapter is kept::

    Candidates, Dataset ──fit_ranker──▶ folder ──load_ranker──▶ VerbalizerRanker ──rerank──▶ ranks

The folder then holds ``adapter/``, which PEFT can load too, ``ranker.json`` (settings and outcome, for people), and
what :func:`llamarec_core.training.train` leaves.

Randomness never depends on the past: examples follow from (seed, number), dropout from (seed, micro-batch). So a run
that was killed ends with the same adapter as one that was not. A step's micro-batches are shared out to the processes
that ``accelerate launch`` or ``torchrun`` started, which need a folder that all of them see.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llamarec_core.data import Dataset
from llamarec_core.files import InputError, sha256, write_json
from llamarec_core.ranking.adapter import (
    WEIGHTS,
    adapter_tensors,
    add_adapter,
    attach_adapter,
    freeze_adapter,
    load_adapter,
    rounded,
    save_adapter,
    set_adapter_tensors,
)
from llamarec_core.ranking.backbone import backbone_name, backbone_sha256, load_backbone
from llamarec_core.ranking.batches import Batch, expected, label_log_probabilities, make_batch, vocabulary_loss
from llamarec_core.ranking.examples import Example, TrainingExamples
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.rerank import (
    candidate_probabilities,
    fit_retriever_weight,
    log_probabilities,
    ndcg_at_10,
    retrieved_candidates,
    with_retriever,
)
from llamarec_core.ranking.verbalizer import NextTokenLogits, VerbalizerRanker
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.seeds import torch_seed
from llamarec_core.settings import RankerSettings
from llamarec_core.training import Plan, Tensors, train

if TYPE_CHECKING:  # slow to import, and of no use to who only ranks
    from accelerate import Accelerator
    from peft import PeftModel

MAX_GRADIENT_NORM = 1.0
"""A gradient of a larger norm is scaled down to this one."""

NOT_SHAPING = {"minutes", "start_from"}
"""Settings that may differ from those of an adapter's tuning when it is loaded."""

SHUFFLED_USERS = 200
"""Validation users whose candidates are also ranked in shuffled order, which shows a preference for early labels."""


def fit_ranker(
    dataset: Dataset,
    validation: Candidates,
    settings: RankerSettings,
    *,
    seed: int,
    folder: Path,
) -> VerbalizerRanker:
    """Tune a ranker, or go on with the tuning that ``folder`` holds, or return the one it holds finished.

    The global generator of torch is seeded on the way.

    Args:
        dataset: prefixes of its training split are learnt.
        validation: the retriever's candidates for the validation targets, which decide which adapter is kept.
        settings: backbone, prompt, adapter and tuning.
        seed: of the adapter's initial weights, the examples, dropout and the choice of validation users.
        folder: where checkpoint, curve and adapter are written.

    Raises:
        InputError: ``folder`` holds a run of other settings, data, candidates or seed; no user's target is
            among the candidates; the loss is no longer a number; or backbone, prompts, adapter or ``start_from`` are
            refused.
    """
    folder = Path(folder)
    users = {"size": settings.candidates, "users": settings.validation_users, "seed": seed}
    validation = retrieved_candidates(validation, **users)
    columns = (validation.users, validation.targets, validation.items)
    content = hashlib.sha256(b"".join(column.astype("<i4").tobytes() for column in columns)).hexdigest()
    identity = _identity(dataset, settings) | {"seed": seed, "validation": content}
    if settings.start_from is not None:
        backbone = {name: identity[name] for name in ("backbone", "backbone_sha256")}
        start = load_adapter(Path(settings.start_from), settings=backbone)[0]
        identity["started_from_sha256"] = sha256(Path(settings.start_from) / WEIGHTS)
    finished = folder / "adapter"
    if finished.is_dir():
        load_adapter(finished, settings=identity)  # refuses the adapter of another run
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # a kill at the very end leaves it behind
        return load_ranker(dataset, settings, folder)

    accelerator = make_accelerator(settings)
    model, tokenizer = load_backbone(settings, device=accelerator.device)
    model = add_adapter(model, settings, seed=seed)
    if settings.start_from is not None:
        set_adapter_tensors(model, start)
    ranker = VerbalizerRanker(model, PromptBuilder(tokenizer, dataset.titles, settings))
    task = RankerTask(ranker, dataset, validation, settings, seed=seed, accelerator=accelerator)
    plan = Plan(
        steps=task.steps,
        validate_every=settings.validate_every,
        kept_by=settings.kept_by,
        warmup_steps=settings.warmup_steps,
        minutes=settings.minutes,
        validate_first=True,
        first_counts=settings.start_from is not None,  # a fresh adapter counts only while there is no other
    )

    description = f"Tuning {backbone_name(settings)} on {dataset.name}"
    best = task.tune(plan, folder=folder, identity=identity, description=description)
    freeze_adapter(model, best)  # what ranks here is what is kept
    return ranker


def load_ranker(
    dataset: Dataset, settings: RankerSettings, folder: Path, *, tuned: bool = True, **changes: Any
) -> VerbalizerRanker:
    """Load the ranker that :func:`fit_ranker` left in ``folder``, or its backbone alone (zero-shot).

    Args:
        dataset: its titles are read.
        settings: those of the tuning; :data:`NOT_SHAPING` alone may differ.
        folder: where the ranker was tuned; not read when ``tuned`` is false.
        tuned: with the adapter, or the backbone as it came.
        changes: settings of the prompt or of the backbone's precision to rank with, other than those of the tuning.

    Raises:
        InputError: there is no finished ranker, or it was tuned with other settings or on other data.
    """
    tensors = load_adapter(Path(folder) / "adapter", settings=_identity(dataset, settings))[0] if tuned else None
    settings = settings.model_copy(update=changes)
    model, tokenizer = load_backbone(settings)
    if tensors:
        attach_adapter(model, tensors, settings)
    return VerbalizerRanker(model, PromptBuilder(tokenizer, dataset.titles, settings))


class AdapterTask:
    """An adapter's steps, for :func:`llamarec_core.training.train`: AdamW on its weights. Subclasses add ``validate``.

    Attributes:
        steps: optimiser steps of the whole run.
    """

    def __init__(
        self,
        model: "PeftModel",
        examples: TrainingExamples,
        settings: RankerSettings,
        *,
        seed: int,
        accelerator: "Accelerator",
    ):
        self.model, self.examples, self.settings = model, examples, settings
        self.seed, self.accelerator = seed, accelerator
        per_epoch = min(settings.training_examples or len(examples), len(examples))
        self.steps = settings.epochs * -(-per_epoch // (settings.batch_size * settings.gradient_accumulation))
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
        self._network, self._wrapped = accelerator.prepare(NextTokenLogits(model), self.optimizer)

    def loss(self, numbers: range) -> tuple[torch.Tensor, dict[str, int]]:
        """Return the mean loss of the examples of these numbers, and the task's counts."""
        raise NotImplementedError

    def step(self, number: int) -> list[dict[str, float]]:
        """Take one optimiser step over this process's micro-batches."""
        settings, accelerator, counted = self.settings, self.accelerator, []
        self._network.train()
        for place in range(accelerator.process_index, settings.gradient_accumulation, accelerator.num_processes):
            micro_batch = number * settings.gradient_accumulation + place
            first = micro_batch * settings.batch_size
            torch.manual_seed(torch_seed(self.seed, micro_batch))
            with accelerator.accumulate(self._network):
                loss, counts = self.loss(range(first, first + settings.batch_size))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self._network.parameters(), MAX_GRADIENT_NORM)
                self._wrapped.step()
                self._wrapped.zero_grad()
            counted.append({"loss": loss.item(), **counts})
        return counted

    def tensors(self) -> Tensors:
        """Return the adapter's weights."""
        return adapter_tensors(self.model)

    def restore(self, tensors: Tensors) -> None:
        """Put back the adapter's weights."""
        set_adapter_tensors(self.model, tensors)

    def tune(self, plan: Plan, *, folder: Path, identity: dict[str, Any], description: str) -> Tensors:
        """Train, and leave ``ranker.json`` and ``adapter/`` in the folder; return the best adapter as it is kept."""

        def save(best: Tensors, row: dict[str, Any]) -> None:
            write_json(folder / "ranker.json", identity | {"best": row})
            kept = {"progress": {"best": row}, "settings": identity}
            save_adapter(folder / "adapter", self.model, rounded(best), **kept)

        options = {"folder": folder, "identity": identity, "description": description}
        return rounded(train(self, plan, save=save, accelerator=self.accelerator, **options))


class RankerTask(AdapterTask):
    """A ranker's steps and validations.

    A validation's columns are, on the retriever's candidates of the validation users, ``ndcg@10``,
    ``ndcg@10_with_retriever``, the best that a weight of the retriever's score makes of it, and ``ndcg@10_shuffled``.
    Where prefixes are held out, ``nats`` is the meter on them and ``nats_se`` its standard error over the questions.
    """

    counts = ("answers", "tokens")

    def __init__(
        self,
        ranker: VerbalizerRanker,
        dataset: Dataset,
        validation: Candidates,
        settings: RankerSettings,
        *,
        seed: int,
        accelerator: "Accelerator",
    ):
        options = {"seed": seed, "held_out_answers": settings.meter_answers}
        examples = TrainingExamples(dataset, settings, ranker.prompts.titles, **options)
        super().__init__(ranker.model, examples, settings, seed=seed, accelerator=accelerator)
        self.ranker, self.dataset, self.validation = ranker, dataset, validation
        self._target_ids = torch.tensor(ranker.prompts.target_ids[: settings.candidates], device=accelerator.device)

    def loss(self, numbers: range) -> tuple[torch.Tensor, dict[str, int]]:
        """Return the mean loss of the examples of these numbers, and how many answers and tokens they have."""
        batch = self._batch([self.examples.draw(number) for number in numbers])
        return self._losses(batch).mean(), {"answers": batch.n_answers, "tokens": batch.n_tokens}

    def validate(self, steps: int) -> dict[str, Any]:
        """Rank the validation users' candidates, and read the meter."""
        scores = self._scores(self.validation)
        fused = with_retriever(self.validation, scores, fit_retriever_weight(self.validation, scores))
        some = self.validation.take(np.arange(min(SHUFFLED_USERS, len(self.validation))))
        columns = {
            "ndcg@10": ndcg_at_10(self.validation, scores),
            "ndcg@10_with_retriever": ndcg_at_10(self.validation, fused),
            "ndcg@10_shuffled": ndcg_at_10(some, self._scores(some, order="shuffled")),
        }
        if self.settings.meter_answers:
            gains = self._gains()
            columns |= {"nats": float(gains.mean()), "nats_se": float(gains.std() / len(gains) ** 0.5)}
        return columns

    def _batch(self, examples: list[Example]) -> Batch:
        return make_batch(self.ranker.prompts, examples, device=self.accelerator.device)

    def _losses(self, batch: Batch) -> torch.Tensor:
        """Return the loss of each question, ``(n,)``."""
        if self.settings.loss == "vocabulary":
            return vocabulary_loss(self._network(**batch.prompts), batch, self._target_ids)
        of_answers, _, answers = self._label_log_probabilities(batch)
        return -expected(answers, of_answers)

    def _label_log_probabilities(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self._network(**batch.prompts, token_ids=self._target_ids)
        return label_log_probabilities(logits, batch, temperature=self.settings.temperature)

    def _scores(self, candidates: Candidates, *, order: str = "descending") -> np.ndarray:
        """Return the ranker's scores of validation users' candidates, ``(n, n_candidates)``, by all processes."""
        from accelerate.utils import gather_object

        mine = np.arange(self.accelerator.process_index, len(candidates), self.accelerator.num_processes)
        options = {"order": order, "seed": self.seed}
        own = candidate_probabilities(self.ranker, self.dataset, candidates.take(mine), "validation", **options)
        gathered = gather_object(list(zip(mine.tolist(), own, strict=True)))
        return log_probabilities(np.stack([of_user for _, of_user in sorted(gathered, key=lambda pair: pair[0])]))

    def _gains(self) -> np.ndarray:
        """Return the held-out answers' log-probability over the prior, ``(n,)``, the same in all processes."""
        gains, asked, number = [], 0, 0
        self._network.eval()
        with torch.inference_mode():
            while asked < self.settings.meter_answers and number < len(self.examples.held_out):
                batch = self._batch([self.examples.draw_held_out(place) for place in range(number, number + 4)])
                of_answers, of_prior, answers = self._label_log_probabilities(batch)
                gains.append((expected(answers, of_answers) - expected(answers, of_prior)).cpu().numpy())
                number += 4
                asked += batch.n_answers
        return np.concatenate(gains)


def make_accelerator(settings: RankerSettings) -> "Accelerator":
    """Return the accelerator of this process: on GPUs where there are any, else on the CPU.

    Raises:
        InputError: the accumulation cannot be shared out evenly to the processes.
    """
    from accelerate import Accelerator

    plain = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    if settings.gradient_accumulation % plain.num_processes:
        raise InputError(
            f"gradient_accumulation: {settings.gradient_accumulation} forward passes cannot be shared out to "
            f"{plain.num_processes} processes: choose a multiple of {plain.num_processes}."
        )
    plain.gradient_accumulation_steps = settings.gradient_accumulation // plain.num_processes
    return plain


def _identity(dataset: Dataset, settings: RankerSettings) -> dict[str, Any]:
    """Return what an adapter belongs to: the data and all settings that shaped it."""
    shaping = settings.model_dump(mode="json", exclude=NOT_SHAPING)
    backbone = {"backbone": backbone_name(settings), "backbone_sha256": backbone_sha256(settings)}
    return shaping | backbone | {"dataset": dataset.name, "data": dataset.content_hash}
