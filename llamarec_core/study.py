"""The runs of the study, and the record of how each artefact was made.

A notebook opens with :func:`begin`, asks the :class:`Run` for every path, and closes with :meth:`Run.finish`, which
writes ``provenance.json`` beside each artefact.
"""

import ast
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from llamarec_core import provenance
from llamarec_core.checked import checked_name
from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing, sha256
from llamarec_core.paths import Paths, files_by_seed, find_profile, find_root, with_seed
from llamarec_core.retrieval import read_ranks
from llamarec_core.settings import load_profile


class Run(Paths):
    """One execution of one notebook: its settings, its paths, what it wrote, and ``parameters`` to run it again."""

    def __init__(
        self,
        notebook: str,
        *,
        profile: str,
        dataset: str | None,
        seed: int | None,
        root: Path,
        injected: Mapping[str, Any] | None = None,
    ) -> None:
        file, injected = find_profile(profile, root=root), injected or {}
        self.notebook, self.profile = notebook, load_profile(file)
        if dataset is not None:
            self.profile = self.profile.for_dataset(checked_name(dataset, of="data set"))
            self.profile = self.profile.given(injected.get("settings", []))
        super().__init__(root, self.profile.name, dataset, self.profile.seed if seed is None else seed)
        self.executed_notebook = self.results / "notebooks" / (dataset or "") / f"{notebook}.ipynb"
        given = {"profile": profile, "dataset": dataset, "seed": self.seed}
        self.parameters = {name: value for name, value in given.items() if value is not None}
        self.parameters |= {name: value for name, value in injected.items() if name not in given}
        self._data: dict[str, Dataset] = {}
        self._written: list[Path] = []
        self._started = time.perf_counter()
        source = root / "notebooks" / f"{notebook}.ipynb"
        # now, because the code on disk may change while it runs; what is no notebook has no hash
        self._made = provenance.circumstances(root) | {
            "notebook_sha256": provenance.notebook_hash(source) if source.is_file() else None,
            "profile_sha256": sha256(file),
            "settings": provenance.recorded_settings(self.profile),
        }
        self.commit = provenance.commit_name(self._made)  # for the tables
        if start := self.profile.ranker.start_from:  # from here on a path of this checkout
            self.profile = self.profile.given([f"ranker.start_from={str(root / start)!r}"])

    def load_dataset(self, dataset: str | None = None) -> Dataset:
        """Load a data set that ``1_data`` has preprocessed, and note its hash for the provenance."""
        folder, name = self.dataset_folder(dataset), dataset or self.dataset_name
        if not folder.is_dir():
            first = f"run notebooks/1_data.ipynb with profile {self.profile.name!r} and dataset {name!r} first"
            raise InputError(f"{folder} is missing: {first}.")
        return self.note_data(Dataset.load(folder))

    def note_data(self, dataset: Dataset) -> Dataset:
        """Note the hash of a data set for the provenance, and return the data set."""
        self._data[dataset.name] = dataset
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
        """Write the record ``<notebook>[-<data set>]-seed<k>`` beside every artefact of this run, and return it."""
        output = self.executed_notebook.relative_to(self.root)
        record = self._made | {
            "command": provenance.command_of(f"notebooks/{self.notebook}.ipynb", output, self.parameters),
            "peak_memory_mib": provenance.peak_memory_mib(),
            "data_sha256": {name: data.content_hash for name, data in self._data.items()},
            "raw_sha256": {name: data.source.get("sha256", {}) for name, data in self._data.items()},
            "parameters": self.parameters,
            "seed": self.seed,
            "wall_seconds": round(time.perf_counter() - self._started, 1),
        }
        name = with_seed("-".join(filter(None, (self.notebook, self.dataset_name))), self.seed)
        provenance.keep_record(self.root, self._written, name=name, record=record, also=self.executed_notebook.parent)
        return record


def begin(notebook: str, *, profile: str, dataset: str | None = None, seed: int | None = None) -> Run:
    """Open a notebook's run: of one data set or of all of a profile, which is a name or a YAML file.

    papermill may give a notebook of one data set changed settings: ``-y 'settings: [ranker.title_tokens=32]'``. They
    change what the run writes, so give a copy of the profile with them for results to keep.
    """
    if shell := _ipython():
        shell.set_custom_exc((InputError,), _show_sentence)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise InputError(f"Parameter seed is {seed!r}: give a whole number from 0 to 2^63 - 1, or leave it out.")
    profile, dataset = str(profile), None if dataset is None else str(dataset)  # papermill takes 2018 for a number
    root, injected = find_root(), _injected_parameters()
    _refuse_unknown_parameters(root / "notebooks" / f"{notebook}.ipynb", injected)
    settings = injected.get("settings", [])
    if not isinstance(settings, list) or not all(isinstance(text, str) for text in settings):
        raise InputError(f"Parameter settings is {settings!r}: give a list of texts such as ranker.title_tokens=32.")
    if settings and dataset is None:
        raise InputError(f"Parameter settings: {notebook} reads all data sets: change its profile instead.")
    return Run(notebook, profile=profile, dataset=dataset, seed=seed, root=root, injected=injected)


def _show_sentence(shell: Any, kind: type, error: Exception, *_: Any, **_options: Any) -> list[str]:
    """Show an error in a notebook without its traceback."""
    sentence = [f"{kind.__name__}: {error}"]
    shell._showtraceback(kind, error, sentence)
    return sentence


def _injected_parameters() -> dict[str, Any]:
    """Return what papermill was given: it injects a cell of assignments before the first that runs this."""
    cells = shell.user_ns["In"] if (shell := _ipython()) else []
    return assigned(next((cell for cell in cells if cell.startswith("# Parameters\n")), ""))


def _refuse_unknown_parameters(notebook: Path, injected: Mapping[str, Any]) -> None:
    """Refuse what papermill only warns of: a parameter that stands in no cell tagged ``parameters``."""
    if injected and notebook.is_file():
        cells = nbformat.read(notebook, as_version=4).cells
        known = assigned("\n".join(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])))
        for name in sorted(injected.keys() - known.keys() - {"settings"}):
            choice = ", ".join(sorted(known))
            raise InputError(f"Notebook {notebook.stem} has no parameter {name!r}: choose from {choice}.")


def assigned(source: str) -> dict[str, Any]:
    """Return the names to which a cell of parameters assigns, with their values."""
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {target.id: ast.literal_eval(node.value) for node in assignments for target in node.targets}


def _ipython() -> Any:
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def load_ranks(folder: Path, *, datasets: Iterable[str]) -> tuple[dict[tuple[str, str, int], pd.DataFrame], str]:
    """Return the ranks files of data sets, by (data set, method, seed), and their commits, joined by ``+``.

    ``folder`` is ``results/<profile>`` or its ``grid``.
    """
    ranks, commits = {}, {}
    for dataset in datasets:
        for (method, seed), path in files_by_seed(folder / "ranks" / dataset).items():
            ranks[dataset, method, seed] = read_ranks(path)
            commits[provenance.commit_of(path)] = None
    return ranks, "+".join(commits)


def load_ablations(results: Path, *, datasets: Iterable[str], seed: int) -> dict[str, tuple[pd.DataFrame, str]]:
    """Return data set → what `3_ablations` ranked and its commit."""
    paths = {name: results / "ablations" / f"{with_seed(name, seed)}.parquet" for name in datasets}
    return {name: (pd.read_parquet(path), provenance.commit_of(path)) for name, path in paths.items() if path.is_file()}
