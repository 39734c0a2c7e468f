"""The tables of the study, computed from ranks that a reader can count."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llamarec_core.evaluation import METRICS, mean, published, published_statistics
from llamarec_core.evaluation.estimates import holm
from llamarec_core.files import InputError
from llamarec_core.report.results import ranking_tests, results_table, statistics_table

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
SETTINGS = {"samples": 300, "seed": 0, "commit": "abc1234"}


def ranks(values, *, targets=None, users=None):
    count = len(values)
    return pd.DataFrame(
        {
            "user": np.arange(count) if users is None else users,
            "target": np.arange(1, count + 1) if targets is None else targets,
            "rank": np.array(values, dtype=np.int64),
        }
    )


def results(given, **changes):
    return results_table(given, published=published(PUBLISHED), **(SETTINGS | changes))


def value(table, column="measured", **where):
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    assert len(table) == 1
    return table[column].item()


def test_every_number_is_that_of_the_ranks():
    given = {("beauty", "lrurec", 0): ranks([1, 4, 20, 21, 300]), ("beauty", "llamarec", 0): ranks([3, 1, 6, 21, 300])}
    table = results(given)
    assert list(table.columns) == [
        "dataset", "method", "metric", "subset", "published", "measured", "ci_low", "ci_high", "users", "seeds",
        "commit",
    ]  # fmt: skip
    assert len(table) == 2 * 6 * 2
    assert value(table, method="llamarec", metric="Recall@5", subset="all") == pytest.approx(2 / 5)
    assert value(table, method="llamarec", metric="Recall@5", subset="retrieved") == pytest.approx(2 / 3)
    assert value(table, method="lrurec", metric="MRR@5", subset="retrieved") == pytest.approx((1 + 1 / 4) / 3)
    assert value(table, "users", method="lrurec", metric="MRR@5", subset="retrieved") == 3
    assert value(table, "users", method="lrurec", metric="MRR@5", subset="all") == 5
    assert (table["ci_low"] <= table["measured"]).all()
    assert (table["measured"] <= table["ci_high"]).all()
    assert set(table["commit"]) == {"abc1234"}
    assert set(table["seeds"]) == {1}


def test_published_numbers_stand_beside_ours_where_the_paper_prints_them():
    given = {
        (dataset, method, 0): ranks([1, 2, 30])
        for dataset in ("beauty", "ml-100k-1998")
        for method in ("lrurec", "random-order")
    }
    table = results(given)
    printed = published(PUBLISHED)
    for metric in METRICS:
        for subset in ("all", "retrieved"):
            expected = value(printed, "value", dataset="beauty", method="LRURec", metric=metric, subset=subset)
            found = value(table, "published", dataset="beauty", method="lrurec", metric=metric, subset=subset)
            assert found == expected
    assert table.loc[table["method"] == "random-order", "published"].isna().all()
    assert table.loc[table["dataset"] == "ml-100k-1998", "published"].isna().all()


def test_methods_stand_in_the_order_of_every_table_with_unknown_ones_last():
    given = {("games", name, 0): ranks([1, 2]) for name in ("my-ranker", "llamarec", "lrurec", "random-order")}
    assert list(results(given)["method"].unique()) == ["random-order", "lrurec", "llamarec", "my-ranker"]


def test_the_order_of_users_in_a_file_does_not_matter():
    frame, other = ranks([1, 2, 30]), ranks([2, 1, 30])
    straight = results({("games", "lrurec", 0): frame, ("games", "llamarec", 0): other})
    shuffled = results({("games", "lrurec", 0): frame, ("games", "llamarec", 0): other.iloc[::-1]})
    pd.testing.assert_frame_equal(straight, shuffled)


def test_several_seeds_count_as_the_mean_of_their_means():
    seeds = {0: [1, 2, 30, 40], 1: [2, 30, 3, 5], 2: [4, 1, 30, 50]}
    table = results({("games", "lrurec", seed): ranks(values) for seed, values in seeds.items()})
    for metric in METRICS:
        over_all = np.mean([mean(values, metric) for values in seeds.values()])
        over_retrieved = np.mean([mean([r for r in values if r <= 20], metric) for values in seeds.values()])
        assert value(table, metric=metric, subset="all") == pytest.approx(over_all)
        assert value(table, metric=metric, subset="retrieved") == pytest.approx(over_retrieved)
    assert set(table["seeds"]) == {3}
    assert value(table, "users", metric="MRR@5", subset="retrieved") == 4  # each is retrieved with some seed


def test_a_subset_without_users_has_no_rows():
    assert set(results({("games", "lrurec", 0): ranks([30, 40])})["subset"]) == {"all"}


def test_fewer_candidates_make_a_smaller_subset():
    table = results({("games", "lrurec", 0): ranks([1, 6, 15, 30])}, candidates=10)
    assert value(table, "users", metric="MRR@5", subset="retrieved") == 2


def test_comparison_is_the_paired_difference_from_the_retrievers_order():
    generator = np.random.default_rng(0)
    retriever = generator.integers(1, 41, size=400)
    better = np.where(retriever <= 20, np.maximum(retriever - 3, 1), retriever)
    worse = np.where(retriever <= 20, generator.integers(1, 21, size=400), retriever)
    given = {("games", "lrurec", 0): retriever, ("games", "llamarec", 0): better, ("games", "random-order", 0): worse}
    table = ranking_tests({key: ranks(values) for key, values in given.items()}, **SETTINGS)
    floors = table[table["reference"] != "lrurec"]
    assert floors[["method", "reference", "metric", "subset"]].to_numpy().tolist() == [
        ["llamarec", "random-order", "NDCG@10", "retrieved"]
    ]
    table = table[table["reference"] == "lrurec"]
    assert list(table["method"].unique()) == ["random-order", "llamarec"]
    for metric in METRICS:
        found = value(table, "difference", method="llamarec", metric=metric, subset="all")
        assert found == pytest.approx(mean(better, metric) - mean(retriever, metric))
    gain = table[(table["method"] == "llamarec") & (table["metric"] == "NDCG@10")]
    assert (gain["ci_low"] > 0).all()
    assert (gain["detectable"] < gain["difference"]).all()
    family = pd.concat([table[table["p_holm"].notna()], floors])  # of one data set; all else is descriptive
    assert set(family["metric"] + family["subset"]) == {"NDCG@10retrieved"}
    assert family["p_holm"].to_numpy() == pytest.approx(holm(family["p_value"]))
    assert len(family) == 3


def test_statistics_stand_beside_table_2_as_printed():
    counted = {"users": 22332, "items": 12086, "interactions": 198215, "mean_length": 8.876, "density": 0.000734}
    table = statistics_table(
        {"beauty": counted, "mine": counted}, published=published_statistics(PUBLISHED), commit="abc1234"
    )
    assert list(table.columns) == ["dataset", "quantity", "published", "measured", "commit"]
    assert value(table, "published", dataset="beauty", quantity="interactions") == "198K"
    assert value(table, dataset="beauty", quantity="interactions") == 198215
    assert table.loc[table["dataset"] == "mine", "published"].isna().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no ranks"),
        ({("games", "llamarec", 3): ranks([1])}, "lrurec on games with seed 3 are missing"),
        (
            {("games", "lrurec", 0): ranks([1, 2]), ("games", "llamarec", 0): ranks([1, 2], targets=[1, 9])},
            "other users or targets",
        ),
        ({("games", "lrurec", 0): ranks([1, 2]), ("games", "llamarec", 0): ranks([1])}, "other users or targets"),
        ({("games", "lrurec", 0): ranks([1, 2], users=[4, 4])}, "lrurec on games with seed 0 do not hold one row"),
        ({("games", "lrurec", 0): ranks([1]).drop(columns="rank")}, "do not hold one row"),
        ({("games", "lrurec", 0): ranks([0, 1])}, "count from 1"),
    ],
)
def test_ranks_that_do_not_fit_together_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        results(given)


def test_a_comparison_needs_something_to_compare():
    with pytest.raises(InputError, match="nothing to compare with lrurec"):
        ranking_tests({("games", "lrurec", 0): ranks([1, 2])}, **SETTINGS)


def test_the_ranker_is_compared_with_orders_without_a_language_model_among_retrieved_users():
    given = {
        ("beauty", "lrurec", 0): ranks([2, 2, 2, 300]),
        ("beauty", "llamarec", 0): ranks([1, 1, 2, 300]),
        ("beauty", "random-order", 0): ranks([2, 2, 2, 300]),
        ("beauty", "title-overlap", 0): ranks([1, 1, 1, 300]),
    }
    table = ranking_tests(given, **SETTINGS)
    table = table[table["reference"] != "lrurec"]
    assert table["reference"].tolist() == ["random-order", "title-overlap"]
    second = 1 / np.log2(3)
    assert table["difference"].tolist() == pytest.approx([2 / 3 * (1 - second), (second - 1) / 3])
    assert set(table["users"]) == {3}
    without = ranking_tests({key: given[key] for key in given if key[1] != "llamarec"}, **SETTINGS)
    assert set(without["reference"]) == {"lrurec"}
