"""The paper's Tables 1, 2 and 3 beside our own numbers, and paired comparisons, all computed from ranks.

Tables are tidy: one number a row, with its interval and the commit that measured it. A method with several seeds counts
as the mean over its seeds (:func:`llamarec_core.evaluation.estimates.over_seeds`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation.estimates import PRIMARY, corrected, difference, estimate, over_seeds
from llamarec_core.evaluation.metrics import METRICS, per_user
from llamarec_core.files import InputError
from llamarec_core.report.forms import METHOD_NAMES, in_order

Ranks = Mapping[tuple[str, str, int], pd.DataFrame]
"""(data set, method, seed) → one row a user: ``user``, ``target``, ``rank``, as a ranks file holds them."""

FLOORS = (
    ("llamarec", "random-order"),
    ("llamarec", "popularity-order"),
    ("llamarec", "title-overlap"),
    ("llamarec-with-retriever", "title-overlap-with-retriever"),
)
"""A method, and an order of the candidates without a language model that it has to beat."""


def results_table(
    ranks: Ranks,
    *,
    published: pd.DataFrame,
    samples: int,
    seed: int,
    commit: str,
    candidates: int = 20,
    retriever: str = "lrurec",
) -> pd.DataFrame:
    """Compute every metric of every method, over all users and over the retrieved ones (Tables 1 and 3).

    Args:
        ranks: the ranks files of the study; each (data set, seed) needs the retriever's.
        published: what :func:`llamarec_core.evaluation.published` loads.
        samples: bootstrap samples behind each interval.
        seed: of the bootstrap.
        commit: the commit that the ranks were made with.
        candidates: a user is `retrieved` if the retriever ranks the target among this many.
        retriever: the method that retrieves the candidates.

    Returns:
        ``dataset``, ``method``, ``metric``, ``subset`` (``all`` or ``retrieved``), ``published`` (NaN where the paper
        prints nothing), ``measured``, ``ci_low``, ``ci_high`` (95 % bootstrap over users), ``users``, ``seeds`` (how
        many), ``commit``. A subset without users has no rows.

    Raises:
        InputError: there are no ranks, the retriever's are missing, or two files hold other users or targets.
    """
    ranks = aligned(ranks)
    printed = published.set_index(["dataset", "method", "metric", "subset"])["value"]
    rows = []
    for dataset, method in cases(ranks):
        own = stacked(ranks, dataset, method)
        for subset, members in _subsets(ranks, dataset, seeds_of(ranks, dataset, method), retriever, candidates):
            for metric in METRICS:
                case = {"dataset": dataset, "method": method, "metric": metric, "subset": subset}
                case["published"] = printed.get((dataset, METHOD_NAMES.get(method), metric, subset), np.nan)
                values = over_seeds(per_user(own, metric), members)
                found = estimate(values, samples=samples, seed=seed)._asdict()
                rows.append(case | found | {"users": len(values), "seeds": len(members), "commit": commit})
    return pd.DataFrame(rows)


def statistics_table(
    statistics: Mapping[str, Mapping[str, float]], *, published: pd.DataFrame, commit: str
) -> pd.DataFrame:
    """Set the data sets after preprocessing beside the paper's Table 2.

    Args:
        statistics: data set → what :meth:`llamarec_core.data.Dataset.statistics` returns.
        published: what :func:`llamarec_core.evaluation.published_statistics` loads.
        commit: the commit that the data sets were made with.

    Returns:
        ``dataset``, ``quantity``, ``published`` (text as printed, NaN where the paper prints nothing), ``measured``,
        ``commit``.
    """
    printed = published.melt("dataset", var_name="quantity", value_name="published")
    quantities = list(dict.fromkeys(printed["quantity"]))
    rows = [(name, of, float(numbers[of])) for name, numbers in statistics.items() for of in quantities]
    table = pd.DataFrame(rows, columns=["dataset", "quantity", "measured"]).merge(printed, how="left")
    return table[["dataset", "quantity", "published", "measured"]].assign(commit=commit)


def ranking_tests(ranks: Ranks, *, retriever: str = "lrurec", commit: str, **options: Any) -> pd.DataFrame:
    """Compare every method with the retriever's order, and the ranker with orders without a language model.

    Args:
        ranks, retriever, commit, options: as for :func:`results_table`.

    Returns:
        The columns of :func:`compare`, ``p_holm`` and ``commit``. Pairs of :data:`FLOORS` are compared in the primary
        metric among retrieved users alone. The primary tests of a data set are one family.

    Raises:
        InputError: as :func:`results_table`, or there is no method beside the retriever.
    """
    known = list(cases(ranks))
    pairs = [(dataset, method, retriever) for dataset, method in known if method != retriever]
    if not pairs:
        raise InputError(f"There is nothing to compare with {retriever}: give the ranks of another method too.")
    floors = [(dataset, *pair) for dataset in dict(known) for pair in FLOORS]
    there = [pair for pair in floors if {(pair[0], pair[1]), (pair[0], pair[2])} <= set(known)]
    rows = compare(ranks, pairs, retriever=retriever, **options)
    found = compare(ranks, there, retriever=retriever, metrics=(PRIMARY,), **options)
    rows += [row for row in found if row["subset"] == "retrieved"]
    return corrected(pd.DataFrame(rows)).assign(commit=commit)


def compare(
    ranks: Ranks,
    pairs: Iterable[tuple[str, str, str]],
    *,
    retriever: str | None = None,
    candidates: int = 20,
    metrics: Iterable[str] = METRICS,
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Compare pairs of methods on the same users.

    Args:
        ranks: of both methods of each pair.
        pairs: (data set, method, reference).
        retriever: whose retrieved users are compared too; both methods then count with the seeds of the first. Without
            a retriever, each counts with its own seeds.
        candidates, samples, seed: as for :func:`results_table`; as many signs are flipped.
        metrics: to compare in.

    Returns:
        One row a pair, subset and metric: ``dataset``, ``method``, ``reference``, ``metric``, ``subset``, the fields of
        :class:`~llamarec_core.evaluation.estimates.Difference` (method − reference), ``users``, ``seeds``.
    """
    ranks = aligned(ranks)
    rows = []
    for dataset, method, reference in pairs:
        seeds = seeds_of(ranks, dataset, method)
        own = stacked(ranks, dataset, method)
        other = stacked(ranks, dataset, reference, seeds=seeds if retriever else None)
        for subset, members in _subsets(ranks, dataset, seeds, retriever, candidates):
            of_other = members if retriever else np.ones(other.shape, dtype=bool)
            for metric in metrics:
                case = {"dataset": dataset, "method": method, "reference": reference, "metric": metric}
                values = over_seeds(per_user(own, metric), members)
                found = difference(values, over_seeds(per_user(other, metric), of_other), samples=samples, seed=seed)
                rows.append(case | {"subset": subset, **found._asdict(), "users": len(values), "seeds": len(seeds)})
    return rows


