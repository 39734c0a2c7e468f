"""Generation: beam search with a key-value cache, counted and timed (greedy decoding is a beam of one).

A prompt is read once, however wide the beam; a hypothesis that has ended stays in the competition, but is not run any
further. (transformers' own search reads a prompt once for each beam, and gives all prompts of a batch the same limit.)
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from llamarec_core.files import InputError
from llamarec_core.ranking.verbalizer import llama_of, pad

COUNTS = ("forward_passes", "tokens_read", "tokens_generated", "valid", "invalid")
"""What is counted for each request: sequences that the backbone ran over (of prompts packed in one row, what they share
and each ending), tokens of prompts without padding, tokens generated (by all beams), outputs that name an item, and
outputs that name none, or one named before.
"""

PARTS = ("tokenizing", "reading", "generating", "parsing")
"""The parts of a request's time; ``parsing`` is finding items in what was generated."""

Constraint = Callable[[tuple[int, ...]], Sequence[int]]
"""Returns which tokens may follow those that were generated; a hypothesis that none may follow has ended."""


class Meter:
    """Counts and times the work on one batch of requests; on a GPU a part ends when its work is done."""

    def __init__(self, n_requests: int, device: torch.device):
        self._device = device
        self._counts = {name: [0] * n_requests for name in COUNTS}
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def add(self, request: int, **counts: int) -> None:
        """Add to the counts of the request at this index of the batch."""
        for name, count in counts.items():
            self._counts[name][request] += count

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to one of :data:`PARTS`."""
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds[part] += time.perf_counter() - started

    def frame(self) -> pd.DataFrame:
        """Return one row a request: :data:`COUNTS`, and ``<part>_seconds``, an equal share of the batch's time."""
        frame = pd.DataFrame(self._counts)
        return frame.assign(**{f"{part}_seconds": self._seconds[part] / len(frame) for part in PARTS})


@dataclass(frozen=True)
class Hypothesis:
    """What was generated after the prompt of a request."""

    tokens: tuple[int, ...] = ()  # without the token that ended it
    score: float = 0.0  # its log-probability, with that of the token that ended it
    ended: bool = False

    def followed(
        self, token: int, value: float, limit: int, ends: Collection[int], constraint: Constraint | None
    ) -> "Hypothesis":
        """Return it with one token more, of log-probability ``value``."""
        if token in ends:
            return Hypothesis(self.tokens, self.score + value, ended=True)
        tokens = (*self.tokens, token)
        complete = constraint is not None and not constraint(tokens)
        return Hypothesis(tokens, self.score + value, ended=complete or len(tokens) >= limit)


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    meter: Meter,
    *,
    limits: Sequence[int],
    width: int = 1,
    ends: Collection[int] = (),
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """Generate after each prompt of a batch: at most ``width`` hypotheses, best first.

    ``limits`` are the most tokens after each prompt, at least one; each of ``ends`` ends a hypothesis.
    """
    llama = llama_of(model)
    tokens, lengths = pad(prompts, device=model.device)
    with meter.timed("reading"):
        read = llama.model(input_ids=tokens, use_cache=True)
        cache = read.past_key_values
        hidden = read.last_hidden_state[torch.arange(len(tokens), device=model.device), lengths - 1]  # (rows, dim)
    for request, prompt in enumerate(prompts):
        meter.add(request, forward_passes=1, tokens_read=len(prompt))
    present = torch.arange(tokens.shape[1], device=model.device) < lengths[:, None]  # (rows, length)
    beams = [[Hypothesis()] for _ in prompts]
    with meter.timed("generating"):
        while True:
            live = [hypothesis.tokens for beam in beams for hypothesis in beam if not hypothesis.ended]  # by row
            log_probabilities = F.linear(hidden, llama.lm_head.weight).float().log_softmax(-1)
            best = iter(enumerate(_best(log_probabilities, live, width, constraint)))
            parents = []
            for request, beam in enumerate(beams):
                options = [(hypothesis, None) for hypothesis in beam if hypothesis.ended]  # with the row it continues
                for hypothesis in (hypothesis for hypothesis in beam if not hypothesis.ended):
                    row, tokens = next(best)
                    longer = (hypothesis.followed(*token, limits[request], ends, constraint) for token in tokens)
                    options += [(option, row) for option in longer]
                kept = sorted(options, key=lambda option: -option[0].score)[:width]
                beams[request] = [hypothesis for hypothesis, _ in kept]
                running = [row for hypothesis, row in kept if not hypothesis.ended]
                parents += running
                chosen = sum(row is not None for _, row in kept)
                meter.add(request, tokens_generated=chosen, forward_passes=len(running))
            if not parents:
                return beams
            if parents != list(range(len(live))):  # what this spares is a copy of the cache
                order = torch.tensor(parents, device=model.device)
                cache.batch_select_indices(order)
                present, lengths = present[order], lengths[order]
            present = F.pad(present, (0, 1), value=True)
            latest = [hypothesis.tokens[-1:] for beam in beams for hypothesis in beam if not hypothesis.ended]
            hidden = llama.model(
                input_ids=torch.tensor(latest, device=model.device),
                past_key_values=cache,
                use_cache=True,
                attention_mask=None if present.all() else present.long(),
                position_ids=lengths[:, None] + len(live[0]),
            ).last_hidden_state[:, -1]  # (rows, dim)


def _best(
    log_probabilities: torch.Tensor, generated: list[tuple[int, ...]], width: int, constraint: Constraint | None
) -> list[list[tuple[int, float]]]:
    """Return the best tokens to follow each row, at most ``width``, with their log-probabilities."""
    if log_probabilities.isnan().any():
        raise InputError("The model's logits are not numbers: tune it again with a smaller learning_rate.")
    if constraint is None:
        values, tokens = log_probabilities.topk(width)  # (rows, width)
        return [list(zip(*row, strict=True)) for row in zip(tokens.tolist(), values.tolist(), strict=True)]
    best = []
    for of_row, so_far in zip(log_probabilities, generated, strict=True):
        allowed = torch.tensor(constraint(so_far), device=of_row.device)
        values, indices = of_row[allowed].topk(min(width, len(allowed)))
        best.append(list(zip(allowed[indices].tolist(), values.tolist(), strict=True)))
    return best
