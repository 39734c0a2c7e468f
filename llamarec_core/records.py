"""Provenance records, held against the files that they account for and against git.

Each check yields a sentence for what does not fit; :mod:`llamarec_core.verify` says which checks there are.
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import nbformat
import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, TypeAdapter, ValidationError

from llamarec_core.checked import first_fault
from llamarec_core.files import InputError, read_json, sha256
from llamarec_core.provenance import command_of, git, notebook_hash, recorded_settings
from llamarec_core.settings import Profile
from llamarec_core.study import assigned

COMMAND = re.compile(r"(papermill|llamarec train)( [\w./:-]+| -y '[\w\s.:,\[\]{}\"-]+')+")
"""What a recorded command may consist of, because the book prints it to be pasted."""

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
    command: Annotated[str, Field(pattern=f"^{COMMAND.pattern}$")] = "papermill -"
    notebook_sha256: _Sha256 | None = None
    profile_sha256: _Sha256 | None = None
    parameters: dict[str, Any] | int = Field(default_factory=dict)


_RECORDS = TypeAdapter(dict[str, Record])


class History:
    """What git keeps of the study, against which a record is held.

    Attributes:
        missing: why it cannot be asked, in a sentence; empty where it can.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commits = set((git(root, "rev-list", "HEAD") or b"").decode().split())
        self.missing, unchecked = "", "whether the records are of the commits that they name was not checked"
        if not self.commits:
            self.missing = f"{root} is no git repository: {unchecked}."
        elif git(root, "rev-parse", "--is-shallow-repository") != b"false\n":
            self.missing = f"This clone is shallow: {unchecked}; run `git fetch --unshallow` first."
        self._contents: dict[str, bytes] = {}

    def content(self, commit: str, path: str) -> bytes:
        """Return a file as a commit holds it; nothing if the commit has no such file."""
        name = f"{commit}:{path}"
        if name not in self._contents:
            self._contents[name] = git(self.root, "show", name) or b""
        return self._contents[name]


def manifest(root: Path) -> dict[str, str]:
    """Return path from ``results`` on → SHA-256, of every file there but the manifest itself."""
    results = root / "results"
    paths = sorted(path for path in results.rglob("*") if path.is_file() and path != manifest_file(root))
    return {path.relative_to(results).as_posix(): sha256(path) for path in paths}


def manifest_file(root: Path) -> Path:
    """Return where the manifest lies."""
    return root / "results" / "manifest.json"


def manifest_differs(root: Path, *, folders: Collection[str] = ()) -> Iterator[str]:
    """Yield the files that are not as the committed manifest has them.

    Args:
        root: the study's folder.
        folders: of ``results``; none takes all of which the manifest lists something: others are a person's own.
    """
    file = manifest_file(root)
    if not file.is_file():
        yield "results/manifest.json is missing: restore it, or write it by `llamarec verify --write`."
        return
    listed, there = TypeAdapter(dict[str, str]).validate_python(read_json(file)), manifest(root)
    folders = folders or {path.split("/")[0] for path in listed}
    for path in sorted(path for path in listed.keys() | there.keys() if path.split("/")[0] in folders):
        if path not in there:
            yield f"results/{path} is missing, which results/manifest.json lists."
        elif path not in listed:
            yield f"results/{path} is not listed in results/manifest.json: remove it, or run `llamarec verify --write`."
        elif listed[path] != there[path]:
            yield f"results/{path} is not as results/manifest.json has it: it was changed after it was committed."


def read_records(file: Path) -> dict[str, Record]:
    """Read a ``provenance.json``, or a file that is one record by itself, by name.

    Raises:
        InputError: it is missing, or a record lacks something or holds what cannot be.
    """
    content = read_json(file)
    try:
        return _RECORDS.validate_python(content if file.name == "provenance.json" else {file.stem: content})
    except ValidationError as error:
        raise InputError(f"{file}: {first_fault(error)}") from None


def records_below(results: Path) -> list[tuple[Path, str, Record]]:
    """Return every record below a folder: its file, its name, and what it says."""
    files = [*results.rglob("provenance.json"), *results.glob("*/records/**/*.json")]
    return [(file, name, record) for file in sorted(files) for name, record in read_records(file).items()]


