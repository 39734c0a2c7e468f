"""From ranks to metrics and their uncertainty, and the paper's published numbers and claims.

A ranks file holds one 1-based rank a user; nothing else enters a number of the study.
"""

from llamarec_core.evaluation.claims import claims_table, verdict_counts
from llamarec_core.evaluation.metrics import METRICS, mean
from llamarec_core.evaluation.paper import (
    consistency_tables,
    measured_inference_times,
    published,
    published_inference_times,
    published_llm_baselines,
    published_statistics,
)
