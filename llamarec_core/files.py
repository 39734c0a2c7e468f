"""Files written whole or not at all, and the one error that a person is meant to read.

Every artefact is written under a temporary name beside its final place and renamed when it is whole, so that a killed
run leaves either the old file or the new one.
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

_LONGEST = 700  # characters of a message: what was given may have millions
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class InputError(ValueError):
    """Something a person gave cannot be used: one short sentence says what was wrong, where, and what to do.

    The command line and the notebooks show it alone, without a traceback.
    """

    def __init__(self, message: str) -> None:
        message = "".join(sign if sign.isprintable() else " " for sign in message)
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 200]} … {message[-200:]}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or a closed folder, met while the block writes ``path``, into an :class:`InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and run the same command again; it resumes where it was"
            raise InputError(f"The disk is full while writing {path}: {remedy}.") from error
        if error.errno in _NO_PLACE and error.filename and Path(error.filename).parent in path.parents:
            remedy = "check the folder's place and permissions"
            raise InputError(f"{path} cannot be written ({error.strerror}): {remedy}.") from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, of a file or folder that takes its place once the block has succeeded.

    When the block raises, ``path`` stays as it was. A folder in the way is moved aside first, because a folder cannot
    be renamed over one that holds files; the next call puts it back if the process was killed at that moment.
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
    """Clear what killed processes left in a folder when they replaced the file ``of`` that name, or any."""
    for left in folder.glob(f".{'*' if of is None else glob.escape(of)}.*.partial"):
        found = re.fullmatch(r"\.(.+)\.(\d+)-[0-9a-f]{8}(\.old)?\.partial", left.name)
        if found and not psutil.pid_exists(int(found[2])):
            _restore(left, folder / found[1]) if found[3] else _remove(left)


def _restore(aside: Path, path: Path) -> None:
    """Put what was moved aside back if nothing has taken its place, else remove it."""
    if aside.exists() and not path.exists():
        aside.replace(path)
    _remove(aside)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # does nothing to a file or a link
    path.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that ask for it, until the block or the process ends, however it ends."""
    lock = filelock.FileLock(folder / ".lock")  # the kernel's: nothing holds it once its process is gone
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise InputError(f"Another process is at work in {folder}: wait until it has ended, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


def cache_folder(part: str) -> Path:
    """Return where ``data`` or ``backbones`` are kept: in ``LLAMAREC_CACHE``, or in the user's own cache folder."""
    folder = Path(os.environ.get("LLAMAREC_CACHE") or pooch.os_cache("llamarec"))
    if folder.parts[0] == "~":
        raise InputError("There is no home folder for the cache: set LLAMAREC_CACHE to a folder.")
    return folder / part


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
    """Read a JSON file; an :class:`InputError` where it is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the step that writes it first.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): delete it and run the step that writes it.") from None
