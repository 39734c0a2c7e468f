import pytest

from tests.conftest import dataset_of


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Tensors this small are computed fastest by one thread."""


@pytest.fixture
def cycle():
    """48 users walk round a circle of 40 items from different places: the next item follows from the last."""
    lengths = [6 + user % 9 for user in range(48)]
    walks = [[(7 * user + step) % 40 + 1 for step in range(length)] for user, length in enumerate(lengths)]
    return dataset_of(*walks, n_items=40, name="cycle")
