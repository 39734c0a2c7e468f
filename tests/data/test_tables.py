import ast
import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from llamarec_core.data.tables import read_metadata_titles, read_table
from llamarec_core.files import InputError

EVENTS = {"columns": {name: name for name in ("user_id", "item_id", "timestamp")}}
ITEMS = {"columns": {"item_id": "item_id", "title": "title"}}
RATINGS = EVENTS | {"header": ("user_id", "item_id", "rating", "timestamp")}
HEADER = "user_id,item_id,timestamp\n"
TITLES = "item_id,title\n"


def event(users, items, times):
    return {"user_id": users, "item_id": items, "timestamp": times}


def item(items, titles):
    return {"item_id": items, "title": titles}


@pytest.fixture
def table(tmp_path, write):
    """Write a table, gzipped."""
    return lambda content: write(tmp_path / "table.csv.gz", content)


@pytest.mark.parametrize(
    ("content", "form", "read"),
    [
        ("rating,timestamp,item_id,user_id\n5.0,7,b,a\n", EVENTS, event(["a"], ["b"], [7])),
        (HEADER + "007,NA,1\n", EVENTS, event(["007"], ["NA"], [1])),
        ("A1,B1,5.0,7\nA2,B2,3.0,8\n", RATINGS, event(["A1", "A2"], ["B1", "B2"], [7, 8])),
        # a byte order mark, Windows' and old Macs' line ends, blank lines, no line end at the end
        (b"\xef\xbb\xbf" + HEADER.encode() + b"a,b,1\r\n\r\nc,d,2", EVENTS, event(["a", "c"], ["b", "d"], [1, 2])),
        ("\nitem_id,title\r1,One\r2,Two\r", ITEMS, item(["1", "2"], ["One", "Two"])),
        # other delimiters, and headings as RecBole and spreadsheets write them
        ("item_id;title\na;One, two\n", ITEMS, item(["a"], ["One, two"])),
        ("item_id\ttitle\tprice\na\tOne, two\t\n", ITEMS, item(["a"], ["One, two"])),
        ("item_id:token\ttitle:token_seq\na\tOne\n", ITEMS, item(["a"], ["One"])),
        ('"item_id"; "title"\n"a";"One"\n', ITEMS, item(["a"], ["One"])),
        # quoted fields: delimiters, quotes, line breaks that can be told from rows, and quotes that are only inches
        (TITLES + 'a,"One, ""two""\nthree"\nb,5" pipe\n', ITEMS, item(["a", "b"], ['One, "two"\nthree', '5" pipe'])),
        ('item_id, title\n a , "One, two"\n', ITEMS, item(["a"], ["One, two"])),
        (TITLES + 'a,"One\n\ntwo"\n', ITEMS, item(["a"], ["One\n\ntwo"])),
        ('item_id,title,text\na,One,"A soap,\nnew, and mild,\nand old"\n', ITEMS, item(["a"], ["One"])),
        (TITLES + "a,\n", ITEMS, item(["a"], [""])),
        ("é" * 4_000 + ",item_id,title\n,a,One\n", ITEMS, item(["a"], ["One"])),
    ],
)  # fmt: skip
def test_tables_as_people_have_them(table, content, form, read):
    assert read_table(table(content), **form).to_dict("list") == read


