"""Reading source files: tables and metadata lines, plain or gzipped, with errors that name file, line and column.

pyarrow parses a table in one pass. The line of a row is looked up only for the sentence of an error.
"""

import csv
import gzip
import io
import re
import reprlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from llamarec_core.files import InputError

SourcePath = Path | zipfile.Path
"""A file or folder on disk or inside a zip archive: both are read in the same way."""

LONGEST_VALUE = 4_000
"""Bytes of the longest id, time or title. Python converts no number of more than 4,300 digits."""
LONGEST_ROW = 2**24
"""Bytes of the longest row."""
EXPANSION = 200
"""A gzip file may unpack to this many times its size. Tables reach 20, a file made to fill the memory 1,000."""

_RECBOLE_TYPE = re.compile(r":(token|float)(_seq)?$")
_LINE_BREAK, _SIGN = re.compile(rb"\r\n?|\n"), re.compile(rb"\S")
_END = "<end of the table>"
_DECIMAL = pa.decimal256(76, 38)
_DATES = [pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "ms", "us", "ns")]
_TIMES = [pa.int64(), _DECIMAL, *_DATES]


@dataclass(frozen=True)
class TableFormat:
    """How a table is written.

    Attributes:
        columns: our name of each column to read → its name in the file; other columns are ignored.
        header: all column names in order, for a file with commas and without a header line.
        quoted: whether a field may stand in double quotes.
        unique: our name of a column that may hold a value only once.
    """

    columns: Mapping[str, str]
    header: Sequence[str] | None = None
    quoted: bool = True
    unique: str | None = None


