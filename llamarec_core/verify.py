"""Verification: whether ``results/`` is whole, is of the commits that it names, and follows from its ranks.

``llamarec verify`` asks, in this order:

1. Is every file under ``results/`` as the manifest has it, and is there no other? Does each profile hold what it must?
2. Does every file have a record with its hash, from a clean tree, with its seed, and do the records of one run agree?
3. Do all records name the same data?
4. Is every record of a commit that led to this one, and do that commit's notebook, profile and locked versions agree
   with it? Is each executed notebook that notebook, run with the recorded parameters?
5. Does every ranks file hold each user once, with a rank inside the catalogue?
6. Are the grid's records those of its settings and curves?
7. Do the tables, computed again from the ranks, hold the same numbers, as CSV and as LaTeX?
8. Does every concluding sentence of the book hold of its table?

A notebook or a setting that has changed since a run is no fault of the run: it is listed, but for ``FRESH`` profiles.

What it cannot tell: whether ranks and times were measured. A forger who changes ranks, then the tables, the hashes in
records and the manifest leaves nothing that contradicts itself; outputs of notebooks, figures and weights need the
manifest alone. Git shows who changed the manifest; running a step again shows the rest.
"""

import io
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from llamarec_core import records
from llamarec_core.evaluation.conclusions import check_conclusions
from llamarec_core.files import InputError, read_json, write_json
from llamarec_core.grid import Grid, grid_table
from llamarec_core.paths import RANKED, Paths, find_profile
from llamarec_core.provenance import git_state
from llamarec_core.records import MANIFEST
from llamarec_core.report.forms import FORMS
from llamarec_core.report.show import show_table, to_latex
from llamarec_core.report.tables import Tables
from llamarec_core.retrieval import read_ranks, sampled_users
from llamarec_core.settings import Profile, load_profile
from llamarec_core.training import first_difference

FRESH = ("quick",)  # profiles whose results are made again within minutes, and must be of the present notebooks
TABLES = ("table1", "table2", "table3", "comparison", "floors")  # of every profile with results
TOLERANCE = 1e-5  # relative, of a committed number: files hold six significant digits


def verify(root: Path, *, profiles: Collection[str] = (), write: bool = False) -> str:
    """Check committed results; an :class:`InputError` names the first thing that does not fit.

    Without ``profiles``, all that have results or are listed are checked, and the benches and the book's conclusions.
    ``write`` writes the manifest when all else fits. Returns a sentence for each profile that was checked, and what has
    changed since its results were made.
    """
    results, listed = root / "results", {}
    for name in profiles:
        load_profile(find_profile(name, root=root))  # a name is checked before anything is read
    if not write:
        _refuse_first(root, MANIFEST, records.manifest_differs(root, folders=profiles))
        listed = read_json(root / MANIFEST)
    if not profiles:
        bench = records.records_below(results / "bench")
        differ = records.records_differ(results / "bench", bench)
        _refuse_first(root, "results/bench", differ, records.history_differs(bench, root=root))
    there = {path.name for path in results.iterdir() if path.is_dir()} | {path.split("/")[0] for path in listed}
    checked, notes = [], list(filter(None, [records.missing_history(root)]))
    for place in profiles or sorted(there - {"bench", "published"}):
        profile = load_profile(find_profile(place, root=root))
        folder = results / profile.name
        if not folder.is_dir():
            raise InputError(f"{profile.name} has no results: run `make study PROFILE={profile.name}` first.")
        found, missing = records.records_below(folder), [path for path in _needed(profile, root) if not path.is_file()]
        _refuse_first(  # cheap checks first
            root,
            f"results/{profile.name}",
            (f"{path} is missing, which the profile must hold: restore it, or run its step." for path in missing),
            records.records_differ(folder, found),
            records.data_differ(folder, found),
            records.history_differs(found, root=root),
            records.notebooks_differ(folder, found),
            _ranks_differ(profile, folder),
            _grid_differs(profile, root),
            _tables_differ(profile, root),
        )
        changed = list(records.changed_since(profile, found, root=root))
        if profile.name in FRESH and changed:
            raise InputError(f"{changed[0]}: run `make study PROFILE={profile.name}`.")
        notes += changed
        tables = {path.stem for path in (folder / "tables").glob("*.csv")}
        by_hash = sorted(table for table in tables if table.startswith(Tables.BY_HASH))
        said = f"{len(tables) - len(by_hash)} tables follow from the ranks"
        said += f", by their hashes alone: {', '.join(by_hash)}." if by_hash else "."
        checked.append(f"{profile.name}: whole and from a clean tree; {said}")
    if not profiles:
        _refuse_first(root, "book/conclusions.yaml", check_conclusions(root))
    if write:
        if git_state(root)[1] is not False:
            raise InputError(f"{root} has changes beside its results, or no git: commit them first.")
        write_json(root / MANIFEST, records.manifest(root))
    return "\n".join(checked + notes)


def _refuse_first(root: Path, place: str, *checks: Iterator[str]) -> None:
    """Raise the first difference, with paths from ``root`` on; what cannot even be read is one."""
    try:
        first = next(chain(*checks), None)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        first = f"{place} holds something that cannot be read ({type(error).__name__}: {error}): restore it."
    if first is not None:
        raise InputError(first.replace(f"{root}/", ""))


