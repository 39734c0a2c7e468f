"""Provenance records, held against the files that they account for and against git.

Each check yields a sentence for what does not fit; :mod:`llamarec_core.verify` says which checks there are.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import nbformat
import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, TypeAdapter

from llamarec_core.checked import validated
from llamarec_core.files import read_json, sha256
from llamarec_core.provenance import command_of, git, notebook_hash, recorded_settings
from llamarec_core.settings import Profile
from llamarec_core.study import assigned

MANIFEST = "results/manifest.json"  # the hash of every other file of the results

# What a recorded command may consist of, because the book prints it to be pasted.
_COMMAND = r"^(papermill|llamarec train)( [\w./:-]+| -y '[\w\s.:,\[\]{}\"-]+')+$"
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Record(BaseModel):
    """What every record says; a notebook's also has ``notebook_sha256``, ``profile_sha256`` and ``parameters``."""

    model_config = ConfigDict(extra="allow")

    git_commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    git_dirty: StrictBool
    seed: StrictInt
    settings: dict[str, Any]
    packages: dict[str, str]
    hardware: dict[str, Any]
    data_sha256: _Sha256 | dict[str, _Sha256]
    artefacts: dict[Annotated[str, Field(pattern=r"^[^./][^/]*$")], _Sha256] = Field(default_factory=dict)
    command: Annotated[str, Field(pattern=_COMMAND)] = "papermill -"
    notebook_sha256: _Sha256 | None = None
    profile_sha256: _Sha256 | None = None
    parameters: dict[str, Any] | int = Field(default_factory=dict)

    # set when the record is read
    name: str = ""  # <notebook>[-<data set>]-seed<k>, or the name of a run of the grid
    folder: Path = Path()

    @property
    def notebook(self) -> str:
        """The notebook's name, without suffix."""
        return self.name.split("-")[0]

    @property
    def where(self) -> str:
        """What a sentence calls the record."""
        return f"record {self.name!r} in {self.folder}"


def records_below(results: Path) -> list[Record]:
    """Read all records below a folder: those in ``provenance.json``, and those of the grid's runs."""
    found = []
    for file in sorted([*results.rglob("provenance.json"), *results.glob("*/records/**/*.json")]):
        content = read_json(file) if file.name == "provenance.json" else {file.stem: read_json(file)}
        for name, record in validated(dict[str, Record], content, place=f"{file}: ").items():
            found.append(record.model_copy(update={"name": name, "folder": file.parent}))
    return found


def manifest(root: Path) -> dict[str, str]:
    """Return path from ``results`` on → SHA-256, of every file there but the manifest itself."""
    results = root / "results"
    paths = sorted(path for path in results.rglob("*") if path.is_file() and path != root / MANIFEST)
    return {path.relative_to(results).as_posix(): sha256(path) for path in paths}


def manifest_differs(root: Path, *, folders: Collection[str] = ()) -> Iterator[str]:
    """Yield the files that are not as the committed manifest has them.

    ``folders`` are of ``results``; none takes all of which the manifest lists something: others are a person's own.
    """
    if not (root / MANIFEST).is_file():
        yield f"{MANIFEST} is missing: restore it, or write it by `llamarec verify --write`."
        return
    listed, there = TypeAdapter(dict[str, str]).validate_python(read_json(root / MANIFEST)), manifest(root)
    folders = folders or {path.split("/")[0] for path in listed}
    for path in sorted(path for path in listed.keys() | there.keys() if path.split("/")[0] in folders):
        if path not in there:
            yield f"results/{path} is missing, which {MANIFEST} lists."
        elif path not in listed:
            yield f"results/{path} is not listed in {MANIFEST}: remove it, or run `llamarec verify --write`."
        elif listed[path] != there[path]:
            yield f"results/{path} is not as {MANIFEST} has it: it was changed after it was committed."


