"""The one estimator: from one value a user to a mean, its interval, and a paired test.

    ranks ──per_user──▶ values ──over_seeds──▶ one value a user ──estimate, difference──▶ a row of a table ──holm──▶

Intervals come from the bootstrap over users (Efron and Tibshirani, 1993, chapter 13: percentile interval), p-values
from the sign-flip permutation test (Fisher, 1935; Smucker et al., CIKM 2007, for retrieval). Both are exact in
distribution and cheap, because a rank metric takes few distinct values: a bootstrap sample of n users is a multinomial
draw of how often each distinct value occurs, and flipping the signs of c equal differences is one binomial draw.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

Values = np.ndarray | Sequence[float]
"""One number a user, ``(users,)``."""

PRIMARY = "NDCG@10"
"""The metric that is tested, named in advance. All others are descriptive."""

ALPHA = 0.05
"""A corrected p-value below this is beyond chance."""

_Z_OF_DETECTABLE = 1.959964 + 0.841621
"""Standard errors that a difference needs to be found with 80 % power in a two-sided test at 5 %."""

_CHUNK_ELEMENTS = 4_000_000
"""Most numbers that a chunk of resamples holds at once, 32 MB."""


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


class Strata(NamedTuple):
    """A population of which only some users were asked, drawn in strata (Cochran, 1977, chapter 5)."""

    rows: Sequence[np.ndarray]  # the indices of each stratum's users among the values
    shares: Sequence[float]  # each stratum's share of the population; they sum to 1


def strata_of(frame: pd.DataFrame) -> Strata:
    """Return the strata of sampled users, of whom each seed drew its own: ``seed``, ``stratum``, ``stratum_users``."""
    groups = frame.reset_index(drop=True).groupby(["seed", "stratum"])
    sizes = groups["stratum_users"].first()
    shares = sizes / sizes.groupby("seed").transform("sum") / frame["seed"].nunique()
    return Strata([rows.to_numpy() for rows in groups.groups.values()], shares.tolist())


def over_seeds(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return one value a user, so that their mean is the mean over seeds of each seed's mean over its members.

    When all users are members, this is the user's value averaged over seeds. Otherwise a user's part in a seed's mean
    is v − (the seed's mean) for a member and 0 for others, scaled by the seed's size: the usual linear approximation of
    a ratio, so that the users of all seeds can be resampled together.

    Args:
        values: ``(seeds, users)``.
        members: bool ``(seeds, users)``, at least one a seed. Users that are never members have no value.
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

    With strata, users are resampled within their stratum: the sizes of the strata are known and add nothing to the
    interval.
    """
    values = np.asarray(values, dtype=np.float64)
    if strata is None:
        mean, means = values.mean(), _bootstrap(values, samples=samples, seed=seed)
    else:
        mean, means = 0.0, np.zeros(samples)
        for number, (rows, share) in enumerate(zip(*strata, strict=True)):
            own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])  # strata are independent
            mean += share * values[rows].mean()
            means += share * _bootstrap(values[rows], samples=samples, seed=own_seed)
    return Estimate(float(mean), *map(float, np.quantile(means, [0.025, 0.975])))


def difference(
    ours: Values,
    theirs: Values,
    strata: Strata | None = None,
    *,
    samples: int,
    seed: int,
) -> Difference:
    """Compare a metric of two methods on the same users, in the same order: ours − theirs."""
    differences = np.subtract(ours, theirs, dtype=np.float64)
    found = estimate(differences, strata, samples=samples, seed=seed)
    parts = [(np.arange(len(differences)), 1.0)] if strata is None else list(zip(*strata, strict=True))
    weighted = np.concatenate([differences[rows] * (share * len(differences) / len(rows)) for rows, share in parts])
    error = np.sqrt(sum(share**2 * differences[rows].var() / len(rows) for rows, share in parts))
    p_value = _sign_flip_p_value(weighted, samples=samples, seed=seed)
    return Difference(*found, p_value, float(_Z_OF_DETECTABLE * error))


def holm(p_values: Values) -> np.ndarray:
    """Adjust p-values for their number (Holm, 1979): the i-th smallest of m times m − i + 1, monotone, at most 1."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``p_holm``: Holm's correction over the primary tests of each data set, empty for what is descriptive.

    In a table with a subset ``retrieved``, these are the tests among retrieved users alone.
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

    def by_counts(size: int) -> np.ndarray:
        return generator.multinomial(n, counts / n, size=size) @ distinct / n  # (size, distinct) @ (distinct,)

    def by_users(size: int) -> np.ndarray:
        return values[generator.integers(n, size=(size, n), dtype=np.int32)].mean(axis=1)

    # a multinomial draw costs about as much for one distinct value as an index draw for eight users
    if 8 * len(distinct) <= n:
        return _in_chunks(by_counts, samples, width=len(distinct))
    return _in_chunks(by_users, samples, width=n)


def _sign_flip_p_value(differences: np.ndarray, *, samples: int, seed: int) -> float:
    """Two-sided p-value under the null that each user's difference is as likely to have the other sign."""
    sizes, counts = np.unique(np.abs(differences[differences != 0.0]), return_counts=True)
    generator = np.random.default_rng(seed)

    def flipped(size: int) -> np.ndarray:
        positive = generator.binomial(counts, 0.5, size=(size, len(sizes)))  # (size, sizes)
        return (2 * positive - counts) @ sizes

    # sums of the same terms in another order differ in the last digits; such ties count as equal
    threshold = abs(differences.sum()) - 1e-9 * sizes.sum()
    as_large = np.abs(_in_chunks(flipped, samples, width=len(sizes))) >= threshold
    # the observed signs are one of the permutations, so the p-value is never zero (Phipson and Smyth, 2010)
    return (int(as_large.sum()) + 1) / (samples + 1)


def _in_chunks(draw: Callable[[int], np.ndarray], samples: int, *, width: int) -> np.ndarray:
    """Join draws of ``width`` numbers a sample, as many samples at once as memory should hold."""
    size = max(1, _CHUNK_ELEMENTS // max(1, width))
    return np.concatenate([draw(min(size, samples - start)) for start in range(0, samples, size)])
