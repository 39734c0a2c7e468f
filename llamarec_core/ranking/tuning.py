"""What a step and a validation of the ranker's tuning are, for the one training loop (LlamaRec, section 4.1).

AdamW with a linear warm-up and a linear decay; the loss is that of :mod:`~llamarec_core.ranking.batches`. A step's
micro-batches are shared out to the processes that ``accelerate launch`` or ``torchrun`` started; one process is the
special case.

Randomness never depends on the past: examples follow from (seed, number), dropout from (seed, micro-batch). So a run
that was killed ends with the same adapter as one that was not, and several processes see the dropout masks that one
would. :mod:`~llamarec_core.ranking.qlora` drives this.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking.adapter import adapter_tensors, set_adapter_tensors
from llamarec_core.ranking.batches import Batch, expected, label_log_probabilities, make_batch, vocabulary_loss
from llamarec_core.ranking.examples import TrainingExamples
from llamarec_core.ranking.rerank import (
    candidate_probabilities,
    fit_retriever_weight,
    log_probabilities,
    ndcg_at_10,
    with_retriever,
)
from llamarec_core.ranking.verbalizer import NextTokenLogits, VerbalizerRanker
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.seeds import torch_seed
from llamarec_core.settings import RankerSettings

if TYPE_CHECKING:  # slow to import, and of no use to who only ranks
    from accelerate import Accelerator

MAX_GRADIENT_NORM = 1.0
"""A gradient of a larger norm is scaled down to this one."""

SHUFFLED_USERS = 200
"""Validation users whose candidates are also ranked in shuffled order, which shows a preference for early labels."""


class RankerTask:
    """A ranker's steps and validations, for :func:`llamarec_core.training.train`.

    A validation's columns are, on the retriever's candidates of the validation users, ``ndcg@10``,
    ``ndcg@10_with_retriever``, the best that a weight of the retriever's score makes of it, and ``ndcg@10_shuffled``.
    Where prefixes are held out, ``nats`` is the meter on them and ``nats_se`` its standard error over the questions.

    Args:
        ranker: the backbone with its adapter; the adapter is tuned in place.
        dataset: its training split is learnt.
        validation: the retriever's candidates of the validation users.
        settings: of the tuning.
        seed: of the run.
        accelerator: as :func:`make_accelerator` returns it.

    Raises:
        InputError: the data set has nothing to learn from.
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
        self.ranker, self.dataset, self.validation, self.settings = ranker, dataset, validation, settings
        self.seed, self.accelerator = seed, accelerator
        options = {"seed": seed, "held_out_answers": settings.meter_answers}
        self.examples = TrainingExamples(dataset, settings, ranker.prompts.titles, **options)
        per_epoch = min(settings.training_examples or len(self.examples), len(self.examples))
        self.steps_per_epoch = -(-per_epoch // (settings.batch_size * settings.gradient_accumulation))
        trainable = [parameter for parameter in ranker.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
        self._network, self._wrapped = accelerator.prepare(NextTokenLogits(ranker.model), self.optimizer)
        self._target_ids = torch.tensor(ranker.prompts.target_ids[: settings.candidates], device=accelerator.device)

    def step(self, number: int) -> list[dict[str, float]]:
        """Take one optimiser step over this process's micro-batches."""
        counted = []
        self._network.train()
        for batch, micro_batch in self._micro_batches(number):
            torch.manual_seed(torch_seed(self.seed, micro_batch))
            with self.accelerator.accumulate(self._network):
                loss = self._losses(batch).mean()
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self._network.parameters(), MAX_GRADIENT_NORM)
                self._wrapped.step()
                self._wrapped.zero_grad()
            counted.append({"loss": loss.item(), "answers": batch.n_answers, "tokens": batch.n_tokens})
        return counted

    def validate(self, steps: int) -> dict[str, Any]:
        """Rank the validation users' candidates, and read the meter."""
        scores = self._scores(self.validation)
        weight = fit_retriever_weight(self.validation, scores)
        shuffled = self.validation.take(np.arange(min(SHUFFLED_USERS, len(self.validation))))
        columns = {
            "ndcg@10": ndcg_at_10(self.validation, scores),
            "ndcg@10_with_retriever": ndcg_at_10(self.validation, with_retriever(self.validation, scores, weight)),
            "ndcg@10_shuffled": ndcg_at_10(shuffled, self._scores(shuffled, order="shuffled")),
        }
        if self.settings.meter_answers:
            gains = self._gains()
            columns |= {"nats": float(gains.mean()), "nats_se": float(gains.std() / len(gains) ** 0.5)}
        return columns

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the adapter's weights."""
        return adapter_tensors(self.ranker.model)

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back the adapter's weights."""
        set_adapter_tensors(self.ranker.model, tensors)

    def _micro_batches(self, step: int) -> Iterator[tuple[Batch, int]]:
        """Yield this process's micro-batches of a step, with their numbers since the run's start."""
        accumulation, size = self.settings.gradient_accumulation, self.settings.batch_size
        for place in range(self.accelerator.process_index, accumulation, self.accelerator.num_processes):
            micro_batch = step * accumulation + place
            numbers = range(micro_batch * size, (micro_batch + 1) * size)
            examples = [self.examples.draw(number) for number in numbers]
            yield make_batch(self.ranker.prompts, examples, device=self.accelerator.device), micro_batch

    def _losses(self, batch: Batch) -> torch.Tensor:
        """Return the loss of each question, ``(n,)``."""
        if self.settings.loss == "vocabulary":
            return vocabulary_loss(self._logits(batch), batch, self._target_ids)
        logits = self._logits(batch, self._target_ids)
        of_answers, _, answers = label_log_probabilities(logits, batch, temperature=self.settings.temperature)
        return -expected(answers, of_answers)

    def _logits(self, batch: Batch, token_ids: torch.Tensor | None = None) -> torch.Tensor:
        return self._network(**batch.prompts, token_ids=token_ids)

    def _scores(self, candidates: Candidates, *, order: str = "descending") -> np.ndarray:
        """Return the ranker's scores of validation users' candidates, ``(n, n_candidates)``, by all processes."""
        mine = np.arange(self.accelerator.process_index, len(candidates), self.accelerator.num_processes)
        options = {"order": order, "seed": self.seed}
        own = candidate_probabilities(self.ranker, self.dataset, candidates.take(mine), "validation", **options)
        from accelerate.utils import gather_object

        gathered = gather_object(list(zip(mine.tolist(), own, strict=True)))
        return log_probabilities(np.stack([of_user for _, of_user in sorted(gathered, key=lambda pair: pair[0])]))

    def _gains(self) -> np.ndarray:
        """Return the held-out answers' log-probability over the prior, ``(n,)``, the same in all processes."""
        gains, asked, number = [], 0, 0
        self._network.eval()
        with torch.inference_mode():
            while asked < self.settings.meter_answers and number < len(self.examples.held_out):
                examples = [self.examples.draw_held_out(place) for place in range(number, number + 4)]
                batch = make_batch(self.ranker.prompts, examples, device=self.accelerator.device)
                logits = self._logits(batch, self._target_ids)
                options = {"temperature": self.settings.temperature}
                of_answers, of_prior, answers = label_log_probabilities(logits, batch, **options)
                gains.append((expected(answers, of_answers) - expected(answers, of_prior)).cpu().numpy())
                number += len(examples)
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
