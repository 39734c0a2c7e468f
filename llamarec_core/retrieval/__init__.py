"""Stage 1: Dataset ──training──▶ retriever ──▶ candidates file (for the ranker), ranks file (for the tables)."""

from llamarec_core.retrieval.candidates import (
    Candidates,
    load_candidates,
    popularity_scores,
    read_ranks,
    retrieve,
    sampled_users,
    target_ranks,
    write_candidates,
    write_ranks,
)
from llamarec_core.retrieval.fit import fit_retriever, load_retriever
from llamarec_core.retrieval.recommender import Retriever