def records_differ(results: Path, records: Sequence[Record]) -> Iterator[str]:
    """Yield where files and records do not account for each other, or a record is not clean."""
    for folder in sorted({path.parent for path in results.rglob("*") if path.is_file()}):
        if "records" not in folder.relative_to(results).parts:  # of the grid: they are records themselves
            yield from _folder_differs(folder, [record for record in records if record.folder == folder])
    known: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.git_dirty:
            yield f"The {record.where} was not measured from a clean tree: commit, and run it again."
        if record.notebook_sha256:
            said = record.model_dump(exclude={"artefacts", "folder"})
            if known.setdefault(record.name, said) != said:
                yield f"The {record.where} says something else than the record of the same run elsewhere: restore it."
            ran = results / "notebooks" / record.parameters.get("dataset", "") / f"{record.notebook}.ipynb"
            if results.name == record.parameters.get("profile") and not ran.is_file():
                yield f"{ran} is missing, of which the {record.where} speaks."


def _folder_differs(folder: Path, records: Sequence[Record]) -> Iterator[str]:
    if not (folder / "provenance.json").is_file():
        yield f"{folder} has no provenance.json: restore it, or run the notebook that writes there."
        return
    known = {folder / "provenance.json"}
    for record in records:
        for artefact, digest in record.artefacts.items():
            path = folder / artefact
            if path in known:
                yield f"{path} has two records, of which one is the {record.where}: run it again."
            elif not path.is_file():
                yield f"{path} is missing, which the {record.where} accounts for."
            elif sha256(path) != digest:
                yield f"{path} has another hash than in the {record.where}: it was changed afterwards."
            known.add(path)
        for name in (*record.artefacts, record.name):
            if (seed := re.search(r"-seed(\d+)", name)) and int(seed[1]) != record.seed:
                yield f"{folder / name} is of seed {seed[1]}, but its record says seed {record.seed}."
    for path in sorted({path for path in folder.iterdir() if path.is_file() and path.suffix != ".ipynb"} - known):
        yield f"{path} has no record in provenance.json: run the notebook that writes it."


def data_differ(results: Path, records: Sequence[Record]) -> Iterator[str]:
    """Yield the records that name another hash of a data set than the first; that of ``1_data`` comes first."""
    known: dict[str, str] = {}
    for record in sorted(records, key=lambda record: record.notebook != "1_data"):
        if results / "ties" in record.folder.parents:  # the same events in another order are other data
            continue
        hashes = record.data_sha256 if isinstance(record.data_sha256, dict) else {record.dataset: record.data_sha256}
        for dataset, digest in hashes.items():
            first = known.setdefault(dataset, digest)
            if digest != first:
                others = f"{digest[:12]}…, the other results on {first[:12]}…"
                yield f"The {record.where} was measured on {dataset} with the hash {others}: run it again on one."


def missing_history(root: Path) -> str:
    """Return in a sentence why :func:`history_differs` cannot ask git; nothing where it can."""
    if git(root, "rev-parse", "HEAD") is None:
        why = f"{root} is no git repository"
    elif git(root, "rev-parse", "--is-shallow-repository") != b"false\n":
        why = "This clone is shallow (run `git fetch --unshallow`)"
    else:
        return ""
    return f"{why}: whether the records are of the commits that they name was not checked."


