"""P5: item ids as text, generated under the constraint that they exist (Geng et al., 2022, arXiv 2203.13366).

Items are written as their numbers, in the history and in the answer, and a beam search of width w runs over the trie of
all ids of the catalogue. Numbers have leading zeros, so that all are of the same length and none is the beginning of
another. The original also tells the user's id and learns many tasks at once; here it reads the history and learns to
recommend. With n_d distinct beginnings of d tokens among the ids, each of D tokens, and b_d = min(w, n_d)::

    forward passes 1 + Σ_{d < D} b_d,    tokens read c + H · (mark + D),    tokens generated Σ_{d ≤ D} b_d.

No title and no candidate is read, so that T and K do not matter. A tokenizer that does not give each digit a token, as
SmolLM2's and Llama's do, makes ids of unequal length, for which these are upper bounds.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from peft import PeftModel
from transformers import LlamaForCausalLM

from llamarec_core.ranking.prompt import PromptBuilder, Template
from llamarec_core.ranking.strategies.generation import Hypothesis
from llamarec_core.ranking.strategies.strategy import GeneratingStrategy
from llamarec_core.ranking.strategies.wording import ListPrompt, RequestSize

WIDTH = 20
"""Items that are recommended, the beam's width."""

_TEMPLATE = Template(
    opening="[Instruction] Here is the purchase history of a user, as item numbers:",
    history_mark="\n-",
    bridge="",
    candidate_mark="",
    closing="\n\nPredict the number of the item that the user will purchase next:\n-",
)


class Trie:
    """All beginnings of some token sequences, and what follows them.

    Attributes:
        widths: number of distinct beginnings of 1, 2, … tokens.

    Args:
        sequences: none of which is the beginning of another.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]):
        following: dict[tuple[int, ...], set[int]] = {}
        for sequence in sequences:
            for end, token in enumerate(sequence):
                following.setdefault(tuple(sequence[:end]), set()).add(token)
        self._following = {beginning: sorted(tokens) for beginning, tokens in following.items()}
        counted = Counter()
        for beginning, tokens in following.items():
            counted[len(beginning)] += len(tokens)
        self.widths = [counted[depth] for depth in range(len(counted))]

    def following(self, beginning: tuple[int, ...]) -> list[int]:
        """Return the tokens that may follow a beginning; none after a whole sequence."""
        return self._following.get(beginning, [])


class P5(GeneratingStrategy):
    """Recommends the items whose ids the model generates.

    Args:
        model, prompts, batch_size: as of :class:`~llamarec_core.ranking.strategies.Strategy`.
        width: of the beam, w.
    """

    name = "p5"
    reads_candidates = False

    def __init__(
        self, model: LlamaForCausalLM | PeftModel, prompts: PromptBuilder, *, batch_size: int = 1, width: int = WIDTH
    ):
        super().__init__(model, prompts, batch_size=batch_size)
        self.width = width
        n_items = len(prompts.title_tokens) - 1
        digits = len(str(n_items))
        self._ids = prompts.tokenize([f" {item:0{digits}}" for item in range(n_items + 1)])  # 0 is padding
        self._items = {tuple(tokens): item for item, tokens in enumerate(self._ids) if item}
        self._trie = Trie(self._ids[1:])
        self.constraint = self._trie.following
        self.prompt = ListPrompt(prompts, _TEMPLATE, self._ids)

    def example(
        self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int
    ) -> tuple[list[int], list[int]]:
        """Return the history, and the id of what was chosen next."""
        return self.prompt.build(history), self._ids[candidates[answer]]

    def predicted_cost(self, size: RequestSize) -> dict[str, int]:
        """Return the cost by the formula at the head of this module."""
        as_read = replace(size, n_candidates=0, history_title_tokens=len(self._trie.widths))
        read = self.prompt.beginning_length(as_read) + self.prompt.ending_length(as_read)
        beams = [min(self.width, beginnings) for beginnings in self._trie.widths]
        return {"forward_passes": 1 + sum(beams[:-1]), "tokens_read": round(read), "tokens_generated": sum(beams)}

    def _limit(self, n_candidates: int, title_tokens: int) -> int:
        return len(self._trie.widths)

    def _parse(
        self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        found = {self._items[hypothesis.tokens]: hypothesis.score for hypothesis in hypotheses}
        new = [item for item in found if item not in history]  # what the user has is not recommended again
        # below all that were generated, the retriever's order is kept
        scores = np.array([found.get(item, -np.inf) for item in candidates])
        return scores, np.array(new, dtype=np.int64), (len(new), len(found) - len(new))
