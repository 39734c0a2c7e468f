"""The scripts of the book's pages, driven in a headless Chromium: what a reader touches does what it should."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from llamarec_core.report.show import Form, ShownTable
from tests.conftest import ROOT

STATIC = ROOT / "book" / "_static"
ASK = ROOT / "results" / "quick" / "ask" / "ml-100k-1998.json"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-dev-shm-usage", "--dump-dom"]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on the PATH")
USERS = [
    {
        "history": ["Alien (1979)", "Jaws (1975)"], "candidates": ["Heat", "Big", "Fargo"], "target": 2,
        "orders": {"LRURec": [0.5, 0.3, 0.2], "tuned": [0.6, 0.3, 0.1]},
        "shown": [2, 0, 1], "shuffled": {"tuned": [0.2, 0.1, 0.7]},
    },
    {
        "history": ["Babe (1995)"], "candidates": ["Speed", "Gigi & <Co>", "Fargo"], "target": 0,
        "orders": {"LRURec": [0.4, 0.35, 0.25], "tuned": [0.3, 0.5, 0.2]},
        "shown": [1, 2, 0], "shuffled": {"tuned": [0.1, 0.3, 0.6]},
    },
]  # fmt: skip


def drive(folder, body, script, steps, *options):
    """Open a page with a script of the book, take the steps, and return the states that each of them noted."""
    page = folder / "page.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><body>{body}<script src='{(STATIC / script).as_uri()}'></script>"
        "<pre id=seen></pre><script>document.addEventListener('DOMContentLoaded', () => { const seen = [];"
        f"{steps} document.getElementById('seen').textContent = JSON.stringify(seen); }});</script></body>"
    )
    command = [CHROMIUM, *OPTIONS, *options, f"--user-data-dir={folder / 'browser'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(BeautifulSoup(done.stdout, "html.parser").find(id="seen").text)


@needs_chromium
def test_ask_it_shows_each_users_candidates_in_the_order_of_the_numbers(tmp_path):
    data = json.dumps({"dataset": "made-up", "users": USERS}).replace("<", "\\u003c")
    body = f"<div id=ask></div><script type='application/json' id='ask-data'>{data}</script>"
    steps = """
      const cells = (row) => [...row.cells].map((cell) => cell.textContent);
      const choose = (id, value) => {
        const list = document.getElementById(id);
        list.value = value;
        list.dispatchEvent(new Event("change"));
      };
      const note = () => seen.push({
        rows: [...document.querySelectorAll("#ask-results tbody tr")].map(cells),
        said: document.getElementById("ask-said").textContent,
        history: [...document.querySelectorAll("#ask-prompt li")].map((line) => line.textContent),
        prompt: document.querySelector("#ask-prompt pre").textContent,
      });
      note();
      choose("ask-user", 1); note();
      document.getElementById("ask-shuffle").click(); note();
      choose("ask-order", "LRURec"); note();
    """
    first, second, shuffled, retriever = drive(tmp_path, body, "ask.js", steps)
    assert [row[2] for row in first["rows"]] == ["Heat", "Big", "Fargo (chosen next)"]
    assert "rank 3 of 3" in first["said"]
    assert first["history"] == USERS[0]["history"]
    assert second["history"] == USERS[1]["history"]
    assert second["rows"][0] == ["1", "B", "Gigi & <Co>", "0.500", "2"]
    assert "rank 2 of 3" in second["said"]
    # after the shuffle the labels A, B, C stand beside candidates 2, 3, 1, and the probabilities are others
    assert [" ".join(row[1:4]) for row in shuffled["rows"]] == [
        "B Fargo 0.600", "A Gigi & <Co> 0.300", "C Speed (chosen next) 0.100",
    ]  # fmt: skip
    assert shuffled["prompt"].split("\n")[::2] == ["- Gigi & <Co>", "- Fargo", "- Speed"]
    assert "rank 3 of 3" in shuffled["said"]
    # an order that reads no labels keeps its probabilities
    assert [row[3] for row in retriever["rows"]] == ["0.400", "0.350", "0.250"]


@needs_chromium
def test_a_long_table_sorts_by_a_heading_and_filters_its_rows(tmp_path):
    rows = [(f"set {place // 6}", f"method {place}", value) for place, value in enumerate([5, -3, 1200, 7, 0, 2] * 2)]
    frame = pd.DataFrame(rows, columns=["dataset", "method", "value"])
    form = Form(
        rows={"Data": lambda row: row["dataset"], "Method": lambda row: row["method"]},
        cells={"Value": lambda row: f"{row['value']:,} [0, 1]".replace("-", "−")},
    )
    table = ShownTable(frame, form)._repr_html_()
    short = ShownTable(frame[:10], form)._repr_html_()
    steps = """
      const [table] = document.querySelectorAll("table");
      const cells = (row) => [...row.cells].map((cell) => cell.textContent);
      const note = () => seen.push([...table.tBodies[0].rows].map(cells));
      const buttons = [...table.querySelectorAll("button")];
      const press = (name) => buttons.find((button) => button.textContent === name).click();
      const filter = (words) => {
        const field = document.querySelector(".table-filter input");
        field.value = words;
        field.dispatchEvent(new Event("input"));
      };
      note();
      press("Value"); note(); seen.push(table.querySelector("[aria-sort=ascending]").textContent);
      press("Value"); note();
      filter("SET 11"); note();
      press("Value"); filter(""); note();
      seen.push(document.querySelectorAll(".table-filter").length);
    """
    printed, rising, heading, falling, kept, again, filters = drive(tmp_path, table + short, "tables.js", steps)
    values = [f"{value:,} [0, 1]".replace("-", "−") for value in sorted(frame["value"])]
    assert [row[2] for row in rising] == values
    assert heading == "Value"
    assert [row[2] for row in falling] == values[::-1]
    assert kept == [["set 1", "method 11", "2 [0, 1]"]]
    assert again == printed
    assert len(printed[1]) == 2  # the data set's name stands once for its rows
    assert filters == 1


@pytest.mark.skipif(not ASK.is_file(), reason="the notebook 3_ranker has not made the data of Ask it yet")
def test_the_users_of_ask_it_are_small_and_whole():
    assert ASK.stat().st_size <= 100_000
    users = json.loads(ASK.read_text())["users"]
    assert users
    for user in users:
        n = len(user["candidates"])
        assert 0 <= user["target"] < n
        assert sorted(user["shown"]) == list(range(n))
        assert set(user["shuffled"]) <= set(user["orders"])
        for probabilities in (*user["orders"].values(), *user["shuffled"].values()):
            assert len(probabilities) == n
            assert min(probabilities) >= 0
            np.testing.assert_allclose(sum(probabilities), 1, atol=n * 0.5e-4)


@needs_chromium
def test_a_table_too_wide_for_a_phone_becomes_blocks_of_named_lines(tmp_path):
    frame = pd.DataFrame({"dataset": ["beauty", "beauty", "games"], "method": ["A", "B", "A"], "value": [0.5, 0.25, 0]})
    names = {"Data": lambda row: row["dataset"], "Method": lambda row: row["method"]}
    wide = Form(rows=names, cells={"Value": lambda row: f"{row['value']} {'x' * 90}"})
    narrow = Form(rows=names, cells={"Value": lambda row: str(row["value"])})
    body = "".join(ShownTable(frame, form)._repr_html_() for form in (wide, narrow))
    steps = """
      const stacked = (table) => table.classList.contains("stacked");
      const tables = [...document.querySelectorAll("table")];
      seen.push(innerWidth, tables.map(stacked));
      const rows = [...tables[0].tBodies[0].rows];
      seen.push(rows.map((row) => [...row.cells].map((cell) => cell.dataset.heading)));
    """
    width, stacked, headings = drive(tmp_path, body, "tables.js", steps, "--window-size=500,900")
    assert width <= 576
    assert stacked == [True, False]
    assert headings == 3 * [["Data: ", "Method: ", "Value: "]]  # a shared name is repeated in each block
