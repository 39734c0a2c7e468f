"""LlamaRec: one forward pass, the logits of the candidates' labels (Yue et al., 2023, arXiv 2311.02089, section 3.2.3).

The ranker of :mod:`llamarec_core.ranking.verbalizer`, as a strategy beside the others. For K candidates, H titles of
history and T tokens a title::

    forward passes 1,    tokens read c + (H + K) · (mark + T),    tokens generated 0.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from llamarec_core.ranking.strategies.meter import Meter
from llamarec_core.ranking.strategies.strategy import Strategy, in_order
from llamarec_core.ranking.strategies.wording import RequestSize
from llamarec_core.ranking.verbalizer import NextTokenLogits, pad


class Verbalizer(Strategy):
    """Scores a candidate by the logit of its label."""

    name = "verbalizer"

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return a request's prompt."""
        return self.prompts.text(history, candidates)

    def predicted_cost(self, size: RequestSize) -> dict[str, int]:
        """Return the cost by the formula at the head of this module."""
        read = self.prompts.length(**asdict(size))
        return {"forward_passes": 1, "tokens_read": round(read), "tokens_generated": 0}

    def _answer(
        self, histories: list[list[int]], candidates: list[list[int]], meter: Meter
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        with meter.timed("tokenizing"):
            prompts = [self.prompts.build(*request) for request in zip(histories, candidates, strict=True)]
        self._refuse_too_long(max(map(len, prompts)))
        tokens, lengths = pad(prompts, device=self.model.device)
        labels = torch.tensor(self.prompts.label_ids[: len(candidates[0])], device=self.model.device)
        with meter.timed("reading"):
            logits = NextTokenLogits(self.model)(tokens, lengths, labels).cpu().numpy()  # (batch, K)
        for request, prompt in enumerate(prompts):
            meter.add(request, forward_passes=1, tokens_read=len(prompt), valid=len(candidates[request]))
        return [in_order(*request) for request in zip(candidates, logits, strict=True)]
