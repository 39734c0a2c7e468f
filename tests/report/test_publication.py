"""A published table: its name on the page, its files, and a caption that says over how many users it is."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from llamarec_core.report import publish_table
from llamarec_core.report.publication import anchor, study_citation

CITATION = """
title: "A study of R"
version: 0.1.0
date-released: 2026-11-25
repository-code: https://example.org/study
authors:
  - name: The contributors
  - { family-names: Doe, given-names: Jane }
"""


@pytest.fixture
def run(tmp_path):
    results, written = tmp_path / "results" / "small", []
    return SimpleNamespace(
        root=tmp_path,
        table=lambda name: results / "tables" / name,
        wrote=lambda *paths: written.extend(paths),
        written=written,
        executed_notebook=results / "notebooks" / "4_results.ipynb",
    )


def results():
    names = ["dataset", "method", "metric", "subset", "published", "measured", "ci_low", "ci_high", "users"]
    rows = [
        ("games", "lrurec", "NDCG@10", "all", 0.05, 0.051, 0.049, 0.053, 1200),
        ("games", "lrurec", "NDCG@10", "retrieved", np.nan, 0.06, 0.055, 0.065, 300),
        ("beauty", "lrurec", "NDCG@10", "all", np.nan, 0.03, 0.02, 0.04, np.nan),
    ]
    return pd.DataFrame(rows, columns=names).assign(seeds=1, commit="abc")


def test_a_table_has_a_place_on_its_page_and_links_to_files_that_the_record_accounts_for(run):
    page = publish_table(results(), "table1", run=run, about="Table 1: all users.")._repr_html_()
    assert '<figure class="llamarec-figure" id="table-1">' in page
    links = re.findall(r'href="([^"#]+)" download>(\w+)<', page)
    assert links == [("../tables/table1.csv", "CSV"), ("../tables/table1.tex", "LaTeX")]
    files = [(run.executed_notebook.parent / link).resolve() for link, _ in links]
    assert all(file.is_file() for file in files)
    assert run.written == files


def test_the_caption_says_over_how_many_users_and_the_files_say_it_too(run):
    shown = publish_table(results(), "table1", run=run, about="Table 1: all users.")
    assert shown.caption.startswith("Table 1: all users. games 1,200 users, 300 with their target retrieved. In")
    assert r"\caption{All users. games 1,200 users," in run.table("table1").with_suffix(".tex").read_text()
    counts = pd.DataFrame({"dataset": ["games"], "quantity": ["users"], "published": ["1"], "measured": [1.0]})
    assert publish_table(counts, "table2", run=run, about="Data sets.").caption == "Data sets."


def test_times_lie_among_the_benches(run):
    times = pd.DataFrame({"case": ["a"], "variant": ["b"], "median_seconds": 0.5, "iqr_seconds": 0.1})
    times["ratio_to_reference"] = 1.0
    publish_table(times, "ranker", run=run, about="Times.", form="bench", bench=True)
    assert run.written[0] == run.root / "results" / "bench" / "ranker.csv"


@pytest.mark.parametrize(
    ("name", "place"),
    [("table1", "table-1"), ("claims", "table-claims"), ("table1_retrieval", "table-1-retrieval")],
)
def test_the_place_follows_from_the_name(name, place):
    assert anchor(name) == place


def test_the_citation_names_the_authors_and_what_is_cited(tmp_path):
    (tmp_path / "CITATION.cff").write_text(CITATION)
    entry = study_citation(tmp_path, key="llamarec", note="Commit 0123abc")
    assert entry.startswith("@software{llamarec,\n")
    assert "{{A study of R}}" in entry
    assert "{{The contributors} and Doe, Jane}" in entry
    assert "note    = {Commit 0123abc}" in entry
    assert entry.count("{") == entry.count("}")
