"""Metrics against fractions worked by hand and ir-measures; intervals and tests against closed forms and scipy."""

import itertools
import time
from math import log2

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llamarec_core.evaluation.metrics import METRICS, corrected, difference, estimate, holm, mean, over_seeds, per_user
from llamarec_core.files import InputError


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("MRR@5", [1, 1 / 3, 1 / 5, 0, 0]),
        ("NDCG@10", [1, 1 / 2, 1 / log2(6), 1 / log2(7), 0]),
        ("Recall@10", [1, 1, 1, 1, 0]),
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


def interval(values, samples=2_000, seed=0, **options):
    found = estimate(values, samples=samples, seed=seed, **options)
    return found.ci_low, found.ci_high


def test_interval_of_a_share_is_that_of_the_binomial():
    hits = np.repeat([1.0, 0.0], [150, 850])
    # a bootstrap sample's number of hits is Binomial(1000, 0.15)
    expected = stats.binom.ppf([0.025, 0.975], 1000, 0.15) / 1000
    assert interval(hits, samples=20_000) == pytest.approx(expected, abs=0.0011)


def test_interval_depends_on_the_seed_but_not_on_the_order_of_users():
    values = np.random.default_rng(3).choice([0.0, 0.5, 1.0], size=100)
    first = interval(values, samples=500, seed=7)
    assert interval(values[::-1], samples=500, seed=7) == first
    assert interval(values, samples=500, seed=8) != first
    values = np.repeat(np.linspace(0, 1, 20), 50)
    nearly_equal = values + np.linspace(0, 1e-9, len(values))  # all distinct, so that users are drawn by index
    assert interval(nearly_equal, samples=20_000) == pytest.approx(interval(values, samples=20_000), abs=5e-4)


def test_p_value_is_that_of_all_sign_flips():
    differences = np.array([0.5, 0.5, -0.2, 0.3, 0.0, 1.0, -0.1, 0.4])
    flipped = [np.dot(signs, differences) for signs in itertools.product([1, -1], repeat=len(differences))]
    exact = np.mean(np.abs(flipped) >= abs(differences.sum()) - 1e-12)
    found = difference(differences, np.zeros(8), samples=20_000, seed=0)
    assert found.difference == pytest.approx(differences.mean())
    assert found.p_value == pytest.approx(exact, abs=0.01)


def test_a_method_does_not_differ_from_itself_and_swapping_swaps_the_sign():
    generator = np.random.default_rng(7)
    a, b = generator.random(60), generator.random(60)
    assert difference(a, a, samples=100, seed=0) == (0.0, 0.0, 0.0, 1.0, 0.0)
    forwards, backwards = (difference(*pair, samples=4_000, seed=0) for pair in ((a, b), (b, a)))
    swapped = (-backwards.difference, -backwards.ci_high, -backwards.ci_low, backwards.p_value, backwards.detectable)
    assert forwards == pytest.approx(swapped, abs=0.01)
    assert difference(np.ones(100), np.zeros(100), samples=999, seed=0)[:4] == (1.0, 1.0, 1.0, 1 / 1000)


@pytest.mark.parametrize(("shift", "share", "margin"), [(0.0, 0.05, 0.035), (2.80, 0.8, 0.07)])
def test_p_values_find_chance_in_one_of_twenty_studies_and_the_detectable_size_in_four_of_five(shift, share, margin):
    generator = np.random.default_rng(9)
    first = difference(generator.normal(size=150), np.zeros(150), samples=10, seed=0)
    assert first.detectable == pytest.approx(2.80 / np.sqrt(150), rel=0.1)
    studies = generator.normal(shift / np.sqrt(150), size=(300, 150))
    found = [difference(study, np.zeros(150), samples=400, seed=seed).p_value for seed, study in enumerate(studies)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(share, abs=margin)


def test_holm_is_the_example_worked_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04, then never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_the_primary_tests_of_a_data_set_are_one_family():
    columns = ["dataset", "metric", "subset", "p_value"]
    rows = [
        ("a", "NDCG@10", "retrieved", 0.01), ("a", "NDCG@10", "retrieved", 0.02), ("a", "NDCG@10", "all", 0.001),
        ("a", "Recall@10", "retrieved", 0.001), ("b", "NDCG@10", "retrieved", 0.04),
    ]  # fmt: skip
    found = corrected(pd.DataFrame(rows, columns=columns))["p_holm"]
    assert found.tolist() == pytest.approx([0.02, 0.02, np.nan, np.nan, 0.04], nan_ok=True)
    of_retrievers = corrected(pd.DataFrame([row for row in rows if row[2] == "all"], columns=columns))
    assert of_retrievers["p_holm"].tolist() == [0.001]


def test_ten_thousand_samples_of_beautys_users_take_a_second():
    ranks = np.random.default_rng(9).zipf(1.3, size=22_332)
    values = np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0.0)
    started = time.process_time()
    found = estimate(values, samples=10_000, seed=0)
    assert time.process_time() - started < 2
    assert found.ci_low < values.mean() < found.ci_high


def test_seeds_with_different_members_count_by_their_own_means():
    values = np.array([[1.0, 0.0, 5.0], [0.5, 5.0, 0.0]])
    members = np.array([[True, True, False], [True, False, True]])
    assert over_seeds(values, members).mean() == pytest.approx((0.5 + 0.25) / 2)
    assert len(over_seeds(values, members)) == 3
    assert over_seeds(values, np.ones_like(members)).tolist() == [0.75, 2.5, 2.5]


def test_a_stratified_mean_weighs_each_stratum_by_its_share():
    strata = [(np.array([0, 1]), 0.2), (np.array([2, 3, 4]), 0.8)]
    found = estimate([1.0, 0.0, 0.0, 0.0, 0.0], strata, samples=2000, seed=0)
    assert found == pytest.approx((0.1, 0.0, 0.2))  # both of the first stratum may be drawn twice
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(0, 1, 60), generator.normal(9, 1, 60)])
    strata = [(np.arange(60), 0.5), (np.arange(60, 120), 0.5)]
    found = estimate(values, strata, samples=2000, seed=0)
    # strata of one mean are drawn independently: pooling them changes nothing
    error = np.sqrt(np.var(values[:60]) / 60 / 4 + np.var(values[60:]) / 60 / 4)
    assert found.ci_high - found.ci_low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_stratified_difference_is_tested_with_its_weights():
    ours, theirs = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0])
    strata = [(np.array([0, 1]), 0.9), (np.array([2, 3]), 0.1)]
    found = difference(ours, theirs, strata, samples=20_000, seed=0)
    assert found.difference == pytest.approx(0.8)
    assert found.p_value == pytest.approx(1 / 2, abs=0.02)  # where the first two have one sign, it is as far out
    assert found.detectable == 0.0  # no spread within strata
