"""A concluding sentence is refused once its table says otherwise."""

import re

import pandas as pd
import pytest
import yaml

from llamarec_core.evaluation.conclusions import check_conclusions, load_conclusions
from llamarec_core.files import InputError
from tests.conftest import ROOT


@pytest.fixture
def study(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "results").mkdir()
    rows = [("beauty", -0.0978, 0.001, True), ("games", -0.0990, 0.001, True), ("ml-100k", -0.0405, 0.922, False)]
    table = pd.DataFrame(rows, columns=["dataset", "difference", "p_holm", "worse"]).assign(low=-0.2)
    table.to_csv(tmp_path / "results" / "t.csv", index=False)
    return tmp_path


def problems(study, *condition, table="t.csv"):
    entry = {"name": "one", "sentence": "It is so.", "table": table, "condition": list(condition)}
    (study / "book" / "conclusions.yaml").write_text(yaml.safe_dump([entry]))
    return list(check_conclusions(study))


@pytest.mark.parametrize(
    "condition",
    [
        {"rows": {"dataset": ["beauty", "games"]}, "every": {"difference": "< 0", "p_holm": "< 0.05"}},
        {"rows": {"dataset": "ml-100k"}, "every": {"p_holm": ">= 0.05", "worse": False, "difference": "= -0.04"}},
        {"rows": {"dataset": "beauty"}, "every": {"difference": "= -0.098"}},  # as rounded to three decimals
        {"rows": {"p_holm": "< 0.05", "worse": True}, "count": "= 2"},
        {"every": {"difference": "> low"}},
        {"rows": {"dataset": "mine"}, "count": "= 0"},
    ],
)
def test_a_condition_that_holds_is_no_problem(study, condition):
    assert problems(study, condition) == []


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ({"every": {"p_holm": "< 0.05"}}, "p_holm is 0.922 in row 4, not < 0.05"),
        ({"rows": {"dataset": "beauty"}, "every": {"difference": "= -0.097"}}, "difference is -0.0978 in row 2"),
        ({"rows": {"worse": True}, "count": "= 3"}, "2 rows are selected, not = 3"),
        ({"rows": {"dataset": "mine"}, "every": {"p_holm": "< 1"}}, "no row is selected"),
        ({"every": {"difference": "< low"}}, "not < low"),
    ],
)
def test_a_condition_that_does_not_hold_is_said_with_its_sentence(study, condition, why):
    (problem,) = problems(study, condition)
    assert "book/conclusions.yaml, one: “It is so.” does not hold" in problem
    assert why in problem


@pytest.mark.parametrize(
    ("condition", "table", "message"),
    [
        ({"every": {"p": "< 1"}}, "t.csv", "one: t.csv has no column 'p'"),
        ({"every": {"dataset": "< 1"}}, "t.csv", "one: a comparison cannot be made"),
        ({"count": "three"}, "t.csv", "does not hold a list of sentences"),
        ({"count": "= 3"}, "s.csv", "there is no table results/s.csv"),
        ({"when": "now"}, "t.csv", "does not hold a list of sentences"),
    ],
)
def test_what_cannot_be_checked_is_refused(study, condition, table, message):
    with pytest.raises(InputError, match=message):
        problems(study, condition, table=table)


def test_the_books_sentences_hold_and_its_pages_name_no_other():
    assert list(check_conclusions(ROOT)) == []
    names = [conclusion.name for conclusion in load_conclusions(ROOT)]
    assert len(names) == len(set(names))
    for page in (ROOT / "book").rglob("*.md"):
        assert set(re.findall(r"{{ *(\w+) *}}", page.read_text())) <= set(names), page
