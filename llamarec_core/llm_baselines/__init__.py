"""What LlamaRec is compared with: the ways in which language models have been made to rank, on one backbone.

    histories, candidates ──Strategy.rank──▶ Answers: scores of the candidates, recommended items, counted cost

======================= =========================== ================================================
strategy                reads                       answers with
======================= =========================== ================================================
``Verbalizer``          history and candidates      the logits of the candidates' labels (LlamaRec)
``CausalLM``            history and candidates      a generated list of all titles, best first
``PALR``                history and candidates      a generated list of the titles to recommend
``GPT4Rec``             history                     generated queries to a search over all titles
``TALLRec``             history and one candidate   the logits of "Yes" and "No", for each candidate
``TALLRecWithoutCache`` the same, each prompt whole the same, the history read again each time
``P5``                  history, as ids             generated ids of the catalogue
======================= =========================== ================================================
"""

from llamarec_core.llm_baselines.base import Strategy, TALLRec, TALLRecWithoutCache, Verbalizer
from llamarec_core.llm_baselines.text_strategies import P5, PALR, CausalLM, GPT4Rec

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (Verbalizer, CausalLM, PALR, GPT4Rec, TALLRec, TALLRecWithoutCache, P5)
}
"""All strategies by name."""

TUNED: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (PALR, GPT4Rec, TALLRec, P5)}
"""Those with a training format of their own; the verbalizer's is that of the ranker, the list of titles has none."""
