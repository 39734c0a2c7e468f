"""The grid: which weight decay and dropout suit a retriever on a data set, and what the choice retrieves.

The paper tries weight decay {0, 0.01} and dropout {0.1 … 0.5} and does not say what won. Here every point is a run of
its own, with a record and its curve as CSV. The choice is made on validation Recall@10 alone; only what was chosen is
tested. ItemKNN tries its own parameters inside its one run.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from llamarec_core.data import Dataset
from llamarec_core.files import InputError, read_json, replacing, write_json
from llamarec_core.paths import Paths
from llamarec_core.provenance import circumstances, commit_name, keep_record, peak_memory_mib
from llamarec_core.retrieval import Retriever, fit_retriever, sampled_users, target_ranks, write_ranks
from llamarec_core.settings import GridSettings, Method, Profile, RetrieverSettings
from llamarec_core.training import first_difference


@dataclass(frozen=True)
class Grid:
    """The grid of one retriever on one data set."""

    profile: Profile
    dataset: str
    method: Method
    root: Path

    def __post_init__(self) -> None:
        if self.dataset not in self.profile.grid.get(self.method, {}):
            raise InputError(
                f"Profile {self.profile.name!r} has no grid of {self.method} on {self.dataset!r}: add it under `grid`."
            )

    @property
    def settings(self) -> GridSettings:
        """The points to try and the number of seeds."""
        return self.profile.grid[self.method][self.dataset]

    def retriever(self, **changes: Any) -> RetrieverSettings:
        """Return the retriever's settings on this data set, with some changed."""
        return self.profile.for_dataset(self.dataset).retriever.changed({"method": self.method} | changes)

    def folder(self, settings: RetrieverSettings, *, seed: int) -> Path:
        """Where a run's weights and checkpoint lie."""
        return self._paths(seed).grid_run(self.method, _run_name(settings))

    def record_file(self, settings: RetrieverSettings, *, seed: int) -> Path:
        """The record of a finished run."""
        return self._paths(seed).grid_record(self.method, _run_name(settings))

    def records(self) -> Iterator[tuple[RetrieverSettings, Path, dict[str, Any]]]:
        """Yield the settings of each point, the file of its record, and the record, empty until it is trained."""
        for point in self.settings.points():
            settings = self.retriever(**point)
            file = self.record_file(settings, seed=self.profile.seed)
            yield settings, file, read_json(file) if file.is_file() else {}

    def model(self, settings: RetrieverSettings, *, seed: int) -> Retriever:
        """Return the trained model of a run; it is trained again where ``runs`` was cleared."""
        return fit_retriever(self._load_dataset(), settings, seed=seed, folder=self.folder(settings, seed=seed))

    def train(self, settings: RetrieverSettings, *, seed: int) -> dict[str, Any]:
        """Train one run, or go on with it, and return its record; a recorded run of these settings is left alone."""
        file = self.record_file(settings, seed=seed)
        if file.is_file():
            record = read_json(file)
            self._refuse_others([(settings, file, record)])
            return record
        model, folder = self.model(settings, seed=seed), self.folder(settings, seed=seed)
        curve = pd.read_csv(folder / "training.csv")
        best = curve.loc[curve["recall@10"].idxmax()]
        record = {
            "dataset": self.dataset,
            "seed": seed,
            **settings.model_dump(include={"method", "weight_decay", "dropout"}),
            **best[["recall@10", "ndcg@10"]],
            "best_epoch": float(best["epoch"]),
            "epochs": float(curve["epoch"].iloc[-1]),
            "threads": torch.get_num_threads(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "settings": settings.model_dump(),
            "data_sha256": self._load_dataset().content_hash,
            **read_json(folder / "circumstances.json"),
        }
        with replacing(file.with_suffix(".csv")) as temporary:
            curve.to_csv(temporary, index=False)
        write_json(file, record)
        return record

    def chosen(self) -> RetrieverSettings:
        """Return the settings with the best validation Recall@10; the earliest of equals."""
        points = list(self.records())
        for _, file, record in points:
            if not record:
                raise InputError(f"{file} is missing: train all points of the grid first (`make grid`).")
        self._refuse_others(points)
        return max(points, key=lambda point: point[2]["recall@10"])[0]

    def test(self, settings: RetrieverSettings, *, seed: int) -> Path:
        """Rank the test targets by a trained run and write the ranks file."""
        path = self._paths(seed).grid_ranks(self.method)
        started, made = time.perf_counter(), circumstances(self.root)
        model, dataset = self.model(settings, seed=seed), self._load_dataset()
        users = sampled_users(dataset.n_users, settings.test_users, "test")
        ranks = target_ranks(model, dataset, "test", users=users)
        write_ranks(pd.DataFrame({"user": users, "target": dataset.targets("test")[users], "rank": ranks}), path)
        record = {
            "command": f"llamarec train {self.dataset} {self.method} --profile {self.profile.name} --seed {seed}",
            **made,
            "peak_memory_mib": peak_memory_mib(),
            "data_sha256": {dataset.name: dataset.content_hash},
            "seed": seed,
            "settings": {"retriever": settings.model_dump()},
            "wall_seconds": round(time.perf_counter() - started, 1),
        }
        keep_record(self.root, [path], name=path.stem, record=record)
        return path

    def _refuse_others(self, points: Sequence[tuple[RetrieverSettings, Path, dict[str, Any]]]) -> None:
        """Refuse records, as :meth:`records` yields them, of other settings or data than there are now."""
        there = self._paths().dataset_folder().is_dir()  # a record outlives the data, which lie in `runs`
        data = self._load_dataset().content_hash if there else None
        for settings, file, record in points:
            stored, now = record["settings"], settings.model_dump()
            if name := first_difference(stored, now):
                problem = f"was trained with {name} = {stored.get(name)!r}, but this run has {name} = {now[name]!r}"
                raise InputError(f"{file} {problem}: delete it to train this point again, or restore the setting.")
            if data not in (None, record["data_sha256"]):
                problem = f"was trained on other data than {self.dataset!r} holds now"
                raise InputError(f"{file} {problem}: delete it to train this point again, or restore the data.")

    def _load_dataset(self) -> Dataset:
        folder = self._paths().dataset_folder()
        if not folder.is_dir():
            raise InputError(f"{folder} is missing: run notebooks/1_data.ipynb for {self.dataset!r} first.")
        return Dataset.load(folder)

    def _paths(self, seed: int | None = None) -> Paths:
        return Paths(self.root, self.profile.name, self.dataset, seed)


def load_curves(profile: Profile, *, root: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the validation curve of each grid's best point so far: (data set, method) → as in ``training.csv``."""
    table = grid_table(profile, root=root)
    if not table["chosen"].any():
        raise InputError(f"No point of the grid of {profile.name!r} was trained: run `make grid` first.")
    curves = {}
    for row in table[table["chosen"] & (table["method"] != "item_knn")].itertuples():  # which has no curve over time
        grid = Grid(profile, row.dataset, row.method, root)
        settings = grid.retriever(weight_decay=row.weight_decay, dropout=row.dropout)
        curves[row.dataset, row.method] = pd.read_csv(grid.record_file(settings, seed=row.seed).with_suffix(".csv"))
    return curves


def grid_table(profile: Profile, *, root: Path) -> pd.DataFrame:
    """Collect all points of a profile's grids, one a row; a point not trained yet has no numbers.

    ``recall@10`` and ``ndcg@10`` are of validation, and ``chosen`` says if a point has its grid's best Recall@10.
    """
    columns = ["recall@10", "ndcg@10", "best_epoch", "epochs", "seconds", "threads", "peak_memory_mib", "parameters"]
    rows = []
    for method, by_dataset in profile.grid.items():
        for name in (name for name in profile.datasets if name in by_dataset):
            for settings, _, record in Grid(profile, name, method, root).records():
                row = {"dataset": name, "method": method, "weight_decay": settings.weight_decay}
                row |= {"dropout": settings.dropout, "seed": profile.seed}
                row |= {column: record.get(column) for column in columns}
                rows.append(row | {"commit": commit_name(record) if record else None})
    if not rows:
        raise InputError(
            f"Profile {profile.name!r} has no grid: add what to try under `grid`, or take another profile."
        )
    table = pd.DataFrame(rows)
    ordered = table.dropna(subset="recall@10").sort_values("recall@10", ascending=False, kind="stable")
    return table.assign(chosen=table.index.isin(ordered.drop_duplicates(["dataset", "method"]).index))


def _run_name(settings: RetrieverSettings) -> str:
    return f"decay{settings.weight_decay:g}-dropout{settings.dropout:g}"
