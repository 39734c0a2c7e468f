"""Verification: whether ``results/`` is whole, is of the commits that it names, and follows from its ranks.

``llamarec verify`` asks, of every profile with results, in this order:

1. Does every file have a record with its hash, from a clean tree, with its seed?
2. Do all records name the same data?
3. Is every record of a commit that led to this one, and do that commit's notebook, profile and locked versions agree
   with it? Is each executed notebook that notebook, run with the recorded parameters?
4. Does every ranks file hold each user once, with a rank inside the catalogue?
5. Are the grid's records those of its settings and curves?
6. Do the tables, computed again from the ranks, hold the same numbers?
7. Does every concluding sentence of the book hold of its table?

A notebook or a setting that has changed since a run makes no fault of the run: it is listed. Only the profiles in
``FRESH`` must be of the present sources.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import yaml

from llamarec_core.checkpoint import first_difference
from llamarec_core.evaluation.conclusions import check_conclusions
from llamarec_core.files import InputError, read_json, sha256
from llamarec_core.grid import Grid, grid_table
from llamarec_core.paths import find_profile
from llamarec_core.provenance import History, notebook_hash, recorded_settings
from llamarec_core.report.tables import Tables
from llamarec_core.retrieval import read_ranks, sampled_users
from llamarec_core.settings import Profile, load_profile

FRESH = ("quick",)
"""Profiles whose results are made again within minutes, and must be of the present notebooks and settings."""

TOLERANCE = 1e-5
"""Relative difference between a committed number and the same computed again: files hold six significant digits."""


def verify(root: Path, *, profiles: Iterable[str] = ()) -> str:
    """Check committed results.

    Args:
        root: the study's folder.
        profiles: names of profiles; none takes every profile that has results, and the benches.

    Returns:
        What was checked, in a sentence a profile, and then what has changed since it was made.

    Raises:
        InputError: a profile has no results, or something does not fit; the message names the first difference.
    """
    results, history = root / "results", History(root)
    names = list(profiles) or sorted(folder.parent.name for folder in results.glob("*/notebooks"))
    if not profiles:
        _refuse_first(_records_differ(results / "bench", root=root))
        _refuse_first(check_conclusions(root))
        _refuse_first(_history_differs(results / "bench", history))
    checked, notes = [], [history.missing] if history.missing else []
    for name in names:
        profile = load_profile(find_profile(name, root=root))
        if not (results / profile.name / "notebooks").is_dir():
            raise InputError(f"{profile.name} has no results: run `make study PROFILE={profile.name}` first.")
        _refuse_first(differences(profile, history, root=root))
        changed = list(_changed_since(profile, root=root))
        if profile.name in FRESH:
            _refuse_first(f"{change}: run it again, `make study PROFILE={profile.name}`." for change in changed)
        notes += changed
        tables = [path.stem for path in (results / profile.name / "tables").glob("*.csv")]
        by_hash = sorted(table for table in tables if table.startswith(Tables.BY_HASH))
        checked.append(
            f"{profile.name}: whole and from a clean tree; {len(tables) - len(by_hash)} tables follow from the "
            "ranks" + (f", by their hashes alone: {', '.join(by_hash)}." if by_hash else ".")
        )
    return "\n".join(checked + notes)


def _refuse_first(found: Iterator[str]) -> None:
    first = next(found, None)
    if first is not None:
        raise InputError(first)


def differences(profile: Profile, history: History, *, root: Path) -> Iterator[str]:
    """Yield a sentence for everything of a profile's results that does not fit, cheap checks first."""
    results = root / "results" / profile.name
    yield from _records_differ(results, root=root)
    yield from _data_differ(results, root=root)
    yield from _history_differs(results, history)
    yield from _notebooks_differ(results, root=root)
    yield from _ranks_differ(profile, root=root)
    yield from _grid_differs(profile, root=root)
    yield from _tables_differ(profile, root=root)


def _records_differ(results: Path, *, root: Path) -> Iterator[str]:
    """Yield where files and provenance records do not account for each other, or a record is not clean."""
    for folder in sorted({path.parent for path in results.rglob("*") if path.is_file()}):
        if "records" in folder.relative_to(results).parts:  # of the grid: they are records themselves
            continue
        place, file = folder.relative_to(root), folder / "provenance.json"
        if not file.is_file():
            yield f"{place} has no provenance.json: restore it, or run the notebook that writes there."
            continue
        recorded = set()
        for name, record in read_json(file).items():
            recorded |= record["artefacts"].keys()
            where = f"the record {name!r} in {place}"
            if record["git_dirty"] is not False:
                yield f"{where[0].upper()}{where[1:]} was not measured from a clean tree: commit, and run it again."
            for artefact in record["artefacts"]:
                if not (folder / artefact).is_file():
                    yield f"{place / artefact} is missing, which {where} accounts for."
                elif sha256(folder / artefact) != record["artefacts"][artefact]:
                    yield f"{place / artefact} has another hash than in {where}: it was changed after it was written."
            for other in (*record["artefacts"], name):
                if (seed := re.search(r"-seed(\d+)", other)) and int(seed[1]) != record["seed"]:
                    yield f"{place / other} is of seed {seed[1]}, but {where} says seed {record['seed']}."
        unknown = {path.name for path in folder.iterdir() if path.is_file()} - recorded - {"provenance.json"}
        for name in sorted(name for name in unknown if not name.endswith(".ipynb")):
            yield f"{place / name} has no record in provenance.json: run the notebook that writes it."


