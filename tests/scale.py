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

SETTINGS = {"max_length": 50, "batch_size": 64}  # the retriever's in the profile `small`
USERS = 1_000  # of a validation
COLUMNS = (
    "interactions", "users", "items", "reading, minutes", "reading, GiB", "a training step, s", "an epoch, minutes",
    f"{USERS:,} users validated, s", "training, GiB",
)  # fmt: skip


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


def measure(folder: str) -> tuple[str, ...]:
    """Return the row of the table for a shop's folder."""
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
    counts = (f"{count:,}" for count in (dataset.n_interactions, dataset.n_users, dataset.n_items))
    epoch = f"{step * task.steps_per_epoch / 60:,.1f}"
    return *counts, f"{reading / 60:.2f}", reading_peak, f"{step:.2f}", epoch, f"{validation:.0f}", peak()


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """Return what a function returns, and the seconds of processor time that it took."""
    started = time.process_time()
    return work(), time.process_time() - started


def peak() -> str:
    """Return the peak memory of this process in GiB."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--folder"]:
        print(f"| {' | '.join(measure(sys.argv[2]))} |")
    else:
        print(f"| {' | '.join(COLUMNS)} |\n" + "| --- " * len(COLUMNS) + "|", flush=True)
        for size in sys.argv[1:]:  # each in a process of its own
            with tempfile.TemporaryDirectory() as folder:
                write_shop(Path(folder), int(size))
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                subprocess.run([sys.executable, __file__, "--folder", folder], env=environment, check=True)
