"""The runs of the study, and the record of how each artefact was made.

A notebook opens with :func:`begin`, asks the :class:`Run` for every path, and closes with :meth:`Run.finish`, which
writes ``provenance.json`` beside each artefact.
"""

import ast
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from llamarec_core.checked import checked_name
from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing, sha256
from llamarec_core.paths import Paths, files_by_seed, find_profile, find_root, with_seed
from llamarec_core.provenance import (
    circumstances,
    command_of,
    commit_name,
    commit_of,
    keep_record,
    notebook_hash,
    peak_memory_mib,
    recorded_settings,
)
from llamarec_core.retrieval import read_ranks
from llamarec_core.settings import Profile, load_profile


class Run(Paths):
    """One execution of one notebook: its settings, its paths, and what it wrote.

    ``profile`` has the data set's overrides applied; ``parameters`` are those by which the notebook can be run again.
    """

    def __init__(
        self,
        notebook: str,
        *,
        profile: str,
        dataset: str | None,
        seed: int | None,
        root: Path,
        settings: Sequence[str] = (),
    ) -> None:
        self.notebook, file = notebook, find_profile(profile, root=root)
        self.profile: Profile = load_profile(file)
        if dataset is not None:
            self.profile = self.profile.for_dataset(checked_name(dataset, of="data set")).given(settings)
        super().__init__(root, self.profile.name, dataset, self.profile.seed if seed is None else seed)
        given = {"profile": profile, "dataset": dataset, "seed": self.seed}
        self.parameters = {name: value for name, value in given.items() if value is not None}
        self._data_hashes: dict[str, str] = {}
        self._raw_hashes: dict[str, dict[str, str]] = {}
        self._written: list[Path] = []
        self._started = time.perf_counter()
        self._settings = recorded_settings(self.profile)
        if start := self.profile.ranker.start_from:  # from here on a path of this checkout
            ranker = self.profile.ranker.model_copy(update={"start_from": str(root / start)})
            self.profile = self.profile.model_copy(update={"ranker": ranker})
        source = root / "notebooks" / f"{notebook}.ipynb"
        # now, because the code on disk may change while it runs; what is no notebook has no hash
        self._made = circumstances(root) | {
            "notebook_sha256": notebook_hash(source) if source.is_file() else None,
            "profile_sha256": sha256(file),
        }

    @property
    def executed_notebook(self) -> Path:
        """Where the Snakefile puts the executed notebook."""
        return self.results / "notebooks" / (self.dataset_name or "") / f"{self.notebook}.ipynb"

    @property
    def commit(self) -> str:
        """The commit that this run measures with, for the tables."""
        return commit_name(self._made)

    def load_dataset(self, dataset: str | None = None) -> Dataset:
        """Load a data set that ``1_data`` has preprocessed, and note its hash for the provenance."""
        folder = self.dataset_folder(dataset)
        if not folder.is_dir():
            raise InputError(
                f"{folder} is missing: run notebooks/1_data.ipynb with profile {self.profile.name!r} and "
                f"dataset {dataset or self.dataset_name!r} first."
            )
        return self.note_data(Dataset.load(folder))

    def note_data(self, dataset: Dataset) -> Dataset:
        """Note the hash of a data set for the provenance, and return the data set."""
        self._data_hashes[dataset.name] = dataset.content_hash
        self._raw_hashes[dataset.name] = dataset.source.get("sha256", {})
        return dataset

    def wrote(self, *paths: Path) -> None:
        """Note artefacts for the provenance."""
        self._written.extend(paths)

    def copy_to_results(self, source: Path, target: Path) -> None:
        """Copy a file or folder of ``runs`` to its place among the results, whole or not at all, and note it."""
        with replacing(target) as temporary:
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, temporary)
        self.wrote(*(sorted(target.iterdir()) if target.is_dir() else [target]))

    def finish(self) -> dict[str, Any]:
        """Write ``provenance.json`` beside every artefact of this run and return the record.

        Each such file maps ``<notebook>[-<data set>]-seed<k>`` to a record, so that notebooks that write to the same
        folder keep one record each.
        """
        output = self.executed_notebook.relative_to(self.root)
        record = self._made | {
            "command": command_of(f"notebooks/{self.notebook}.ipynb", output, self.parameters),
            "peak_memory_mib": peak_memory_mib(),
            "data_sha256": self._data_hashes,
            "raw_sha256": self._raw_hashes,
            "parameters": self.parameters,
            "seed": self.seed,
            "settings": self._settings,
            "wall_seconds": round(time.perf_counter() - self._started, 1),
        }
        name = with_seed("-".join(filter(None, (self.notebook, self.dataset_name))), self.seed)
        keep_record(self.root, self._written, name=name, record=record, also=self.executed_notebook.parent)
        return record


