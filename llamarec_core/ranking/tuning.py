"""The tuning loop's state and its two moves: take some optimiser steps, validate (LlamaRec, section 4.1).

The loss is that of :mod:`~llamarec_core.ranking.batches`. AdamW, a linear warm-up, then a linear decay. A step's
micro-batches are shared out to the processes that ``accelerate launch`` or ``torchrun`` started; one process is the
special case.

Randomness never depends on the past: examples follow from (seed, epoch), dropout from
(seed, micro-batch). So a run that was killed ends with the same adapter as one that was not, and
several processes see the dropout masks that one would. :mod:`~llamarec_core.ranking.qlora` drives this.
"""

import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from llamarec_core.checkpoint import optimizer_tensors, restore_optimizer, under
from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking.adapter import adapter_tensors, set_adapter_tensors
from llamarec_core.ranking.batches import Batch, LabelBatches, Teacher
from llamarec_core.ranking.examples import draw_examples
from llamarec_core.ranking.rerank import (
    candidate_probabilities,
    fit_retriever_weight,
    log_probabilities,
    ndcg_at_10,
    rerank_by_scores,
    with_retriever,
)
from llamarec_core.ranking.verbalizer import NextTokenLogits, VerbalizerRanker
from llamarec_core.settings import RankerSettings

MAX_GRADIENT_NORM = 1.0
"""A gradient of a larger norm is scaled down to this one."""


class Tuning:
    """A tuning under way.

    Attributes:
        step: optimiser steps taken.
        total: optimiser steps of the whole run.
        curve: one row a validation: ``step``, ``examples`` (prompts read), ``answers`` (labels learnt), ``tokens``
            (read, without padding), ``seconds``, ``training_loss`` (mean since the validation before), on validation
            ``ndcg@10``, and ``ndcg@10_with_retriever``, the best that a weight of the retriever's score makes of it.
        best: the adapter of :func:`best_row`.

    Args:
        ranker: the backbone with its adapter; the adapter is tuned in place.
        dataset: its training split is learnt.
        validation: the retriever's candidates of the validation users.
        settings: of the tuning.
        retrieved: as for :func:`~llamarec_core.ranking.examples.draw_examples`.
        teacher: the retriever, for settings with soft targets.
        seed: of the run.
        accelerator: as :func:`make_accelerator` returns it.
    """

    def __init__(
        self,
        ranker: VerbalizerRanker,
        dataset: Dataset,
        validation: pd.DataFrame,
        settings: RankerSettings,
        *,
        retrieved: pd.DataFrame | None,
        teacher: Teacher | None = None,
        seed: int,
        accelerator: Accelerator,
    ):
        self.ranker, self.dataset, self.validation, self.settings = ranker, dataset, validation, settings
        self.seed, self.accelerator, self._retrieved = seed, accelerator, retrieved
        self._start_epoch(0)
        self._step_size = settings.batch_size * settings.gradient_accumulation  # examples
        self._steps_per_epoch = -(-len(self._examples) // self._step_size)
        self.total = settings.epochs * self._steps_per_epoch
        trainable = [parameter for parameter in ranker.model.parameters() if parameter.requires_grad]
        self._plain_optimizer = torch.optim.AdamW(
            trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._schedule = self._schedule_from(0)
        self._network, self._optimizer = accelerator.prepare(NextTokenLogits(ranker.model), self._plain_optimizer)
        self._questions = LabelBatches(ranker.prompts, dataset, settings, teacher=teacher, device=accelerator.device)
        self._losses: list[float] = []
        self._read = np.zeros(2, dtype=np.int64)  # labels learnt and tokens read by this process
        self._earlier_read = np.zeros(2, dtype=np.int64)
        self._earlier_seconds, self._started = 0.0, time.perf_counter()
        self.step = 0
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}

    def train(self, steps: int, bar: tqdm) -> None:
        """Take optimiser steps, at most up to the end of the run.

        Raises:
            InputError: the loss is no longer a number.
        """
        accumulation = self.settings.gradient_accumulation
        self._network.train()
        for step in range(self.step, min(self.step + steps, self.total)):
            for place in range(self.accelerator.process_index, accumulation, self.accelerator.num_processes):
                _seed_dropout(self.seed, step * accumulation + place)
                batch = self._micro_batch(step, place)
                with self.accelerator.accumulate(self._network):
                    logits = self._network(
                        batch.tokens,
                        batch.lengths,
                        beginnings=batch.beginnings,
                        beginning_lengths=batch.beginning_lengths,
                    )
                    loss = self._loss(logits, batch)
                    self.accelerator.backward(loss)
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self._network.parameters(), MAX_GRADIENT_NORM)
                    self._optimizer.step()
                    self._optimizer.zero_grad()
                self._losses.append(loss.item())
                self._read += np.array([(batch.targets >= 0).sum().item(), batch.n_tokens])
            latest = self._losses[-self.accelerator.gradient_accumulation_steps :]
            # asked of all processes, so that none is left waiting for one that has given up
            if not all(gather_object([bool(np.isfinite(latest).all())])):
                raise InputError(f"The loss is no longer a number at step {step + 1}: choose a smaller learning_rate.")
            self._schedule.step()
            self.step += 1
            bar.set_postfix(self.figures(), refresh=False)
            bar.update()

    def validate(self) -> None:
        """Rank the validation users' candidates, add a row to the curve, and keep the adapter if it is the best."""
        places = range(self.accelerator.process_index, len(self.validation), self.accelerator.num_processes)
        own = self._validation_scores(self.validation.iloc[places]) if places else []
        gathered = gather_object(list(zip(places, own, strict=True)))
        scores = np.stack([of_user for _, of_user in sorted(gathered, key=lambda pair: pair[0])])
        together = with_retriever(self.validation, scores, fit_retriever_weight(self.validation, scores))
        # sorted, so that the mean does not depend on the number of processes
        losses = np.sort(gather_object(self._losses))
        answers, tokens = (self._earlier_read + np.sum(gather_object([self._read]), axis=0)).tolist()
        self.curve.append(
            {
                "step": self.step,
                "examples": self.step * self._step_size,
                "answers": answers,
                "tokens": tokens,
                "seconds": round(self._earlier_seconds + time.perf_counter() - self._started, 1),
                "training_loss": float(losses.mean()) if len(losses) else None,
                "ndcg@10": ndcg_at_10(rerank_by_scores(self.validation, scores)["rank"].to_numpy()),
                "ndcg@10_with_retriever": ndcg_at_10(rerank_by_scores(self.validation, together)["rank"].to_numpy()),
            }
        )
        self._losses = []
        if best_row(self.curve, settings=self.settings) is self.curve[-1]:
            self.best = {name: tensor.clone() for name, tensor in adapter_tensors(self.ranker.model).items()}

    def figures(self) -> dict[str, str]:
        """Return what a progress bar shows: the mean of the latest losses, and the latest validation."""
        recent = self._losses[-10 * self.settings.gradient_accumulation :]
        loss = np.mean(recent) if recent else self.curve[-1]["training_loss"]
        shown = {"validation NDCG@10": f"{self.curve[-1]['ndcg@10']:.4f}"}
        return shown if loss is None else {"loss": f"{loss:.3f}"} | shown

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return everything that :meth:`restore` needs besides the curve."""
        present = {f"present.{name}": tensor for name, tensor in adapter_tensors(self.ranker.model).items()}
        best = {f"best.{name}": tensor for name, tensor in self.best.items()}
        return present | best | optimizer_tensors(self._plain_optimizer)

    def restore(self, tensors: dict[str, torch.Tensor], curve: list[dict[str, Any]]) -> None:
        """Go back to where :meth:`tensors` was called."""
        set_adapter_tensors(self.ranker.model, under("present.", tensors))
        self.best = under("best.", tensors)
        restore_optimizer(self._plain_optimizer, tensors)
        self.curve, self.step, self._earlier_seconds = curve, curve[-1]["step"], curve[-1]["seconds"]
        self._earlier_read = np.array([curve[-1]["answers"], curve[-1]["tokens"]])
        self._schedule = self._schedule_from(self.step)

    def _validation_scores(self, rows: pd.DataFrame) -> np.ndarray:
        """Return the ranker's scores of validation users' candidates, ``(n, n_candidates)``."""
        return log_probabilities(candidate_probabilities(self.ranker, self.dataset, rows, "validation"))

    def _start_epoch(self, epoch: int) -> None:
        self._examples = draw_examples(
            self.dataset, self.settings, seed=self.seed, epoch=epoch, retrieved=self._retrieved
        )
        self._epoch = epoch

    def _micro_batch(self, step: int, place: int) -> Batch:
        """Return one of a step's micro-batches."""
        epoch, step_of_epoch = divmod(step, self._steps_per_epoch)
        if epoch != self._epoch:
            self._start_epoch(epoch)
        start = step_of_epoch * self._step_size + place * self.settings.batch_size
        # every step is full: an epoch's last is filled up from its beginning
        return self._batch(np.arange(start, start + self.settings.batch_size) % len(self._examples))

    def _batch(self, rows: np.ndarray) -> Batch:
        """Return the micro-batch of some of the epoch's examples."""
        return self._questions.batch(self._examples, rows)

    def _loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy of a micro-batch's answers."""
        return self._questions.loss(logits, batch)

    def _schedule_from(self, step: int) -> torch.optim.lr_scheduler.LambdaLR:
        """Return the step size's course from a step on; it depends on nothing else."""
        return get_linear_schedule_with_warmup(
            self._plain_optimizer, self.settings.warmup_steps, self.total, last_epoch=step - 1
        )


