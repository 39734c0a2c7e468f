"""Ablations: variants of a tuned ranker on the same users, so that every difference is paired.

A variant is a tuning (or the backbone alone), settings to rank with, and an order in which prompts list candidates;
alone, or with the retriever's score added. The first of a group is what its others are compared with.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.data import Dataset
from llamarec_core.ranking import rerank
from llamarec_core.ranking.qlora import load_ranker
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.settings import RankerSettings

UNTUNED = "untuned"
"""Names the backbone as it came."""


@dataclass
class Ablation:
    """Ranks the same users by one variant after another."""

    dataset: Dataset
    candidates: Mapping[str, Candidates]  # of ``validation`` and ``test``, of users whose target is among them
    tunings: Mapping[str, tuple[RankerSettings, Path]]  # name → settings and folder; the first is a variant's default
    _: KW_ONLY
    seed: int  # of shuffled orders
    weights: dict[tuple[str, str], float] = field(default_factory=dict, init=False)  # the retriever's, as fitted
    _frames: list[pd.DataFrame] = field(default_factory=list, init=False)
    _probabilities: dict[tuple, np.ndarray] = field(default_factory=dict, init=False)

    def add(
        self, group: str, variant: str, *, tuning: str | None = None, order: str = "descending", **changes: Any
    ) -> None:
        """Rank by the language model alone, as of a tuning or :data:`UNTUNED`, with ``changes`` to its settings."""
        read = self.probabilities("test", tuning=tuning, order=order, **changes)
        shown = rerank.shown_candidates(self.candidates["test"].users, read.shape[1], order=order, seed=self.seed)
        self.add_scores(group, variant, read, answers=np.take_along_axis(read, shown, axis=1).argmax(axis=1) + 1)

    def add_with_retriever(self, group: str, variant: str, *, tuning: str | None = None) -> None:
        """Rank by the language model's and the retriever's log-probabilities, with a weight fitted on validation."""
        read = {split: self.probabilities(split, tuning=tuning) for split in ("validation", "test")}
        scores = {split: rerank.log_probabilities(of_split) for split, of_split in read.items()}
        self.add_scores_with_retriever(group, variant, scores)

    def add_scores_with_retriever(self, group: str, variant: str, scores: Mapping[str, np.ndarray]) -> None:
        """Rank by the sum of given scores of ``validation`` and ``test`` and the retriever's, likewise fitted."""
        weight = rerank.fit_retriever_weight(self.candidates["validation"], scores["validation"])
        self.weights[group, variant] = weight
        self.add_scores(group, variant, rerank.with_retriever(self.candidates["test"], scores["test"], weight))

    def add_scores(self, group: str, variant: str, scores: np.ndarray, *, answers: np.ndarray | int = 0) -> None:
        """Rank by given scores of the test users' candidates; ``answers`` are the labels chosen, counted from 1."""
        frame = rerank.rerank_by_scores(self.candidates["test"], scores)
        self._frames.append(frame.assign(answer=np.int32(answers), group=group, variant=variant))

    def probabilities(
        self, split: str, *, tuning: str | None = None, order: str = "descending", **changes: Any
    ) -> np.ndarray:
        """Return P(candidate) under a variant, ``(n, n_candidates)``, computed once."""
        first = next(iter(self.tunings))
        key = (split, tuning or first, order, *sorted(changes.items()))
        if key not in self._probabilities:
            settings, folder = self.tunings[first if tuning in (None, UNTUNED) else tuning]
            ranker = load_ranker(self.dataset, settings, folder, tuned=tuning != UNTUNED, **changes)
            options = {"order": order, "seed": self.seed, "progress": True}
            read = rerank.candidate_probabilities(ranker, self.dataset, self.candidates[split], split, **options)
            self._probabilities[key] = read
        return self._probabilities[key]

    def ranks(self) -> pd.DataFrame:
        """Return what was ranked so far; ``answer`` is the label put first, from 1, or 0 where no prompt was read."""
        columns = ["group", "variant", "user", "target", "rank", "answer"]
        return pd.concat(self._frames, ignore_index=True)[columns]
