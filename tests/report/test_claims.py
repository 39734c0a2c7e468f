"""The ledger on the page: numbers in the paper's units, verdicts counted beside their rules."""

from pathlib import Path

import pytest

from llamarec_core.evaluation import RULES, claims_table
from llamarec_core.report import claims_display, show_table, verdict_counts, write_table

FOLDER = Path(__file__).parents[2] / "results" / "published"


@pytest.fixture(scope="module")
def table():
    return claims_table(FOLDER, {}, trainable_share=0.0006, scale="a toy", samples=10, seed=0, commit="abc1234")


def test_numbers_stand_in_the_papers_units(table):
    shown = claims_display(table.assign(measured=0.5, ci_low=-0.0123, ci_high=0.75)).set_index(["claim", "data set"])
    gain = shown.loc[("LlamaRec gains 12.82 % MRR@5 over LRURec", "ml-100k")]
    assert gain["paper"] == "+12.82\N{NO-BREAK SPACE}%"
    assert gain["ours"].replace("\N{NO-BREAK SPACE}", " ") == "+50.00 % [−1.23 %, +75.00 %]"
    difference = shown.loc[("LlamaRec gains 0.0136 Recall@10 over LRURec among all users", "games")]
    assert difference["paper"] == "+0.0136"
    assert difference["ours"] == "+0.5000 [−0.0123, +0.7500]"


def test_what_was_not_tested_has_no_number_and_what_was_counted_no_interval(table):
    shown = claims_display(table)
    assert set(shown.loc[shown["verdict"] == "not tested", "ours"]) == {""}
    assert shown.loc[shown["verdict"] == "reproduced", "ours"].tolist() == ["0.06\N{NO-BREAK SPACE}%"]


def test_every_verdict_is_counted_beside_its_rule(table):
    counts = verdict_counts(table)
    assert dict(zip(counts["verdict"], counts["when"], strict=True)) == RULES
    assert counts["claims"].tolist() == [1, 0, 0, 22]


def test_the_ledger_is_laid_out_for_latex_too(table, tmp_path):
    csv, tex = write_table(table, tmp_path / "claims", caption="Claims")
    assert csv.read_text().splitlines()[0].startswith("claim,dataset,statement,where,unit,stated,published,measured")
    latex = tex.read_text().replace("~", " ")
    assert r"\relax LlamaRec gains 12.82 \% MRR@5 over LRURec &" in latex
    assert "ml-100k & +12.82 " in latex
    assert "not tested" in show_table(claims_display(table))._repr_html_()
