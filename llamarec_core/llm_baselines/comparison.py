"""The comparison of strategies: the same sampled users, answered by each of them, zero-shot and tuned, cost counted.

Strategies that generate take seconds a request, so that not all users can be asked. Half of the sample are users whose
target was retrieved, whom a ranker of candidates can help; only a search of the whole catalogue can help the others.
:mod:`llamarec_core.report.strategies` weighs the halves. A killed comparison goes on with the files that are missing.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from llamarec_core.bench import peak_memory
from llamarec_core.data import Dataset
from llamarec_core.files import InputError, read_json, replacing, sha256
from llamarec_core.llm_baselines import STRATEGIES, TUNED, Strategy, Verbalizer
from llamarec_core.llm_baselines.base import Answers, answer_candidates
from llamarec_core.llm_baselines.generation import COUNTS, PARTS
from llamarec_core.llm_baselines.tuning import fit_strategy, load_strategy, text_settings
from llamarec_core.paths import files_by_seed, with_seed
from llamarec_core.ranking import load_ranker, rerank_by_scores
from llamarec_core.ranking.adapter import WEIGHTS
from llamarec_core.ranking.rerank import is_target
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.seeds import rng
from llamarec_core.settings import RankerSettings

CASES = [
    (strategy, tuned)
    for strategy in STRATEGIES.values()
    for tuned in ((False, True) if strategy is Verbalizer or strategy.name in TUNED else (False,))
]
"""Every strategy with the states in which it is compared: as the backbone came (False), and tuned (True)."""

BATCH = 16  # requests that are answered together where throughput and memory are measured
COLUMNS = (
    "user", "target", "stratum", "stratum_users", "retriever_rank", "rank", "reranked", *COUNTS,
    *(f"{part}_seconds" for part in PARTS), "predicted_forward_passes", "predicted_tokens_read",
    "predicted_tokens_generated", "reads_candidates", "examples", "dtype", "threads", "processors",
    "batch_requests", "batch_seconds", "batch_peak_mib", "commit",
)  # fmt: skip
"""One row a request, answered alone. ``stratum`` is ``retrieved`` or ``missed``, ``stratum_users`` how many test users
it has; ``rank`` is the target's among the re-ranked candidates, or in the whole catalogue where none are read, and
``reranked`` that among the candidates in either case. What follows ``predicted_…`` is the same in all rows, such as
how many processors worked on average, and the time and the memory above the loaded model of a batch.
"""


class Sample(NamedTuple):
    """Test users who are asked: their candidates, and in the same order ``stratum`` and ``stratum_users``."""

    candidates: Candidates
    strata: pd.DataFrame


def sample_users(candidates: Candidates, *, size: int, users: int | None, seed: int) -> Sample:
    """Draw users, or take all; half of them, if there are enough, have a target among the first ``size`` candidates."""
    retrieved = is_target(candidates, size).any(axis=1)
    strata = [np.flatnonzero(retrieved), np.flatnonzero(~retrieved)]
    names = np.where(retrieved, "retrieved", "missed")
    sizes = np.where(retrieved, *map(len, strata)).astype(np.int32)
    rows = np.arange(len(candidates))
    if users is not None and users < len(candidates):
        half = min(max(users - users // 2, users - len(strata[1])), len(strata[0]))
        generator = rng(seed, "strategies")
        drawn = zip(strata, (half, users - half), strict=True)
        rows = np.sort(np.concatenate([generator.choice(of, size=count, replace=False) for of, count in drawn]))
    return Sample(candidates.take(rows), pd.DataFrame({"stratum": names[rows], "stratum_users": sizes[rows]}))


@dataclass
class Comparison:
    """Answers the same requests by one strategy after another."""

    dataset: Dataset
    sample: Sample
    validation: Candidates  # the retriever's, of the validation users
    settings: RankerSettings  # of the ranker in ``work / "ranker"``
    examples: int | None  # as for :func:`.text_settings`
    seed: int
    work: Path  # folder of the weights; a strategy is tuned in ``strategy-<name>`` there

    def __post_init__(self) -> None:
        self.text = text_settings(self.settings, examples=self.examples)  # of the strategies but the verbalizer

    def folder(self, strategy: type[Strategy]) -> Path:
        """Return where a strategy is tuned."""
        return self.work / ("ranker" if strategy is Verbalizer else f"strategy-{strategy.name}")

    def load(self, strategy: type[Strategy], *, tuned: bool) -> Strategy:
        """Return a strategy with its model, tuned first where it is still to be."""
        folder = self.folder(strategy)
        if strategy is Verbalizer:
            ranker = load_ranker(self.dataset, self.settings, folder, tuned=tuned)
            return Verbalizer(ranker.model, ranker.prompts)
        if tuned:
            return fit_strategy(strategy, self.dataset, self.validation, self.text, seed=self.seed, folder=folder)
        return load_strategy(strategy, self.dataset, self.text, folder, tuned=False)

    def answer(self, strategy: type[Strategy], path: Path, *, tuned: bool, commit: str) -> pd.DataFrame:
        """Return what a strategy answered; where ``path`` does not hold it yet, ask it and write that parquet file."""
        identity = self._identity(strategy, tuned=tuned)
        if path.is_file() and (kept := pd.read_parquet(path)).attrs == identity:
            return kept
        ranker = self.load(strategy, tuned=tuned)
        learnt = read_json(self.folder(strategy) / "ranker.json")["best"]["answers"] if tuned else 0
        about = {"examples": learnt, "dtype": str(ranker.model.dtype).removeprefix("torch."), "commit": commit}
        found = measured(ranker, self.dataset, self.sample).assign(**about)[list(COLUMNS)]
        found.attrs = self._identity(strategy, tuned=tuned)  # by now there is an adapter
        with replacing(path) as temporary:
            found.to_parquet(temporary, index=False)
        return found

    def _identity(self, strategy: type[Strategy], *, tuned: bool) -> dict[str, Any]:
        # what answers belong to; a file of others is made again
        settings = self.settings if strategy is Verbalizer else self.text
        adapter = self.folder(strategy) / "adapter" / WEIGHTS
        return {
            "settings": settings.model_dump(mode="json"),
            "data": self.dataset.content_hash,
            "users": self.sample.candidates.users.tolist(),
            "adapter": sha256(adapter) if tuned and adapter.is_file() else None,
        }


def measured(strategy: Strategy, dataset: Dataset, sample: Sample) -> pd.DataFrame:
    """Answer requests one by one, then some together: the :data:`COLUMNS` that do not depend on the tuning."""
    candidates, together = sample.candidates, sample.candidates.take(np.arange(min(BATCH, len(sample.candidates))))
    strategy.batch_size = 1
    answer_candidates(strategy, dataset, together.take([0]), "test")  # the first is slower than all that follow
    began, worked = time.perf_counter(), time.process_time()
    answers = answer_candidates(strategy, dataset, candidates, "test", progress=True)
    processors = (time.process_time() - worked) / (time.perf_counter() - began)
    strategy.batch_size = BATCH
    began = time.perf_counter()
    peak = peak_memory(lambda: answer_candidates(strategy, dataset, together, "test"))
    seconds = time.perf_counter() - began
    histories = [dataset.history(int(user), "test").tolist() for user in candidates.users]
    listed = candidates.items[:, : strategy.prompts.settings.candidates].tolist()
    predicted = strategy.predicted_costs(histories, listed).add_prefix("predicted_")
    ranks = rerank_by_scores(candidates, answers.scores).rename(columns={"rank": "reranked"})
    own = ranks["reranked"]
    if not strategy.reads_candidates:
        own = catalogue_ranks(candidates.targets, answers, n_items=dataset.n_items)
    return pd.concat([ranks, sample.strata, answers.cost, predicted], axis=1).assign(
        retriever_rank=candidates.ranks,
        rank=own,
        reads_candidates=strategy.reads_candidates,
        threads=torch.get_num_threads(),
        processors=processors,
        batch_requests=len(together),
        batch_seconds=seconds,
        batch_peak_mib=peak,
    )


def catalogue_ranks(targets: np.ndarray, answers: Answers, *, n_items: int) -> np.ndarray:
    """Return the targets' ranks among the items recommended, int32 ``(n,)``; the last of the catalogue if not there."""
    found = [np.flatnonzero(items == target) for target, items in zip(targets, answers.recommended, strict=True)]
    return np.array([ranks[0] + 1 if len(ranks) else n_items for ranks in found], dtype=np.int32)


