"""P5: item ids as text, generated under the constraint that they exist (Geng et al., 2022, arXiv 2203.13366).

Items are written as their numbers, in the history and in the answer, and a beam search of width w runs over the trie of
all ids of the catalogue. Numbers have leading zeros, so that all are of the same length and none is the beginning of
another. The original also tells the user's id and learns many tasks at once; here it reads the history and learns to
recommend. With n_d distinct beginnings of d tokens among the ids, each of D tokens, and b_d = min(w, n_d)::

    forward passes 1 + Σ_{d < D} b_d,    tokens read c + H · (mark + D),    tokens generated Σ_{d ≤ D} b_d.

No title and no candidate is read, so that T and K do not matter. A tokenizer that does not give each digit a token, as
SmolLM2's and Llama's do, makes ids of unequal length, for which these are upper bounds.
"""

from collections.abc import Sequence

import numpy as np
from peft import PeftModel
from transformers import LlamaForCausalLM

from llamarec_core.llm_baselines.base import Example, GeneratingStrategy, Parsed
from llamarec_core.llm_baselines.generation import Hypothesis
from llamarec_core.ranking.prompt import PromptBuilder, Template


class P5(GeneratingStrategy):
    """Recommends the items whose ids the model generates, at most as many as its beam is wide.

    Attributes:
        widths: number of distinct beginnings of 1, 2, … tokens among the ids.
    """

    name = "p5"
    template = Template(
        opening="[Instruction] Here is the purchase history of a user, as item numbers:",
        history_mark="\n-",
        bridge="",
        candidate_mark="",
        closing="\n\nPredict the number of the item that the user will purchase next:\n-",
    )
    reads_candidates = False
    width = 20

    def __init__(self, model: LlamaForCausalLM | PeftModel, prompts: PromptBuilder, *, batch_size: int = 1):
        super().__init__(model, prompts, batch_size=batch_size)
        digits = len(str(len(prompts.titles) - 1))
        ids = [f"{item:0{digits}}" for item in range(len(prompts.titles))]  # the first is padding
        uncut = prompts.settings.model_copy(update={"title_tokens": 2 * digits})
        self.prompts = PromptBuilder(prompts.tokenizer, ids, uncut, template=self.template)
        self._ids = self.following([f" {number}" for number in ids])
        self._items = {tuple(tokens): item for item, tokens in enumerate(self._ids) if item}
        following: dict[tuple[int, ...], set[int]] = {}  # the trie: after each beginning of an id
        for tokens in self._items:
            for end, token in enumerate(tokens):
                following.setdefault(tokens[:end], set()).add(token)
        self.constraint = lambda generated: sorted(following.get(generated, ()))
        depth = max(map(len, self._items))
        ends = range(1, depth + 1)
        self.widths = [len({tokens[:end] for tokens in self._items if len(tokens) >= end}) for end in ends]

    def example(self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int) -> Example:
        """Return the history, and the id of what was chosen next."""
        return self.prompts.build(history, ()), self._ids[candidates[answer]]

    def _predicted_cost(self, prompt_tokens: int, candidates: Sequence[int]) -> tuple[int, int, int]:
        beams = [min(self.width, beginnings) for beginnings in self.widths]
        return 1 + sum(beams[:-1]), prompt_tokens, sum(beams)

    def _limit(self, candidates: Sequence[int]) -> int:
        return len(self.widths)

    def _parse(self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]) -> Parsed:
        found = {self._items[hypothesis.tokens]: hypothesis.score for hypothesis in hypotheses}
        new = [item for item in found if item not in history]  # what the user has is not recommended again
        # below all that were generated, the retriever's order is kept
        scores = np.array([found.get(item, -np.inf) for item in candidates])
        return scores, np.array(new, dtype=np.int64), (len(new), len(found) - len(new))
