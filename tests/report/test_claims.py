"""The ledger on the page: numbers in the paper's units, verdicts counted beside their rules."""

from pathlib import Path

import pytest

from llamarec_core.evaluation import RULES, claims_table
from llamarec_core.report import verdict_counts

FOLDER = Path(__file__).parents[2] / "results" / "published"


@pytest.fixture(scope="module")
def table():
    return claims_table(FOLDER, {}, trainable_share=0.0006, scale="a toy", samples=10, seed=0, commit="abc1234")


def test_every_verdict_is_counted_beside_its_rule(table):
    counts = verdict_counts(table)
    assert dict(zip(counts["verdict"], counts["when"], strict=True)) == RULES
    assert counts["claims"].tolist() == [1, 0, 0, 22]
