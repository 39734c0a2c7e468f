"""What the retriever's bench times: a training step, serving one more interaction, retrieval from a large catalogue."""

import itertools
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from llamarec_core.data import Dataset
from llamarec_core.retrieval.fit import MAX_GRADIENT_NORM, GradientTask
from llamarec_core.retrieval.index import ItemIndex
from llamarec_core.retrieval.lru import LRURec
from llamarec_core.seeds import rng
from llamarec_core.settings import RetrieverSettings

K = 20  # items retrieved
PROBES = (4, 8, 16, 32, 64, 128, 256)
"""Groups of an inverted file that are looked into."""


def training_steps(
    dataset: Dataset, settings: RetrieverSettings, published: Callable[[LRURec], torch.nn.Module], *, seed: int
) -> dict[str, Callable[[], object]]:
    """Return a training step in the published form, which ``published`` makes of a model, and in ours, to time."""
    torch.manual_seed(seed)
    ours = LRURec(dataset.n_items, settings).train()
    theirs = published(ours).train()
    task = GradientTask(ours, dataset, settings, seed=seed)
    batches = itertools.cycle([task.sequences[number] for number in batch] for batch in task.draw_batches(0))
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
    history = torch.randint(1, model.n_items + 1, (length,)).to(model.item_bias.device)
    state = model.initial_state(1)
    for item in history[:-1]:
        state = model.step(item[None], state)[1]
    return {
        "read the history again": lambda: model.last_states([history]),
        "one step": lambda: model.step(history[-1:], state)[0],
    }


def time_search(
    search: Callable[[int], np.ndarray], n_queries: int, best: list[np.ndarray] | None = None
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Search for one query after the other, by number: the items found, and the time and the recall of the ``best``."""
    found, seconds = [], []
    for number in range(n_queries):
        started = time.perf_counter()
        found.append(np.asarray(search(number)).ravel())
        seconds.append(time.perf_counter() - started)
    overlap = [len(np.intersect1d(mine, true)) / K for mine, true in zip(found, best or found, strict=True)]
    return found, {"recall@20": float(np.mean(overlap)), "median_seconds": float(np.median(seconds))}


def search_times(
    catalogue: str, items: np.ndarray, bias: np.ndarray, states: torch.Tensor, histories: list[np.ndarray]
) -> tuple[list[dict[str, object]], list[np.ndarray]]:
    """Time exact search, then the inverted file with more and more probes: rows, and the best items of each query."""

    def search(number: int, index: ItemIndex, **options: int) -> np.ndarray:
        return index.search(states[[number]], [histories[number]], k=K, **options)[1]

    shared = {"catalogue": catalogue, "items": len(items)}
    best, times = time_search(partial(search, index=ItemIndex(items, bias, exact=True)), len(states))
    rows = [shared | {"index": "exact", "probes": None} | times | {"build_seconds": 0.0}]
    started = time.perf_counter()
    inverted = ItemIndex(items, bias, exact=False)
    built = {"build_seconds": time.perf_counter() - started}
    for probes in PROBES:
        _, times = time_search(partial(search, index=inverted, probes=probes), len(states), best)
        rows.append(shared | {"index": "inverted file", "probes": probes} | times | built)
    return rows, best


def made_up_catalogue(items: np.ndarray, bias: np.ndarray, n_items: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a catalogue with replacement from another, moved by half a standard deviation of noise."""
    generator = rng(seed, "catalogue", n_items)
    drawn = generator.integers(0, len(items), n_items)
    noise = 0.5 * items.std(axis=0) * generator.standard_normal((n_items, items.shape[1]))
    return (items[drawn] + noise).astype(np.float32), bias[drawn]
