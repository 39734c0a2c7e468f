"""Reading source files: tables and metadata lines, plain or gzipped, with errors that name the line.

A table is parsed by pyarrow, in one go. Only when something is wrong with it is it read a second time,
row by row, to say on which line: a broken file costs a few seconds more, a good one nothing.
"""

import csv
import gzip
import hashlib
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from llamarec_core.files import InputError

SourcePath = Path | zipfile.Path
"""A file or folder on disk or inside a zip archive: both are read in the same way."""

_ID_COLUMNS = ("user_id", "item_id")


@dataclass(frozen=True)
class TableFormat:
    """How a table is written."""

    columns: Mapping[str, str]
    """Our name of each column to read → its name in the file; other columns are ignored."""
    header: Sequence[str] | None = None
    """All column names in order, for a file without a header line."""
    delimiter: str = ","
    """What stands between two fields."""
    quoted: bool = True
    """Whether a field may stand in double quotes."""
    unique: str | None = None
    """Our name of a column that may hold a value only once."""


def find_file(folder: SourcePath, name: str) -> SourcePath | None:
    """Return the file of that name, or of that name with ``.gz``; none if there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_table(path: SourcePath, form: TableFormat) -> pd.DataFrame:
    """Read a table's columns: ``timestamp`` as int64 or float64, all others as text.

    Args:
        path: The file; gzipped if its name ends in ``.gz``.
        form: Its columns and how they are separated.

    Returns:
        One column for each of ``form.columns``, by our names.

    Raises:
        InputError: the file is empty, truncated or not UTF-8, lacks a column, or holds a row with a wrong
            number of fields, an empty id, a time that is not a number, or a repeated id; the sentence names
            file, line and column.
    """
    with opened(path) as file:
        content = file.read()
    if not content.strip():
        raise InputError(f"{path} is empty: give a file with the columns {', '.join(form.columns.values())}.")
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(content),
            read_options=pa_csv.ReadOptions(column_names=form.header),
            parse_options=pa_csv.ParseOptions(
                delimiter=form.delimiter, quote_char='"' if form.quoted else False, newlines_in_values=form.quoted
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(form.columns.values()),
                column_types=dict.fromkeys(form.columns.values(), pa.string()),
                strings_can_be_null=False,
            ),
        ).rename_columns(list(form.columns))
        frame = pd.DataFrame({name: _converted(name, table[name]) for name in form.columns})
        if form.unique and frame[form.unique].duplicated().any():
            raise ValueError(f"a repeated {form.unique}")
    except (ValueError, KeyError) as error:  # pyarrow's errors are among them
        _name_the_line(path, content, form, error)
    if frame.empty:
        raise InputError(f"{path} holds no row below its header.")
    return frame


def read_metadata_titles(path: SourcePath, parse: Callable[[str], object]) -> dict[str, str]:
    """Read the titles of an Amazon metadata file, one record a line, as they stand there.

    Args:
        path: The file; gzipped if its name ends in ``.gz``.
        parse: Turns a line into a record with the keys ``asin`` and ``title``.

    Returns:
        Title of each item id; records without a title are left out, of several the last one counts.

    Raises:
        InputError: the file is truncated, or a line is not a record.
    """
    titles = {}
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                record = parse(line.decode())
                item, title = record.get("asin"), record.get("title")
            except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError):
                raise InputError(f"{path}, line {number} is not a metadata record: get the file again.") from None
            if isinstance(item, str) and isinstance(title, str) and title:
                titles[item.strip()] = title
    return titles


def file_sha256(path: SourcePath) -> str:
    """Return the SHA-256 of a file's bytes as they lie there, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def opened(path: SourcePath) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, through gzip if its name ends in ``.gz``.

    Raises:
        InputError: the gzip data is truncated or altered.
    """
    with path.open("rb") as file:
        if not path.name.endswith(".gz"):
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield unzipped
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise InputError(f"{path} is truncated or not a gzip file: get the file again.") from None


def _converted(name: str, column: pa.ChunkedArray) -> np.ndarray | pd.Series:
    """Check a column's values and give it its type."""
    if name == "timestamp":
        column = pc.utf8_trim_whitespace(column)
        try:
            return column.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            numbers = column.cast(pa.float64()).to_numpy()
        if not np.isfinite(numbers).all():
            raise ValueError("a time is not a finite number")
        return numbers
    if name in _ID_COLUMNS and pc.any(pc.equal(pc.utf8_trim_whitespace(column), "")).as_py():
        raise ValueError(f"an empty {name}")
    return column.to_pandas()


def _name_the_line(path: SourcePath, content: bytes, form: TableFormat, error: Exception) -> NoReturn:
    """Read row by row and raise the sentence about the first row that is wrong."""
    quoting = csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE
    rows = csv.reader(_decoded(path, content), delimiter=form.delimiter, quoting=quoting, strict=True)
    names = form.header
    first_seen: dict[str, int] = {}
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            raise InputError(f"{path} cannot be read as a table: {error}.") from error
        except csv.Error as problem:
            raise InputError(f"{path}, line {line} cannot be read: {problem}; mend its quotes.") from None
        if not row:
            continue
        if names is None:
            names = row
            missing = [column for column in form.columns.values() if column not in names]
            if missing:
                raise InputError(
                    f"{path} lacks the column {missing[0]}: its header is {form.delimiter.join(names)!r}, it must name "
                    f"{', '.join(form.columns.values())}."
                )
            continue
        if len(row) != len(names):
            raise InputError(f"{path}, line {line} has {len(row)} fields instead of {len(names)}: mend that line.")
        values = dict(zip(names, row, strict=True))
        for ours, column in form.columns.items():
            value = values[column]
            if ours in _ID_COLUMNS and not value.strip():
                raise InputError(f"{path}, line {line} has an empty {column}: mend that line.")
            if ours == "timestamp" and not _is_number(value):
                raise InputError(f"{path}, line {line}: the {column} {value!r} is not a number: mend that line.")
            if ours == form.unique and first_seen.setdefault(value, line) != line:
                raise InputError(
                    f"{path}, line {line} repeats the {column} {value!r} of line {first_seen[value]}: keep one of them."
                )


def _is_number(text: str) -> bool:
    try:
        # Python also reads "1_000" and the digits of other scripts, pyarrow does not.
        return text.isascii() and "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _decoded(path: SourcePath, content: bytes) -> Iterator[str]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True), start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise InputError(f"{path}, line {number} is not UTF-8 text: save the file as UTF-8.") from None
