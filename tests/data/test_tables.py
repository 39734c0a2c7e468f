import ast
import gzip
import json

import numpy as np
import pytest

from llamarec_core.data.tables import TableFormat, read_metadata_titles, read_table
from llamarec_core.files import InputError

EVENTS = TableFormat({"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"})
ITEMS = TableFormat({"item_id": "item_id", "title": "title"}, unique="item_id")
HEADER = "user_id,item_id,timestamp\n"


@pytest.fixture(params=["table.csv", "table.csv.gz"])
def table(request, tmp_path, write):
    """Write a table, plain and gzipped."""
    return lambda content: write(tmp_path / request.param, content)


def test_columns_may_stand_in_any_order_beside_others(table):
    frame = read_table(table("rating,timestamp,item_id,user_id\n5.0,7,b,a\n"), EVENTS)
    assert frame.to_dict("list") == {"user_id": ["a"], "item_id": ["b"], "timestamp": [7]}


def test_line_ends_byte_order_mark_and_blank_lines_do_not_matter(table):
    frame = read_table(table(b"\xef\xbb\xbfuser_id,item_id,timestamp\r\na,b,1\r\n\r\nc,d,2"), EVENTS)
    assert frame["user_id"].tolist() == ["a", "c"]
    assert frame["timestamp"].tolist() == [1, 2]


def test_ids_stay_text(table):
    frame = read_table(table(HEADER + "007,NA,1\n"), EVENTS)
    assert frame["user_id"].tolist() == ["007"]
    assert frame["item_id"].tolist() == ["NA"]


def test_quoted_titles_may_hold_commas_quotes_and_line_breaks(table):
    frame = read_table(table('item_id,title\na,"One, ""two""\nthree"\n'), ITEMS)
    assert frame["title"].tolist() == ['One, "two"\nthree']


def test_an_empty_title_is_allowed(table):
    assert read_table(table("item_id,title\na,\n"), ITEMS)["title"].tolist() == [""]


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), (" 12 ", 12), ("-3", -3), ("1.5", 1.5), ("1e9", 1e9), (str(2**62 + 1), 2**62 + 1)]
)
def test_times_are_numbers(table, text, value):
    assert read_table(table(f"{HEADER}a,b,{text}\n"), EVENTS)["timestamp"].tolist() == [value]


def test_a_file_without_header_has_its_columns_by_place(table):
    form = TableFormat(EVENTS.columns, header=("user_id", "item_id", "rating", "timestamp"))
    frame = read_table(table("A1,B1,5.0,7\nA2,B2,3.0,8\n"), form)
    assert frame["item_id"].tolist() == ["B1", "B2"]
    assert frame["timestamp"].dtype == np.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: give a file with the columns user_id, item_id, timestamp"),
        ("\n \n", "is empty"),
        (HEADER, "holds no row below its header"),
        ("user_id,timestamp\na,1\n", "lacks the column item_id: its header is 'user_id,timestamp'"),
        ("1,2,3\n4,5,6\n", "lacks the column user_id"),
        (HEADER + "a,b,1\na,b\n", "line 3 has 2 fields instead of 3"),
        (HEADER + "a,b,1\n\na,b,1,2\n", "line 4 has 4 fields instead of 3"),
        (HEADER + "a,b,1\na,b,noon\na,b\n", "line 3: the timestamp 'noon' is not a number"),
        (HEADER + "a,b,\n", "line 2: the timestamp '' is not a number"),
        (HEADER + "a,b,nan\n", "line 2: the timestamp 'nan' is not a number"),
        (HEADER + "a,b,inf\n", "line 2: the timestamp 'inf' is not a number"),
        (HEADER + "a,b,1_000\n", "line 2: the timestamp '1_000' is not a number"),
        (HEADER + "a,b,1\n,b,1\n", "line 3 has an empty user_id"),
        (HEADER + "a,b,1\na, ,1\n", "line 3 has an empty item_id"),
        (HEADER.encode() + b"a,b,1\na,b,2\na,\xff,3\n", "line 4 is not UTF-8 text"),
        (HEADER + 'a,b,1\na,"b,1\n', "line 3 cannot be read"),
        ('user_id,item_id,timestamp\n"a\nb",c,1\nd,e\n', "line 4 has 2 fields instead of 3"),
    ],
)
def test_a_broken_table_is_answered_by_one_sentence(table, content, message):
    path = table(content)
    with pytest.raises(InputError, match=message) as raised:
        read_table(path, EVENTS)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_broken_row_is_found_far_down(table):
    rows = [f"{row},{row % 7},{row}" for row in range(20_000)]
    rows[17_000] = "17000,3"
    with pytest.raises(InputError, match="line 17002 has 2 fields"):
        read_table(table(HEADER + "\n".join(rows)), EVENTS)


def test_a_broken_row_of_a_file_without_header_is_counted_from_the_first_line(table):
    form = TableFormat(EVENTS.columns, header=("user_id", "item_id", "rating", "timestamp"))
    with pytest.raises(InputError, match="line 2 has 3 fields instead of 4"):
        read_table(table("A1,B1,5.0,7\nA2,B2,8\n"), form)


def test_a_repeated_item_is_refused(table):
    with pytest.raises(InputError, match="line 4 repeats the item_id 'a' of line 2: keep one of them"):
        read_table(table("item_id,title\na,One\nb,Two\na,Three\n"), ITEMS)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: b"plain text", lambda data: data[:40] + b"!"])
def test_a_damaged_gzip_file_is_refused(tmp_path, damage):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(damage(gzip.compress((HEADER + "".join(f"u{i},i{i},{i}\n" for i in range(200))).encode())))
    with pytest.raises(InputError, match=r"table\.csv\.gz is truncated or not a gzip file"):
        read_table(path, EVENTS)


def test_metadata_of_2014_are_python_literals(tmp_path, write):
    path = write(
        tmp_path / "meta.json.gz",
        "{'asin': ' B1 ', 'title': \"It's new\", 'price': 1.5}\n{'asin': 'B2'}\n{'asin': 'B3', 'title': ''}\n",
    )
    assert read_metadata_titles(path, ast.literal_eval) == {"B1": "It's new"}


def test_metadata_of_2018_are_json_and_the_last_title_counts(tmp_path, write):
    path = write(tmp_path / "meta.json", '{"asin": "B1", "title": "Old"}\n{"asin": "B1", "title": "New", "x": null}\n')
    assert read_metadata_titles(path, json.loads) == {"B1": "New"}


@pytest.mark.parametrize(
    "line", [b"__import__('os').getcwd()", b"{'asin': 'B2'", b"[1, 2]", b"\xff", b"{'asin': 'B2', 'title': open('x')}"]
)
@pytest.mark.parametrize("parse", [ast.literal_eval, json.loads])
def test_a_line_that_is_no_record_is_named_and_never_run(tmp_path, write, line, parse):
    path = write(tmp_path / "meta.json.gz", b'{"asin": "B1", "title": "One"}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"meta\.json\.gz, line 2 is not a metadata record"):
        read_metadata_titles(path, parse)
