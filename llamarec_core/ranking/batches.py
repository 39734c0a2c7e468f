"""Batches of the tuning: what one forward pass reads, what it is asked, and the loss (LlamaRec, section 3.2.3).

The loss::

    L = − mean over questions of log softmax(logits after the prompt)[token of the target's label]

is a softmax over the whole vocabulary at one position, or, with a temperature, over the labels alone; the labels of
what else the user chose are left out. Soft targets put a share of it on the retriever's distribution q over the
candidates, ``− Σ_i q_i log softmax(logits)[i]``, which says far more of each question than one label does. Both are
this study's additions.

:class:`~llamarec_core.ranking.tuning.Tuning` draws the examples and takes the steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from llamarec_core.data import Dataset
from llamarec_core.ranking.examples import NO_ANSWER, TrainingExamples
from llamarec_core.ranking.prompt import PromptBuilder, SharedPrompt
from llamarec_core.ranking.verbalizer import pad
from llamarec_core.settings import RankerSettings

Teacher = Callable[[list[np.ndarray]], np.ndarray]
"""Scores the whole catalogue after each of some histories, ``(n, n_items + 1)``."""

IGNORED = -100
"""Stands for the answer of a question that a short history does not have."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass of the tuning reads: prompts, each with one or several questions."""

    tokens: torch.Tensor
    """Prompts, or what follows their beginnings, padded on the right, ``(batch · users, length)``."""
    lengths: torch.Tensor
    """Where each question stands, ``(batch · users, questions)``."""
    targets: torch.Tensor
    """The token of each answer's label, or :data:`IGNORED`, as ``lengths``."""
    n_tokens: int
    """Without padding."""
    others: torch.Tensor | None = None
    """Labels of what else the user chose, bool, ``(batch · users, questions, n_candidates)``."""
    soft_targets: torch.Tensor | None = None
    """What a teacher makes of each question, as ``others``; each row sums to 1."""
    beginnings: torch.Tensor | None = None
    """The lists that users share, padded on the right, ``(batch, beginning_length)``; none where nothing is shared."""
    beginning_lengths: torch.Tensor | None = None
    """Without padding, ``(batch,)``."""


class LabelBatches:
    """Makes batches of questions that labels answer.

    Args:
        prompts: of the data set and the backbone.
        dataset: the users' training sequences.
        settings: of the tuning.
        teacher: the retriever, for settings with soft targets.
        device: where the batches are read.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        dataset: Dataset,
        settings: RankerSettings,
        *,
        teacher: Teacher | None,
        device: torch.device,
    ):
        self._prompts, self._dataset, self._settings, self._teacher = prompts, dataset, settings, teacher
        self._device = device
        self._target_ids = torch.tensor(prompts.target_ids[: settings.candidates], device=device)

    def batch(self, examples: TrainingExamples, rows: np.ndarray) -> Batch:
        """Return the batch of some examples."""
        prompts = [self._prompt(examples, row) for row in rows]
        answers = examples.answers[rows]  # (batch, users, targets)
        ends = np.ones_like(answers)
        for row, prompt in enumerate(prompts):
            for column, of_titles in enumerate(prompt.ends):
                asked = of_titles[-answers.shape[2] :]
                ends[row, column, answers.shape[2] - len(asked) :] = asked
        others = torch.from_numpy(self._others(examples, rows))  # (batch, users, targets, n_candidates)
        soft = self._soft_targets(examples, rows, others) if self._settings.soft_targets else None
        targets = torch.from_numpy(answers).to(self._device).flatten(0, 1)
        histories = [history for prompt in prompts for history in prompt.histories]
        beginnings = [prompt.beginning for prompt in prompts]
        shared = pad(beginnings, device=self._device) if any(beginnings) else (None, None)
        return Batch(
            tokens=pad(histories, device=self._device)[0],
            lengths=torch.from_numpy(ends).flatten(0, 1).to(self._device),
            targets=torch.where(targets == NO_ANSWER, IGNORED, self._target_ids[targets]),
            n_tokens=sum(map(len, beginnings)) + sum(map(len, histories)),
            others=others.flatten(0, 1).to(self._device),
            soft_targets=None if soft is None else soft.flatten(0, 1).to(self._device),
            beginnings=shared[0],
            beginning_lengths=shared[1],
        )

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy of the answers, given logits ``(batch · users, questions, vocabulary)``."""
        # what else the user chose, before or after, is neither the answer nor wrong
        labels = logits[..., self._target_ids].masked_fill(batch.others, -torch.inf)
        if self._settings.temperature is None:
            logits = logits.index_copy(2, self._target_ids, labels)
            return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
        log_probabilities = (labels / self._settings.temperature).log_softmax(-1)
        places = (batch.targets[..., None] == self._target_ids).int().argmax(-1)  # (batch · users, questions)
        asked = batch.targets != IGNORED
        loss = F.nll_loss(log_probabilities[asked], places[asked])
        if batch.soft_targets is None:
            return loss
        of_teacher = batch.soft_targets * log_probabilities.masked_fill(batch.others, 0.0)  # there 0 · −∞ is meant as 0
        share = self._settings.soft_targets
        return (1 - share) * loss - share * of_teacher.sum(-1)[asked].mean()

    def _prompt(self, examples: TrainingExamples, row: int) -> SharedPrompt:
        """Return an example's prompt; with a single question it may be of any template."""
        users, positions, candidates = (part[row] for part in examples.parts())
        histories = [self._dataset.train(int(user))[:end] for user, end in zip(users, positions, strict=True)]
        if examples.answers[row].size > 1:
            return self._prompts.build_shared(histories, candidates)
        tokens = self._prompts.build(histories[0], candidates)
        return SharedPrompt(beginning=[], histories=[tokens], ends=[[len(tokens)]])

    def _others(self, examples: TrainingExamples, rows: np.ndarray) -> np.ndarray:
        """Tell which candidates, but for a question's answer, its user chose in training."""
        chosen = [
            [np.isin(examples.candidates[row], self._dataset.train(int(user))) for user in examples.users[row]]
            for row in rows
        ]
        labels = np.arange(self._settings.candidates)
        return np.array(chosen)[:, :, None] & (labels != examples.answers[rows][..., None])

    def _soft_targets(self, examples: TrainingExamples, rows: np.ndarray, others: torch.Tensor) -> torch.Tensor:
        """Return the teacher's softmax over the candidates but ``others``."""
        histories, candidates = [], []
        for row in rows:
            users, positions, listed = (part[row] for part in examples.parts())
            for user, position in zip(users, positions, strict=True):
                ends = range(position + 1 - others.shape[2], position + 1)
                # a sequence too short for as many targets has no such question: what stands in is not read
                histories += [self._dataset.train(int(user))[: max(1, end)] for end in ends]
                candidates += [listed] * len(ends)
        scores = np.take_along_axis(self._teacher(histories), np.stack(candidates).astype(np.int64), axis=1)
        scores = torch.from_numpy(scores.reshape(others.shape)).float()
        return scores.masked_fill(others, -torch.inf).softmax(-1)
