"""The comparison of strategies: the same sampled users, answered by each of them, zero-shot and tuned, cost counted.

    candidates file ──sample_users──▶ requests ──Comparison.answer──▶ one file for each strategy and state

Strategies that generate take seconds a request, so that not all users can be asked. Half of the sample are users whose
target was retrieved, whom a ranker of candidates can help, half are others, whom only a search of the whole catalogue
can help. The files say how many users each half stands for: :func:`llamarec_core.report.strategies_table` weighs them.

A file is written as soon as it is whole; a killed comparison goes on with what is missing.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from llamarec_core.bench import peak_memory
from llamarec_core.data import Dataset
from llamarec_core.files import InputError, read_json, replacing, sha256
from llamarec_core.llm_baselines import STRATEGIES, TUNED, Strategy, Verbalizer
from llamarec_core.llm_baselines.base import Answers, answer_rows
from llamarec_core.llm_baselines.generation import COUNTS, PARTS
from llamarec_core.llm_baselines.tuning import fit_strategy, load_strategy
from llamarec_core.ranking import candidate_items, load_ranker, rerank_by_scores
from llamarec_core.ranking.adapter import WEIGHTS
from llamarec_core.ranking.rerank import is_retrieved
from llamarec_core.settings import RankerSettings

CASES = [
    (strategy, tuned)
    for strategy in STRATEGIES.values()
    for tuned in ((False, True) if strategy is Verbalizer or strategy.name in TUNED else (False,))
]
"""Every strategy with the states in which it is compared: as the backbone came (False), and tuned (True)."""

BATCH = 16
"""Requests that are answered together where throughput and memory are measured."""

VALIDATION_USERS = 10
"""Most users on whom the tuning of a text strategy is validated: nothing is chosen by it, and generating is slow."""

COLUMNS = (
    "user", "target", "stratum", "stratum_users", "retriever_rank", "rank", "reranked", *COUNTS,
    *(f"{part}_seconds" for part in PARTS), "predicted_forward_passes", "predicted_tokens_read",
    "predicted_tokens_generated", "reads_candidates", "examples", "dtype", "threads", "processors",
    "batch_requests", "batch_seconds", "batch_peak_mib", "commit",
)  # fmt: skip
"""One row a request, answered alone. ``stratum`` is ``retrieved`` or ``missed``, ``stratum_users`` how many test users
it has; ``retriever_rank`` is the target's before any strategy, ``rank`` that among the re-ranked candidates, or in the
whole catalogue where the strategy reads no candidates, and ``reranked`` that among the candidates in either case. What
follows ``predicted_…`` is the same in all rows: the prompts that tuning read, the arithmetic's precision, the threads
that this process computes with, how many processors worked on the requests on average (its processor time over the
time; less than its threads where other work took them), the requests answered together, their time, and how much
memory they took above the loaded model."""


def sample_users(rows: pd.DataFrame, *, size: int, users: int | None, seed: int) -> pd.DataFrame:
    """Draw users in two strata, half of them with a retrieved target.

    Args:
        rows: the retriever's candidates of one split.
        size: candidates that are shown to a strategy.
        users: how many are drawn; where a stratum has too few, the other gives more; ``None`` takes all.
        seed: of the draw.

    Returns:
        The users' rows in their own order, with ``stratum`` and ``stratum_users``, see :data:`COLUMNS`.

    Raises:
        InputError: a single user cannot stand for two strata.
    """
    retrieved = is_retrieved(rows, size)
    strata = [np.flatnonzero(retrieved), np.flatnonzero(~retrieved)]
    rows = rows.assign(
        stratum=np.where(retrieved, "retrieved", "missed"),
        stratum_users=np.where(retrieved, *map(len, strata)).astype(np.int32),
    )
    if users is None or users >= len(rows):
        return rows
    if users < 2:
        raise InputError(f"strategy_users: {users} cannot stand for users with and without a retrieved target: draw 2.")
    half = min(max(users - users // 2, users - len(strata[1])), len(strata[0]))
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(of, size=n, replace=False) for of, n in zip(strata, (half, users - half), strict=True)]
    return rows.iloc[np.sort(np.concatenate(drawn))]


def text_settings(settings: RankerSettings, *, examples: int | None) -> RankerSettings:
    """Return the settings with which text strategies are tuned: the ranker's, without what is for labels only.

    Args:
        settings: of the ranker.
        examples: prompts that each strategy learns from; ``None`` takes the ranker's number.
    """
    plain = RankerSettings()
    labels_only = ("warmup", "temperature", "soft_targets", "users_per_prompt", "targets_per_user", "template")
    changes: dict[str, Any] = {name: getattr(plain, name) for name in (*labels_only, "binding_histories", "negatives")}
    changes["training_examples"] = examples or settings.training_examples
    changes["validation_users"] = min(settings.validation_users or VALIDATION_USERS, VALIDATION_USERS)
    return settings.model_copy(update=changes)


class Comparison:
    """Answers the same requests by one strategy after another.

    Attributes:
        rows: of the sampled users.
        text: the settings of the strategies other than the verbalizer.

    Args:
        dataset: the users' histories and the titles.
        rows: of test users, from :func:`sample_users`.
        validation: the retriever's candidates of the validation users.
        settings: of the ranker, with which ``folder / "ranker"`` was tuned.
        examples: as for :func:`text_settings`.
        seed: of the tunings.
        folder: of the weights; a strategy is tuned in ``strategy-<name>`` there.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: pd.DataFrame,
        validation: pd.DataFrame,
        settings: RankerSettings,
        *,
        examples: int | None,
        seed: int,
        folder: Path,
    ):
        self.dataset, self.rows, self.seed = dataset, rows, seed
        self.settings, self.text = settings, text_settings(settings, examples=examples)
        self._validation, self._folder = validation, Path(folder)

    def folder(self, strategy: type[Strategy]) -> Path:
        """Return where a strategy is tuned."""
        return self._folder / ("ranker" if strategy is Verbalizer else f"strategy-{strategy.name}")

    def load(self, strategy: type[Strategy], *, tuned: bool) -> Strategy:
        """Return a strategy with its model, tuned first where it is still to be.

        Raises:
            InputError: the verbalizer has not been tuned, by `3_ranker`, or the settings are refused.
        """
        folder = self.folder(strategy)
        if strategy is Verbalizer:
            ranker = load_ranker(self.dataset, self.settings, folder, tuned=tuned)
            return Verbalizer(ranker.model, ranker.prompts)
        if tuned:
            return fit_strategy(strategy, self.dataset, self._validation, self.text, seed=self.seed, folder=folder)
        return load_strategy(strategy, self.dataset, self.text, folder, tuned=False)

    def answer(self, strategy: type[Strategy], path: Path, *, tuned: bool, commit: str) -> pd.DataFrame:
        """Return what a strategy answered; where ``path`` does not hold it yet, ask it and write that file.

        Args:
            strategy: one of :data:`CASES`.
            path: of the parquet file, see :data:`COLUMNS`.
            tuned: with its adapter, or as the backbone came.
            commit: that is measured with.

        Raises:
            InputError: as :meth:`load`, or the strategy refuses a request.
        """
        identity = self._identity(strategy, tuned=tuned)
        if path.is_file() and (kept := pd.read_parquet(path)).attrs == identity:
            return kept
        ranker = self.load(strategy, tuned=tuned)
        examples = read_json(self.folder(strategy) / "ranker.json")["best"]["examples"] if tuned else 0
        found = measured(ranker, self.dataset, self.rows).assign(
            examples=examples, dtype=str(ranker.model.dtype).removeprefix("torch."), commit=commit
        )[list(COLUMNS)]
        found.attrs = self._identity(strategy, tuned=tuned)  # by now there is an adapter
        with replacing(path) as temporary:
            found.to_parquet(temporary, index=False)
        return found

    def _identity(self, strategy: type[Strategy], *, tuned: bool) -> dict[str, Any]:
        """Return what answers belong to; a file of others is made again."""
        settings = self.settings if strategy is Verbalizer else self.text
        adapter = self.folder(strategy) / "adapter" / WEIGHTS
        return {
            "settings": settings.model_dump(mode="json", exclude={"evaluation_batch_size", "weight_users"}),
            "data": self.dataset.content_hash,
            "users": self.rows["user"].tolist(),
            "adapter": sha256(adapter) if tuned and adapter.is_file() else None,
        }


