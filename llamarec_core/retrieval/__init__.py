"""Stage 1, retrieval: a sequential recommender ranks the whole catalogue and keeps 20 candidates a user.

Dataset ──training──▶ retriever ──candidates──▶ candidates file (for the ranker) and ranks file (for the tables)
"""

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
