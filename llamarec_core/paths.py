"""Where everything lies: the one place that spells the study's paths.

Recomputable and heavy files (data sets, weights, checkpoints) go to ``runs/``, which git ignores; what a reader cites
(ranks, tables, executed notebooks) goes to ``results/``. A file of one seed is named ``<name>-seed<k>``.
"""

from pathlib import Path

from llamarec_core.files import InputError

# the methods whose ranks `3_ranker` writes
RANKED = ("random-order", "popularity-order", "title-overlap", "title-overlap-with-retriever")
RANKED += ("llamarec", "llamarec-with-retriever")


def find_root(start: Path | None = None) -> Path:
    """Return the study's folder: the nearest one at or above ``start`` that holds ``notebooks/profiles``."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "notebooks" / "profiles").is_dir():
            return folder
    raise InputError(f"{start} is not inside a copy of the study: change to the folder that holds `notebooks/`.")


def find_profile(name: str, *, root: Path | None = None) -> Path:
    """Return the file of a profile, given by a path to a YAML file, or by its name in a copy of the study."""
    by_path = name.endswith((".yaml", ".yml"))
    return Path(name) if by_path else (root or find_root()) / "notebooks" / "profiles" / f"{name}.yaml"


def with_seed(name: str, seed: int | str | None) -> str:
    """Return the name of a file of one seed, without suffix."""
    return f"{name}-seed{seed}"


def files_by_seed(folder: Path) -> dict[tuple[str, int], Path]:
    """Return (name, seed) → the parquet file in a folder that :func:`with_seed` named."""
    files = sorted(folder.glob("*-seed*.parquet"))
    return {(name, int(seed)): file for file in files for name, seed in [file.stem.rsplit("-seed", 1)]}


class Paths:
    """The files of one profile, and of a data set and a seed where they are named; ``root`` is the study's folder."""

    def __init__(
        self, root: Path, profile_name: str, dataset_name: str | None = None, seed: int | str | None = None
    ) -> None:
        self.root, self.dataset_name, self.seed = root, dataset_name, seed
        self.results = root / "results" / profile_name
        self._runs = root / "runs" / profile_name
        of_seed = with_seed(dataset_name or "", seed)
        self.work = self._runs / (dataset_name or "") / f"seed{seed}"  # weights, checkpoints and candidates
        self.candidates_file = self.work / "candidates.parquet"  # the retriever's, of every user and split
        self.weights = self.results / "weights" / of_seed  # retriever and adapter, as they come with the results
        self.curves = self.results / "tuning" / of_seed  # of the ranker's tunings
        self.ablation_file = self.results / "ablations" / f"{of_seed}.parquet"  # test ranks of the ranker's variants

    def dataset_folder(self, dataset: str | None = None) -> Path:
        """The preprocessed data set, written by ``1_data``."""
        return self._runs / (dataset or str(self.dataset_name)) / "dataset"

    def ranks_file(self, method: str) -> Path:
        """The test ranks of one method."""
        return self.results / "ranks" / str(self.dataset_name) / f"{with_seed(method, self.seed)}.parquet"

    def grid_run(self, method: str, run: str) -> Path:
        """Weights and checkpoint of one run of the grid, without the seed in ``run``."""
        return self.work.with_name("grid") / method / with_seed(run, self.seed)

    def grid_record(self, method: str, run: str) -> Path:
        """The record of a finished run of the grid; its curve lies beside it as CSV."""
        folder = self.results / "grid" / "records" / str(self.dataset_name) / method
        return folder / f"{with_seed(run, self.seed)}.json"

    def grid_ranks(self, method: str) -> Path:
        """The test ranks of what the grid chose."""
        return self.results / "grid" / "ranks" / str(self.dataset_name) / f"{with_seed(method, self.seed)}.parquet"

    def table(self, name: str) -> Path:
        """A table of the results, without suffix."""
        return self.results / "tables" / name
