"""Intervals and tests against closed forms, exhaustive enumeration and scipy."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llamarec_core.evaluation.significance import (
    bootstrap_interval,
    bootstrap_means,
    holm,
    paired_difference,
    stratified_mean,
)
from llamarec_core.files import InputError


def test_interval_of_a_share_is_that_of_the_binomial():
    hits = np.repeat([1.0, 0.0], [150, 850])
    low, high = bootstrap_interval(hits, samples=20_000, seed=0)
    # a bootstrap sample's number of hits is Binomial(1000, 0.15)
    assert (low, high) == pytest.approx(stats.binom.ppf([0.025, 0.975], 1000, 0.15) / 1000, abs=0.0011)


def test_interval_of_distinct_values_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(2.0, 3.0, size=2_000)
    low, high = bootstrap_interval(values, samples=5_000, seed=0)
    error = values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error)


def test_columns_are_resampled_together():
    values = np.random.default_rng(2).integers(0, 3, size=400).astype(float)
    means = bootstrap_means(np.stack([values, 2 * values + 1], axis=1), samples=500, seed=0)
    assert means.shape == (500, 2)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0] + 1)
    assert means[:, 0].std() == pytest.approx(values.std() / np.sqrt(400), rel=0.15)


def test_resampling_counts_and_resampling_users_agree():
    values = np.repeat(np.linspace(0, 1, 20), 50)
    nearly_equal = values + np.linspace(0, 1e-9, len(values))  # all distinct, so that users are drawn by index
    by_counts = bootstrap_interval(values, samples=20_000, seed=0)
    assert bootstrap_interval(nearly_equal, samples=20_000, seed=0) == pytest.approx(by_counts, abs=5e-4)


def test_scipy_finds_the_same_interval():
    values = np.random.default_rng(2).choice([0.0, 0.0, 0.3, 0.5, 1.0], size=400)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=9_999, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_interval(values, samples=10_000, seed=0) == pytest.approx(tuple(theirs), abs=3e-3)


def test_interval_depends_on_the_seed_but_not_on_the_order_of_users():
    values = np.random.default_rng(3).choice([0.0, 0.5, 1.0], size=100)
    first = bootstrap_interval(values, samples=500, seed=7)
    assert bootstrap_interval(values[::-1], samples=500, seed=7) == first
    assert bootstrap_interval(values, samples=500, seed=7) == first
    assert bootstrap_interval(values, samples=500, seed=8) != first


def test_more_confidence_is_a_wider_interval_and_equal_values_have_none():
    values = np.random.default_rng(4).choice([0.0, 1.0], size=300)
    narrow = bootstrap_interval(values, samples=2_000, seed=0, confidence=0.5)
    wide = bootstrap_interval(values, samples=2_000, seed=0, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert bootstrap_interval([0.25] * 8, samples=10, seed=0) == (0.25, 0.25)


def test_95_percent_of_intervals_cover_the_true_mean():
    generator = np.random.default_rng(5)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval(generator.binomial(1, 0.3, size=200).astype(float), samples=1_000, seed=seed)
        covered += low <= 0.3 <= high
    assert covered / 300 == pytest.approx(0.95, abs=0.03)


def test_p_value_is_that_of_all_sign_flips():
    differences = np.array([0.5, 0.5, -0.2, 0.3, 0.0, 1.0, -0.1, 0.4])
    flipped = [np.dot(signs, differences) for signs in itertools.product([1, -1], repeat=len(differences))]
    exact = np.mean(np.abs(flipped) >= abs(differences.sum()) - 1e-12)
    found = paired_difference(differences, np.zeros(8), samples=20_000, seed=0)
    assert found.mean == pytest.approx(differences.mean())
    assert found.p_value == pytest.approx(exact, abs=0.01)


def test_a_method_does_not_differ_from_itself():
    values = np.random.default_rng(6).random(50)
    assert paired_difference(values, values, samples=100, seed=0) == (0.0, 0.0, 0.0, 1.0)


def test_swapping_the_methods_swaps_the_sign():
    generator = np.random.default_rng(7)
    a, b = generator.random(60), generator.random(60)
    forwards, backwards = (paired_difference(*pair, samples=4_000, seed=0) for pair in ((a, b), (b, a)))
    assert forwards.mean == pytest.approx(-backwards.mean)
    assert forwards.low == pytest.approx(-backwards.high, abs=0.01)
    assert forwards.p_value == backwards.p_value


def test_a_clear_difference_gets_the_smallest_p_value():
    found = paired_difference(np.ones(100), np.zeros(100), samples=999, seed=0)
    assert found == (1.0, 1.0, 1.0, 1 / 1000)


def test_p_values_are_uniform_when_the_methods_are_alike():
    generator = np.random.default_rng(8)
    p_values = [
        paired_difference(*generator.choice([0, 0.5, 1], size=(2, 300)), samples=400, seed=seed).p_value
        for seed in range(300)
    ]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(np.array(p_values) <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_holm_is_the_example_worked_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04, then never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


@settings(max_examples=50, deadline=None)
@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_raw_and_bonferronis(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(np.array(p_values) * len(p_values), 1.0)).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


def test_ten_thousand_samples_of_beautys_users_take_seconds():
    ranks = np.random.default_rng(9).zipf(1.3, size=22_332)
    values = np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0.0)
    started = time.perf_counter()
    low, high = bootstrap_interval(values, samples=10_000, seed=0)
    bootstrap_interval(np.random.default_rng(10).random(22_332), samples=10_000, seed=0)
    assert time.perf_counter() - started < 10
    assert low < values.mean() < high


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]], [0.1, float("nan")]])
def test_values_that_are_not_one_finite_number_a_user_are_refused(values):
    with pytest.raises(InputError, match="user"):
        bootstrap_interval(values, samples=10, seed=0)


def test_other_bad_input_is_refused():
    with pytest.raises(InputError, match="same users on both sides, but got 2 and 3"):
        paired_difference([0, 1], [0, 1, 1], samples=10, seed=0)
    with pytest.raises(InputError, match="confidence"):
        bootstrap_interval([0.0, 1.0], samples=10, seed=0, confidence=95)
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.5, 1.2])
    with pytest.raises(InputError, match="at least one"):
        holm([])


def test_a_stratified_mean_weighs_each_stratum_by_its_share():
    found = stratified_mean([[1.0, 0.0], [0.0, 0.0, 0.0]], [0.2, 0.8], samples=2000, seed=0)
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.0, 0.2))  # both of the first stratum may be drawn twice
    constant = stratified_mean([[2.0, 2.0], [3.0]], [0.25, 0.75], samples=50, seed=0)
    assert tuple(constant) == (2.75, 2.75, 2.75)


def test_a_stratified_interval_is_narrower_than_that_of_the_pooled_users():
    generator = np.random.default_rng(0)
    strata = [generator.normal(0, 1, 60), generator.normal(9, 1, 60)]
    found = stratified_mean(strata, [0.5, 0.5], samples=2000, seed=0)
    low, high = bootstrap_interval(np.concatenate(strata), samples=2000, seed=0)
    assert found.high - found.low < (high - low) / 2
    expected = 2 * 1.96 * np.sqrt(sum(np.var(stratum) / 60 / 4 for stratum in strata))
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_equal_strata_are_drawn_independently():
    values = np.arange(10.0)
    together = stratified_mean([values, values], [0.5, 0.5], samples=4000, seed=0)
    alone = stratified_mean([values], [1.0], samples=4000, seed=0)
    assert (together.high - together.low) == pytest.approx((alone.high - alone.low) / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.0]])
def test_shares_that_do_not_sum_to_one_are_refused(weights):
    with pytest.raises(InputError, match="must be 2 numbers that sum to 1"):
        stratified_mean([[1.0], [2.0]], weights, samples=10, seed=0)
