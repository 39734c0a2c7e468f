"""What the label-binding warm-up asks: titles, then histories of titles.

:class:`TitleQuestions` list a pool of candidates as the prompt does, then ask for its titles in random order, each
followed by its label::

    A. Alien
    B. Brazil …
    - Brazil
    B
    - Alien
    A …

with the cross-entropy over the label tokens at each of those places. A history never names a candidate, only what
resembles one. So some titles are asked for by another title of the catalogue that shares words with them, as the
settings say, and half of the others by half of their tokens.

:class:`HistoryQuestions` have the form of the prompt: after a pool stand histories of made-up users, each read by
itself. Their titles resemble one of the pool, are that title if none does, or have nothing to do with it. After each
title the answer is a softmax over how much each item's title overlaps with the history's so far
(:mod:`~llamarec_core.ranking.titles`): where several resemble a history, they share the probability.

All titles are drawn from the whole catalogue; no user and no preference enters.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from llamarec_core.data import Dataset
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.titles import resembling, title_vectors
from llamarec_core.ranking.verbalizer import pad
from llamarec_core.settings import RankerSettings

UNRELATED = 0.25
"""Share of a made-up history's titles that are drawn without a look at the pool."""

SHARPNESS = 15.0
"""The overlap's factor before the softmax: a title in the pool takes nearly all, one that shares a word takes most."""


@dataclass(frozen=True)
class QuestionBatch:
    """What one forward pass of the warm-up reads; as in :class:`~llamarec_core.ranking.batches.Batch`."""

    tokens: torch.Tensor
    """``(n, length)``, padded on the right."""
    lengths: torch.Tensor
    """Where each question stands, ``(n, questions)``."""
    targets: torch.Tensor
    """The answers' probabilities, float32, ``(n, questions, n_candidates)``."""
    n_tokens: int
    """Without padding."""
    beginnings: torch.Tensor | None = None
    """The pools that histories share."""
    beginning_lengths: torch.Tensor | None = None
    """Without padding."""


class Questions(ABC):
    """Makes the batches of one part of the warm-up.

    Attributes:
        answers: how many a pool has.

    Args:
        prompts: of the data set and the backbone.
        dataset: its titles are read.
        settings: of the run.
    """

    def __init__(self, prompts: PromptBuilder, dataset: Dataset, settings: RankerSettings):
        self.answers = settings.candidates
        self._prompts, self._n_items, self._settings = prompts, dataset.n_items, settings
        self._vectors = title_vectors(dataset)

    @abstractmethod
    def batch(self, n_pools: int, generator: np.random.Generator, *, device: torch.device) -> QuestionBatch:
        """Draw pools and return what they ask."""

    def _pool(self, generator: np.random.Generator) -> np.ndarray:
        return generator.choice(self._n_items, size=self._settings.candidates, replace=False) + 1

    def _resembling(self, item: int, pool: np.ndarray, generator: np.random.Generator) -> int | None:
        """Draw an item outside the pool whose title resembles another's, if there is one."""
        others = np.setdiff1d(resembling(self._vectors, item), pool)
        return int(generator.choice(others)) if len(others) else None


class TitleQuestions(Questions):
    """Asks for each title of a pool, one after the other in one sequence."""

    def batch(self, n_pools: int, generator: np.random.Generator, *, device: torch.device) -> QuestionBatch:
        """Draw pools; each is one sequence."""
        sequences, ends, answers = [], [], []
        for _ in range(n_pools):
            pool = self._pool(generator)
            places = generator.permutation(self._settings.candidates)
            asked = [self._asked(pool, place, generator) for place in places]
            tokens, before = self._prompts.build_binding(pool.tolist(), places.tolist(), asked)
            sequences.append(tokens)
            ends.append(before)
            answers.append(places)
        return QuestionBatch(
            tokens=pad(sequences, device=device)[0],
            lengths=torch.tensor(ends, device=device),
            targets=F.one_hot(torch.from_numpy(np.stack(answers)), self._settings.candidates).float().to(device),
            n_tokens=sum(map(len, sequences)),
        )

    def _asked(self, pool: np.ndarray, place: int, generator: np.random.Generator) -> list[int]:
        """Draw the token ids by which an item of a pool is asked for."""
        if generator.random() < self._settings.binding_resembling:
            other = self._resembling(pool[place], pool, generator)
            if other is not None:
                return self._prompts.title_tokens[other]
        title = self._prompts.title_tokens[pool[place]]
        if generator.random() < 0.5:
            return title
        start = generator.integers(len(title) // 2 + 1)
        return title[start : start + (len(title) + 1) // 2]


class HistoryQuestions(Questions):
    """Asks after each title of some histories, which share a pool, what resembles the history so far."""

    def __init__(self, prompts: PromptBuilder, dataset: Dataset, settings: RankerSettings):
        super().__init__(prompts, dataset, settings)
        self._per_pool = max(1, settings.candidates // settings.history_length)
        self.answers = self._per_pool * settings.history_length

    def batch(self, n_pools: int, generator: np.random.Generator, *, device: torch.device) -> QuestionBatch:
        """Draw pools, each with histories of its own."""
        prompts, targets = [], []
        for _ in range(n_pools):
            pool = self._pool(generator)
            shape = (self._per_pool, self._settings.history_length)
            histories = [[self._title(pool, generator) for _ in range(shape[1])] for _ in range(shape[0])]
            prompts.append(self._prompts.build_shared(histories, pool.tolist()))
            targets += [self._answers(history, pool) for history in histories]
        beginnings = [prompt.beginning for prompt in prompts]
        histories = [tokens for prompt in prompts for tokens in prompt.histories]
        shared, lengths = pad(beginnings, device=device)
        return QuestionBatch(
            tokens=pad(histories, device=device)[0],
            lengths=torch.tensor([ends for prompt in prompts for ends in prompt.ends], device=device),
            targets=torch.from_numpy(np.stack(targets)).float().to(device),
            n_tokens=sum(map(len, beginnings)) + sum(map(len, histories)),
            beginnings=shared,
            beginning_lengths=lengths,
        )

    def _title(self, pool: np.ndarray, generator: np.random.Generator) -> int:
        """Draw an item of a made-up history."""
        if generator.random() < UNRELATED:
            return int(generator.integers(self._n_items)) + 1
        item = int(generator.choice(pool))
        other = self._resembling(item, pool, generator)
        return item if other is None else other

    def _answers(self, history: list[int], pool: np.ndarray) -> np.ndarray:
        """Return the pool's probabilities after each title of a history, ``(history_length, n_candidates)``."""
        overlap = (self._vectors[pool] @ self._vectors[history].T).toarray()  # (n_candidates, history_length)
        weights = np.exp(SHARPNESS * np.maximum.accumulate(overlap, axis=1))
        return (weights / weights.sum(axis=0)).T
