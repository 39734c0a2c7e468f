import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from llamarec_core.data import Dataset

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # the longest file first, or the other processes would wait for it at the end
    items.sort(key=lambda item: item.path.name != "test_end_to_end.py")


@pytest.fixture(scope="session")
def copy_study():
    """A function that copies what a run of the study needs into a folder, without results of its own."""

    def copy(folder):
        for name in ("notebooks", "results/published"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("Snakefile", "CITATION.cff"):
            shutil.copy(ROOT / name, folder)
        (folder / "llamarec_core").symlink_to(ROOT / "llamarec_core")
        return folder

    return copy


@pytest.fixture(scope="session")
def environment():
    """The environment in which `make` runs the study's commands."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": programs, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


@pytest.fixture(scope="module")
def one_thread():
    """Tensors this small are computed fastest by one thread; results of one thread are the same bit for bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dataset_of(*sequences, titles=None, n_items=None, name="small"):
    """Build a data set from its users' sequences, and from the titles or the number of its items."""
    titles = titles or [f"Title {item}" for item in range(1, n_items + 1)]
    return Dataset(
        name=name,
        items=np.concatenate(sequences),
        offsets=np.cumsum([0, *map(len, sequences)]),
        titles=["", *titles],
        user_ids=[f"u{user:03}" for user in range(len(sequences))],
        item_ids=["", *(f"i{item}" for item in range(1, len(titles) + 1))],
    )


@contextmanager
def interrupted(owner, name, *, after):
    """Let a method be interrupted after some calls, as by a person at the keyboard, which ends what stands inside."""
    whole, left = getattr(owner, name), iter(range(after))

    def killed(*given, **named):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(*given, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, killed)
        yield
