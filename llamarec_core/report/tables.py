"""The study's tables, computed from ranks files: the paper's Tables 1, 2 and 3 beside our own numbers.

Tables are tidy: one number a row, with its interval and where it comes from. Their wide forms are made by
:mod:`llamarec_core.report.show`.

A method with several seeds counts as the mean over its seeds: a user's values are averaged first, then the
users are resampled. In the subset `retrieved` the seeds may hold different users; see :func:`over_seeds`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from llamarec_core.evaluation import METRICS, bootstrap_interval, per_user
from llamarec_core.evaluation.cells import refuse_other_users
from llamarec_core.files import InputError
from llamarec_core.report.methods import METHOD_NAMES, in_order

Ranks = Mapping[tuple[str, str, int], pd.DataFrame]
"""(data set, method, seed) → one row a user: ``user``, ``target``, ``rank``, as a ranks file holds them."""

QUANTITIES = ("users", "items", "interactions", "mean_length", "density")
"""The columns of the paper's Table 2."""


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
        Columns ``dataset``, ``method``, ``metric``, ``subset`` (``all`` or ``retrieved``), ``published`` (NaN
        where the paper prints nothing), ``measured``, ``ci_low``, ``ci_high`` (95 % bootstrap over users),
        ``users``, ``seeds`` (how many), ``commit``. A subset without users has no rows.

    Raises:
        InputError: there are no ranks, the retriever's are missing, two files hold different users or
            targets, or a user is listed twice.
    """
    printed = published.set_index(["dataset", "method", "metric", "subset"])["value"]
    rows = []
    of = {"retriever": retriever, "candidates": candidates}
    for dataset, method in cases(ranks):
        runs = runs_of(ranks, dataset, method, seeds=seeds_of(ranks, dataset, method), **of)
        for subset, members in runs.subsets():
            for metric in METRICS:
                values = over_seeds(runs.values(metric), members)
                low, high = bootstrap_interval(values, samples=samples, seed=seed)
                rows.append(
                    {
                        "dataset": dataset,
                        "method": method,
                        "metric": metric,
                        "subset": subset,
                        "published": printed.get((dataset, METHOD_NAMES.get(method), metric, subset), np.nan),
                        "measured": values.mean(),
                        "ci_low": low,
                        "ci_high": high,
                        "users": len(values),
                        "seeds": len(members),
                        "commit": commit,
                    }
                )
    return pd.DataFrame(rows)


def statistics_table(
    statistics: Mapping[str, Mapping[str, float]], *, published: pd.DataFrame, commit: str
) -> pd.DataFrame:
    """Set the data sets after preprocessing beside the paper's Table 2.

    Args:
        statistics: data set → ``users``, ``items``, ``interactions``, ``mean_length`` (interactions a
            user) and ``density`` (interactions / (users · items)).
        published: what :func:`llamarec_core.evaluation.published_statistics` loads.
        commit: the commit that the data sets were made with.

    Returns:
        Columns ``dataset``, ``quantity``, ``published`` (text as printed, NaN where the paper prints
        nothing), ``measured``, ``commit``.

    Raises:
        InputError: a quantity is missing.
    """
    printed = published.set_index("dataset")
    rows = []
    for dataset, quantities in statistics.items():
        for quantity in QUANTITIES:
            if quantity not in quantities:
                raise InputError(f"The statistics of {dataset} lack {quantity!r}: give {', '.join(QUANTITIES)}.")
            rows.append(
                {
                    "dataset": dataset,
                    "quantity": quantity,
                    "published": printed.loc[dataset, quantity] if dataset in printed.index else np.nan,
                    "measured": float(quantities[quantity]),
                    "commit": commit,
                }
            )
    return pd.DataFrame(rows)


class Runs(NamedTuple):
    """One method on one data set: the ranks of its seeds, users in one order, and who was retrieved."""

    ranks: np.ndarray  # (seeds, users)
    retrieved: np.ndarray  # (seeds, users), bool

    def values(self, metric: str) -> np.ndarray:
        """Return a metric of every seed and user."""
        return np.stack([per_user(ranks, metric) for ranks in self.ranks])  # (seeds, users)

    def subsets(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the subsets that have users in every seed, each as bool (seeds, users)."""
        yield "all", np.ones_like(self.retrieved)
        if self.retrieved.any(axis=1).all():
            yield "retrieved", self.retrieved


def over_seeds(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return one value a user whose mean is the mean over seeds of each seed's mean over its members.

    With one seed, or when all users are members, that is a user's value averaged over the seeds. When the
    seeds hold different users, a user's share in a seed's mean is v − (the seed's mean) where the user is a
    member, else 0, scaled by the seed's size: the usual linear approximation of a ratio, under which the
    users of all seeds together can be resampled.

    Args:
        values: ``(seeds, users)``.
        members: bool ``(seeds, users)``, at least one a seed.

    Returns:
        float64, one value for every user that is a member in any seed.
    """
    sizes = members.sum(axis=1, keepdims=True)  # (seeds, 1)
    means = (values * members).sum(axis=1, keepdims=True) / sizes  # (seeds, 1)
    union = members.any(axis=0)  # (users,)
    shares = np.where(members, values - means, 0.0) * (union.sum() / sizes)  # (seeds, users)
    return means.mean() + shares[:, union].mean(axis=0)


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


def runs_of(ranks: Ranks, dataset: str, method: str, *, seeds: Sequence[int], retriever: str, candidates: int) -> Runs:
    """Return a method's ranks with given seeds, beside whom the retriever found with the same."""
    for name, seed in product((retriever, method), seeds):
        if (dataset, name, seed) not in ranks:
            raise InputError(
                f"The ranks of {name} on {dataset} with seed {seed} are missing, which others are held against: run "
                "that method with that seed first."
            )
    asked = {name: [_sorted_by_user(ranks, (dataset, name, seed)) for seed in seeds] for name in (method, retriever)}
    refuse_other_users(
        {
            f"{name} on {dataset} with seed {seed}": frame
            for name, frames in asked.items()
            for seed, frame in zip(seeds, frames, strict=True)
        }
    )
    own, found = (np.stack([frame["rank"].to_numpy() for frame in asked[name]]) for name in (method, retriever))
    return Runs(own, found <= candidates)


def _sorted_by_user(ranks: Ranks, key: tuple[str, str, int]) -> pd.DataFrame:
    frame = ranks[key]
    dataset, method, seed = key
    missing = {"user", "target", "rank"} - set(frame.columns)
    if missing or frame.empty or frame["user"].duplicated().any():
        raise InputError(
            f"The ranks of {method} on {dataset} with seed {seed} do not hold one row (user, target, rank) for each "
            "user: delete the file and run the step that writes it."
        )
    return frame.sort_values("user", ignore_index=True)
