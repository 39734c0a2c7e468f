"""How an artefact came about: commit, versions, hardware, and the hash that ties an executed notebook to its source.

What is the same from a run's start to its end is taken at its start: the code on disk may change while it runs.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import filelock
import psutil
import torch

from llamarec_core.files import InputError, read_json, sha256, write_json
from llamarec_core.settings import Profile

PACKAGES = (
    "accelerate", "bitsandbytes", "jupyter-book", "llamarec-core", "numpy", "pandas", "papermill", "peft",
    "pyarrow", "scipy", "snakemake", "torch", "transformers",
)  # fmt: skip


def notebook_hash(notebook: Path | bytes) -> str:
    """Return the SHA-256 of a notebook's cells as they were written, without outputs and injected parameters.

    A notebook, given by its file or by what that holds, has the hash of its source exactly when it is a copy of it.
    """
    import nbformat  # slow to import, and every training imports this module

    content = notebook if isinstance(notebook, bytes) else notebook.read_bytes()
    cells = nbformat.reads(content.decode(), as_version=4).cells
    injected = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    written = [(cell.cell_type, cell.source) for cell in cells if cell not in injected]
    return hashlib.sha256(json.dumps(written, ensure_ascii=False).encode()).hexdigest()


def recorded_settings(profile: Profile) -> dict[str, Any]:
    """Return the settings of a run as its record holds them."""
    return json.loads(profile.model_dump_json(exclude={"datasets", "name", "seed"}))


def git(root: Path, *arguments: str) -> bytes | None:
    """Return what a git command prints, or ``None`` where it fails: no git, no repository, no such object."""
    command, environment = ["git", "-C", str(root), *arguments], os.environ | {"LC_ALL": "C"}
    try:
        answer = subprocess.run(command, capture_output=True, check=False, env=environment)
    except FileNotFoundError:
        return None
    if b"dubious ownership" in answer.stderr:
        folder = root.resolve()
        remedy = f"run `git config --global --add safe.directory {folder}`"
        raise InputError(f"Git does not trust {folder}, because another user owns it: {remedy}.")
    return None if answer.returncode else answer.stdout


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Return the commit around a folder, and whether files other than results differ from it; outside git ``None``."""
    commit = git(root, "rev-parse", "HEAD")
    status = git(root, "status", "--porcelain", "--", ":/", ":(top,exclude)results")
    if commit is None or status is None:
        return None, None
    return commit.decode().strip(), bool(status.strip())


def commit_name(record: Mapping[str, Any]) -> str:
    """Return a record's commit as tables name it: the hash, and ``-dirty`` where the tree had other changes."""
    return f"{record['git_commit'] or 'unknown'}{'-dirty' if record['git_dirty'] else ''}"


def commit_of(artefact: Path) -> str:
    """Return the commit that made a file, as tables name it."""
    return commit_name(record_of(artefact))


def command_of(notebook: str, output: Path, parameters: Mapping[str, Any]) -> str:
    """Return the command that runs a notebook again, e.g. ``notebooks/1_data.ipynb``, from the study's folder on."""
    flags = " ".join(
        f"-p {name} {value}" if isinstance(value, str | int) else f"-y '{name}: {json.dumps(value)}'"
        for name, value in parameters.items()
    )
    return f"papermill {notebook} {output} {flags}"


def package_versions() -> dict[str, str]:
    """Return Python's version and those of the packages that decide the numbers."""
    installed = {distribution.name.lower() for distribution in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
    return {"python": platform.python_version()} | versions


def hardware() -> dict[str, Any]:
    """Return the processor, its cores, the memory in GiB and the accelerators of this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    model = cpuinfo.is_file() and re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
    return {
        "processor": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "accelerators": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def circumstances(root: Path) -> dict[str, Any]:
    """Return what is the same for all that this process writes: commit, versions and hardware."""
    commit, dirty = git_state(root)
    return {"git_commit": commit, "git_dirty": dirty, "packages": package_versions(), "hardware": hardware()}


def peak_memory_mib() -> int:
    """Return the most memory that this process has held so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def keep_record(
    root: Path, artefacts: Iterable[Path], *, name: str, record: dict[str, Any], also: Path | None = None
) -> None:
    """Keep a record under ``name`` in the ``provenance.json`` beside each artefact, with the artefacts' hashes.

    It replaces an earlier one of its name. Artefacts go over from the records that accounted for them so far; a record
    that has none left goes. The folder ``also`` gets the record in any case.
    """
    folders: dict[Path, dict[str, str]] = {also: {}} if also else {}
    for path in artefacts:
        folders.setdefault(path.parent, {})[path.name] = sha256(path)
    (root / "runs").mkdir(exist_ok=True)
    with filelock.FileLock(root / "runs" / ".provenance.lock"):
        for folder, hashes in folders.items():
            file, kept = folder / "provenance.json", {}
            for other, one in (read_json(file) if file.is_file() else {}).items():
                left = {path: digest for path, digest in one["artefacts"].items() if path not in hashes}
                if left or not one["artefacts"]:
                    kept[other] = one | {"artefacts": left}
            write_json(file, kept | {name: record | {"artefacts": hashes}})


def load_records(results: Path) -> dict[str, dict[str, Any]]:
    """Return the provenance records of a profile's notebooks, by name."""
    files = sorted((results / "notebooks").rglob("provenance.json"))
    return dict(sorted((name, record) for file in files for name, record in read_json(file).items()))


def record_of(artefact: Path) -> dict[str, Any]:
    """Return the provenance record that accounts for a file; an :class:`InputError` where none does."""
    records = read_json(artefact.with_name("provenance.json")).values()
    record = next((record for record in records if artefact.name in record["artefacts"]), None)
    if record is None:
        raise InputError(f"{artefact} has no record in provenance.json: run the notebook that writes it again.")
    return record
