"""The one estimator: from one value a user to a mean, its interval, and a paired test.

    ranks ──per_user──▶ values ──over_seeds──▶ one value a user ──estimate, difference──▶ a row of a table ──holm──▶

The users of the study are a sample. The 95 % interval of a mean comes from the bootstrap over users (Efron and
Tibshirani, 1993, chapter 13: percentile interval). The interval of a difference comes from the same bootstrap over
paired differences, and its p-value from the sign-flip permutation test (Fisher, 1935; Smucker et al., CIKM 2007, for
retrieval). Holm's method (1979) corrects the tests of one data set.

Both resamplings are exact in distribution and cheap, because a rank metric takes few distinct values: a bootstrap
sample of n users is a multinomial draw of how often each distinct value occurs, and flipping the signs of c equal
differences is one binomial draw. 10,000 samples of 22,332 users take well under a second.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

PRIMARY = "NDCG@10"
"""The metric that is tested, named in advance. All others are descriptive."""

ALPHA = 0.05
"""A corrected p-value below this is beyond chance."""

_Z_OF_DETECTABLE = 1.959964 + 0.841621
"""Standard errors that a difference needs to be found with 80 % power in a two-sided test at 5 %."""

_CHUNK_ELEMENTS = 4_000_000
"""Most numbers that a chunk of resamples holds at once, 32 MB."""


class Estimate(NamedTuple):
    """A mean over users, named as the tables' columns."""

    measured: float
    ci_low: float
    ci_high: float


class Difference(NamedTuple):
    """A mean paired difference, named as the tables' columns."""

    difference: float
    """Above zero, the first method is better."""
    ci_low: float
    ci_high: float
    p_value: float
    """Two-sided, of the sign-flip permutation test; at least 1 / (samples + 1)."""
    detectable: float
    """The smallest difference that a two-sided test at 5 % finds with 80 % power, given this spread and these users."""


class Strata(NamedTuple):
    """A population of which only some users were asked, drawn in strata (Cochran, 1977, chapter 5)."""

    rows: Sequence[np.ndarray]
    """The places of each stratum's users among the values."""
    shares: Sequence[float]
    """Each stratum's share of the population; they sum to 1."""


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
        members: bool ``(seeds, users)``, at least one a seed.

    Returns:
        One value for every user that is a member with any seed.
    """
    if members.all():
        return values.mean(axis=0)
    sizes = members.sum(axis=1, keepdims=True)  # (seeds, 1)
    means = (values * members).sum(axis=1, keepdims=True) / sizes  # (seeds, 1)
    union = members.any(axis=0)  # (users,)
    parts = np.where(members, values - means, 0.0) * (union.sum() / sizes)  # (seeds, users)
    return means.mean() + parts[:, union].mean(axis=0)


def estimate(values: ArrayLike, strata: Strata | None = None, *, samples: int, seed: int) -> Estimate:
    """Return the mean of a value over users, with its 95 % bootstrap interval.

    Users are resampled within their stratum: the sizes of the strata are known and add nothing to the interval.

    Args:
        values: floats ``(users,)``, in any order where there are no strata.
        strata: of a stratified sample; ``None`` if all users were asked.
        samples: bootstrap samples.
        seed: of the random draws.
    """
    values = _finite(values)
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
    ours: ArrayLike, theirs: ArrayLike, strata: Strata | None = None, *, samples: int, seed: int
) -> Difference:
    """Compare two methods on the same users, in the same order.

    Args:
        ours: floats ``(users,)``, one metric of the one method.
        theirs: the same of the other.
        strata, samples, seed: as for :func:`estimate`; as many signs are flipped.
    """
    differences = np.subtract(_finite(ours), _finite(theirs))
    found = estimate(differences, strata, samples=samples, seed=seed)
    parts = [(np.arange(len(differences)), 1.0)] if strata is None else list(zip(*strata, strict=True))
    weighted = np.concatenate([differences[rows] * (share * len(differences) / len(rows)) for rows, share in parts])
    error = np.sqrt(sum(share**2 * differences[rows].var() / len(rows) for rows, share in parts))
    p_value = _sign_flip_p_value(weighted, samples=samples, seed=seed)
    return Difference(*found, p_value, float(_Z_OF_DETECTABLE * error))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjust p-values for their number (Holm, 1979): the i-th smallest of m times m − i + 1, monotone, at most 1.

    Rejecting where the adjusted value is below α keeps the chance of any false rejection below α.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``p_holm``: Holm's correction over the primary tests of each data set, empty for what is descriptive.

    Args:
        table: with ``dataset``, ``metric``, ``p_value``, and ``subset`` where there are several; where some users'
            targets were retrieved, only these are tested.
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
    values = np.sort(values)
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    # a multinomial draw costs about as much for one distinct value as an index draw for eight users
    by_counts = 8 * len(distinct) <= len(values)
    for chunk in _chunks(samples, width=len(distinct) if by_counts else len(values)):
        size = chunk.stop - chunk.start
        if by_counts:
            drawn = generator.multinomial(len(values), counts / len(values), size=size)  # (size, distinct)
            means[chunk] = drawn @ distinct / len(values)
        else:
            drawn = generator.integers(len(values), size=(size, len(values)), dtype=np.int32)
            means[chunk] = values[drawn].mean(axis=1)
    return means


def _sign_flip_p_value(differences: np.ndarray, *, samples: int, seed: int) -> float:
    """Two-sided p-value under the null that each user's difference is as likely to have the other sign."""
    observed = abs(differences.sum())
    sizes, counts = np.unique(np.abs(differences[differences != 0.0]), return_counts=True)
    # sums of the same terms in another order differ in the last digits; such ties count as equal
    threshold = observed - 1e-9 * sizes.sum()
    generator = np.random.default_rng(seed)
    at_least_as_large = 0
    for chunk in _chunks(samples, width=len(sizes)):
        positive = generator.binomial(counts, 0.5, size=(chunk.stop - chunk.start, len(sizes)))  # (rows, sizes)
        flipped = (2 * positive - counts) @ sizes
        at_least_as_large += int((np.abs(flipped) >= threshold).sum())
    # the observed signs are one of the permutations, so the p-value is never zero (Phipson and Smyth, 2010)
    return (at_least_as_large + 1) / (samples + 1)


def _chunks(samples: int, *, width: int) -> Iterator[slice]:
    rows = max(1, _CHUNK_ELEMENTS // max(1, width))
    return (slice(start, min(start + rows, samples)) for start in range(0, samples, rows))


def _finite(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"Expected one finite number a user, of one user at least, but got {values!r}.")
    return values
