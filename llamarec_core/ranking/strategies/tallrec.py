"""TALLRec: "Yes" against "No" for each candidate (Bao et al., 2023, arXiv 2305.00447).

One prompt a candidate asks whether the user will want it; its score is logit("Yes") − logit("No") at the last
position. Prompts of one request differ in their end alone, so that opening and history can be read once and their
keys and values shared. The original's prompt lists liked and disliked items apart; here all of the history was chosen.
Tuned, every other example asks for the target, and the rest for a negative. For K candidates, H titles of history and T
tokens a title, where s = c + H · (mark + T) tokens can be shared and e = c' + mark + T follow::

    shared:      forward passes 1 + K,    tokens read s + K · e
    not shared:  forward passes K,        tokens read K · (s + e)

and nothing is generated.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from llamarec_core.files import InputError
from llamarec_core.ranking.prompt import PromptBuilder, Template
from llamarec_core.ranking.strategies.meter import Meter
from llamarec_core.ranking.strategies.strategy import Strategy, in_order
from llamarec_core.ranking.strategies.wording import ListPrompt, RequestSize
from llamarec_core.ranking.verbalizer import NextTokenLogits, pad

_TEMPLATE = Template(
    opening="[Instruction] Here is the purchase history of a user:",
    history_mark="\n-",
    bridge="\n\nWill the user want this item next? Answer Yes or No.",
    candidate_mark="\n-",
    closing="\n\nAnswer:",
)


class TALLRec(Strategy):
    """Scores a candidate by how much likelier "Yes" is than "No" after a prompt of its own.

    Args:
        model, prompts, batch_size: as of :class:`~llamarec_core.ranking.strategies.Strategy`; the K prompts of a
            request are read together, those of two requests never are.
    """

    name = "tallrec"
    shared = True
    """Whether what a request's prompts begin with is read only once."""

    def __init__(self, model: LlamaForCausalLM | PeftModel, prompts: PromptBuilder, *, batch_size: int = 1):
        super().__init__(model, prompts, batch_size=batch_size)
        self._prompt = ListPrompt(prompts, _TEMPLATE)
        yes, no = prompts.tokenize([" Yes", " No"])
        if yes[0] == no[0]:
            raise InputError(
                f"The tokenizer of {prompts.settings.backbone!r} begins Yes and No alike: choose another backbone."
            )
        self._answers = (yes[0], no[0])

    def example(
        self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int
    ) -> tuple[list[int], list[int]]:
        """Return a prompt about the target and "Yes", or about a negative and "No"; in turn."""
        positive = number % 2 == 0
        place = answer if positive else (answer + 1) % len(candidates)
        return self._prompt.build(history, [candidates[place]]), [self._answers[0 if positive else 1]]

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return the prompt about the first candidate."""
        return self.prompts.tokenizer.decode(self._prompt.build(history, candidates[:1]))

    def predicted_cost(self, size: RequestSize) -> dict[str, int]:
        """Return the cost by the formula at the head of this module."""
        beginning = self._prompt.beginning_length(size)
        ending = self._prompt.ending_length(replace(size, n_candidates=1))
        times, passes = (1, 1 + size.n_candidates) if self.shared else (size.n_candidates, size.n_candidates)
        read = times * beginning + size.n_candidates * ending
        return {"forward_passes": passes, "tokens_read": round(read), "tokens_generated": 0}

    def _answer(
        self, histories: list[list[int]], candidates: list[list[int]], meter: Meter
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        network = NextTokenLogits(self.model)
        answers = torch.tensor(self._answers, device=self.model.device)
        found = []
        for request, (history, listed) in enumerate(zip(histories, candidates, strict=True)):
            with meter.timed("tokenizing"):
                beginning = self._prompt.beginning(history)
                endings = [self._prompt.ending([item]) for item in listed]
                first = [beginning] if self.shared else []
                rest = endings if self.shared else [beginning + ending for ending in endings]
            self._refuse_too_long(len(beginning) + max(map(len, endings)))
            tokens, lengths = pad(rest, device=self.model.device)
            shared = pad(first, device=self.model.device) if first else (None, None)
            with meter.timed("reading"):
                logits = network(tokens, lengths, answers, beginnings=shared[0], beginning_lengths=shared[1])  # (K, 2)
                scores = (logits[:, 0] - logits[:, 1]).cpu().numpy().astype(np.float64)
            read = sum(map(len, [*first, *rest]))
            meter.add(request, forward_passes=len(first) + len(rest), tokens_read=read, valid=len(listed))
            found.append(in_order(listed, scores))
        return found


class TALLRecApart(TALLRec):
    """The same scores, up to rounding, from K prompts that are each read whole."""

    name = "tallrec_apart"
    shared = False