def cases(ranks: Ranks) -> Iterator[tuple[str, str]]:
    """Yield (data set, method), data sets as they come, methods in the order of every table."""
    if not ranks:
        raise InputError("There are no ranks to make a table from: run the retriever and the ranker first.")
    for dataset in dict.fromkeys(dataset for dataset, _, _ in ranks):
        for method in in_order(method for name, method, _ in ranks if name == dataset):
            yield dataset, method


def seeds_of(ranks: Ranks, dataset: str, method: str) -> list[int]:
    """Return the seeds with which a method was run."""
    return sorted(seed for name, other, seed in ranks if (name, other) == (dataset, method))


def stacked(ranks: Ranks, dataset: str, method: str, *, seeds: Iterable[int] | None = None) -> np.ndarray:
    """Return a method's ranks ``(seeds, users)``, with given seeds or with all of its own; see :func:`aligned`."""
    seeds = seeds_of(ranks, dataset, method) if seeds is None else seeds
    for seed in seeds:
        if (dataset, method, seed) not in ranks:
            raise InputError(
                f"The ranks of {method} on {dataset} with seed {seed} are missing, which others are held against: run "
                "that method with that seed first."
            )
    return np.stack([ranks[dataset, method, seed]["rank"].to_numpy() for seed in seeds])


def aligned(ranks: Ranks) -> dict[tuple[str, str, int], pd.DataFrame]:
    """Return ranks with the users in one order.

    Raises:
        InputError: a frame is not of ranks, or two frames of a data set hold other users or targets.
    """
    found: dict[tuple[str, str, int], pd.DataFrame] = {}
    first: dict[str, tuple[str, str, int]] = {}
    for key, frame in ranks.items():
        dataset, method, seed = key
        words = f"ranks of {method} on {dataset} with seed {seed}"
        missing = {"user", "target", "rank"} - set(frame.columns)
        if missing or frame.empty or frame["user"].duplicated().any():
            raise InputError(
                f"The {words} do not hold one row (user, target, rank) for each user: delete the file and run the step "
                "that writes it."
            )
        found[key] = frame.sort_values("user", ignore_index=True)
        refuse_other_users(found[key], found[first.setdefault(dataset, key)], words)
    return found


def refuse_other_users(frame: pd.DataFrame, expected: pd.DataFrame, words: str) -> None:
    """Refuse ranks (``words`` says whose) whose ``user`` and ``target`` are not those of others, in the same order."""
    if not np.array_equal(frame[["user", "target"]], expected[["user", "target"]]):
        raise InputError(
            f"The {words} hold other users or targets than the others of the data set: make all from the same data "
            "and split."
        )


def _subsets(
    ranks: Ranks, dataset: str, seeds: list[int], retriever: str | None, candidates: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the subsets that have users with every seed, each as bool (seeds, users)."""
    if retriever is None:
        shape = len(seeds), len(next(frame for key, frame in ranks.items() if key[0] == dataset))
        yield "all", np.ones(shape, dtype=bool)
        return
    retrieved = stacked(ranks, dataset, retriever, seeds=seeds) <= candidates
    yield "all", np.ones_like(retrieved)
    if retrieved.any(axis=1).all():
        yield "retrieved", retrieved
