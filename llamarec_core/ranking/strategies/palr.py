"""PALR: retrieved candidates in the prompt, recommended items as text (Yang et al., 2023, arXiv 2305.07622).

The original first has a language model describe the user in keywords; this step is left out, so that all strategies
read the same. Tuned, the model answers with the title of what the user chose next, and ends. At most R = 10 titles
are generated. For K candidates, H titles of history and T tokens a title::

    forward passes min(R, K) · (mark + T),    tokens read c + (H + K) · (mark + T),    tokens generated as passes.
"""

from collections.abc import Sequence

from llamarec_core.ranking.prompt import Template
from llamarec_core.ranking.strategies.causal_lm import CausalLM

RECOMMENDED = 10
"""Titles that the model is asked for, and given room for."""


class PALR(CausalLM):
    """Ranks candidates in the order in which the model recommends them.

    Args: as of :class:`~llamarec_core.ranking.strategies.CausalLM`.
    """

    name = "palr"
    template = Template(
        opening="[Instruction] A user has purchased these items:",
        history_mark="\n-",
        bridge=f"\n\nRecommend up to {RECOMMENDED} items for the user from these candidates:",
        candidate_mark="\n-",
        closing="\n\nRecommended, one title a line:\n-",
    )

    def example(
        self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int
    ) -> tuple[list[int], list[int]]:
        """Return history and candidates, and the title of what was chosen next."""
        end = self.prompts.tokenizer.eos_token_id
        title = self.prompts.title_tokens[candidates[answer]]
        return self.prompt.build(history, candidates), [*title, *([] if end is None else [end])]

    def _limit(self, n_candidates: int, title_tokens: int) -> int:
        entries = min(RECOMMENDED, n_candidates)
        return entries * self.prompt.mark_tokens + -(-entries * title_tokens // n_candidates)
