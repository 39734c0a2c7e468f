"""Stage 1, retrieval: a sequential recommender ranks the whole catalogue and keeps 20 candidates a user.

Dataset ──training──▶ retriever ──candidates──▶ candidates file (for the ranker) and ranks file (for the tables)
"""

from llamarec_core.retrieval.bert4rec import BERT4Rec
from llamarec_core.retrieval.candidates import (
    popularity_scores,
    ranks_of,
    read_candidates,
    read_ranks,
    retrieve,
    scorer,
    target_ranks,
    top_candidates,
    write_candidates,
    write_ranks,
)
from llamarec_core.retrieval.fit import fit_retriever, load_retriever
from llamarec_core.retrieval.lru import LRURec
from llamarec_core.retrieval.narm import NARM
from llamarec_core.retrieval.recommender import SequentialRecommender
from llamarec_core.retrieval.sasrec import SASRec

__all__ = [
    "NARM",
    "BERT4Rec",
    "LRURec",
    "SASRec",
    "SequentialRecommender",
    "fit_retriever",
    "load_retriever",
    "popularity_scores",
    "ranks_of",
    "read_candidates",
    "read_ranks",
    "retrieve",
    "scorer",
    "target_ranks",
    "top_candidates",
    "write_candidates",
    "write_ranks",
]