def _needed(profile: Profile, root: Path) -> list[Path]:
    """Return what a profile with results must hold: ranks, weights, notebooks, tables, the grid."""
    results, evaluation = root / "results" / profile.name, profile.evaluation
    needed = [results / "tables" / f"{name}.{kind}" for name in TABLES for kind in ("csv", "tex")]
    needed += [results / "notebooks" / "4_results.ipynb"]
    for dataset in profile.datasets:
        paths = Paths(root, profile.name, dataset, profile.seed)
        needed += [paths.ranks_file(method) for method in (profile.retriever.method, *RANKED)]
        needed += [results / "notebooks" / dataset / f"{name}.ipynb" for name in ("1_data", "2_retriever", "3_ranker")]
        needed += [paths.weights / "retriever.safetensors", paths.weights / "adapter" / "adapter_model.safetensors"]
        needed += [paths.ablation_file] if dataset in evaluation.ablation_datasets else []
    needed += [results / "strategies" / dataset / "provenance.json" for dataset in evaluation.strategy_datasets]
    for grid in (Grid(profile, name, method, root) for method, of_each in profile.grid.items() for name in of_each):
        for seed in range(profile.seed, profile.seed + grid.settings.seeds):
            needed.append(Paths(root, profile.name, grid.dataset, seed).grid_ranks(grid.method))
        for point in grid.settings.points():
            record = grid.record_file(grid.retriever(**point), seed=profile.seed)
            needed += [record, record.with_suffix(".csv")]
    return needed


def _ranks_differ(profile: Profile, results: Path) -> Iterator[str]:
    """Yield the ranks files that lack a tested user, or hold another, or a rank outside the catalogue."""
    counts = pd.concat([pd.read_csv(file) for file in sorted((results / "tables").glob("table2*.csv"))])
    sizes = counts[counts["quantity"].isin(["users", "items"])].groupby(["dataset", "quantity"])["measured"].last()
    for folder in (results / "ranks", results / "grid" / "ranks"):
        for path in sorted(folder.rglob("*.parquet")):
            dataset, frame = path.relative_to(folder).parts[0], read_ranks(path)
            if dataset not in sizes:
                yield f"No Table 2 of {results.name} says how many users {dataset} has: run `4_results`."
                continue
            users, items = int(sizes[dataset]["users"]), int(sizes[dataset]["items"])
            tested = sampled_users(users, profile.for_dataset(dataset).retriever.test_users, "test")
            for user in np.setdiff1d(tested, frame["user"])[:1]:
                yield f"{path} lacks user {user}: {dataset} has {users:,}."
            for user in frame.loc[~frame["user"].between(0, users - 1), "user"].head(1):
                yield f"{path} holds user {user}, but {dataset} has {users:,}, counted from 0."
            for row in frame[frame["rank"] > items].head(1).itertuples():
                yield f"{path} ranks the target of user {row.user} at {row.rank}, of {items:,} items."


def _grid_differs(profile: Profile, root: Path) -> Iterator[str]:
    """Yield the records of the grid that are not of its settings or of their curve."""
    for row in grid_table(profile, root=root).itertuples() if profile.grid else ():
        grid = Grid(profile, row.dataset, row.method, root)
        settings = grid.retriever(weight_decay=row.weight_decay, dropout=row.dropout)
        file = grid.record_file(settings, seed=row.seed)
        if first_difference(read_json(file)["settings"], settings.model_dump()):
            yield f"{file} was trained with other settings than {profile.name}.yaml has now."
    for file in sorted((root / "results" / profile.name / "grid" / "records").rglob("*.json")):
        curve = pd.read_csv(file.with_suffix(".csv"))
        if not np.isclose(read_json(file)["recall@10"], curve["recall@10"].max(), rtol=TOLERANCE):
            yield f"{file} records another best Recall@10 than its curve has."


def _tables_differ(profile: Profile, root: Path) -> Iterator[str]:
    """Yield the first cell of each table that the ranks do not give."""
    tables = Tables(profile, root)
    for path in sorted((root / "results" / profile.name / "tables").glob("*.csv")):
        name, latex = path.stem, path.with_suffix(".tex")
        if name.startswith(Tables.BY_HASH):
            continue
        if name not in tables.names():
            yield f"{path} is a table that nobody makes: remove it, or add its recipe to report/tables.py."
            continue
        again = tables.make(name)
        if difference := _first_difference(pd.read_csv(path), again):
            yield f"{path}, {difference}: run the notebook that writes it."
        shown = to_latex(show_table(again, name if name in FORMS else None), label="")
        if _latex_rows(latex.read_text(encoding="utf-8")) != _latex_rows(shown):
            yield f"{latex} has other cells than {path.name}: run the notebook that writes it."


def _latex_rows(latex: str) -> list[str]:
    """Return the rows of a LaTeX table; its caption is the notebook's."""
    return [line for line in latex.splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]


def _first_difference(committed: pd.DataFrame, again: pd.DataFrame) -> str | None:
    """Name the first cell in which a table read from its file differs from the one computed again."""
    again = pd.read_csv(io.StringIO(again.to_csv(index=False)))  # the types that a file has
    if list(committed) != list(again) or len(committed) != len(again):
        return f"{committed.shape} rows and columns, but {again.shape} follow from the ranks, or other columns"
    for column in committed:
        old, new = committed[column], again[column]
        same = (old.astype(object) == new.astype(object)) | (old.isna() & new.isna())
        if all(map(pd.api.types.is_numeric_dtype, (old, new))):
            same |= np.isclose(old.astype(float), new.astype(float), rtol=TOLERANCE, atol=1e-12)
        if not same.all():
            place = same.argmin()
            return f"line {place + 2}, {column}: {old[place]} is written, {new[place]} follows from the ranks"
    return None
