"""From ranks to metrics (LlamaRec, section 4.1), and the one estimator: a mean, its interval, and a paired test.

    ranks ──per_user──▶ values ──over_seeds──▶ one value a user ──estimate, difference──▶ a row of a table ──holm──▶

A user has one relevant item, the target, so that the ideal DCG is 1. With its 1-based rank r among all items::

    Recall@k = 1 if r ≤ k else 0
    MRR@k    = 1 / r if r ≤ k else 0
    NDCG@k   = 1 / log2(r + 1) if r ≤ k else 0

Intervals come from the bootstrap over users (Efron and Tibshirani, 1993, chapter 13: percentile interval), p-values
from the sign-flip permutation test (Fisher, 1935; Smucker et al., CIKM 2007). A rank metric takes few distinct values,
so that a bootstrap sample is a multinomial draw of their counts, and flipping equal differences a binomial one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from llamarec_core.files import InputError

METRICS = ("MRR@5", "NDCG@5", "Recall@5", "MRR@10", "NDCG@10", "Recall@10")
"""The metrics of the paper's Tables 1 and 3, in the order of their rows."""
PRIMARY = "NDCG@10"
"""The metric that is tested, named in advance. All others are descriptive."""
ALPHA = 0.05
"""A corrected p-value below this is beyond chance."""

_GAINS = {
    "MRR": lambda ranks: 1.0 / ranks,
    "NDCG": lambda ranks: 1.0 / np.log2(ranks + 1.0),
    "Recall": np.ones_like,
}
_Z_OF_DETECTABLE = 1.959964 + 0.841621  # standard errors found with 80 % power in a two-sided test at 5 %
_CHUNK_ELEMENTS = 4_000_000  # most numbers that a chunk of resamples holds at once, 32 MB

Values = np.ndarray | Sequence[float]
"""One number a user."""
Strata = Sequence[tuple[np.ndarray, float]]
"""Of a population drawn in strata (Cochran, 1977, chapter 5): the indices of each stratum's users, and its share."""


class Estimate(NamedTuple):
    """A mean over users and its 95 % interval, named as the tables' columns."""

    measured: float
    ci_low: float
    ci_high: float


class Difference(NamedTuple):
    """A mean paired difference, named as the tables' columns. Above zero, the first method is better."""

    difference: float
    ci_low: float
    ci_high: float
    p_value: float  # two-sided, of the sign-flip permutation test; at least 1 / (samples + 1)
    detectable: float  # the smallest difference that a two-sided test at 5 % finds with 80 % power


def per_user(ranks: np.ndarray | Sequence[int], metric: str) -> np.ndarray:
    """Return a metric such as ``NDCG@10`` of each rank: float64 of the same shape, e.g. ``(seeds, users)``."""
    ranks = np.asarray(ranks)
    if ranks.size and (not np.issubdtype(ranks.dtype, np.integer) or ranks.min() < 1):
        raise InputError(f"Ranks must be integers counted from 1, but the least is {ranks.min()}, a {ranks.dtype}.")
    name, cutoff = metric.split("@")
    return np.where(ranks <= int(cutoff), _GAINS[name](ranks.astype(np.float64)), 0.0)


def mean(ranks: np.ndarray | Sequence[int], metric: str) -> float:
    """Return a metric averaged over users, each with the same weight."""
    return float(per_user(ranks, metric).mean())


