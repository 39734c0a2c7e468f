"""Metrics against fractions worked by hand, and against ir-measures on random rankings."""

from math import log2

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamarec_core.evaluation.metrics import METRICS, mean, per_user
from llamarec_core.files import InputError

RANKS = [1, 3, 5, 6, 200]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("MRR@5", [1, 1 / 3, 1 / 5, 0, 0]),
        ("NDCG@5", [1, 1 / 2, 1 / log2(6), 0, 0]),
        ("Recall@5", [1, 1, 1, 0, 0]),
        ("MRR@10", [1, 1 / 3, 1 / 5, 1 / 6, 0]),
        ("NDCG@10", [1, 1 / 2, 1 / log2(6), 1 / log2(7), 0]),
        ("Recall@10", [1, 1, 1, 1, 0]),
    ],
)
def test_values_per_user_are_the_fractions_worked_by_hand(metric, expected):
    values = per_user(np.array(RANKS), metric)
    assert values.dtype == np.float64
    assert values == pytest.approx(expected)


def test_mean_weighs_every_user_the_same():
    assert mean(RANKS, "Recall@5") == pytest.approx(3 / 5)
    assert mean(RANKS, "MRR@10") == pytest.approx((1 + 1 / 3 + 1 / 5 + 1 / 6) / 5)


def test_any_cutoff_can_be_named():
    assert mean([20, 21], "Recall@20") == 0.5
    assert mean([1, 2, 2, 4], "MRR@1") == 0.25


def test_metrics_stand_in_the_order_of_the_papers_rows():
    assert METRICS == ("MRR@5", "NDCG@5", "Recall@5", "MRR@10", "NDCG@10", "Recall@10")


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
    ours = {
        ir_measures.parse_measure(f"{theirs}@{cutoff}"): f"{name}@{cutoff}"
        for name, theirs in (("MRR", "RR"), ("NDCG", "nDCG"), ("Recall", "R"))
        for cutoff in (5, 10)
    }
    values = {name: np.full(len(ranks), np.nan) for name in ours.values()}
    for result in ir_measures.iter_calc(list(ours), qrels, run):
        values[ours[result.measure]][int(result.query_id)] = result.value
    for name, theirs in values.items():
        assert per_user(ranks, name) == pytest.approx(theirs), name


@pytest.mark.parametrize("metric", ["NDCG", "ndcg@10", "MAP@10", "Recall@0", "Recall@-1", "Recall@1.5", "Recall@10 "])
def test_an_unknown_metric_is_named(metric):
    with pytest.raises(ValueError, match=f"Unknown metric '{metric}'"):
        per_user([1], metric)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([3, 0, 2], "but one is 0"),
        ([1.0, 2.0], "of type float64"),
        ([True], "of type bool"),
    ],
)
def test_ranks_that_are_no_ranks_are_refused(ranks, message):
    with pytest.raises(InputError, match=message):
        per_user(ranks, "MRR@5")


def test_values_have_the_shape_of_the_ranks():
    assert per_user([], "MRR@5").shape == (0,)
    assert per_user([[1, 2], [3, 9]], "MRR@5").tolist() == [[1, 1 / 2], [1 / 3, 0]]
