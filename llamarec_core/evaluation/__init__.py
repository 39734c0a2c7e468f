"""Evaluation: from ranks to metrics, their uncertainty, and the paper's published numbers and claims.

A ranks file holds one 1-based rank a user; nothing else enters a number of the study. ``metrics`` turns ranks into one
value a user, ``estimates`` those into means, intervals and tests. ``paper`` loads what the paper printed, ``claims``
holds its claims against our numbers, ``consistency`` its numbers against each other, and ``conclusions`` our sentences
against our tables.
"""

from llamarec_core.evaluation.claims import RULES, claims_table, verdict_counts
from llamarec_core.evaluation.consistency import consistency_tables
from llamarec_core.evaluation.metrics import METRICS, mean, per_user
from llamarec_core.evaluation.paper import (
    measured_inference_times,
    published,
    published_inference_times,
    published_llm_baselines,
    published_statistics,
)

__all__ = [
    "METRICS",
    "RULES",
    "claims_table",
    "consistency_tables",
    "mean",
    "measured_inference_times",
    "per_user",
    "published",
    "published_inference_times",
    "published_llm_baselines",
    "published_statistics",
    "verdict_counts",
]