def _data_differ(results: Path, *, root: Path) -> Iterator[str]:
    """Yield the records that name another hash of a data set than the first; that of ``1_data`` comes first."""
    named = []
    # the same events in another order are other data
    for file in sorted(file for file in results.rglob("provenance.json") if results / "ties" not in file.parents):
        named += [(name, file, record["data_sha256"]) for name, record in read_json(file).items()]
    for file in sorted((results / "grid" / "records").rglob("*.json")):
        record = read_json(file)
        named.append((file.stem, file, {record["dataset"]: record["data_sha256"]}))
    known: dict[str, str] = {}
    for name, file, hashes in sorted(named, key=lambda entry: not entry[0].startswith("1_data")):
        for dataset, digest in hashes.items():
            first = known.setdefault(dataset, digest)
            if digest != first:
                yield (
                    f"{name!r} in {file.relative_to(root)} was measured on {dataset} with the hash {digest[:12]}…, "
                    f"the other results on {first[:12]}…: run it again on the same data."
                )


def _history_differs(results: Path, history: History) -> Iterator[str]:
    """Yield the records that are not of a commit that led to this one, or not of its notebook and settings."""
    records = [
        (file, name, record) for file in results.rglob("provenance.json") for name, record in read_json(file).items()
    ]
    records += [(file, file.stem, read_json(file)) for file in (results / "grid" / "records").rglob("*.json")]
    for file, name, record in records if not history.missing else ():
        where, commit = f"The record {name!r} in {file.parent.relative_to(history.root)}", record["git_commit"]
        if commit not in history.commits:
            yield f"{where} names the commit {commit}, which does not lead to the present one: run it again."
            continue
        if "notebook_sha256" not in record:  # of a command, e.g. `llamarec train`
            continue
        notebook, profile = (
            f"notebooks/{notebook_of(name)}.ipynb",
            f"notebooks/profiles/{record['parameters']['profile']}.yaml",
        )
        source, settings = history.content(commit, notebook), history.content(commit, profile)
        if source is None or notebook_hash(source) != record["notebook_sha256"]:
            yield f"{where} is not of {notebook} at the commit {commit[:7]} that it names."
        if settings is None or hashlib.sha256(settings).hexdigest() != record["profile_sha256"]:
            yield f"{where} is not of {profile} at the commit {commit[:7]} that it names."
        else:
            written = yaml.safe_load(settings)
            overrides = written.pop("datasets").get(record["parameters"].get("dataset")) or {}
            written |= {part: written.get(part, {}) | changes for part, changes in overrides.items()}
            if not _holds(record["settings"], {part: written[part] for part in written.keys() - {"seed"}}):
                yield f"{where} has other settings than {profile} at the commit {commit[:7]} that it names."


def _holds(recorded: Any, written: Any) -> bool:
    """Return whether settings as recorded, with their defaults, hold what a profile's file says of them."""
    if isinstance(recorded, dict) and isinstance(written, dict):
        return all(name in recorded and _holds(recorded[name], value) for name, value in written.items())
    if isinstance(recorded, list) and isinstance(written, list):
        return len(recorded) == len(written) and all(map(_holds, recorded, written))
    if isinstance(recorded, float) and isinstance(written, str):
        return recorded == float(written)  # YAML reads 1e-3 as text
    return bool(recorded == written)


def _notebooks_differ(results: Path, *, root: Path) -> Iterator[str]:
    """Yield the executed notebooks without a record, or with other cells than the notebook that ran."""
    for path in sorted((results / "notebooks").rglob("*.ipynb")):
        place, record = path.relative_to(root), _record_of_notebook(path)
        if record is None:
            yield f"{place} has no record in provenance.json: run it again."
        elif notebook_hash(path) != record["notebook_sha256"]:
            yield f"{place} has other cells than the notebook that ran: restore it, or run it again."


def _changed_since(profile: Profile, *, root: Path) -> Iterator[str]:
    """Yield what has changed since each executed notebook ran: the notebook, or the settings that it ran with."""
    for path in sorted((root / "results" / profile.name / "notebooks").rglob("*.ipynb")):
        record, source = _record_of_notebook(path), root / "notebooks" / path.name
        made = f"{path.relative_to(root)}: made at {record['git_commit'][:7]}"
        dataset = record["parameters"].get("dataset")
        if not source.is_file():
            yield f"{made}; the notebook has another name now"
        elif notebook_hash(source) != record["notebook_sha256"]:
            yield f"{made}; the notebook has changed since"
        elif dataset and dataset not in profile.datasets:
            yield f"{made}; the profile has no data set {dataset!r} now"
        elif record["settings"] != recorded_settings(profile.for_dataset(dataset) if dataset else profile):
            yield f"{made}; the settings have changed since"


