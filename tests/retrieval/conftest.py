"""A data set small enough to work out by hand, and one with a pattern to learn."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from llamarec_core.data import Dataset


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are computed fastest by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dataset_of(*sequences: list[int], n_items: int, name: str = "small") -> Dataset:
    return Dataset(
        name=name,
        items=np.concatenate([np.asarray(sequence, dtype=np.int32) for sequence in sequences]),
        offsets=np.cumsum([0, *map(len, sequences)]),
        titles=["", *(f"Title {item}" for item in range(1, n_items + 1))],
        user_ids=[f"u{user}" for user in range(len(sequences))],
        item_ids=["", *(f"i{item}" for item in range(1, n_items + 1))],
    )


@pytest.fixture
def make_dataset():
    """Build a data set from its users' sequences."""
    return dataset_of


@pytest.fixture
def cycle() -> Dataset:
    """48 users walk round a circle of 40 items from different places: the next item follows from the last."""
    lengths = [6 + user % 9 for user in range(48)]
    walks = [[(7 * user + step) % 40 + 1 for step in range(length)] for user, length in enumerate(lengths)]
    return dataset_of(*walks, n_items=40, name="cycle")
