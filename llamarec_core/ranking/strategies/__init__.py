"""Strategies: the ways in which language models have been made to rank, on one backbone and the same requests.

    histories, candidates ──Strategy.rank──▶ Answers: scores of the candidates, recommended items, counted cost

======================== =============================== ===============================================
strategy                 reads                           answers with
======================== =============================== ===============================================
:class:`Verbalizer`      history and candidates          the logits of the candidates' labels (LlamaRec)
:class:`CausalLM`        history and candidates          a generated list of all titles, best first
:class:`PALR`            history and candidates          a generated list of the titles to recommend
:class:`GPT4Rec`         history                         generated queries to a search over all titles
:class:`TALLRec`         history and one candidate       the logits of "Yes" and "No", for each candidate
:class:`TALLRecApart`    the same, each prompt whole     the same, the history read again each time
:class:`P5`              history, as ids                 generated ids of the catalogue
======================== =============================== ===============================================

All share the prompts' machinery of :mod:`llamarec_core.ranking`, its generation, and its tuning loop:
:func:`llamarec_core.ranking.fit_ranker` takes one of :data:`TUNED`.
"""

from llamarec_core.ranking.strategies.causal_lm import CausalLM
from llamarec_core.ranking.strategies.gpt4rec import GPT4Rec
from llamarec_core.ranking.strategies.p5 import P5
from llamarec_core.ranking.strategies.palr import PALR
from llamarec_core.ranking.strategies.strategy import Answers, Strategy, answer_rows, catalogue_ranks
from llamarec_core.ranking.strategies.tallrec import TALLRec, TALLRecApart
from llamarec_core.ranking.strategies.verbalizer import Verbalizer
from llamarec_core.ranking.strategies.wording import RequestSize

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (Verbalizer, CausalLM, PALR, GPT4Rec, TALLRec, TALLRecApart, P5)
}
"""All strategies by name."""

TUNED: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (PALR, GPT4Rec, TALLRec, P5)}
"""Those with a training format of their own; the verbalizer's is that of the ranker, the list of titles has none."""

__all__ = [
    "P5",
    "PALR",
    "STRATEGIES",
    "TUNED",
    "Answers",
    "CausalLM",
    "GPT4Rec",
    "RequestSize",
    "Strategy",
    "TALLRec",
    "TALLRecApart",
    "Verbalizer",
    "answer_rows",
    "catalogue_ranks",
]
