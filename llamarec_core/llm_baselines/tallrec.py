"""TALLRec: "Yes" against "No" for each candidate (Bao et al., 2023, arXiv 2305.00447).

One prompt a candidate asks whether the user will want it; its score is logit("Yes") − logit("No") at the last
position. (The original lists liked and disliked items apart.) A request's prompts differ in their end alone: in one
packed row, what they begin with is read only once. For K candidates, H titles of history and T tokens a title, where
s = c + H · (mark + T) tokens are shared and e = T + c' follow::

    packed in one row:  forward passes 1 + K,    tokens read s + K · e
    each by itself:     forward passes K,        tokens read K · (s + e)
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from llamarec_core.files import InputError
from llamarec_core.llm_baselines.base import Answer, Example, Request, Strategy, in_order
from llamarec_core.llm_baselines.generation import Meter
from llamarec_core.ranking.prompt import TEMPLATES
from llamarec_core.ranking.verbalizer import NextTokenLogits, pack, refuse_too_long


class TALLRec(Strategy):
    """Scores a candidate by how much likelier "Yes" is than "No"; prompts of two requests are never read together."""

    name = "tallrec"
    template = replace(
        TEMPLATES["ranking"],
        bridge="\n\nWill the user want this item next? Answer Yes or No.",
        candidate_mark="\n-",
        closing="\n\nAnswer:",
    )
    cached = True  # what a request's prompts begin with is read only once

    @cached_property
    def _yes_and_no(self) -> tuple[int, int]:
        yes, no = self.following([" Yes", " No"])
        if yes[0] == no[0]:
            raise InputError(
                f"The tokenizer of {self.prompts.settings.backbone!r} begins Yes and No alike: choose another backbone."
            )
        return yes[0], no[0]

    def example(self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int) -> Example:
        """Return a prompt about the target and "Yes", or about a negative and "No"; in turn."""
        positive = number % 2 == 0
        index = answer if positive else (answer + 1) % len(candidates)
        return self.prompts.build(history, [candidates[index]]), [self._yes_and_no[0 if positive else 1]]

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return the prompt about the first candidate."""
        return self.prompts.text(history, candidates[:1])

    def _predicted_cost(self, prompt_tokens: int, candidates: Sequence[int]) -> tuple[int, int, int]:
        short, whole = self.prompts.encode(["a", f"a{self.template.closing}"])
        ends = [title + len(whole) - len(short) for title in self._title_tokens(candidates)]
        shared, n_candidates = prompt_tokens - ends[0], len(candidates)
        if self.cached:
            return 1 + n_candidates, shared + sum(ends), 0
        return n_candidates, n_candidates * shared + sum(ends), 0

    def _answer(self, requests: Sequence[Request], meter: Meter) -> list[Answer]:
        network, answers = NextTokenLogits(self.model), torch.tensor(self._yes_and_no, device=self.model.device)
        found = []
        for index, (history, listed) in enumerate(requests):
            with meter.timed("tokenizing"):
                texts = [self.prompts.text(history, [item]) for item in listed]
                shared, rest = self.prompts.encode_shared(texts) if self.cached else ([], self.prompts.encode(texts))
            refuse_too_long(self.prompts, self.model, len(shared) + max(map(len, rest)))
            beginnings, endings = ([shared], [rest]) if shared else ([[]] * len(rest), [[prompt] for prompt in rest])
            packed = pack(beginnings, endings, device=self.model.device)
            with meter.timed("reading"):
                logits = network(**packed, token_ids=answers).view(-1, 2)  # (K, 2)
                scores = (logits[:, 0] - logits[:, 1]).cpu().numpy().astype(np.float64)
            read = len(shared) + sum(map(len, rest))
            meter.add(index, forward_passes=len(rest) + bool(shared), tokens_read=read, valid=len(listed))
            found.append(in_order(listed, scores))
        return found


class TALLRecWithoutCache(TALLRec):
    """The same scores, up to rounding, from K prompts that are each read whole."""

    name = "tallrec_apart"  # as committed answers are named
    cached = False