def make_accelerator(settings: RankerSettings) -> Accelerator:
    """Return the accelerator of this process: on GPUs where there are any, else on the CPU.

    Raises:
        InputError: the accumulation cannot be shared out evenly to the processes.
    """
    plain = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    if settings.gradient_accumulation % plain.num_processes:
        raise InputError(
            f"gradient_accumulation: {settings.gradient_accumulation} forward passes cannot be shared out to "
            f"{plain.num_processes} processes: choose a multiple of {plain.num_processes}."
        )
    plain.gradient_accumulation_steps = settings.gradient_accumulation // plain.num_processes
    return plain


def best_row(curve: list[dict[str, Any]], *, settings: RankerSettings) -> dict[str, Any]:
    """Return the first row with the best NDCG@10, the ranker's own or with the retriever's score, as the settings say.

    The row before any step shows a fresh adapter, which counts only while there is no other; after a warm-up it is
    as good as any.
    """
    rows = curve if settings.warmup != "none" else curve[1:] or curve
    return max(rows, key=lambda row: row[kept_by(settings)])


def kept_by(settings: RankerSettings) -> str:
    """Return the curve's column by which the best adapter is chosen."""
    return "ndcg@10" if settings.kept_by == "ranker" else "ndcg@10_with_retriever"


def _seed_dropout(seed: int, micro_batch: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence([seed, micro_batch]).generate_state(1)[0]))
