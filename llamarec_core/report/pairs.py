"""Paired comparisons of several methods on the same users, corrected for their number."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation import METRICS, holm, paired_difference, per_user
from llamarec_core.evaluation.cells import refuse_other_users
from llamarec_core.files import InputError
from llamarec_core.report.strategies import RETRIEVER, Answers
from llamarec_core.report.tables import Ranks, cases, over_seeds, runs_of, seeds_of

RanksByMethod = Mapping[tuple[str, Any, int], pd.DataFrame]
"""(data set, method, seed) → ``user``, ``target`` and ``rank``, the same users for all methods of a data set."""

FLOORS = (
    ("llamarec", "random-order"),
    ("llamarec", "popularity-order"),
    ("llamarec", "title-overlap"),
    ("llamarec-with-retriever", "title-overlap-with-retriever"),
)
"""A method, and an order of the candidates without a language model that it has to beat."""

_RETRIEVED, _LLAMAREC = (RETRIEVER, "trained"), ("verbalizer", "tuned")
"""What strategies are compared with: (name, state)."""


def compare(
    ranks: RanksByMethod,
    dataset: str,
    pairs: Iterable[tuple[Any, Any]],
    *,
    samples: int,
    seed: int,
    metrics: Sequence[str] = METRICS,
    subset: str = "all",
) -> list[dict[str, Any]]:
    """Compare the second of each pair of methods with the first, each with its values averaged over its seeds.

    Args:
        ranks: of every method.
        dataset: the one whose methods are compared.
        pairs: (reference, method), as ``ranks`` names them.
        samples: bootstrap samples behind each interval, and sign flips behind each p-value.
        seed: of both.
        metrics: to compare in.
        subset: what the users are, for the table.

    Returns:
        One dict a pair and metric: ``dataset``, ``method``, ``reference``, ``metric``, ``subset``, ``difference``
        (method − reference), ``ci_low``, ``ci_high`` (95 % bootstrap over users), ``p_value`` (sign-flip test),
        ``users``.

    Raises:
        InputError: two frames of the data set hold other users or targets.
    """
    refuse_other_users(
        {
            f"{_words(method)} on {dataset} with seed {number}": frame.sort_values("user")
            for (of_ranks, method, number), frame in ranks.items()
            if of_ranks == dataset
        }
    )
    rows = []
    for (reference, method), metric in product(pairs, metrics):
        case = {"dataset": dataset, "method": method, "reference": reference, "metric": metric, "subset": subset}
        values = [_mean_over_seeds(ranks, dataset, name, metric) for name in (method, reference)]
        rows.append(case | _difference(*values, samples=samples, seed=seed) | {"users": len(values[0])})
    return rows


def corrected(rows: list[dict[str, Any]], *, commit: str) -> pd.DataFrame:
    """Return what :func:`compare` found as a table, with ``p_holm`` over all rows of a data set and subset."""
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    adjusted = table.groupby(["dataset", "subset"])["p_value"].transform(holm)
    table.insert(table.columns.get_loc("p_value") + 1, "p_holm", adjusted)
    return table.assign(commit=commit)


def comparison_table(
    ranks: Ranks,
    *,
    samples: int,
    seed: int,
    commit: str,
    candidates: int = 20,
    retriever: str = "lrurec",
) -> pd.DataFrame:
    """Compare each method with the retriever's own order, user by user.

    Args:
        ranks: as for :func:`~llamarec_core.report.results_table`.
        samples: bootstrap samples behind each interval, and sign flips behind each p-value.
        seed: of both.
        commit: the commit that the ranks were made with.
        candidates: as for :func:`~llamarec_core.report.results_table`.
        retriever: the method that the others are compared with; a method is compared on its own seeds.

    Returns:
        Columns ``dataset``, ``method``, ``reference``, ``metric``, ``subset``, ``difference`` (method −
        reference), ``ci_low``, ``ci_high``, ``p_value`` (paired sign-flip test), ``p_holm`` (Holm's correction
        over all methods and metrics of one data set and subset), ``users``, ``seeds``, ``commit``.

    Raises:
        InputError: as :func:`~llamarec_core.report.results_table`, or there is no method beside the retriever.
    """
    pairs = [(dataset, method, retriever) for dataset, method in cases(ranks) if method != retriever]
    if not pairs:
        raise InputError(f"There is nothing to compare with {retriever}: give the ranks of another method too.")
    options = {"retriever": retriever, "candidates": candidates, "samples": samples, "seed": seed}
    return corrected([row for pair in pairs for row in _compared(ranks, *pair, **options)], commit=commit)


def floors_table(ranks: Ranks, *, commit: str, **options: Any) -> pd.DataFrame:
    """Compare the ranker with what orders the same candidates without a language model (:data:`FLOORS`).

    The ranker with the retriever's score added is compared with title overlap with the same added.

    Args:
        ranks: as for :func:`comparison_table`.
        commit: as for :func:`comparison_table`.
        options: the others of :func:`comparison_table`.

    Returns:
        The columns of :func:`comparison_table`: NDCG@10 over the users whose target was retrieved, Holm's correction
        being over the pairs of one data set. Empty where the ranker was not run.

    Raises:
        InputError: as :func:`~llamarec_core.report.results_table`.
    """
    known = list(cases(ranks))
    pairs = [(dataset, *pair) for dataset in dict(known) for pair in FLOORS]
    there = [pair for pair in pairs if {(pair[0], pair[1]), (pair[0], pair[2])} <= set(known)]
    rows = [row for pair in there for row in _compared(ranks, *pair, metrics=["NDCG@10"], **options)]
    return corrected([row for row in rows if row["subset"] == "retrieved"], commit=commit)


def strategy_pairs(answers: Answers, *, samples: int, seed: int) -> pd.DataFrame:
    """Compare how every strategy orders the same candidates with the retriever's order and with the tuned verbalizer.

    Args:
        answers: as for :func:`strategies_table`.
        samples: bootstrap samples behind each interval, and sign flips behind each p-value.
        seed: of both.

    Returns:
        One row for each data set, strategy, state and reference, over the users whose target was retrieved:
        ``dataset``, ``method``, ``state``, ``reference`` (``retriever`` or ``verbalizer``), ``metric`` (NDCG@10),
        ``subset``, ``difference`` (method − reference), ``ci_low``, ``ci_high`` (95 % bootstrap over users),
        ``p_value`` (sign-flip test), ``p_holm`` (Holm's correction over all rows of a data set), ``users``, ``commit``.

    Raises:
        InputError: not all strategies of a data set were run with the same seeds.
    """
    ranks: dict[tuple[str, tuple[str, str], int], pd.DataFrame] = {}
    for dataset, method, tuned in dict.fromkeys(key[:3] for key in answers):
        # each seed draws users of its own: all of them count, each once
        of_seeds = {key[3]: frame for key, frame in answers.items() if key[:3] == (dataset, method, tuned)}
        drawn = pd.concat(of_seeds, names=["seed", None]).reset_index("seed")
        drawn["user"] = drawn["seed"].astype(str) + "/" + drawn["user"].astype(str)
        users = drawn[drawn["stratum"] == "retrieved"]
        ranks[dataset, (method, "tuned" if tuned else "zero-shot"), 0] = users.assign(rank=users["reranked"])
        ranks[dataset, _RETRIEVED, 0] = users.assign(rank=users["retriever_rank"])
    rows = []
    for dataset in dict.fromkeys(key[0] for key in ranks):
        cases = dict.fromkeys(case for name, case, _ in ranks if name == dataset)
        references = [case for case in (_RETRIEVED, _LLAMAREC) if case in cases]
        pairs = [(other, case) for case in cases if case != _RETRIEVED for other in references if other != case]
        rows += compare(ranks, dataset, pairs, samples=samples, seed=seed, metrics=["NDCG@10"], subset="retrieved")
    for row in rows:
        row["method"], row["state"] = row["method"]
        row["reference"] = row["reference"][0]
    commit = "+".join(dict.fromkeys(frame["commit"].iloc[0] for frame in answers.values()))
    table = corrected(rows, commit=commit)
    table.insert(table.columns.get_loc("method") + 1, "state", table.pop("state"))
    return table


def _compared(
    ranks: Ranks,
    dataset: str,
    method: str,
    reference: str,
    *,
    samples: int,
    seed: int,
    candidates: int = 20,
    retriever: str = "lrurec",
    metrics: Sequence[str] = METRICS,
) -> list[dict[str, Any]]:
    """Compare a method with another in every subset, on the seeds of the first."""
    seeds = seeds_of(ranks, dataset, method)
    options = {"seeds": seeds, "retriever": retriever, "candidates": candidates}
    own, other = (runs_of(ranks, dataset, name, **options) for name in (method, reference))
    rows = []
    for (subset, members), metric in product(own.subsets(), metrics):
        case = {"dataset": dataset, "method": method, "reference": reference, "metric": metric, "subset": subset}
        values = [over_seeds(runs.values(metric), members) for runs in (own, other)]
        found = _difference(*values, samples=samples, seed=seed)
        rows.append(case | found | {"users": len(values[0]), "seeds": len(seeds)})
    return rows


def _difference(values: np.ndarray, reference: np.ndarray, *, samples: int, seed: int) -> dict[str, float]:
    found = paired_difference(values, reference, samples=samples, seed=seed)
    return {"difference": found.mean, "ci_low": found.low, "ci_high": found.high, "p_value": found.p_value}


def _words(method: str | tuple[str, str]) -> str:
    return method if isinstance(method, str) else ", ".join(method)  # a strategy and its state


def _mean_over_seeds(ranks: RanksByMethod, dataset: str, method: Any, metric: str) -> np.ndarray:
    frames = [frame.sort_values("user") for key, frame in ranks.items() if key[:2] == (dataset, method)]
    return np.mean([per_user(frame["rank"], metric) for frame in frames], axis=0)  # (users,)
