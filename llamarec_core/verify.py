"""Verification: whether what lies under ``results/`` is whole, fresh, and follows from its ranks.

``llamarec verify`` asks, of every profile with results, in this order:

1. Does every file have a record with its hash, from a clean tree, with its seed?
2. Do all records name the same data?
3. Are the executed notebooks those of their sources and settings?
4. Does every ranks file hold each user once, with a rank inside the catalogue?
5. Are the grid's records those of its settings and curves?
6. Do the tables, computed again from the ranks, hold the same numbers?
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd

from llamarec_core.files import InputError, read_json, sha256
from llamarec_core.grid import BY_ITEM_ID, Grid, grid_table, run_name
from llamarec_core.provenance import notebook_hash, recorded_settings
from llamarec_core.recompute import NOT_FROM_RANKS, Recomputation
from llamarec_core.retrieval import read_ranks
from llamarec_core.settings import Profile, load_profile
from llamarec_core.study import find_profile

BEFORE_THE_RANKER = ("retriever", "grid")
"""The settings that the notebooks `1_…` and `2_…` read: those of the ranker may change after them."""

OF_STRATEGIES = "strategy_"
"""Begins the names of the settings that `5_strategies` alone reads."""

TOLERANCE = 1e-5
"""Relative difference between a committed number and the same computed again: files hold six significant digits."""


def verify(root: Path, *, profiles: Iterable[str] = ()) -> str:
    """Check committed results.

    Args:
        root: the study's folder.
        profiles: names of profiles; none takes every profile that has results, and the benches.

    Returns:
        What was checked, in a sentence a profile.

    Raises:
        InputError: a profile has no results, or something does not fit; the message names the first difference.
    """
    results = root / "results"
    names = list(profiles) or sorted(folder.parent.name for folder in results.glob("*/notebooks"))
    if not profiles:
        _refuse_first(_records_differ(results / "bench", root=root))
    checked = []
    for name in names:
        profile = load_profile(find_profile(name, root=root))
        if not (results / profile.name / "notebooks").is_dir():
            raise InputError(f"{profile.name} has no results: run `make study PROFILE={profile.name}` first.")
        _refuse_first(differences(profile, root=root))
        tables = [path.stem for path in (results / profile.name / "tables").glob("*.csv")]
        by_hash = sorted(table for table in tables if table.startswith(NOT_FROM_RANKS))
        checked.append(
            f"{profile.name}: whole, fresh and from a clean tree; {len(tables) - len(by_hash)} tables follow from the "
            "ranks" + (f", by their hashes alone: {', '.join(by_hash)}." if by_hash else ".")
        )
    return "\n".join(checked)


def _refuse_first(found: Iterator[str]) -> None:
    first = next(found, None)
    if first is not None:
        raise InputError(first)


def differences(profile: Profile, *, root: Path) -> Iterator[str]:
    """Yield a sentence for everything of a profile's results that does not fit, cheap checks first."""
    results = root / "results" / profile.name
    yield from _records_differ(results, root=root)
    yield from _data_differ(results, root=root)
    yield from _notebooks_differ(profile, root=root)
    yield from _ranks_differ(results, root=root)
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
    for file in sorted(results.rglob("provenance.json")):
        named += [(name, file, record["data_sha256"]) for name, record in read_json(file).items()]
    for file in sorted((results / "grid" / "records").rglob("*.json")):
        record = read_json(file)
        named.append((file.stem, file, {record["dataset"]: record["data_sha256"]}))
    known: dict[tuple[str, str], str] = {}
    for name, file, hashes in sorted(named, key=lambda entry: not entry[0].startswith("1_data")):
        order = re.search(r"order_run_[a-z]+(?=-seed|$)", name)  # the same events in another order are other data
        for dataset, digest in hashes.items():
            first = known.setdefault((dataset, order[0] if order else BY_ITEM_ID), digest)
            if digest != first:
                yield (
                    f"{name!r} in {file.relative_to(root)} was measured on {dataset} with the hash {digest[:12]}…, "
                    f"the other results on {first[:12]}…: run it again on the same data."
                )


def _notebooks_differ(profile: Profile, *, root: Path) -> Iterator[str]:
    """Yield the executed notebooks that are not those of their sources and settings."""
    file = find_profile(profile.name, root=root)
    for path in sorted((root / "results" / profile.name / "notebooks").rglob("*.ipynb")):
        place, source = path.relative_to(root), root / "notebooks" / path.name
        if not source.is_file():
            yield f"{place} has no source: notebooks/{path.name} is missing."
            continue
        record = _record_of_notebook(path)
        if record is None:
            yield f"{place} has no record in provenance.json: run it again."
        elif not notebook_hash(path) == record["notebook_sha256"] == notebook_hash(source):
            yield f"{place} is older than its source: run `make study PROFILE={profile.name}`, or this notebook alone."
        else:
            dataset = record["parameters"].get("dataset")
            now = recorded_settings(profile.for_dataset(dataset) if dataset else profile)
            if _read_by(path.stem, record["settings"]) != _read_by(path.stem, now):
                yield f"{place} ran with other settings than {file.name} has now: run it again."


def _record_of_notebook(path: Path) -> dict[str, Any] | None:
    """Return the record of an executed notebook, of several seeds that of the seed that its parameters say."""
    records = read_json(path.with_name("provenance.json"))
    found = [record for name, record in records.items() if name.startswith(f"{path.stem}-")]
    seed = nbformat.read(path, as_version=4).metadata.get("papermill", {}).get("parameters", {}).get("seed")
    return next((record for record in found if seed in (None, record["seed"])), None)


def _read_by(notebook: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a run's settings that the numbers of a notebook depend on."""
    if notebook.startswith(("1_", "2_")):
        return {part: settings[part] for part in BEFORE_THE_RANKER}
    evaluation = settings["evaluation"]
    if notebook != "5_strategies":
        evaluation = {name: value for name, value in evaluation.items() if not name.startswith(OF_STRATEGIES)}
    return {**settings, "evaluation": evaluation}


def _ranks_differ(results: Path, *, root: Path) -> Iterator[str]:
    """Yield the ranks files that do not hold each user of the data set once, with a rank inside the catalogue."""
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
            for user in sorted(set(range(users)) - set(frame["user"]))[:1]:
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
        file = grid.record_file(run_name(settings, seed=row.seed))
        if file.is_file() and read_json(file)["settings"] != settings.model_dump():
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
    again = Recomputation(profile, root)
    recipes = again.tables()
    folder = again.results / "tables"
    for path in sorted(folder.glob("*.csv")):
        if path.stem.startswith(NOT_FROM_RANKS):
            continue
        if path.stem not in recipes:
            yield f"{path.relative_to(root)} is a table that nobody computes: remove it, or add how to recompute.py."
            continue
        difference = _first_difference(pd.read_csv(path), recipes[path.stem]())
        if difference:
            yield f"{path.relative_to(root)}, {difference}: run the notebook that writes it."
    for path, text, notebook in (
        (folder / "opening.md", again.opening, "4_results"),
        (folder / "retrieval.md", again.retrieval_sentences, "2_retrieval"),
        (folder / "verdicts.md", again.verdicts, "5_claims"),
    ):
        if path.is_file() and path.read_text(encoding="utf-8") != text():
            yield f"{path.relative_to(root)} does not follow from the ranks: run `{notebook}`."


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