@pytest.mark.parametrize(
    ("times", "ranks"),
    [
        (["12", " 7 ", "-3", str(2**62 + 1), str(2**62)], [2, 1, 0, 4, 3]),
        (["1700000000123456789", "1700000000123456788.5", "1700000000123456788"], [2, 1, 0]),  # nanoseconds
        (["1.10", "1.1", "1e0", "+1", ".5", f"1.{'0' * 37}1"], [3, 3, 1, 1, 0, 2]),
        (["99999999999999999999", "9" * 39, "1e-40", "1"], [2, 3, 0, 1]),  # beyond 64 bits
        (["2024-05-31", "2024-05-31T12:00:00", "2024-05-31 11:59:59.999999999", "2024-05-31T12:00"], [0, 2, 1, 2]),
        (["2024-05-31T12:00:00Z", "2024-05-31T13:30:00+02:00", "2024-05-31T12:00-0100"], [1, 0, 2]),
        # as databases write them
        (
            ["2024-05-31 12:00:00+02", "2024-05-31 11:00:00 UTC", "2024-05-31t10:30z", "20240531T103000 +0000"],
            [0, 2, 1, 1],
        ),
        (['"2024-05-31T12:00:00,000000002"', "2024-05-31T12:00:00.000000001", "2024-05-31T12"], [2, 1, 0]),
        (["9999-12-31", "0001-01-01", "2024-05-31T12:00:00.000001"], [2, 0, 1]),
        (["9999-12-31", "2024-05-31T12:00:00.123456789", "2024-05-31T12:00:00.123456788"], [2, 1, 0]),
    ],
)
def test_times_keep_their_order_and_ties_exactly(table, times, ranks):
    read = read_table(table(HEADER + "".join(f"a,b,{time}\n" for time in times)), **EVENTS)["timestamp"]
    assert read.dtype == np.int64
    if times[-1] == str(2**62):
        assert read.tolist() == [*map(int, times)]
    assert np.unique(read, return_inverse=True)[1].tolist() == ranks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: give a file with the columns user_id, item_id, timestamp"),
        ("\n \n", "is empty"),
        (HEADER, "holds no row below its header"),
        ("user_id,timestamp\na,1\n", "lacks the column item_id: its header is 'user_id,timestamp'"),
        ("1,2,3\n4,5,6\n", "lacks the column user_id"),
        ("user_id,user_id,item_id,timestamp\na,b,c,1\n", "repeats the column user_id"),
        (HEADER + "a,b,1\na,b\n", "line 3 has 2 fields instead of 3"),
        (HEADER + "a,b,1\n\na,b,1,2\n", "line 4 has 4 fields instead of 3"),
        ('user_id,item_id,timestamp,text\na,b,1,"x\ny"\nd,e\n', "line 4 has 2 fields instead of 4"),
        (HEADER + "a,b,1\n,b,1\n", "line 3 has an empty user_id"),
        (HEADER + "a,b,1\na, ,1\n", "line 3 has an empty item_id"),
        (HEADER.encode() + b"a,b,1\na,b,2\na,\xff,3\n", "line 4 is not UTF-8 text"),
        ((HEADER + "a,b,1\n").encode("utf-16"), "line 1 is not UTF-8 text"),
        *[
            (f"{HEADER}a,b,1\n\na,b,{time}\n", "line 4 has the timestamp")
            for time in ("noon", "", "nan", "inf", "1_000", "0x10", "१", "2024-05-31")
        ],
        *[
            (f"{HEADER}a,b,2024-05-31\na,b,{time}\n", "line 3 has the timestamp")
            for time in ("2024-02-30", "1717156800", "2024-0531", "31.05.2024", "2024-05-31T12:00:00.1234567891")
        ],
        (HEADER + "a,b," + "9" * 4301 + "\n", "line 2 has the timestamp '999"),
        (HEADER + "a,b," + "9" * 3_000_000 + "\n", "line 2 holds a field of over 131,072 characters"),
        (HEADER + 'a,b,1\n"a,b,2\n' + "a,b,1\n" * 30_000, "line 3 opens a quote"),
        (TITLES + "a,One\nb,Two\na,Three\n", "line 4 repeats the item_id 'a' of line 2: keep one of them"),
        (TITLES + 'a,One\nb,"5" pipe"\n', "line 3 has text after a closing quote: write a quote inside quotes twice"),
        ("x" * 3_000_000, "lacks the column user_id: its header is 'xxx"),
        (HEADER + "a,b,1\na,b\n" + "x" * 20_000_000, "line 3 has 2 fields"),
    ],
)  # fmt: skip
def test_a_broken_table_is_answered_by_one_short_sentence(table, content, message):
    path = table(content)
    with pytest.raises(InputError, match=message) as raised:
        read_table(path, **(ITEMS if "title" in str(content)[:20] else EVENTS))
    answer = str(raised.value).removeprefix(str(path))
    assert len(answer) < 300
    assert "\n" not in answer


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (TITLES + 'a,One\nb,"Two\nc,Three\n', 3),
        (TITLES + 'a,One\nb,Two\nc,"Three', 4),
        (TITLES + 'a,One\nb,Two\nc,"Three\n', 4),
        (TITLES + 'a,"One, two\nb,Two\nc,Three\n', 2),
        (TITLES + 'a,"One\nb,""\nc,Three\n', 2),
        # closed by a quote further down
        (TITLES + 'a,One\nb,"Two\nc,5"\nd,Four\n', 3),
        (TITLES + 'a,"One\nb,"Two"\nc,Three\n', 2),
        (TITLES + 'a,"One, two\r\n\r\nb,Two\r\nc,5"\r\n', 2),
        ('title,item_id\n"One,a\nTwo,b\n', 2),
        ('title,item_id\nOne,a\n"Two,b\n5",c\n', 3),
        # in a column that is not read
        ('item_id,title,text\na,One,"x\nb,Two,y\n', 2),
        ('item_id;title;text\na;One;"x\nb;Two;y\nc;Three;5"\n', 2),
        # a sentence that cannot be told from a row
        (TITLES + 'a,"One\ntwo, three"\n', 2),
        # a title with a line break of its own
        (TITLES + 'a,"One\nand more\nb,"Two"\nc,Three\n', 2),
        ('item_id,title,text\na,"One\nmore,x\nb,Two,y\nc,"Three",z\n', 2),
    ],
)
def test_a_quote_left_open_is_refused_wherever_it_stands(table, content, line):
    with pytest.raises(InputError, match=rf", line {line} opens a quote that is not closed before the next row"):
        read_table(table(content), **ITEMS)