def over_seeds(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return one value a user, so that their mean is the mean over seeds of each seed's mean over its members.

    ``values`` and the bool ``members``, at least one a seed, are ``(seeds, users)``. A user's part in a seed's mean is
    v − (the seed's mean) for a member and 0 for others, scaled by the seed's size: the usual linear approximation of a
    ratio, so that the users of all seeds can be resampled together. Users that are never members have no value.
    """
    if members.all():
        return values.mean(axis=0)
    sizes = members.sum(axis=1, keepdims=True)  # (seeds, 1)
    means = (values * members).sum(axis=1, keepdims=True) / sizes  # (seeds, 1)
    union = members.any(axis=0)  # (users,)
    parts = np.where(members, values - means, 0.0) * (union.sum() / sizes)  # (seeds, users)
    return means.mean() + parts[:, union].mean(axis=0)


def estimate(values: Values, strata: Strata | None = None, *, samples: int, seed: int) -> Estimate:
    """Return the mean of a value over users, with its 95 % interval of ``samples`` bootstrap samples.

    With strata, whose sizes are known, users are resampled within their stratum.
    """
    values = np.asarray(values, dtype=np.float64)
    if strata is None:
        mean, means = values.mean(), _bootstrap(values, samples=samples, seed=seed)
    else:
        mean, means = 0.0, np.zeros(samples)
        for number, (rows, share) in enumerate(strata):
            own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])  # strata are independent
            mean += share * values[rows].mean()
            means += share * _bootstrap(values[rows], samples=samples, seed=own_seed)
    return Estimate(float(mean), *map(float, np.quantile(means, [0.025, 0.975])))


def difference(ours: Values, theirs: Values, strata: Strata | None = None, *, samples: int, seed: int) -> Difference:
    """Compare a metric of two methods on the same users, in the same order: ours − theirs."""
    differences = np.subtract(ours, theirs, dtype=np.float64)
    found = estimate(differences, strata, samples=samples, seed=seed)
    parts = strata or [(np.arange(len(differences)), 1.0)]
    weighted = np.concatenate([differences[rows] * (share * len(differences) / len(rows)) for rows, share in parts])
    error = np.sqrt(sum(share**2 * differences[rows].var() / len(rows) for rows, share in parts))
    p_value = _sign_flip_p_value(weighted, samples=samples, seed=seed)
    return Difference(*found, p_value, float(_Z_OF_DETECTABLE * error))


def holm(p_values: Values) -> np.ndarray:
    """Adjust p-values for their number (Holm, 1979): the i-th smallest of m times m − i + 1, monotone, at most 1."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)).clip(max=1.0)
    return adjusted


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``p_holm``: Holm's correction over the primary tests of each data set, empty for what is descriptive.

    In a table with a subset ``retrieved``, these are the tests in it.
    """
    primary = (table["metric"] == PRIMARY) & table["p_value"].notna()
    if (table["subset"] == "retrieved").any():
        primary &= table["subset"] == "retrieved"
    adjusted = table[primary].groupby("dataset")["p_value"].transform(holm)
    table = table.copy()
    table.insert(table.columns.get_loc("p_value") + 1, "p_holm", adjusted.reindex(table.index))
    return table


def _bootstrap(values: np.ndarray, *, samples: int, seed: int) -> np.ndarray:
    """Return the means of bootstrap samples; the order of the users does not matter."""
    values, generator, n = np.sort(values), np.random.default_rng(seed), len(values)
    distinct, counts = np.unique(values, return_counts=True)
    # a multinomial draw costs about as much for one distinct value as an index draw for eight users
    if 8 * len(distinct) <= n:
        means = (generator.multinomial(n, counts / n, size=size) @ distinct / n for size in _sizes(samples, distinct))
    else:
        drawn = (generator.integers(n, size=(size, n), dtype=np.int32) for size in _sizes(samples, values))
        means = (values[rows].mean(axis=1) for rows in drawn)
    return np.concatenate([*means])


def _sign_flip_p_value(differences: np.ndarray, *, samples: int, seed: int) -> float:
    """Two-sided p-value under the null that each user's difference is as likely to have the other sign."""
    sizes, counts = np.unique(np.abs(differences[differences != 0.0]), return_counts=True)
    generator, as_large = np.random.default_rng(seed), 0
    # sums of the same terms in another order differ in the last digits; such ties count as equal
    threshold = abs(differences.sum()) - 1e-9 * sizes.sum()
    for size in _sizes(samples, sizes):
        positive = generator.binomial(counts, 0.5, size=(size, len(sizes)))
        as_large += int((np.abs((2 * positive - counts) @ sizes) >= threshold).sum())
    # the observed signs are one of the permutations, so the p-value is never zero (Phipson and Smyth, 2010)
    return (as_large + 1) / (samples + 1)


def _sizes(samples: int, numbers: np.ndarray) -> list[int]:
    """Divide samples, each of so many numbers, into chunks that memory should hold."""
    size = max(1, _CHUNK_ELEMENTS // max(1, len(numbers)))
    return [min(size, samples - start) for start in range(0, samples, size)]