def records_differ(results: Path, *, root: Path) -> Iterator[str]:
    """Yield where files and records do not account for each other, or a record is not clean."""
    for folder in sorted({path.parent for path in results.rglob("*") if path.is_file()}):
        if "records" in folder.relative_to(results).parts:  # of the grid: they are records themselves
            continue
        place, file = folder.relative_to(root), folder / "provenance.json"
        if not file.is_file():
            yield f"{place} has no provenance.json: restore it, or run the notebook that writes there."
            continue
        recorded: dict[str, str] = {}
        for name, record in read_records(file).items():
            for artefact, digest in record.artefacts.items():
                if artefact in recorded:
                    yield f"{place / artefact} has two records, {recorded[artefact]!r} and {name!r}: run one again."
                elif not (folder / artefact).is_file():
                    yield f"{place / artefact} is missing, which the record {name!r} in {place} accounts for."
                elif sha256(folder / artefact) != digest:
                    yield (
                        f"{place / artefact} has another hash than in the record {name!r} in {place}: "
                        "it was changed after it was written."
                    )
                recorded[artefact] = name
            for other in (*record.artefacts, name):
                if (seed := re.search(r"-seed(\d+)", other)) and int(seed[1]) != record.seed:
                    yield f"{place / other} is of seed {seed[1]}, but its record in {place} says seed {record.seed}."
        unknown = {path.name for path in folder.iterdir() if path.is_file()} - recorded.keys() - {"provenance.json"}
        for name in sorted(name for name in unknown if not name.endswith(".ipynb")):
            yield f"{place / name} has no record in provenance.json: run the notebook that writes it."
    known: dict[str, dict[str, Any]] = {}
    for file, name, record in records_below(results):
        where = f"The record {name!r} in {file.parent.relative_to(root)}"
        if record.git_dirty:
            yield f"{where} was not measured from a clean tree: commit, and run it again."
        if record.notebook_sha256:
            said = record.model_dump(exclude={"artefacts"})
            if known.setdefault(name, said) != said:
                yield f"{where} says something else than the record of the same run beside its other files: restore it."
            ran = results / "notebooks" / record.parameters.get("dataset", "") / f"{notebook_of(name)}.ipynb"
            if results.name == record.parameters.get("profile") and not ran.is_file():
                yield f"{ran.relative_to(root)} is missing, of which {where[0].lower()}{where[1:]} speaks."


def data_differ(results: Path, *, root: Path) -> Iterator[str]:
    """Yield the records that name another hash of a data set than the first; that of ``1_data`` comes first."""
    named = []
    for file, name, record in records_below(results):
        if results / "ties" in file.parents:  # the same events in another order are other data
            continue
        hashes = record.data_sha256
        named.append((name, file, hashes if isinstance(hashes, dict) else {record.dataset: hashes}))
    known: dict[str, str] = {}
    for name, file, hashes in sorted(named, key=lambda entry: not entry[0].startswith("1_data")):
        for dataset, digest in hashes.items():
            first = known.setdefault(dataset, digest)
            if digest != first:
                yield (
                    f"{name!r} in {file.relative_to(root)} was measured on {dataset} with the hash {digest[:12]}…, "
                    f"the other results on {first[:12]}…: run it again on the same data."
                )


