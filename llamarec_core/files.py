"""Files written whole or not at all, and the one error that a person is meant to read.

Every artefact of the study is written under a temporary name beside its final place and renamed
when it is whole, so that a killed run leaves either the old file or the new one.
"""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pooch
import psutil
import yaml

_LONGEST = 700
"""Characters of a message: what was given may have millions."""

_LARGEST_YAML = 2**18
"""Bytes of a file of settings; the largest of the study has 10 kB."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class InputError(ValueError):
    """Something a person gave cannot be used.

    The message is one sentence that names what was wrong, where, and what to do. The command line
    and the notebooks show it alone, without a traceback. It stays one short line whatever was given.
    """

    def __init__(self, message: str) -> None:
        message = "".join(sign if sign.isprintable() else " " for sign in message)
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 200]} … {message[-200:]}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one sentence why ``path`` cannot be written, where the block finds the disk full or the place closed.

    Raises:
        InputError: that sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise InputError(
                f"The disk is full while writing {path}: free some space and run the same command again; "
                "it resumes where it was."
            ) from error
        if error.errno in _NO_PLACE and error.filename and Path(error.filename).parent in path.parents:
            raise InputError(
                f"{path} cannot be written ({error.strerror}): check the folder's place and permissions."
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that takes its place once the block has succeeded.

    The block writes a file or a folder of that name, which no other process uses. When it raises, ``path`` stays as it
    was and the temporary file or folder is removed. A folder in the way is moved aside first, because a folder cannot
    be renamed over one that holds files. The next call clears what a killed process left: a folder that was moved
    aside goes back to its place.

    Raises:
        InputError: the disk is full, or the place may not be written to.
    """
    path = Path(path)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary, aside = (path.with_name(f".{path.name}.{mark}{end}.partial") for end in ("", ".old"))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_partial(path.parent, of=path.name)
        try:
            yield temporary
            if path.is_dir():
                path.replace(aside)
            temporary.replace(path)
        finally:
            _restore(aside, path)
            _remove(temporary)


def clear_partial(folder: Path, *, of: str | None = None) -> None:
    """Clear what killed processes left of the files and folders that they were replacing.

    Args:
        folder: where the temporary ones lie.
        of: the name that they were to have; else all of them.
    """
    for left in folder.glob(f".{'*' if of is None else glob.escape(of)}.*.partial"):
        found = re.fullmatch(r"\.(.+)\.(\d+)-[0-9a-f]{8}(\.old)?\.partial", left.name)
        if found and not psutil.pid_exists(int(found[2])):
            if found[3]:
                _restore(left, folder / found[1])
            _remove(left)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that ask for it, until the block or the process ends, however it ends.

    Raises:
        InputError: another process holds it, or the folder may not be written to.
    """
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")  # the kernel's: nothing holds it once its process is gone
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise InputError(f"Another process is at work in {folder}: wait until it has ended, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


def cache_folder(part: str) -> Path:
    """Return the folder of what can be fetched or made again: ``LLAMAREC_CACHE``, or the user's own cache folder.

    Args:
        part: its subfolder, ``data`` or ``backbones``.

    Raises:
        InputError: the user has no home folder.
    """
    folder = Path(os.environ.get("LLAMAREC_CACHE") or pooch.os_cache("llamarec"))
    if folder.parts[0] == "~":
        raise InputError("There is no home folder for the cache: set LLAMAREC_CACHE to a folder.")
    return folder / part


def _restore(aside: Path, path: Path) -> None:
    """Put what was moved aside back if nothing has taken its place, else remove it."""
    if aside.exists() and not path.exists():
        aside.replace(path)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:  # also of a member of a zip archive
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
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): delete it and run the step that writes it.") from None


class _Plain(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last, and names for repeated parts."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of them can stand for gigabytes
            raise yaml.constructor.ConstructorError(
                None, None, "write repeated parts out", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a YAML file of at most 256 kB, without aliases.

    Raises:
        InputError: the file is larger, is not YAML in UTF-8, or a key stands twice in one place.
    """
    path = Path(path)
    if path.stat().st_size > _LARGEST_YAML:
        raise InputError(f"{path} is larger than {_LARGEST_YAML // 2**10} kB, which no file of settings needs.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: save it in that encoding.") from None
    return parse_yaml(text, place=str(path))


def parse_yaml(text: str, *, place: str) -> Any:
    """Parse YAML without aliases.

    Args:
        text: the YAML.
        place: where a person gave it.

    Raises:
        InputError: it is not YAML, or a key stands twice in one place.
    """
    try:
        return yaml.load(text, Loader=_Plain)  # noqa: S506 (a safe loader)
    except RecursionError:
        raise InputError(f"{place} is not valid YAML: it nests too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # also a number of 5,000 digits, or the 31st of February
        raise InputError(f"{place} is not valid YAML: {' '.join(str(error).split())}.") from None
