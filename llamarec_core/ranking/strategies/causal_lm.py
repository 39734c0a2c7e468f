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
from llamarec_core.ranking.strategies.generation import Hypothesis, generate
from llamarec_core.ranking.strategies.meter import Meter
from llamarec_core.ranking.strategies.parsing import parse_titles
from llamarec_core.ranking.strategies.strategy import Strategy, in_order
from llamarec_core.ranking.strategies.wording import ListPrompt


class CausalLM(Strategy):
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
        self._ends = () if runs_to_limit or end is None else (end,)
        self._prompt = ListPrompt(prompts, self.template)

    def predicted_cost(self, *, history_length: int, n_candidates: int, title_tokens: float) -> dict[str, int]:
        """Return the cost by the formula at the head of this module."""
        read = self._prompt.beginning_length(history_length=history_length, title_tokens=title_tokens)
        read += self._prompt.ending_length(n_candidates=n_candidates, title_tokens=title_tokens)
        generated = self._limit(n_candidates, round(n_candidates * title_tokens))
        return {"forward_passes": generated, "tokens_read": round(read), "tokens_generated": generated}

    def _limit(self, n_candidates: int, title_tokens: int) -> int:
        """Return how many tokens may be generated, given those of all candidates' titles together."""
        return max(1, title_tokens)

    def _answer(
        self, histories: list[list[int]], candidates: list[list[int]], meter: Meter
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        with meter.timed("tokenizing"):
            prompts = [self._prompt.build(*request) for request in zip(histories, candidates, strict=True)]
            tokens = [sum(len(self.prompts.title_tokens[item]) for item in listed) for listed in candidates]
            limits = [self._limit(len(listed), of_titles) for listed, of_titles in zip(candidates, tokens, strict=True)]
        self._refuse_too_long(max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)))
        generated = generate(self.model, prompts, meter, limits=limits, ends=self._ends)
        with meter.timed("parsing"):
            answers = zip(generated, candidates, strict=True)
            return [self._parse(request, *answer, meter) for request, answer in enumerate(answers)]

    def _parse(
        self, request: int, hypotheses: list[Hypothesis], candidates: list[int], meter: Meter
    ) -> tuple[np.ndarray, np.ndarray]:
        text = self.prompts.tokenizer.decode(hypotheses[0].tokens, skip_special_tokens=True)
        named, invalid = parse_titles(text, [self.prompts.title(item) for item in candidates])
        meter.add(request, valid=len(named), invalid=invalid)
        return in_order(candidates, list_scores(named, len(candidates)))


def list_scores(named: list[int], n_candidates: int) -> np.ndarray:
    """Return K, K − 1, … for the candidates named, by their places, in order; 0 for those that were not."""
    scores = np.zeros(n_candidates)
    scores[named] = n_candidates - np.arange(len(named))
    return scores
