"""What data of one's own cost by the number of interactions: reading, a training step and a validation of LRURec.

    PYTHONPATH=. python tests/scale.py 100000 1000000 10000000

prints the table of the page *Your own data, for real*, for made-up shops of 25 interactions a user and 100 an item.
Times are processor time on one core, which a busy machine changes little; memory is the peak of one process.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

SETTINGS = {"max_length": 50, "batch_size": 64}
"""The retriever's in the profile ``small``."""

USERS = 1_000
"""Users of a validation."""


def write_shop(folder: Path, interactions: int) -> None:
    """Write the two files of a made-up shop, in which some items are bought up to ten times as often as others."""
    generator = np.random.default_rng(0)
    n_items = interactions // 100
    bought = {
        "user_id": generator.integers(interactions // 25, size=interactions),
        "item_id": (n_items * generator.random(interactions) ** 1.5).astype(int),
        "timestamp": 1_700_000_000 + np.arange(interactions),
    }
    pd.DataFrame(bought).to_csv(folder / "interactions.csv", index=False)
    titles = [f"Thing number {item} of the shop" for item in range(n_items)]
    pd.DataFrame({"item_id": range(n_items), "title": titles}).to_csv(folder / "items.csv", index=False)


def measure(folder: str) -> None:
    """Print a row of the table for a shop's folder."""
    import torch

    from llamarec_core.data import load_dataset
    from llamarec_core.retrieval.candidates import sampled_users, target_ranks
    from llamarec_core.retrieval.fit import GradientTask
    from llamarec_core.retrieval.lru import LRURec
    from llamarec_core.settings import RetrieverSettings

    torch.manual_seed(0)
    dataset, reading = timed(lambda: load_dataset("shop", folder=folder))
    reading_peak, settings = peak(), RetrieverSettings(**SETTINGS)
    model = LRURec(dataset.n_items, settings)
    task = GradientTask(model, dataset, settings, seed=0)
    step = statistics.median(timed(lambda number=number: task.step(number))[1] for number in range(4))
    users = sampled_users(dataset.n_users, USERS, "validation")
    validation = timed(lambda: target_ranks(model, dataset, "validation", users=users))[1]
    row = (
        f"{dataset.n_interactions:,}", f"{dataset.n_users:,}", f"{dataset.n_items:,}", f"{reading / 60:.2f}",
        f"{reading_peak:.1f}", f"{step:.2f}", f"{step * task.steps_per_epoch / 60:,.1f}", f"{validation:.0f}",
        f"{peak():.1f}",
    )  # fmt: skip
    print(f"| {' | '.join(row)} |", flush=True)


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """Return what a function returns, and the seconds of processor time that it took."""
    started = time.process_time()
    return work(), time.process_time() - started


def peak() -> float:
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(sizes: list[str]) -> None:
    """Measure each size in a process of its own."""
    print(
        "| interactions | users | items | reading, minutes | reading, GiB | a training step, s | an epoch, minutes "
        f"| {USERS:,} users validated, s | training, GiB |\n" + "| --- " * 9 + "|",
        flush=True,
    )
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_shop(Path(folder), int(size))
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, __file__, "--folder", folder], env=environment, check=True)


if __name__ == "__main__":
    measure(sys.argv[2]) if sys.argv[1:2] == ["--folder"] else main(sys.argv[1:])
