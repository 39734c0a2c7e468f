"""Ranking: a language model re-ranks the retriever's candidates, LlamaRec's second stage (section 3.2).

candidates, histories, titles ──prompt──▶ token ids ──backbone, verbalizer──▶ P(candidate) ──rerank──▶ ranks
"""

from llamarec_core.ranking.ablations import UNTUNED, Ablation
from llamarec_core.ranking.backbone import load_backbone, write_random_backbone
from llamarec_core.ranking.prompt import TEMPLATES, PromptBuilder
from llamarec_core.ranking.qlora import fit_ranker, load_ranker
from llamarec_core.ranking.rerank import (
    ORDERS,
    candidate_probabilities,
    fit_retriever_weight,
    log_probabilities,
    ndcg_at_10,
    random_scores,
    rerank_by_scores,
    retrieved_candidates,
    shown_candidates,
    with_retriever,
)
from llamarec_core.ranking.verbalizer import VerbalizerRanker
from llamarec_core.ranking.words import shared_word_nats, title_overlap
