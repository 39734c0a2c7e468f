"""The grid: which weight decay and dropout suit a retriever on a data set, and training the choice with more seeds.

The paper tries weight decay {0, 0.01} and dropout {0.1 … 0.5} and does not say what won. Here every point of the grid
is a run of its own, so that runs can go side by side, be killed and go on; the choice is made on validation
Recall@10 alone, and no test item is looked at. A run's folder holds the best weights, the validation curve and
``run.json``, which says what was trained, how long it took and on which machine.
"""

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from llamarec_core.data import Dataset, load_dataset
from llamarec_core.files import InputError, read_json, write_json
from llamarec_core.provenance import commit_name, git_state, hardware
from llamarec_core.retrieval import SequentialRecommender, fit_retriever, load_retriever
from llamarec_core.settings import GridSettings, Method, Profile, RetrieverSettings


@dataclass(frozen=True)
class Grid:
    """The grid of one retriever on one data set.

    Raises:
        InputError: the profile has no grid for this retriever and data set.
    """

    profile: Profile
    dataset: str
    method: Method
    root: Path
    """The study's folder."""

    def __post_init__(self) -> None:
        if self.dataset not in self.profile.grid.get(self.method, {}):
            raise InputError(
                f"Profile {self.profile.name!r} has no grid of {self.method} on {self.dataset!r}: add it under `grid`."
            )

    @property
    def settings(self) -> GridSettings:
        """The points to try and the number of seeds."""
        return self.profile.grid[self.method][self.dataset]

    @property
    def folder(self) -> Path:
        """Where this grid's runs lie."""
        return self.root / "runs" / self.profile.name / self.dataset / "grid" / self.method

    def retriever(self, **changes: Any) -> RetrieverSettings:
        """Return the profile's retriever settings for this method and data set, with some changed."""
        base = self.profile.for_dataset(self.dataset).retriever
        return base.model_copy(update={"method": self.method} | changes)

    def load_dataset(self, *, order: str | None = None) -> Dataset:
        """Load the data set that ``1_data`` wrote, or the same events in another order, from its source."""
        if order is not None:
            return load_dataset(self.dataset, order=order)
        return Dataset.load(self.root / "runs" / self.profile.name / self.dataset / "dataset")

    def run_folder(self, settings: RetrieverSettings, *, seed: int, order: str | None = None) -> Path:
        """Folder of one run, named by what sets it apart."""
        name = f"decay{settings.weight_decay:g}-dropout{settings.dropout:g}-seed{seed}"
        if settings.validation_candidates == "as_published":
            name += "-validated-as-published"
        return self.folder / (f"{name}-{order}" if order else name)

    def train(self, settings: RetrieverSettings, *, seed: int, order: str | None = None) -> Path:
        """Train one run, or go on with it, and record it; a finished run is left alone.

        Returns:
            The run's folder.

        Raises:
            InputError: the data set or its order is missing, or training diverged.
        """
        folder = self.run_folder(settings, seed=seed, order=order)
        if (folder / "run.json").is_file():
            return folder
        dataset = self.load_dataset(order=order)
        fit_retriever(dataset, settings, seed=seed, folder=folder)
        curve = pd.read_csv(folder / "training.csv")
        best = curve.loc[curve["recall@10"].idxmax()]
        commit, dirty = git_state(self.root)
        record = {
            "dataset": self.dataset,
            "method": self.method,
            "weight_decay": settings.weight_decay,
            "dropout": settings.dropout,
            "seed": seed,
            "order": order,
            "validation_candidates": settings.validation_candidates,
            "recall@10": best["recall@10"],
            "ndcg@10": best["ndcg@10"],
            "best_epoch": best["epoch"],
            "epochs": curve["epoch"].iloc[-1],
            "seconds": curve["seconds"].iloc[-1],
            "threads": torch.get_num_threads(),
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "parameters": sum(tensor.numel() for tensor in load_retriever(dataset, settings, folder).parameters()),
            "commit": commit_name(commit, dirty=dirty),
            "data_sha256": dataset.content_hash,
            "hardware": hardware(),
        }
        write_json(folder / "run.json", record)
        return folder

    def point_folders(self) -> list[Path]:
        """Folders of the grid's points, trained with the profile's seed."""
        return [self.run_folder(self.retriever(**point), seed=self.profile.seed) for point in self.settings.points()]

    def chosen(self) -> RetrieverSettings:
        """Return the settings with the best validation Recall@10; the earliest of equals.

        Raises:
            InputError: some point of the grid has not been trained.
        """
        recalls = [read_record(folder)["recall@10"] for folder in self.point_folders()]
        return self.retriever(**self.settings.points()[recalls.index(max(recalls))])

    def load(self, settings: RetrieverSettings, *, seed: int, order: str | None = None) -> SequentialRecommender:
        """Load the best weights of a run, in evaluation mode."""
        dataset = self.load_dataset(order=order)
        return load_retriever(dataset, settings, self.run_folder(settings, seed=seed, order=order))


def read_record(folder: Path) -> dict[str, Any]:
    """Read a run's record.

    Raises:
        InputError: the run is not finished.
    """
    if not (folder / "run.json").is_file():
        raise InputError(f"{folder} holds no finished run: run `make grid` first.")
    return read_json(folder / "run.json")


def grids(profile: Profile, *, root: Path) -> list[Grid]:
    """Return all grids of a profile."""
    return [Grid(profile, dataset, method, root) for method, by in profile.grid.items() for dataset in by]


def grid_table(profile: Profile, *, root: Path) -> pd.DataFrame:
    """Collect the points of all grids, one a row, those of unfinished runs left out.

    Returns:
        The fields of ``run.json`` but the hardware, and ``chosen``: whether the point is the best of its grid.
    """
    rows = []
    for grid in grids(profile, root=root):
        folders = [folder for folder in grid.point_folders() if (folder / "run.json").is_file()]
        records = [read_record(folder) for folder in folders]
        best = max((record["recall@10"] for record in records), default=None)
        first = next((place for place, record in enumerate(records) if record["recall@10"] == best), None)
        for place, record in enumerate(records):
            kept = {name: value for name, value in record.items() if name not in ("hardware", "order")}
            rows.append(kept | {"chosen": place == first})
    return pd.DataFrame(rows)
