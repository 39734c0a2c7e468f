"""Ranking metrics, computed from ranks alone (LlamaRec, section 4.1: Evaluation).

A user has one relevant item, the target, and its 1-based rank r among all items is all that a metric
needs. With one relevant item the ideal DCG is 1, so that::

    Recall@k = 1 if r ≤ k else 0
    MRR@k    = 1 / r if r ≤ k else 0
    NDCG@k   = 1 / log2(r + 1) if r ≤ k else 0

Each is computed per user first and averaged second, every user with the same weight: the values per user
are what the intervals and tests of :mod:`llamarec_core.evaluation.estimates` resample.
"""

import re
from collections.abc import Sequence

import numpy as np

from llamarec_core.files import InputError

METRICS = ("MRR@5", "NDCG@5", "Recall@5", "MRR@10", "NDCG@10", "Recall@10")
"""The metrics of the paper's Tables 1 and 3, in the order of their rows."""

_GAINS = {
    "MRR": lambda ranks: 1.0 / ranks,
    "NDCG": lambda ranks: 1.0 / np.log2(ranks + 1.0),
    "Recall": np.ones_like,
}


def per_user(ranks: np.ndarray | Sequence[int], metric: str) -> np.ndarray:
    """Return one metric for every user.

    Args:
        ranks: integers of any shape, e.g. ``(users,)`` or ``(seeds, users)``: the target's rank among all items,
            counted from 1.
        metric: ``MRR@k``, ``NDCG@k`` or ``Recall@k`` with k ≥ 1, e.g. ``NDCG@10``.

    Returns:
        float64 of the same shape, each between 0 and 1.

    Raises:
        InputError: a rank is below 1 or not an integer.
    """
    match = re.fullmatch(r"(MRR|NDCG|Recall)@([1-9][0-9]*)", metric)
    if match is None:
        raise ValueError(f"Unknown metric {metric!r}: write one of {', '.join(_GAINS)} with a cutoff, e.g. NDCG@10.")
    ranks = np.asarray(ranks)
    if ranks.size and not np.issubdtype(ranks.dtype, np.integer):
        raise InputError(f"Ranks must be integers counted from 1, but are of type {ranks.dtype}.")
    if ranks.size and ranks.min() < 1:
        raise InputError(f"Ranks count from 1, but one is {int(ranks.min())}.")
    return np.where(ranks <= int(match[2]), _GAINS[match[1]](ranks.astype(np.float64)), 0.0)


def mean(ranks: np.ndarray | Sequence[int], metric: str) -> float:
    """Return one metric averaged over the users: the number that a table prints."""
    return float(per_user(ranks, metric).mean())