def find_file(folder: SourcePath, name: str) -> SourcePath | None:
    """Return the file of that name, or of that name with ``.gz``; none if there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_table(path: SourcePath, form: TableFormat) -> pd.DataFrame:
    """Read a table's columns: ``timestamp`` as int64, all others as text.

    The header line shows the delimiter: comma, semicolon, tab or bar. RecBole's types of columns (``user_id:token``)
    are no part of their names. Times are whole numbers, decimal numbers or ISO 8601 dates. Whole numbers stay as they
    are, dates are counted in the coarsest unit that holds all of them, decimal numbers are replaced by their ranks:
    order and ties are exact.

    Args:
        path: The file; gzipped if its name ends in ``.gz``.
        form: Its columns.

    Returns:
        One column for each of ``form.columns``, by our names.

    Raises:
        InputError: the file is empty, truncated or not UTF-8, lacks a column, or leaves a quote open; or a row has a
            wrong number of fields, an empty or repeated id, a value that is too long, or a time that is not like
            the others or cannot be held exactly.
    """
    with opened(path) as file:
        content = file.read()
    table = _Table(path, content, form)
    return pd.DataFrame({ours: table.times() if ours == "timestamp" else table.text(ours) for ours in form.columns})


class _Table:
    """A table's rows as pyarrow parsed them, and where they stand in the file."""

    def __init__(self, path: SourcePath, content: bytes, form: TableFormat) -> None:
        self.path, self.content, self.form = path, content.removeprefix(b"\xef\xbb\xbf"), form
        self.start, self.delimiter, names = self._header()
        self.width = len(names)
        if not _SIGN.search(self.content, self.start):
            raise InputError(f"{path} holds no row below its header.")
        places = [names.index(theirs) for theirs in form.columns.values()]
        columns = self._parse(places, quoted=form.quoted and b'"' in self.content)
        self.columns = dict(zip(form.columns, columns, strict=True))

    def _header(self) -> tuple[int, str, list[str]]:
        """Return where the rows begin, the delimiter, and the names of all columns."""
        wanted = self.form.columns.values()
        if not _SIGN.search(self.content):
            raise InputError(f"{self.path} is empty: give a file with the columns {', '.join(wanted)}.")
        if self.form.header:
            return 0, ",", list(self.form.header)
        line = re.match(rb"[\r\n]*([^\r\n]*)", self.content)
        try:
            text = line[1].decode()[:100_000]  # csv reads fields of up to 131,072 signs
        except UnicodeDecodeError as error:
            raise self._not_utf8(error) from None
        names = {}
        for delimiter in ",;\t|":
            fields = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
            names[delimiter] = [_RECBOLE_TYPE.sub("", name.strip()) for name in fields]
        found = max(names, key=lambda delimiter: (len({*wanted} & {*names[delimiter]}), len(names[delimiter])))
        wrong = next((name for name in wanted if names[found].count(name) != 1), None)
        if wrong is not None:
            raise InputError(
                f"{self.path} {'repeats' if wrong in names[found] else 'lacks'} the column {wrong}: its header is "
                f"{text[:120]!r}, it must name {', '.join(wanted)}, or `columns` must say what they are called there."
            )
        return line.end(), found, names[found]

    def _parse(self, places: Sequence[int], *, quoted: bool) -> list[pa.ChunkedArray]:
        """Parse the rows and return the columns at some places.

        Where there are quotes, all columns are parsed, and a row of our own below: a quote left open would take it in.
        """
        types = {str(place): pa.string() if place in places else pa.binary() for place in range(self.width)}
        faulty: list[pa_csv.InvalidRow] = []
        end = f"\n{self.delimiter.join([_END] * self.width)}\n".encode() if quoted else b""
        try:
            rows = pa_csv.read_csv(
                pa.BufferReader(pa.py_buffer(self.content + end).slice(self.start)),
                pa_csv.ReadOptions(column_names=list(types), use_threads=False, block_size=LONGEST_ROW),
                pa_csv.ParseOptions(
                    delimiter=self.delimiter,
                    quote_char='"' if quoted else False,
                    newlines_in_values=quoted,
                    invalid_row_handler=lambda row: faulty.append(row) or "error",
                ),
                pa_csv.ConvertOptions(
                    include_columns=list(types) if quoted else [str(place) for place in places],
                    column_types=types,
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if faulty:
                self._refuse_quote_if(_END in faulty[0].text, faulty[0].number - 1)
                fields = faulty[0].actual_columns
                says = f"has {fields} fields instead of {self.width}: mend that line"
                raise self._fault(faulty[0].number - 1, says) from None
            try:
                self.content.decode()
            except UnicodeDecodeError as fault:
                raise self._not_utf8(fault) from None
            raise InputError(
                f"{self.path} has a row of more than {LONGEST_ROW >> 20} MiB: look for a quote that is never closed."
                if "straddling" in str(error)
                else f"{self.path} cannot be read as a table ({error})."
            ) from None
        if quoted:
            count = len(rows) - 1
            self._refuse_quote_if(rows[str(places[-1])][count].as_py() != _END, count)
            rows = rows.slice(0, count)
            for place, column in enumerate(rows.columns):
                for row in np.flatnonzero(pc.match_substring_regex(column, r"[\r\n]")).tolist():
                    value = column[row].as_buffer().to_pybytes()
                    self._refuse_quote_if(self._holds_rows(value, place), row)
        return [rows[str(place)] for place in places]

    def _holds_rows(self, value: bytes, place: int) -> bool:
        """Return whether a value's lines after the first look like rows: it began with a quote that was left open."""
        _, *between, last = _LINE_BREAK.split(value)
        commas = [line.count(self.delimiter.encode()) for line in between if line.strip()]
        commas.append(last.count(self.delimiter.encode()) + self.width - 1 - place)  # and what follows the value
        return {*commas} == {self.width - 1}

    def text(self, ours: str) -> pd.Series:
        """Return a column whose values are neither too long nor, where it holds ids, empty or repeated."""
        column, theirs = self.columns[ours], self.form.columns[ours]
        lengths = pc.binary_length(column)
        if pc.max(lengths).as_py() > LONGEST_VALUE:
            row = pc.index(pc.greater(lengths, LONGEST_VALUE), True).as_py()
            raise self._fault(row, f"holds {lengths[row]} bytes as {theirs}: give at most {LONGEST_VALUE}")
        empty = pc.index(pc.utf8_trim_whitespace(column), "").as_py() if ours in ("user_id", "item_id") else -1
        if empty >= 0:
            raise self._fault(empty, f"has an empty {theirs}: mend that line")
        values = column.to_pandas()
        repeated = np.flatnonzero(values.duplicated()) if ours == self.form.unique else []
        if len(repeated):
            first = self._line(pc.index(column, column[repeated[0]]).as_py())
            value = reprlib.repr(values[repeated[0]])
            raise self._fault(repeated[0], f"repeats the {theirs} {value} of line {first}: keep one of them")
        return values

    def times(self) -> np.ndarray:
        """Return the times as int64, in an order that is exactly theirs."""
        column = pc.utf8_trim_whitespace(self.columns["timestamp"])
        for kind in _TIMES:
            times = _cast(column, kind)
            if times is not None:
                exact = pc.rank(times, tiebreaker="dense") if kind == _DECIMAL else times
                return exact.cast(pa.int64()).to_numpy()
        row = max(_held(column, kind) for kind in _TIMES)  # where the type that holds the most from the top ends
        time = f"the {self.form.columns['timestamp']} {reprlib.repr(column[row].as_py())}"
        raise self._fault(
            row, f"has {time}: give numbers, or ISO 8601 dates all with or all without a zone, that can be held exactly"
        )

    def _refuse_quote_if(self, left_open: bool, row: int) -> None:
        if left_open:
            raise self._fault(row, "opens a quote that is not closed before the next row: close it, or take it away")

    def _fault(self, row: int, says: str) -> InputError:
        return InputError(f"{self.path}, line {self._line(row)} {says}.")

    def _not_utf8(self, error: UnicodeDecodeError) -> InputError:
        line = len(_LINE_BREAK.findall(self.content, 0, error.start)) + 1
        return InputError(f"{self.path}, line {line} is not UTF-8 text: save the file as UTF-8.")

    def _line(self, row: int) -> int:
        """Return the number of the line on which a row begins; rows are counted from 0, lines from 1."""
        text = io.TextIOWrapper(io.BytesIO(self.content), errors="replace", newline="")
        quoting = csv.QUOTE_MINIMAL if self.form.quoted else csv.QUOTE_NONE
        records = csv.reader(text, delimiter=self.delimiter, quoting=quoting)
        row += self.form.header is None
        line = 0
        try:
            for record in records:
                row -= bool(record)  # neither counts an empty line
                if row < 0:
                    break
                line = records.line_num
        except csv.Error:  # a field of over 128 KiB, of which the row is made that is looked for
            pass
        return line + 1


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Convert text without loss; none where a value cannot be."""
    try:
        values = column.cast(kind)
        # pyarrow takes 0x10 for 16, and lets decimal numbers overflow
        if kind == pa.int64() and pc.any(pc.match_substring(column, "x", ignore_case=True)).as_py():
            return None
        if kind == _DECIMAL and pc.max(pc.abs(column.cast(pa.float64()))).as_py() >= 1e38:
            return None
        return values
    except pa.ArrowInvalid:
        return None


def _held(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """Return how many values from the top a type can hold."""
    row = 0
    for step in (1_000, 1):
        while row < len(column) and _cast(column.slice(row, step), kind) is not None:
            row += step
    return row


def read_metadata_titles(path: SourcePath, parse: Callable[[str], Any]) -> dict[str, str]:
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
        for number, line in enumerate(iter(partial(file.readline, LONGEST_ROW), b""), start=1):
            try:
                record = parse(line.decode())
                item, title = record.get("asin"), record.get("title")
            except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError):
                raise InputError(f"{path}, line {number} is not a metadata record: get the file again.") from None
            if isinstance(item, str) and isinstance(title, str) and title:
                titles[item.strip()] = title
    return titles


@contextmanager
def opened(path: SourcePath) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, through gzip if its name ends in ``.gz``.

    Raises:
        InputError: the gzip data is truncated, altered, or unpacks to more than :data:`EXPANSION` times its size.
    """
    with path.open("rb") as file:
        if not path.name.endswith(".gz"):
            yield file
            return
        try:
            yield io.BufferedReader(_Unpacked(file), 2**20)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise InputError(f"{path} is truncated or not a gzip file: get the file again.") from None
        except OverflowError:
            raise InputError(f"{path} unpacks to over {EXPANSION} times its size: it is no file of data.") from None


class _Unpacked(io.RawIOBase):
    """The bytes of a gzip file, as long as they are not suspiciously many."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed, self._unpacked = packed, gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        count = self._unpacked.readinto(buffer)
        if self._unpacked.tell() > max(EXPANSION * self._packed.tell(), 2**26):
            raise OverflowError
        return count