def begin(notebook: str, *, profile: str, dataset: str | None = None, seed: int | None = None) -> Run:
    """Open a notebook's run; every notebook calls this in its first cell after the parameters.

    papermill may give a notebook of one data set changed settings: ``-y 'settings: [ranker.title_tokens=32]'``. They
    change what the run writes, so give a copy of the profile with them for results to keep.

    ``profile`` is a name or a YAML file. Without ``dataset`` a notebook is about all data sets of the profile, without
    ``seed`` it takes the profile's. What is faulty or unknown is an :class:`InputError`.
    """
    _show_input_errors_alone()
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise InputError(f"Parameter seed is {seed!r}: give a whole number from 0 to 2^63 - 1, or leave it out.")
    profile, dataset = str(profile), None if dataset is None else str(dataset)  # papermill takes 2018 for a number
    root = find_root()
    injected = _injected_parameters()
    _refuse_unknown_parameters(root / "notebooks" / f"{notebook}.ipynb", injected)
    settings = injected.get("settings", [])
    if not isinstance(settings, list) or not all(isinstance(text, str) for text in settings):
        raise InputError(f"Parameter settings is {settings!r}: give a list of texts such as ranker.title_tokens=32.")
    if settings and dataset is None:
        raise InputError(f"Parameter settings: {notebook} reads all data sets: change its profile instead.")
    run = Run(notebook, profile=profile, dataset=dataset, seed=seed, root=root, settings=settings)
    run.parameters |= {name: value for name, value in injected.items() if name not in ("profile", "dataset", "seed")}
    return run


def _show_input_errors_alone() -> None:
    """In a notebook, let an InputError appear as its sentence instead of as a traceback."""

    def show(shell: Any, kind: type, error: BaseException, traceback: Any, tb_offset: int | None = None) -> list[str]:
        sentence = [f"{kind.__name__}: {error}"]
        shell._showtraceback(kind, error, sentence)
        return sentence

    if shell := _ipython():
        shell.set_custom_exc((InputError,), show)


def _injected_parameters() -> dict[str, Any]:
    """Return what papermill was given: it injects a cell of assignments before the first that runs this."""
    cells = shell.user_ns["In"] if (shell := _ipython()) else []
    return assigned(next((cell for cell in cells if cell.startswith("# Parameters\n")), ""))


def _refuse_unknown_parameters(notebook: Path, injected: Mapping[str, Any]) -> None:
    """Refuse what papermill only warns of: a parameter that stands in no cell tagged ``parameters``."""
    if not injected or not notebook.is_file():
        return
    cells = nbformat.read(notebook, as_version=4).cells
    known = assigned("\n".join(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])))
    for name in sorted(injected.keys() - known.keys() - {"settings"}):
        raise InputError(f"Notebook {notebook.stem} has no parameter {name!r}: choose from {', '.join(sorted(known))}.")


def assigned(source: str) -> dict[str, Any]:
    """Return the names to which a cell of parameters assigns, with their values."""
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {target.id: ast.literal_eval(node.value) for node in assignments for target in node.targets}


def _ipython() -> Any:
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def load_ranks(*folders: Path, datasets: Iterable[str]) -> tuple[dict[tuple[str, str, int], pd.DataFrame], str]:
    """Return all ranks files of a profile, by (data set, method, seed), and the commit that measured them.

    ``folders`` are ``results/<profile>`` or its ``grid``; where several have the same, the last folder's is taken. Data
    sets without ranks are left out. The commits of all files are joined by ``+``.
    """
    ranks, commits = {}, {}
    for folder, dataset in product(folders, datasets):
        for (method, seed), path in files_by_seed(folder / "ranks" / dataset).items():
            ranks[dataset, method, seed] = read_ranks(path)
            commits[commit_of(path)] = None
    return ranks, "+".join(commits)


def load_ablations(results: Path, *, datasets: Iterable[str], seed: int) -> dict[str, tuple[pd.DataFrame, str]]:
    """Return data set → what `3_ablations` ranked, as :meth:`llamarec_core.ranking.Ablation.ranks`, and its commit."""
    paths = {name: results / "ablations" / f"{with_seed(name, seed)}.parquet" for name in datasets}
    return {name: (pd.read_parquet(path), commit_of(path)) for name, path in paths.items() if path.is_file()}
