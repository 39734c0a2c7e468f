"""The meter: what answering a batch of requests costs, counted where the work is done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch

COUNTS = ("forward_passes", "tokens_read", "tokens_generated", "valid", "invalid")
"""What is counted for each request: sequences that the backbone was run over (one of a batch of k counts as one, not
as 1/k), tokens of prompts without padding, tokens chosen one by one (of all beams), outputs that name an item, and
outputs that name none, or one that an earlier output or the history had named."""

PARTS = ("tokenizing", "reading", "generating", "parsing")
"""The parts of a request's time: building prompts, the passes over them, the passes after them, finding items."""


class Meter:
    """Counts and times the work on one batch of requests.

    Args:
        n_requests: in the batch.
        device: where the backbone runs; on a GPU a part ends when its work is done, not when it is queued.
    """

    def __init__(self, n_requests: int, device: torch.device):
        self._device = device
        self._counts = {name: [0] * n_requests for name in COUNTS}
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def add(self, request: int, **counts: int) -> None:
        """Add to the counts of a request, which is given by its place in the batch."""
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