def _record_of_notebook(path: Path) -> dict[str, Any] | None:
    """Return the record of an executed notebook, of several seeds that of the seed that its parameters say."""
    records = read_json(path.with_name("provenance.json"))
    found = [record for name, record in records.items() if notebook_of(name) == path.stem]
    seed = nbformat.read(path, as_version=4).metadata.get("papermill", {}).get("parameters", {}).get("seed")
    return next((record for record in found if seed in (None, record["seed"])), None)


def notebook_of(record: str) -> str:
    """Return the notebook of a record's name, ``<notebook>[-<data set>]-seed<k>``."""
    return record.split("-")[0]


def _ranks_differ(profile: Profile, *, root: Path) -> Iterator[str]:
    """Yield the ranks files that do not hold each tested user once, with a rank inside the catalogue."""
    results = root / "results" / profile.name
    sizes: dict[str, dict[str, float]] = {}
    for file in sorted((results / "tables").glob("table2*.csv")):
        for dataset, rows in pd.read_csv(file).groupby("dataset"):
            sizes[dataset] = rows.set_index("quantity")["measured"].to_dict()
    for folder in (results / "ranks", results / "grid" / "ranks"):
        for path in sorted(folder.rglob("*.parquet")):
            place, dataset, frame = path.relative_to(root), path.relative_to(folder).parts[0], read_ranks(path)
            if dataset not in sizes:
                yield f"No Table 2 of {results.name} says how many users {dataset} has: run `4_results`."
                continue
            users, items = int(sizes[dataset]["users"]), int(sizes[dataset]["items"])
            for user in frame.loc[frame["user"].duplicated(), "user"].head(1):
                yield f"{place} holds user {user} twice."
            tested = sampled_users(users, profile.for_dataset(dataset).retriever.test_users, "test")
            for user in np.setdiff1d(tested, frame["user"])[:1]:
                yield f"{place} lacks user {user}: {dataset} has {users:,}."
            for user in frame.loc[~frame["user"].between(0, users - 1), "user"].head(1):
                yield f"{place} holds user {user}, but {dataset} has {users:,}, counted from 0."
            for row in frame[~frame["rank"].between(1, items)].head(1).itertuples():
                yield f"{place} ranks the target of user {row.user} at {row.rank}, of {items:,} items."


def _grid_differs(profile: Profile, *, root: Path) -> Iterator[str]:
    """Yield the records of the grid that are not of its settings, of their curve, or of a clean tree."""
    for row in grid_table(profile, root=root).itertuples() if profile.grid else ():
        grid = Grid(profile, row.dataset, row.method, root)
        settings = grid.retriever(weight_decay=row.weight_decay, dropout=row.dropout)
        file = grid.record_file(settings, seed=row.seed)
        if file.is_file() and first_difference(read_json(file)["settings"], settings.model_dump()):
            yield f"{file.relative_to(root)} was trained with other settings than {profile.name}.yaml has now."
    for file in sorted((root / "results" / profile.name / "grid" / "records").rglob("*.json")):
        record, place = read_json(file), file.relative_to(root)
        if record["git_dirty"] is not False:
            yield f"{place} was not trained from a clean tree: commit, and train it again."
        curve = pd.read_csv(file.with_suffix(".csv"))
        if not np.isclose(record["recall@10"], curve["recall@10"].max(), rtol=TOLERANCE):
            yield f"{place} records another best Recall@10 than its curve has."


def _tables_differ(profile: Profile, *, root: Path) -> Iterator[str]:
    """Yield the first cell of each table that the ranks do not give."""
    tables = Tables(profile, root)
    for path in sorted((root / "results" / profile.name / "tables").glob("*.csv")):
        place, name = path.relative_to(root), path.stem
        if name.startswith(Tables.BY_HASH):
            continue
        if name not in tables.names():
            yield f"{place} is a table that nobody makes: remove it, or add its recipe to report/tables.py."
        elif difference := _first_difference(tables.committed(name), tables.make(name)):
            yield f"{place}, {difference}: run the notebook that writes it."


def _first_difference(committed: pd.DataFrame, again: pd.DataFrame) -> str | None:
    """Name the first cell in which a table read from its file differs from the one computed again."""
    again = pd.read_csv(io.StringIO(again.to_csv(index=False)))  # the types that a file has
    if list(committed) != list(again) or len(committed) != len(again):
        return f"{committed.shape} rows and columns, but {again.shape} follow from the ranks, or other columns"
    for column in committed:
        old, new = committed[column], again[column]
        if pd.api.types.is_numeric_dtype(old) and pd.api.types.is_numeric_dtype(new):
            same = np.isclose(old.astype(float), new.astype(float), rtol=TOLERANCE, atol=1e-12, equal_nan=True)
        else:
            same = ((old.astype(object) == new.astype(object)) | (old.isna() & new.isna())).to_numpy()
        if not same.all():
            place = int(np.argmin(same))
            return f"line {place + 2}, {column}: {old[place]} is written, {new[place]} follows from the ranks"
    return None