def history_differs(results: Path, history: History) -> Iterator[str]:
    """Yield the records that are not of a commit that led to this one, or not of its notebook, profile and versions."""
    for file, name, record in records_below(results) if not history.missing else ():
        where, commit = f"The record {name!r} in {file.parent.relative_to(history.root)}", record.git_commit
        if commit not in history.commits:
            yield f"{where} names the commit {commit}, which does not lead to the present one: run it again."
            continue
        at = f"at the commit {commit[:7]} that it names"
        lock = history.content(commit, "requirements.lock") + history.content(commit, "requirements-torch.lock")
        locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock.decode().lower(), re.MULTILINE))
        for package, version in record.packages.items():
            other = locked.get(package) not in (None, version.split("+")[0])
            if other and not record.hardware.get("accelerators"):  # a machine with a GPU brings builds of its own
                yield f"{where} was made with {package} {version}, but {at} {locked[package]} is locked."
        if not record.notebook_sha256:  # of a command, e.g. `llamarec train`
            continue
        notebook = f"notebooks/{notebook_of(name)}.ipynb"
        profile = f"notebooks/profiles/{record.parameters['profile']}.yaml"
        output = Path("results", record.parameters["profile"], "notebooks", record.parameters.get("dataset", ""))
        command = command_of(notebook, output / Path(notebook).name, record.parameters)
        if sorted(record.command.split(" -")) != sorted(command.split(" -")):
            yield f"{where} has a command that does not make it: restore it, or run the notebook again."
        source, settings = history.content(commit, notebook), history.content(commit, profile)
        if not source or notebook_hash(source) != record.notebook_sha256:
            yield f"{where} is not of {notebook} {at}."
        if not settings or hashlib.sha256(settings).hexdigest() != record.profile_sha256:
            yield f"{where} is not of {profile} {at}."
            continue
        written = yaml.safe_load(settings)
        overrides = written.pop("datasets").get(record.parameters.get("dataset")) or {}
        written |= {part: written.get(part, {}) | changes for part, changes in overrides.items()}
        if not _holds(record.settings, {part: written[part] for part in written.keys() - {"seed"}}):
            yield f"{where} has other settings than {profile} {at}."


def _holds(recorded: Any, written: Any) -> bool:
    """Return whether settings as recorded, with their defaults, hold what a profile's file says of them."""
    if isinstance(recorded, dict) and isinstance(written, dict):
        return all(name in recorded and _holds(recorded[name], value) for name, value in written.items())
    if isinstance(recorded, list) and isinstance(written, list):
        return len(recorded) == len(written) and all(map(_holds, recorded, written))
    if isinstance(recorded, float) and isinstance(written, str):
        return recorded == float(written)  # YAML reads 1e-3 as text
    return bool(recorded == written)


def notebooks_differ(results: Path, *, root: Path) -> Iterator[str]:
    """Yield the executed notebooks without a record, or with other cells or parameters than the record's."""
    for path in sorted((results / "notebooks").rglob("*.ipynb")):
        place, notebook = path.relative_to(root), nbformat.read(path, as_version=4)
        record, given = record_of_notebook(path), notebook.metadata.get("papermill", {}).get("parameters", {})
        injected = [cell.source for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
        if record is None:
            yield f"{place} has no record in provenance.json: run it again."
        elif notebook_hash(path) != record.notebook_sha256:
            yield f"{place} has other cells than the notebook that ran: restore it, or run it again."
        elif any(assigned(source) != given for source in injected) or given != {
            name: value for name, value in record.parameters.items() if name in given
        }:
            yield f"{place} has other parameters than its record: restore it, or run it again."


def changed_since(profile: Profile, *, root: Path) -> Iterator[str]:
    """Yield what has changed since executed notebooks ran: the notebook, or the settings that it ran with."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "results" / profile.name / "notebooks").rglob("*.ipynb")):
        record, source = record_of_notebook(path), root / "notebooks" / path.name
        if record is None:
            continue
        dataset, change = record.parameters.get("dataset"), None
        if not source.is_file():
            change = "the notebook has another name now"
        elif notebook_hash(source) != record.notebook_sha256:
            change = "the notebook has changed since"
        elif dataset and dataset not in profile.datasets:
            change = "the profile lacks the data set now"
        elif record.settings != recorded_settings(profile.for_dataset(dataset) if dataset else profile):
            change = "the settings have changed since"
        if change:
            names = found.setdefault(f"made at {record.git_commit[:7]}; {change}", [])
            names.append("/".join(filter(None, (dataset, path.stem))))
    yield from (f"{profile.name}, {', '.join(names)}: {change}" for change, names in found.items())


def record_of_notebook(path: Path) -> Record | None:
    """Return the record of an executed notebook, of several seeds that of the seed that its parameters say."""
    found = [
        one for name, one in read_records(path.with_name("provenance.json")).items() if notebook_of(name) == path.stem
    ]
    seed = nbformat.read(path, as_version=4).metadata.get("papermill", {}).get("parameters", {}).get("seed")
    return next((record for record in found if seed in (None, record.seed)), None)


def notebook_of(record: str) -> str:
    """Return the notebook of a record's name, ``<notebook>[-<data set>]-seed<k>``."""
    return record.split("-")[0]
