"""What the retriever's bench times: a training step, serving one more interaction, retrieval from a large catalogue."""

import itertools
import time
from collections.abc import Callable

import numpy as np
import torch

from llamarec_core.data import Dataset
from llamarec_core.retrieval.fit import MAX_GRADIENT_NORM, GradientTask
from llamarec_core.retrieval.index import ItemIndex
from llamarec_core.retrieval.lru import LRURec
from llamarec_core.settings import RetrieverSettings

K = 20
"""Items retrieved."""

PROBES = (4, 8, 16, 32, 64, 128, 256)
"""Groups of an inverted file that are looked into."""


def training_steps(
    dataset: Dataset, settings: RetrieverSettings, published: Callable[[LRURec], torch.nn.Module], *, seed: int
) -> dict[str, Callable[[], object]]:
    """Return a training step in the published form and in ours, from the same weights, on the same batches.

    Args:
        dataset: its training split is learnt.
        settings: of LRURec.
        published: makes the published form of a model, with a method ``loss(sequences, max_length)``.
        seed: of the weights and the batches.
    """
    torch.manual_seed(seed)
    ours = LRURec(dataset.n_items, settings).train()
    theirs = published(ours).train()
    task = GradientTask(ours, dataset, settings, seed=seed)
    task.step(0)  # draws the epoch's batches
    batches = itertools.cycle([task.sequences[number] for number in batch] for batch in task.batches)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    numbers = itertools.cycle(range(task.steps_per_epoch))

    def their_step() -> None:
        optimizer.zero_grad()
        theirs.loss(next(batches), settings.max_length).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()

    return {"published form": their_step, "ours": lambda: task.step(next(numbers))}


def serving_steps(model: LRURec, length: int) -> dict[str, Callable[[], object]]:
    """Return reading a random history of this length again, and one step from the state before its last interaction."""
    history = torch.randint(1, model.n_items + 1, (length,))
    state = model.initial_state(1)
    for item in history[:-1]:
        state = model.step(item[None], state)[1]
    return {
        "read the history again": lambda: model.last_states([history]),
        "one step": lambda: model.step(history[-1:], state)[0],
    }


class SearchBench:
    """Retrieval of the best items, one query at a time, against exact search.

    Args:
        catalogue: its name.
        embeddings: float32 (n_items, dim).
        bias: float32 (n_items,).
        states: the queries, float32 (n, dim).
        histories: of the queries' users, to be excluded; empty for a made-up catalogue.

    Attributes:
        rows: what was timed so far: ``catalogue``, ``items``, ``index``, ``probes``, ``recall@20``,
            ``median_seconds`` (a query), ``build_seconds``.
    """

    def __init__(
        self,
        catalogue: str,
        embeddings: np.ndarray,
        bias: np.ndarray,
        states: torch.Tensor,
        histories: list[np.ndarray] | None = None,
    ):
        self.catalogue, self.states = catalogue, states
        self.embeddings, self.bias = embeddings, bias
        self.histories = histories or [np.empty(0, dtype=np.int64)] * len(states)
        self.exact = ItemIndex(embeddings, bias, exact=True)
        self.rows: list[dict[str, object]] = []
        self._best: list[np.ndarray] = []
        self.add("exact", None, self._search(self.exact), build_seconds=0.0)

    @classmethod
    def made_up(cls, n_items: int, like: "SearchBench", *, seed: int) -> "SearchBench":
        """Draw a catalogue with replacement from another, moved by half a standard deviation of noise."""
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, len(like.embeddings), n_items)
        shape = (n_items, like.embeddings.shape[1])
        noise = 0.5 * like.embeddings.std(axis=0) * rng.standard_normal(shape)
        return cls(f"synthetic, {n_items:,}", like.embeddings[drawn] + noise, like.bias[drawn], like.states)

    def add_inverted_file(self) -> None:
        """Time the inverted file with more and more groups looked into."""
        started = time.perf_counter()
        index = ItemIndex(self.embeddings, self.bias, exact=False)
        build_seconds = time.perf_counter() - started
        for probes in PROBES:
            self.add("inverted file", probes, self._search(index, probes=probes), build_seconds=build_seconds)

    def add(self, index: str, probes: int | None, search: Callable[[int], np.ndarray], *, build_seconds: float) -> None:
        """Time an index that finds the items of a query, given its number."""
        found, seconds = [], []
        for number in range(len(self.states)):
            started = time.perf_counter()
            found.append(np.asarray(search(number)).ravel())
            seconds.append(time.perf_counter() - started)
        self._best = self._best or found
        overlap = [len(np.intersect1d(mine, true)) / K for mine, true in zip(found, self._best, strict=True)]
        row = {"catalogue": self.catalogue, "items": len(self.embeddings), "index": index, "probes": probes}
        times = {"median_seconds": float(np.median(seconds)), "build_seconds": build_seconds}
        self.rows.append(row | {"recall@20": float(np.mean(overlap))} | times)

    def _search(self, index: ItemIndex, **options: int) -> Callable[[int], np.ndarray]:
        return lambda number: index.search(self.states[[number]], [self.histories[number]], k=K, **options)[1]
