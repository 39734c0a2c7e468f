"""Reading source files: tables and metadata lines, plain or gzipped, with errors that name file, line and column."""

import csv
import gzip
import io
import re
import reprlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.files import InputError

SourcePath = Path | zipfile.Path
"""A file or folder on disk or inside a zip archive: both are read in the same way."""

EXPANSION = 200
"""A gzip file may unpack to this many times its size. Tables reach 20, a file made to fill the memory 1,000."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
_DATE = re.compile(
    r"\d{4}-?\d\d-?\d\d([ T]\d\d(:?\d\d(:?\d\d([.,]\d{1,9})?)?)? ?(Z|UTC|[+-]\d\d(:?\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)


def read_table(path: SourcePath, columns: Mapping[str, str], *, header: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table's columns: ``timestamp`` as int64, all others as text; the index is the line of each row.

    The header line shows the delimiter: comma, semicolon, tab or bar. A field may stand in double quotes, but not in
    RecBole's files. Times are whole numbers, decimal numbers or ISO 8601 dates; all but whole numbers are replaced by
    their ranks: order and ties are exact. In a table without times, an item stands once. ``columns`` maps our name of
    each column to its name in the file; ``header`` names all columns of a file with commas and without a header line.
    """
    raw = b"".join(_lines(path))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len((error.object[: error.start] + b".").splitlines())
        raise InputError(f"{path}, line {line} is not UTF-8 text: save the file as UTF-8.") from None
    delimiter, names = (",", header) if header else _header(path, text, [*columns.values()])
    quoting = csv.QUOTE_NONE if re.search(r"\.(inter|item)(\.gz)?$", path.name) else csv.QUOTE_MINIMAL
    lines = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8-sig", newline="")
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, skipinitialspace=True, strict=True)
    rows = _rows(path, reader, width=len(names))
    if not header:
        next(rows)
    places = [names.index(theirs) for theirs in columns.values()]
    wanted = ((line, *map(row.__getitem__, places)) for line, row in rows)
    parts = []
    while part := list(islice(wanted, 2**17)):  # all rows at once, as Python's objects, would fill the memory
        parts.append(pd.DataFrame(part, columns=["line", *columns]).set_index("line"))
    if not parts:
        raise InputError(f"{path} holds no row below its header.")
    table = pd.concat(parts)
    for ours in {"user_id", "item_id"} & {*columns}:
        table[ours] = table[ours].str.strip()
        empty = table[ours] == ""
        if empty.any():
            raise _fault(path, empty.idxmax(), f"has an empty {columns[ours]}: mend that line")
    if "timestamp" in columns:
        table["timestamp"] = _times(path, table["timestamp"], columns["timestamp"])
    elif not table["item_id"].is_unique:
        line = table["item_id"].duplicated().idxmax()
        value = table.loc[line, "item_id"]
        first, shown = table["item_id"].eq(value).idxmax(), reprlib.repr(value)
        raise _fault(path, line, f"repeats the {columns['item_id']} {shown} of line {first}: keep one of them")
    return table


def _header(path: SourcePath, text: str, wanted: Sequence[str]) -> tuple[str, list[str]]:
    """Return the delimiter with which the header line holds most of the wanted columns, and all its columns."""
    line = re.match(r"\s*([^\r\n]*)", text)[1]
    if not line:
        raise InputError(f"{path} is empty: give a file with the columns {', '.join(wanted)}.")
    names = {}
    for delimiter in ",;\t|":
        fields = next(csv.reader([line[:100_000]], delimiter=delimiter, skipinitialspace=True), [])
        names[delimiter] = [re.sub(r":(token|float)(_seq)?$", "", name.strip()) for name in fields]
    found = max(names, key=lambda delimiter: (len({*wanted} & {*names[delimiter]}), len(names[delimiter])))
    wrong = next((name for name in wanted if names[found].count(name) != 1), None)
    if wrong is not None:
        raise InputError(
            f"{path} {'repeats' if wrong in names[found] else 'lacks'} the column {wrong}: its header is "
            f"{line[:120]!r}, it must name {', '.join(wanted)}, or `columns` must say what they are called there."
        )
    return found, names[found]


