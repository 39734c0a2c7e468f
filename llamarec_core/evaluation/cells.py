"""The cells of a table of ours, with their values in bootstrap samples of the users: what claims are functions of."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from llamarec_core.evaluation.metrics import METRICS, per_user
from llamarec_core.evaluation.quantities import Cells
from llamarec_core.evaluation.significance import bootstrap_means, stratified_means
from llamarec_core.files import InputError

Ranks = Mapping[tuple[str, str, int], pd.DataFrame]
"""(data set, method in lower case, seed) → ``user``, ``target`` and ``rank``."""

_READS_CANDIDATES = "LlamaRec"
"""Ranks what LRURec of the same seed retrieved."""


class MeasuredCells(NamedTuple):
    """The cells of some methods on one data set."""

    cells: Cells
    sampled: Cells
    """The same, each ``(samples,)``."""
    users: int
    seeds: int
    """Of the method with the fewest."""
    commit: str | None = None
    """What a sample was measured with."""


def cells_of_ranks(
    ranks: Ranks, dataset: str, methods: Sequence[str], *, candidates: int, samples: int, seed: int
) -> MeasuredCells | str:
    """Return the cells over all users, and over those whose target was retrieved.

    A cell is the mean over the method's seeds. Where the language model's ranker is among the methods, only seeds count
    with which all of them were run, because it ranks what was retrieved with its own seed.

    Args:
        ranks: of all users.
        dataset: the data set.
        methods: by the paper's names.
        candidates: a user is `retrieved` if LRURec ranks the target among this many.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        The cells, or why there are none.

    Raises:
        InputError: two ranks files hold other users or targets.
    """
    runs = {name: sorted(key[2] for key in ranks if key[:2] == (dataset, name.lower())) for name in methods}
    missing = [name for name, seeds in runs.items() if not seeds]
    if missing:
        return f"{', '.join(missing)}: not run on {dataset}"
    if _READS_CANDIDATES in methods:
        common = sorted(set.intersection(*map(set, runs.values())))
        if not common:
            return f"no seed with which {', '.join(methods)} were all run on {dataset}"
        runs = dict.fromkeys(methods, common)
    frames = {
        (name, number): ranks[dataset, name.lower(), number].sort_values("user", ignore_index=True)
        for name, seeds in runs.items()
        for number in seeds
    }
    refuse_other_users({f"{name} on {dataset} with seed {number}": frame for (name, number), frame in frames.items()})
    columns = _columns(frames, candidates)
    if not all(values.any() for key, values in columns.items() if not key[0]):
        return f"no target of {dataset} was retrieved"
    values = np.stack(list(columns.values()), axis=1)  # (users, columns)
    at = {key: place for place, key in enumerate(columns)}
    cells = {key: value[0] for key, value in _cells(values.mean(axis=0)[None], at).items()}
    with np.errstate(invalid="ignore"):  # a sample without a retrieved user has no mean over them
        sampled = _cells(bootstrap_means(values, samples=samples, seed=seed), at)
    return MeasuredCells(cells, sampled, len(values), min(map(len, runs.values())))


def _columns(frames: Mapping[tuple[str, int], pd.DataFrame], candidates: int) -> dict[tuple, np.ndarray]:
    """Return what a user adds to each mean: (method, metric, subset, seed) → (users,).

    A mean over the retrieved users is the ratio of two means over all, of the values there and of being one of them;
    the latter has no method and metric.
    """
    columns = {}
    for (name, number), frame in frames.items():
        for metric in METRICS:
            columns[name, metric, "all", number] = per_user(frame["rank"], metric)
        if ("LRURec", number) in frames:
            retrieved = (frames["LRURec", number]["rank"] <= candidates).to_numpy(float)
            columns["", "", "retrieved", number] = retrieved
            for metric in METRICS:
                columns[name, metric, "retrieved", number] = columns[name, metric, "all", number] * retrieved
    return columns


def _cells(means: np.ndarray, at: Mapping[tuple, int]) -> dict[tuple[str, str, str], np.ndarray]:
    """Return the cells from the means of the columns, (samples, columns): each (samples,), the mean over seeds."""
    over_seeds: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for (name, metric, subset, number), place in at.items():
        if name:
            share = means[:, at["", "", subset, number]] if subset == "retrieved" else 1.0
            over_seeds.setdefault((name, metric, subset), []).append(means[:, place] / share)
    return {key: np.mean(values, axis=0) for key, values in over_seeds.items()}


def cells_of_sample(
    sample: Ranks, dataset: str, methods: Sequence[str], *, samples: int, seed: int
) -> MeasuredCells | str:
    """Return the cells over all users, estimated from some who were drawn in strata.

    Args:
        sample: ranks of the same users for all methods of a data set, with ``stratum``, ``stratum_users`` (how many
            users it stands for) and ``commit``.
        dataset, methods, samples, seed: as for :func:`cells_of_ranks`.

    Returns:
        The cells, or why there are none.
    """
    missing = [name for name in methods if not any(key[:2] == (dataset, name.lower()) for key in sample)]
    if missing:
        return f"{', '.join(missing)}: not run on {dataset}"
    runs = ({key[2] for key in sample if key[:2] == (dataset, name.lower())} for name in methods)
    seeds = sorted(set.intersection(*runs))
    if not seeds:
        return f"no seed with which {', '.join(methods)} were all run on {dataset}"
    keys = [(name, metric, "all") for name in methods for metric in METRICS]
    strata, weights, users, commits = [], [], set(), {}
    for number in seeds:
        frames = [sample[dataset, name.lower(), number].reset_index(drop=True) for name in methods]
        users |= set(frames[0]["user"])
        commits |= {commit: None for frame in frames for commit in frame["commit"]}
        values = np.stack([per_user(frame["rank"], metric) for frame in frames for metric in METRICS], axis=1)
        sizes = frames[0].groupby("stratum")["stratum_users"].first()
        for stratum, rows in frames[0].groupby("stratum"):
            strata.append(values[rows.index])
            weights.append(sizes[stratum] / sizes.sum() / len(seeds))
    mean, means = stratified_means(strata, weights, samples=samples, seed=seed)
    cells, sampled = dict(zip(keys, mean.tolist(), strict=True)), dict(zip(keys, means.T, strict=True))
    return MeasuredCells(cells, sampled, len(users), len(seeds), commit="+".join(commits))


def refuse_other_users(frames: Mapping[str, pd.DataFrame]) -> None:
    """Refuse frames that cannot be paired: all must hold the same users, in one order, with the same targets.

    Args:
        frames: whose ranks they are, in words → ``user`` and ``target``.

    Raises:
        InputError: one differs from the first.
    """
    (first, expected), *others = frames.items()
    for name, frame in others:
        if not np.array_equal(frame[["user", "target"]], expected[["user", "target"]]):
            raise InputError(
                f"The ranks of {name} hold other users or targets than those of {first}: make both from the same data "
                "and split."
            )