def measured(strategy: Strategy, dataset: Dataset, rows: pd.DataFrame) -> pd.DataFrame:
    """Answer requests one by one, then some of them together, and say what both took.

    Args:
        strategy: with its model and prompts; its ``batch_size`` is set here.
        dataset: the users' histories.
        rows: of test users, from :func:`sample_users`.

    Returns:
        The columns of :data:`COLUMNS` that do not depend on how the strategy came about.
    """
    strategy.batch_size = 1
    answer_rows(strategy, dataset, rows.head(1), "test")  # the first is slower than all that follow
    began, worked = time.perf_counter(), time.process_time()
    answers = answer_rows(strategy, dataset, rows, "test", progress=True)
    processors = (time.process_time() - worked) / (time.perf_counter() - began)
    strategy.batch_size = BATCH
    began = time.perf_counter()
    peak = peak_memory(lambda: answer_rows(strategy, dataset, rows.head(BATCH), "test"))
    seconds = time.perf_counter() - began
    histories = [dataset.history(int(user), "test").tolist() for user in rows["user"]]
    listed = candidate_items(rows)[:, : strategy.prompts.settings.candidates].tolist()
    predicted = strategy.predicted_costs(histories, listed).add_prefix("predicted_")
    reranked = rerank_by_scores(rows, answers.scores)["rank"].to_numpy()
    asked = rows[["user", "target", "stratum", "stratum_users"]].reset_index(drop=True)
    return pd.concat([asked, answers.cost, predicted], axis=1).assign(
        retriever_rank=rows["rank"].to_numpy(),
        rank=reranked if strategy.reads_candidates else catalogue_ranks(rows, answers, n_items=dataset.n_items),
        reranked=reranked,
        reads_candidates=strategy.reads_candidates,
        threads=torch.get_num_threads(),
        processors=processors,
        batch_requests=min(BATCH, len(rows)),
        batch_seconds=seconds,
        batch_peak_mib=peak,
    )