def test_a_broken_row_is_found_far_down(table):
    rows = [f"{row},{row % 7},{row}" for row in range(20_000)]
    rows[17_000] = "17000,3"
    with pytest.raises(InputError, match="line 17002 has 2 fields"):
        read_table(table(HEADER + "\n".join(rows)), **EVENTS)
    rows[17_000] = "17000,3,1.5.2024"
    with pytest.raises(InputError, match=r"line 17002 has the timestamp '1\.5\.2024'"):
        read_table(table(HEADER + "\n".join(rows)), **EVENTS)
    with pytest.raises(InputError, match="line 2 has 3 fields instead of 4"):
        read_table(table("A1,B1,5.0,7\nA2,B2,8\n"), **RATINGS)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: b"plain text", lambda data: data[:40] + b"!"])
def test_a_damaged_gzip_file_is_refused(tmp_path, damage):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(damage(gzip.compress((HEADER + "".join(f"u{i},i{i},{i}\n" for i in range(200))).encode())))
    with pytest.raises(InputError, match=r"table\.csv\.gz is truncated or not a gzip file"):
        read_table(path, **EVENTS)


BOMB = """
import ast, resource, sys
from pathlib import Path
from llamarec_core.data.tables import read_metadata_titles, read_table
from llamarec_core.files import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (lambda path: read_table(path, {"item_id": "item_id"}),
             lambda path: read_metadata_titles(path, ast.literal_eval)):
    try:
        read(Path(sys.argv[1]))
    except InputError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_gzip_bomb_is_refused_within_bounded_memory(tmp_path):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(2**24))  # 1 GiB
    answer = subprocess.run([sys.executable, "-c", BOMB, path], capture_output=True, text=True, check=True, timeout=120)
    table, metadata, kilobytes = answer.stdout.splitlines()
    assert table.endswith("bomb.gz unpacks to over 200 times its size: it is no file of data.")
    assert "bomb.gz" in metadata
    assert int(kilobytes) < 400 * 1024


def test_metadata_are_python_literals_or_json_and_the_last_title_counts(tmp_path, write):
    literals = "{'asin': ' B1 ', 'title': \"It's new\", 'price': 1.5}\n{'asin': 'B2'}\n{'asin': 'B3', 'title': ''}\n"
    assert read_metadata_titles(write(tmp_path / "meta.json.gz", literals), ast.literal_eval) == {"B1": "It's new"}
    lines = '{"asin": "B1", "title": "Old"}\n{"asin": "B1", "title": "New", "x": null}\n'
    assert read_metadata_titles(write(tmp_path / "meta.json", lines), json.loads) == {"B1": "New"}


@pytest.mark.parametrize(
    "line", [b"__import__('os').getcwd()", b"{'asin': 'B2'", b"[1, 2]", b"\xff", b"{'asin': 'B2', 'title': open('x')}"]
)
@pytest.mark.parametrize("parse", [ast.literal_eval, json.loads])
def test_a_line_that_is_no_record_is_named_and_never_run(tmp_path, write, line, parse):
    path = write(tmp_path / "meta.json.gz", b'{"asin": "B1", "title": "One"}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"meta\.json\.gz, line 2 is not a metadata record"):
        read_metadata_titles(path, parse)
