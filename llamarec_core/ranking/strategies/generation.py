"""Generation: beam search with a key-value cache, counted and timed (greedy decoding is a beam of one).

Of all continuations y of a prompt's hypotheses the beam keeps the ``width`` best by::

    log P(y) = Σ_s log softmax(logits after the prompt and y_1 … y_{s−1})[y_s]

A prompt is read once, however wide the beam; a hypothesis that has ended stays in the competition, but is not run
any further. Prompts of a batch are padded on the right, and their padding is masked for what follows.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from llamarec_core.files import InputError
from llamarec_core.ranking.strategies.meter import Meter
from llamarec_core.ranking.verbalizer import pad

Constraint = Callable[[tuple[int, ...]], Sequence[int]]
"""Returns which tokens may follow those that were generated; a hypothesis that none may follow has ended."""


@dataclass(frozen=True)
class Hypothesis:
    """What was generated after a prompt."""

    tokens: tuple[int, ...] = ()
    """Without the token that ended it."""
    score: float = 0.0
    """Its log-probability, with that of the token that ended it."""


@torch.inference_mode()
def generate(
    model: LlamaForCausalLM | PeftModel,
    prompts: Sequence[Sequence[int]],
    meter: Meter,
    *,
    limits: Sequence[int],
    width: int = 1,
    ends: Collection[int] = (),
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """Generate after each prompt of a batch.

    Args:
        model: in evaluation mode.
        prompts: token ids.
        meter: counts passes and tokens, and times reading and generating.
        limits: most tokens after each prompt, at least one.
        width: hypotheses that are kept.
        ends: tokens each of which ends a hypothesis.
        constraint: which tokens may follow; by default all.

    Returns:
        Of each prompt at most ``width`` hypotheses, best first.

    Raises:
        InputError: the model's logits are not numbers.
    """
    language_model = model.get_base_model() if isinstance(model, PeftModel) else model
    tokens, lengths = pad(prompts, device=model.device)
    with meter.timed("reading"):
        read = language_model.model(input_ids=tokens, use_cache=True)
        cache = read.past_key_values
        hidden = read.last_hidden_state[
            torch.arange(len(tokens), device=model.device), lengths - 1
        ]  # (rows, dim), one row a prompt
    for request, prompt in enumerate(prompts):
        meter.add(request, forward_passes=1, tokens_read=len(prompt))
    beams = _Beams(limits, width, ends, constraint, meter)
    present = torch.arange(tokens.shape[1], device=model.device) < lengths[:, None]  # (rows, length)
    with meter.timed("generating"):
        while parents := beams.grow(F.linear(hidden, language_model.lm_head.weight).float().log_softmax(-1)):
            if parents != list(range(len(hidden))):  # what this spares is a copy of the cache
                rows = torch.tensor(parents, device=model.device)
                cache.batch_select_indices(rows)
                present, lengths = present[rows], lengths[rows]
            present = F.pad(present, (0, 1), value=True)
            generated = torch.tensor(beams.rows(), device=model.device)  # (rows, tokens so far)
            hidden = language_model.model(
                input_ids=generated[:, -1:],
                past_key_values=cache,
                use_cache=True,
                attention_mask=None if present.all() else present.long(),
                position_ids=lengths[:, None] + generated.shape[1] - 1,
            ).last_hidden_state[:, -1]  # (rows, dim)
    return beams.ended


class _Beams:
    """The hypotheses of all requests of a batch.

    Attributes:
        ended: of each request those that have ended, best first.

    Args: as for :func:`generate`.
    """

    def __init__(
        self,
        limits: Sequence[int],
        width: int,
        ends: Collection[int],
        constraint: Constraint | None,
        meter: Meter,
    ):
        self._limits, self._width, self._ends, self._constraint, self._meter = limits, width, ends, constraint, meter
        self.ended: list[list[Hypothesis]] = [[] for _ in limits]
        self._live = [(request, Hypothesis()) for request in range(len(limits))]  # of each row: whose, and what

    def rows(self) -> list[tuple[int, ...]]:
        """Return what was generated so far in each row, the hypotheses that have not ended."""
        return [hypothesis.tokens for _, hypothesis in self._live]

    def grow(self, log_probabilities: torch.Tensor) -> list[int]:
        """Continue each row by a token and keep each request's best hypotheses, ended or not.

        Args:
            log_probabilities: of the next token, ``(rows, vocabulary)``.

        Returns:
            For each of the rows that there are now, which of the former rows it continues.
        """
        # (hypothesis, whether it has ended, the row it continues or None)
        options = [[(hypothesis, True, None) for hypothesis in of_request] for of_request in self.ended]
        for row, continuations in enumerate(self._best(log_probabilities)):
            request, hypothesis = self._live[row]
            options[request] += [(*self._longer(request, hypothesis, *token), row) for token in continuations]
        live, parents = [], []
        for request, of_request in enumerate(options):
            kept = sorted(of_request, key=lambda option: -option[0].score)[: self._width]
            self.ended[request] = [hypothesis for hypothesis, ended, _ in kept if ended]
            running = [(hypothesis, row) for hypothesis, ended, row in kept if not ended]
            live += [(request, hypothesis) for hypothesis, _ in running]
            parents += [row for _, row in running]
            chosen = sum(row is not None for *_, row in kept)
            self._meter.add(request, tokens_generated=chosen, forward_passes=len(running))
        self._live = live
        return parents

    def _best(self, log_probabilities: torch.Tensor) -> list[list[tuple[int, float]]]:
        """Return the best tokens to follow each row with their log-probabilities, at most ``width``."""
        if log_probabilities.isnan().any():
            raise InputError("The model's logits are not numbers: tune it again with a smaller learning_rate.")
        if self._constraint is None:
            values, tokens = log_probabilities.topk(self._width)  # (rows, width)
            return [list(zip(*row, strict=True)) for row in zip(tokens.tolist(), values.tolist(), strict=True)]
        best = []
        for row, (_, hypothesis) in enumerate(self._live):
            allowed = torch.tensor(self._constraint(hypothesis.tokens), device=log_probabilities.device)
            values, places = log_probabilities[row, allowed].topk(min(self._width, len(allowed)))
            best.append(list(zip(allowed[places].tolist(), values.tolist(), strict=True)))
        return best

    def _longer(self, request: int, hypothesis: Hypothesis, token: int, value: float) -> tuple[Hypothesis, bool]:
        """Return a hypothesis with one token more, and whether it has ended."""
        score = hypothesis.score + value
        if token in self._ends:
            return Hypothesis(hypothesis.tokens, score), True
        tokens = (*hypothesis.tokens, token)
        complete = self._constraint is not None and not self._constraint(tokens)
        return Hypothesis(tokens, score), complete or len(tokens) >= self._limits[request]
