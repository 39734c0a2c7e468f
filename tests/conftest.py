import os
import shutil
import sys
from pathlib import Path

import pytest

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
