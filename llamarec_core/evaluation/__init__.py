"""Evaluation: from ranks files to metrics, their uncertainty, and the paper's published numbers.

A ranks file holds one 1-based rank a user; nothing else enters a number of the study. ``metrics``
turns ranks into one value a user and their mean, ``significance`` says how sure that mean is and
whether two methods differ, ``paper`` loads what the paper printed, to stand beside it. ``claims`` holds the
paper's claims against the ranks, ``consistency`` the published numbers against each other.
"""

from llamarec_core.evaluation.claims import RULES, claims_table, stated_table
from llamarec_core.evaluation.consistency import (
    consistency_tables,
    constant_shares,
    gains_in_users,
    recall_counts,
    retrieved_shares,
)
from llamarec_core.evaluation.metrics import METRICS, mean, per_user
from llamarec_core.evaluation.paper import (
    measured_inference_times,
    published,
    published_inference_times,
    published_llm_baselines,
    published_statistics,
)
from llamarec_core.evaluation.significance import (
    Difference,
    Estimate,
    bootstrap_interval,
    holm,
    paired_difference,
    stratified_mean,
)

__all__ = [
    "METRICS",
    "RULES",
    "Difference",
    "Estimate",
    "bootstrap_interval",
    "claims_table",
    "consistency_tables",
    "constant_shares",
    "gains_in_users",
    "holm",
    "mean",
    "measured_inference_times",
    "paired_difference",
    "per_user",
    "published",
    "published_inference_times",
    "published_llm_baselines",
    "published_statistics",
    "recall_counts",
    "retrieved_shares",
    "stated_table",
    "stratified_mean",
]