def catalogue_ranks(rows: pd.DataFrame, answers: Answers, *, n_items: int) -> np.ndarray:
    """Return the targets' ranks among the items recommended: how a strategy does without a retriever.

    Args:
        rows: the requests that were answered.
        answers: of a strategy that reads no candidates.
        n_items: of the catalogue; a target that was not recommended gets this rank, the last.

    Returns:
        int32 ``(n,)``, in the order of ``rows``.
    """
    ranks = []
    for target, items in zip(rows["target"], answers.recommended, strict=True):
        found = np.flatnonzero(items == target)
        ranks.append(found[0] + 1 if len(found) else n_items)
    return np.array(ranks, dtype=np.int32)


def named_ranks(answers: pd.DataFrame) -> pd.Series:
    """Return the ranks of the targets that an answer names itself: without the retriever's order for the rest.

    Args:
        answers: :data:`COLUMNS`, of a strategy that generates titles of candidates.

    Returns:
        Ranks in the order of ``answers``; a target that was not named is beyond any list.
    """
    # the candidates named come first, and ``valid`` counts them
    return answers["reranked"].where(answers["reranked"] <= answers["valid"], np.iinfo(np.int32).max)


def answers_file(results: Path, dataset: str, strategy: type[Strategy], *, tuned: bool, seed: int) -> Path:
    """Return the place of a strategy's answers among the results of a profile."""
    return results / "strategies" / dataset / f"{strategy.name}{'-tuned' if tuned else ''}-seed{seed}.parquet"


def tuned_ranks(answers: Mapping[tuple[str, str, bool, int], pd.DataFrame]) -> dict[tuple, pd.DataFrame]:
    """Return what :func:`load_answers` does of tuned strategies alone, in the form of ranks of methods.

    Returns:
        (data set, method, seed) → :data:`COLUMNS`; the verbalizer is called ``llamarec``, as it is elsewhere.
    """
    names = {Verbalizer.name: "llamarec"}
    return {
        (dataset, names.get(name, name), seed): answers[dataset, name, tuned, seed]
        for dataset, name, tuned, seed in answers
        if tuned
    }


def load_answers(results: Path, *, datasets: Iterable[str]) -> Mapping[tuple[str, str, bool, int], pd.DataFrame]:
    """Return all answers that are there: (data set, strategy, whether it was tuned, seed) → :data:`COLUMNS`.

    Raises:
        InputError: a file is of an unknown strategy, lacks a column, holds a user twice, or other users than the first
            of its data set and seed.
    """
    found = {}
    users: dict[tuple[str, int], list[int]] = {}
    place = {name: number for number, name in enumerate(STRATEGIES)}
    for dataset in datasets:
        for path in sorted((results / "strategies" / dataset).glob("*-seed*.parquet")):
            name, seed = path.stem.rsplit("-seed", 1)
            if name.removesuffix("-tuned") not in STRATEGIES:
                raise InputError(f"{path} is of no strategy of {', '.join(STRATEGIES)}: remove it, or name it as one.")
            frame = pd.read_parquet(path)
            missing = [column for column in COLUMNS if column not in frame]
            if missing or frame["user"].duplicated().any():
                what = f"lacks the column {missing[0]!r}" if missing else "holds a user twice"
                raise InputError(f"{path} {what}: delete it and run `3_strategies` again.")
            first = users.setdefault((dataset, int(seed)), frame["user"].tolist())
            if frame["user"].tolist() != first:
                raise InputError(f"{path} holds other users than its neighbours: run `3_strategies` again.")
            found[dataset, name.removesuffix("-tuned"), name.endswith("-tuned"), int(seed)] = frame
    given = list(dict.fromkeys(dataset for dataset, *_ in found))
    ordered = sorted(found, key=lambda key: (given.index(key[0]), place[key[1]], *key[2:]))
    return {key: found[key] for key in ordered}
