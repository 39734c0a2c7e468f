"""Ranking metrics, computed from ranks alone (LlamaRec, section 4.1: Evaluation).

A user has one relevant item, the target, so that the ideal DCG is 1. With its 1-based rank r among all items::

    Recall@k = 1 if r ≤ k else 0
    MRR@k    = 1 / r if r ≤ k else 0
    NDCG@k   = 1 / log2(r + 1) if r ≤ k else 0
"""

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
    """Return a metric such as ``NDCG@10`` of each rank: float64 of the same shape, e.g. ``(seeds, users)``."""
    ranks = np.asarray(ranks)
    if ranks.size and (not np.issubdtype(ranks.dtype, np.integer) or ranks.min() < 1):
        raise InputError(f"Ranks must be integers counted from 1, but the least is {ranks.min()}, a {ranks.dtype}.")
    name, cutoff = metric.split("@")
    return np.where(ranks <= int(cutoff), _GAINS[name](ranks.astype(np.float64)), 0.0)


def mean(ranks: np.ndarray | Sequence[int], metric: str) -> float:
    """Return a metric averaged over users, each with the same weight."""
    return float(per_user(ranks, metric).mean())