def _rows(path: SourcePath, reader: Any, *, width: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which a row starts, and its fields.

    A quote that is left open takes in rows: all lines but the first look like rows, or text follows the closing quote.
    """
    start, delimiter = 1, reader.dialect.delimiter
    open_quote = "opens a quote that is not closed before the next row: close it, or take it away"
    try:
        for row in reader:
            if reader.line_num > start:
                _, *taken_in = re.split(r"\r\n?|\n", delimiter.join(row))
                if {line.count(delimiter) for line in taken_in if line} == {width - 1}:
                    raise _fault(path, start, open_quote)
            if len(row) == width:
                yield start, row
            elif row:  # an empty line is none
                raise _fault(path, start, f"has {len(row)} fields instead of {width}: mend that line")
            start = reader.line_num + 1
    except csv.Error as error:
        said = open_quote
        if reader.line_num == start and "field limit" in str(error):
            said = f"holds a field of over {csv.field_size_limit():,} characters: shorten it"
        elif reader.line_num == start and "expected after" in str(error):
            said = "has text after a closing quote: write a quote inside quotes twice, or take it away"
        raise _fault(path, start, said) from None


def _times(path: SourcePath, column: pd.Series, theirs: str) -> np.ndarray:
    """Return whole numbers as they are, and others, or those that int64 cannot hold, as ranks."""
    if column.str.fullmatch(r"-?[0-9]{1,18}").all():
        return column.astype("int64").to_numpy()
    codes, texts = pd.factorize(column)
    kinds, times = zip(*map(_time, texts), strict=True)
    wrong = np.array([not kind or kind != kinds[0] for kind in kinds])[codes]
    if wrong.any():
        shown = reprlib.repr(column.iloc[wrong.argmax()])
        remedy = "give numbers, or ISO 8601 dates all with or all without a zone"
        raise _fault(path, column.index[wrong.argmax()], f"has the {theirs} {shown}: {remedy}")
    if not all(isinstance(time, int) and abs(time) < 2**63 for time in times):
        ranks = {time: rank for rank, time in enumerate(sorted({*times}))}
        times = [ranks[time] for time in times]
    return np.array(times, dtype=np.int64)[codes]


def _time(text: str) -> tuple[str, int | Decimal | pd.Timestamp | None]:
    """Return what kind of time a text is, and the time exactly; nothing where it is none."""
    text = text.strip()
    try:
        if _NUMBER.fullmatch(text):
            return "number", Decimal(text) if re.search(r"[.eE]", text) else int(text)
        if _DATE.fullmatch(text):
            time = pd.Timestamp(text.replace(",", "."))
            return "date" if time.tz is None else "date with zone", time
    except ValueError:  # no such day, or thousands of digits
        pass
    return "", None


def read_metadata_titles(path: SourcePath, parse: Callable[[str], Any]) -> dict[str, str]:
    """Read the titles of an Amazon metadata file by item id; of several the last one counts.

    ``parse`` turns a line into a record with the keys ``asin`` and ``title``.
    """
    titles = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            record = parse(line.decode())
            item, title = record.get("asin"), record.get("title")
        except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError):
            raise _fault(path, number, "is not a metadata record: get the file again") from None
        if isinstance(item, str) and isinstance(title, str) and title:
            titles[item.strip()] = title
    return titles


def _lines(path: SourcePath) -> Iterator[bytes]:
    """Yield a file's lines, unpacked if it is gzipped, in pieces of at most 16 MiB and not suspiciously many."""
    size = 0
    with path.open("rb") as packed:
        file = gzip.GzipFile(fileobj=packed) if path.name.endswith(".gz") else packed
        try:
            for line in iter(partial(file.readline, 2**24), b""):
                size += len(line)
                if size > max(2**26, EXPANSION * packed.tell()):
                    raise InputError(f"{path} unpacks to over {EXPANSION} times its size: it is no file of data.")
                yield line
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise InputError(f"{path} is truncated or not a gzip file: get the file again.") from None


def _fault(path: SourcePath, line: int, says: str) -> InputError:
    return InputError(f"{path}, line {line} {says}.")