def history_differs(records: Sequence[Record], *, root: Path) -> Iterator[str]:
    """Yield the records that are not of a commit that led to this one, or not of its notebook, profile and versions."""
    commits = set((git(root, "rev-list", "HEAD") or b"").decode().split())
    for record in () if missing_history(root) else records:
        where, commit, given = f"The {record.where}", record.git_commit, record.parameters
        if commit not in commits:
            yield f"{where} names the commit {commit}, which does not lead to the present one: run it again."
            continue
        at = f"at the commit {commit[:7]} that it names"
        lock = b"".join(_content(root, commit, f"requirements{part}.lock") for part in ("", "-torch"))
        locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock.decode().lower(), re.MULTILINE))
        for package, version in record.packages.items():
            other = locked.get(package) not in (None, version.split("+")[0])
            if other and not record.hardware.get("accelerators"):  # a machine with a GPU brings builds of its own
                yield f"{where} was made with {package} {version}, but {at} {locked[package]} is locked."
        if not record.notebook_sha256:  # of a command, e.g. `llamarec train`
            continue
        notebook, profile = f"notebooks/{record.notebook}.ipynb", f"notebooks/profiles/{given['profile']}.yaml"
        output = Path("results", given["profile"], "notebooks", given.get("dataset", ""), f"{record.notebook}.ipynb")
        if sorted(record.command.split(" -")) != sorted(command_of(notebook, output, given).split(" -")):
            yield f"{where} has a command that does not make it: restore it, or run the notebook again."
        source, settings = _content(root, commit, notebook), _content(root, commit, profile)
        if not source or notebook_hash(source) != record.notebook_sha256:
            yield f"{where} is not of {notebook} {at}."
        if not settings or hashlib.sha256(settings).hexdigest() != record.profile_sha256:
            yield f"{where} is not of {profile} {at}."
            continue
        written = yaml.safe_load(settings)
        overrides = written.pop("datasets").get(given.get("dataset")) or {}
        overrides = {part: changes for part, changes in overrides.items() if part != "columns"}  # no record has these
        written |= {part: written.get(part, {}) | changes for part, changes in overrides.items()}
        if not _holds(record.settings, {part: written[part] for part in written.keys() - {"seed"}}):
            yield f"{where} has other settings than {profile} {at}."


@cache
def _content(root: Path, commit: str, path: str) -> bytes:
    """Return a file as a commit holds it; nothing if the commit has no such file."""
    return git(root, "show", f"{commit}:{path}") or b""


def _holds(recorded: Any, written: Any) -> bool:
    """Return whether settings as recorded, with their defaults, hold what a profile's file says of them."""
    if isinstance(written, dict):
        return all(name in recorded and _holds(recorded[name], value) for name, value in written.items())
    if isinstance(written, list):
        return len(recorded) == len(written) and all(map(_holds, recorded, written))
    return bool(recorded == (float(written) if isinstance(recorded, float) else written))  # YAML reads 1e-3 as text


def notebooks_differ(results: Path, records: Sequence[Record]) -> Iterator[str]:
    """Yield the executed notebooks without a record, or with other cells or parameters than the record's."""
    for path, notebook, given, record in _executed(results, records):
        injected = [cell.source for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
        if record is None:
            yield f"{path} has no record in provenance.json: run it again."
        elif notebook_hash(path) != record.notebook_sha256:
            yield f"{path} has other cells than the notebook that ran: restore it, or run it again."
        elif not given.items() <= record.parameters.items() or any(assigned(source) != given for source in injected):
            yield f"{path} has other parameters than its record: restore it, or run it again."


def changed_since(profile: Profile, records: Sequence[Record], *, root: Path) -> Iterator[str]:
    """Yield what has changed since executed notebooks ran: the notebook, or the settings that it ran with."""
    found = defaultdict(list)
    for path, _, _, record in _executed(root / "results" / profile.name, records):
        dataset, source, change = record.parameters.get("dataset"), root / "notebooks" / path.name, None
        settings = recorded_settings(profile.for_dataset(dataset) if dataset else profile)
        if not source.is_file():
            change = "the notebook has another name now"
        elif notebook_hash(source) != record.notebook_sha256:
            change = "the notebook has changed since"
        elif record.settings != settings or dataset not in (None, *profile.datasets):
            change = "the settings have changed since"
        if change:
            name = f"{dataset}/{path.stem}" if dataset else path.stem
            found[f"made at {record.git_commit[:7]}; {change}"].append(name)
    yield from (f"{profile.name}, {', '.join(names)}: {change}" for change, names in found.items())


def _executed(results: Path, records: Sequence[Record]) -> Iterator[tuple[Path, Any, dict[str, Any], Record | None]]:
    """Yield each executed notebook, its parameters and its record, of several seeds that of the parameters' seed."""
    for path in sorted((results / "notebooks").rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        given = notebook.metadata.get("papermill", {}).get("parameters", {})
        of_notebook = [record for record in records if (record.folder, record.notebook) == (path.parent, path.stem)]
        found = [record for record in of_notebook if given.get("seed") in (None, record.seed)]
        yield path, notebook, given, found[0] if found else None
