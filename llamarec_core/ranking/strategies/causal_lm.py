"""Llama CausalLM: greedy generation of the ranked list of titles, the baseline of LlamaRec's Figure 3.

The list is generated token by token and stopped when it is longer than the titles of all candidates together (Yue et
al., 2023, arXiv 2311.02089). Here its lines are then matched with the candidates' titles; those that no line names
follow in the retriever's order. For K candidates, H titles of history and T tokens a title::

    forward passes K · T,    tokens read c + (H + K) · (mark + T),    tokens generated K · T.

(The first token comes from the prompt's own pass, so that there are as many passes as tokens.)
"""

from typing import ClassVar

import numpy as np
from peft import PeftModel
from transformers import LlamaForCausalLM

from llamarec_core.ranking.prompt import PromptBuilder, Template
from llamarec_core.ranking.strategies.generation import Hypothesis
from llamarec_core.ranking.strategies.parsing import parse_titles
from llamarec_core.ranking.strategies.strategy import GeneratingStrategy, in_order
from llamarec_core.ranking.strategies.wording import ListPrompt, RequestSize


class CausalLM(GeneratingStrategy):
    """Ranks candidates in the order in which the model lists their titles.

    Args:
        model, prompts, batch_size: as of :class:`~llamarec_core.ranking.strategies.Strategy`.
        runs_to_limit: go on past the model's end-of-sequence token, to time a list of a given length.
    """

    name = "causal_lm"
    template: ClassVar[Template] = Template(
        opening="[Instruction] Here is the purchase history of a user:",
        history_mark="\n-",
        bridge="\n\nPlease rank the following candidate items based on the user's preferences:",
        candidate_mark="\n-",
        closing="\n\nAll candidate items from the most suitable to the least suitable, one title a line:\n-",
    )

    def __init__(
        self,
        model: LlamaForCausalLM | PeftModel,
        prompts: PromptBuilder,
        *,
        batch_size: int = 1,
        runs_to_limit: bool = False,
    ):
        super().__init__(model, prompts, batch_size=batch_size)
        end = prompts.tokenizer.eos_token_id
        self.ends = () if runs_to_limit or end is None else (end,)
        self.prompt = ListPrompt(prompts, self.template)

    def predicted_cost(self, size: RequestSize) -> dict[str, int]:
        """Return the cost by the formula at the head of this module."""
        read = self.prompt.beginning_length(size) + self.prompt.ending_length(size)
        generated = self._limit(size.n_candidates, round(size.n_candidates * size.title_tokens))
        return {"forward_passes": generated, "tokens_read": round(read), "tokens_generated": generated}

    def _limit(self, n_candidates: int, title_tokens: int) -> int:
        return max(1, title_tokens)

    def _parse(
        self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        text = self.prompts.tokenizer.decode(hypotheses[0].tokens, skip_special_tokens=True)
        named, invalid = parse_titles(text, [self.prompts.title(item) for item in candidates])
        return *in_order(candidates, list_scores(named, len(candidates))), (len(named), invalid)


def list_scores(named: list[int], n_candidates: int) -> np.ndarray:
    """Return K, K − 1, … for the candidates named, by their places, in order; 0 for those that were not."""
    scores = np.zeros(n_candidates)
    scores[named] = n_candidates - np.arange(len(named))
    return scores