def named_ranks(answers: pd.DataFrame) -> pd.Series:
    """Return the ranks of the targets that an answer names itself; one that was not named is beyond any list."""
    return answers["reranked"].where(answers["reranked"] <= answers["valid"], np.iinfo(np.int32).max)  # named first


def answers_file(results: Path, dataset: str, strategy: type[Strategy], *, tuned: bool, seed: int) -> Path:
    """Return the path of a strategy's answers among the results of a profile."""
    name = with_seed(f"{strategy.name}{'-tuned' if tuned else ''}", seed)
    return results / "strategies" / dataset / f"{name}.parquet"


def load_answers(results: Path, *, datasets: Collection[str]) -> Mapping[tuple[str, str, bool, int], pd.DataFrame]:
    """Return the answers that are there, in order: (data set, strategy, whether tuned, seed) → :data:`COLUMNS`."""
    found = {}
    for dataset in datasets:
        users: dict[int, list[int]] = {}
        for (name, seed), path in files_by_seed(results / "strategies" / dataset).items():
            strategy = name.removesuffix("-tuned")
            if strategy not in STRATEGIES:
                raise InputError(f"{path} is of no strategy of {', '.join(STRATEGIES)}: remove it, or name it as one.")
            frame = pd.read_parquet(path)
            missing = [column for column in COLUMNS if column not in frame]
            if missing or frame["user"].duplicated().any():
                what = f"lacks the column {missing[0]!r}" if missing else "holds a user twice"
                raise InputError(f"{path} {what}: delete it and run `3_strategies` again.")
            if frame["user"].tolist() != users.setdefault(seed, frame["user"].tolist()):
                raise InputError(f"{path} holds other users than its neighbours: run `3_strategies` again.")
            found[dataset, strategy, name != strategy, seed] = frame
    first, second = list(datasets), list(STRATEGIES)
    order = sorted(found, key=lambda key: (first.index(key[0]), second.index(key[1]), *key[2:]))
    return {key: found[key] for key in order}
