"""P5: item ids as text, generated under the constraint that they exist (Geng et al., 2022, arXiv 2203.13366).

Items are written as their numbers, in the history and in the answer, and a beam search of width w runs over the trie of
all ids of the catalogue. Numbers have leading zeros, so that all are of the same length and none is the beginning of
another. The original also tells the user's id and learns many tasks at once; here it reads the history and learns to
recommend. With n_d distinct beginnings of d tokens among the ids, each of D tokens, and b_d = min(w, n_d)::

    forward passes 1 + Σ_{d < D} b_d,    tokens read c + H · (mark + D),    tokens generated Σ_{d ≤ D} b_d.

No title and no candidate is read, so that T and K do not matter.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from peft import PeftModel
from transformers import LlamaForCausalLM

from llamarec_core.ranking.prompt import PromptBuilder, Template
from llamarec_core.ranking.strategies.generation import Hypothesis, generate
from llamarec_core.ranking.strategies.meter import Meter
from llamarec_core.ranking.strategies.strategy import Strategy
from llamarec_core.ranking.strategies.wording import ListPrompt

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


class P5(Strategy):
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
        self._width = width
        n_items = len(prompts.title_tokens) - 1
        digits = len(str(n_items))
        self._ids = prompts.tokenize([f" {item:0{digits}}" for item in range(n_items + 1)])  # 0 is padding
        self._items = {tuple(tokens): item for item, tokens in enumerate(self._ids) if item}
        self._trie = Trie(self._ids[1:])
        self._prompt = ListPrompt(prompts, _TEMPLATE, self._ids)

    def example(
        self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int
    ) -> tuple[list[int], list[int]]:
        """Return the history, and the id of what was chosen next."""
        return self._prompt.build(history), self._ids[candidates[answer]]

    def predicted_cost(self, *, history_length: int, n_candidates: int, title_tokens: float) -> dict[str, int]:
        """Return the cost by the formula at the head of this module."""
        depth = len(self._trie.widths)
        read = self._prompt.beginning_length(history_length=history_length, title_tokens=depth)
        read += self._prompt.ending_length(n_candidates=0, title_tokens=0)
        beams = [min(self._width, beginnings) for beginnings in self._trie.widths]
        return {
            "forward_passes": 1 + sum(beams[:-1]),
            "tokens_read": round(read),
            "tokens_generated": sum(beams),
        }

    def _answer(
        self, histories: list[list[int]], candidates: list[list[int]], meter: Meter
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        with meter.timed("tokenizing"):
            prompts = [self._prompt.build(history) for history in histories]
        depth = len(self._trie.widths)
        self._refuse_too_long(max(map(len, prompts)) + depth)
        limits, constraint = [depth] * len(prompts), self._trie.following
        generated = generate(self.model, prompts, meter, limits=limits, width=self._width, constraint=constraint)
        with meter.timed("parsing"):
            requests = zip(generated, histories, candidates, strict=True)
            return [self._parse(request, *answer, meter) for request, answer in enumerate(requests)]

    def _parse(
        self, request: int, hypotheses: list[Hypothesis], history: list[int], candidates: list[int], meter: Meter
    ) -> tuple[np.ndarray, np.ndarray]:
        found = {self._items[hypothesis.tokens]: hypothesis.score for hypothesis in hypotheses}
        new = [item for item in found if item not in history]  # what the user has is not recommended again
        meter.add(request, valid=len(new), invalid=len(found) - len(new))
        # below all that were generated, the retriever's order is kept
        scores = np.array([found.get(item, -np.inf) for item in candidates])
        return scores, np.array(new, dtype=np.int64)
