"""Metrics against fractions worked by hand, and against ir-measures on random rankings."""

from math import log2

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamarec_core.evaluation.metrics import METRICS, mean, per_user
from llamarec_core.files import InputError


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("MRR@5", [1, 1 / 3, 1 / 5, 0, 0]),
        ("NDCG@5", [1, 1 / 2, 1 / log2(6), 0, 0]),
        ("Recall@5", [1, 1, 1, 0, 0]),
        ("MRR@10", [1, 1 / 3, 1 / 5, 1 / 6, 0]),
        ("NDCG@10", [1, 1 / 2, 1 / log2(6), 1 / log2(7), 0]),
        ("Recall@10", [1, 1, 1, 1, 0]),
        ("MRR@1", [1, 0, 0, 0, 0]),
    ],
)
def test_values_per_user_are_the_fractions_worked_by_hand(metric, expected):
    ranks = [1, 3, 5, 6, 200]
    values = per_user(ranks, metric)
    assert values.dtype == np.float64
    assert values == pytest.approx(expected)
    assert per_user([ranks, ranks], metric).tolist() == [values.tolist()] * 2
    assert mean(ranks, metric) == pytest.approx(sum(expected) / 5)


@settings(max_examples=25, deadline=None)
@given(ranks=st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_every_metric_equals_that_of_ir_measures(ranks):
    # a ranking of 30 documents for each user, with the relevant one at the given rank
    qrels = [ir_measures.Qrel(str(user), "target", 1) for user in range(len(ranks))]
    run = [
        ir_measures.ScoredDoc(str(user), "target" if position == rank else f"other{position}", 31.0 - position)
        for user, rank in enumerate(ranks)
        for position in range(1, 31)
    ]
    theirs = {"MRR": "RR", "NDCG": "nDCG", "Recall": "R"}
    for name in METRICS:
        kind, cutoff = name.split("@")
        measure = ir_measures.parse_measure(f"{theirs[kind]}@{cutoff}")
        found = {result.query_id: result.value for result in ir_measures.iter_calc([measure], qrels, run)}
        assert per_user(ranks, name) == pytest.approx([found[str(user)] for user in range(len(ranks))]), name


@pytest.mark.parametrize(("ranks", "least"), [([3, 0, 2], "0"), ([1.0, 2.0], "float64"), ([True], "bool")])
def test_ranks_that_are_no_ranks_are_refused(ranks, least):
    with pytest.raises(InputError, match=f"integers counted from 1.*{least}"):
        per_user(ranks, "MRR@5")
