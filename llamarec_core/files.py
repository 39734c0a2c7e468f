"""Files written whole or not at all, and the one error that a person is meant to read.

Every artefact of the study is written under a temporary name beside its final place and renamed
when it is whole, so that a killed run leaves either the old file or the new one.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pooch
import yaml


class InputError(ValueError):
    """Something a person gave cannot be used.

    The message is one sentence that names what was wrong, where, and what to do. The command line
    and the notebooks show it alone, without a traceback.
    """


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that takes its place once the block has succeeded.

    The block writes a file or a folder of that name. When it raises, ``path`` stays as it was and
    the temporary file or folder is removed. A folder in the way is moved aside first, because a folder
    cannot be renamed over one that holds files; what a kill between the two left aside is put back here.

    Raises:
        InputError: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, aside = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old.partial")
    _clear(path, temporary, aside)
    try:
        yield temporary
        if path.is_dir():
            path.replace(aside)
        temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"The disk is full while writing {path}: free some space and run the same command again; "
                "it resumes where it was."
            ) from error
        raise
    finally:
        _clear(path, temporary, aside)


def cache_folder(part: str) -> Path:
    """Return the folder of what can be fetched or made again: ``LLAMAREC_CACHE``, or the user's own cache folder.

    Args:
        part: its subfolder, ``data`` or ``backbones``.
    """
    return Path(os.environ.get("LLAMAREC_CACHE") or pooch.os_cache("llamarec")) / part


def _clear(path: Path, temporary: Path, aside: Path) -> None:
    """Leave nothing beside ``path``: what was moved aside goes back if nothing has taken its place."""
    if aside.exists() and not path.exists():
        aside.replace(path)
    _remove(aside)
    _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8, whole or not at all, and return ``path``."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the step that writes it first.") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): delete it and run the step that writes it.") from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if names.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        InputError: the file is not YAML in UTF-8, or a key stands twice in one place.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 (a safe loader)
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: save it in that encoding.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
