"""The tables of the study, computed from ranks that a reader can count."""

import json

import numpy as np
import pandas as pd
import pytest

from llamarec_core import report
from llamarec_core.evaluation import METRICS, mean, published, published_statistics
from llamarec_core.evaluation.metrics import estimate, holm, per_user
from llamarec_core.files import InputError
from llamarec_core.report.tables import noise_table, pairs_table, ranking_tests, results_table, retrieval_table
from tests.conftest import ROOT

FOLDER = ROOT / "results" / "published"
PUBLISHED = published(FOLDER)
SAMPLING = {"samples": 300, "seed": 0}
SETTINGS = SAMPLING | {"commit": "abc1234"}


def ranks(values, *, targets=None):
    users = np.arange(len(values))
    targets = users + 1 if targets is None else targets
    return pd.DataFrame({"user": users, "target": targets, "rank": np.array(values, dtype=np.int64)})


def of(dataset, **by_method):
    return {(dataset, method.replace("_", "-"), 0): ranks(values) for method, values in by_method.items()}


def results(given, **changes):
    return results_table(given, published=PUBLISHED, **({"retriever": "lrurec"} | SETTINGS | changes))


def value(table, column="measured", **where):
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    assert len(table) == 1
    return table[column].item()


def test_every_number_is_that_of_the_ranks():
    table = results(of("beauty", lrurec=[1, 4, 20, 21, 300], llamarec=[3, 1, 6, 21, 300]))
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
    assert set(zip(table["commit"], table["seeds"], strict=True)) == {("abc1234", 1)}


def test_published_numbers_stand_beside_ours_where_the_paper_prints_them():
    both = {"lrurec": [1, 2, 30], "random_order": [1, 2, 30]}
    table = results(of("beauty", **both) | of("ml-100k-1998", **both))
    printed = PUBLISHED.query("dataset == 'beauty' and method == 'LRURec'").set_index(["metric", "subset"])["value"]
    found = table.query("dataset == 'beauty' and method == 'lrurec'").set_index(["metric", "subset"])["published"]
    assert found.to_dict() == printed.to_dict()
    assert table["published"].notna().sum() == len(found)


def test_a_subset_holds_who_is_retrieved_with_some_seed_by_the_mean_over_seeds():
    seeds = {0: [1, 2, 30, 40], 1: [2, 30, 3, 5], 2: [4, 1, 30, 50]}
    given = {("games", "lrurec", seed): ranks(values) for seed, values in seeds.items()}
    table = results(given)
    for metric in METRICS:
        of_each = [mean([rank for rank in values if rank <= 20], metric) for values in seeds.values()]
        assert value(table, metric=metric, subset="retrieved") == pytest.approx(np.mean(of_each))
    assert value(table, "users", metric="MRR@5", subset="retrieved") == 4
    assert value(results(given, candidates=4), "users", metric="MRR@5", subset="retrieved") == 3
    none = of("games", lrurec=[2, 6, 15, 30])
    assert set(results(none, candidates=1)["subset"]) == set(results(none, retriever="")["subset"]) == {"all"}


def test_the_order_of_users_and_of_methods_does_not_matter():
    names = ("random-order", "lrurec", "llamarec", "my-ranker")
    given = {("games", name, 0): ranks([1, 2 + number, 30]) for number, name in enumerate(names)}
    table = results({key: frame.iloc[::-1] for key, frame in reversed(given.items())})
    assert list(table["method"].unique()) == list(names)
    pd.testing.assert_frame_equal(table, results(given))


def test_comparison_is_the_paired_difference_from_the_retrievers_order():
    generator = np.random.default_rng(0)
    retriever = generator.integers(1, 41, size=400)
    better = np.where(retriever <= 20, np.maximum(retriever - 3, 1), retriever)
    worse = np.where(retriever <= 20, generator.integers(1, 21, size=400), retriever)
    given = of("games", lrurec=retriever, llamarec=better, random_order=worse)
    table = ranking_tests(given, retriever="lrurec", **SETTINGS)
    floors = table[table["reference"] != "lrurec"]
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


def test_the_ranker_is_compared_with_orders_without_a_language_model_among_retrieved_users():
    orders = {"random_order": [2, 2, 2, 300], "title_overlap": [1, 1, 1, 300]}
    given = of("beauty", lrurec=[2, 2, 2, 300], llamarec=[1, 1, 2, 300], **orders)
    table = ranking_tests(given, retriever="lrurec", **SETTINGS)
    table = table[table["reference"] != "lrurec"]
    assert table["reference"].tolist() == ["random-order", "title-overlap"]
    second = 1 / np.log2(3)
    assert table["difference"].tolist() == pytest.approx([2 / 3 * (1 - second), (second - 1) / 3])
    assert set(table["users"]) == {3}
    del given["beauty", "llamarec", 0]
    assert set(ranking_tests(given, retriever="lrurec", **SETTINGS)["reference"]) == {"lrurec"}


def test_statistics_stand_beside_table_2_as_printed():
    counted = {"users": 22332, "items": 12086, "interactions": 198215, "mean_length": 8.876, "density": 0.000734}
    statistics, printed = {"beauty": counted, "mine": counted}, published_statistics(FOLDER)
    table = report.statistics_table(statistics, published=printed, commit="abc1234")
    assert value(table, "published", dataset="beauty", quantity="interactions") == "198K"
    assert value(table, dataset="beauty", quantity="interactions") == 198215
    assert table.loc[table["dataset"] == "mine", "published"].isna().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no ranks"),
        (of("games", lrurec=[1, 2]), "nothing to compare with lrurec"),
        ({("games", "llamarec", 3): ranks([1])}, "lrurec on games with seed 3 are missing"),
        (of("games", lrurec=[1, 2]) | {("games", "b", 0): ranks([1, 2], targets=[1, 9])}, "other users or targets"),
        (of("games", lrurec=[1, 2], llamarec=[1]), "other users or targets"),
        (of("games", lrurec=[]), "lrurec on games with seed 0 hold no user"),
        (of("games", lrurec=[0, 1], llamarec=[0, 1]), "counted from 1"),
    ],
)
def test_ranks_that_do_not_fit_together_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        ranking_tests(given, retriever="lrurec", **SETTINGS)


@pytest.fixture
def of_retrievers():
    rng = np.random.default_rng(0)
    draw = {"lrurec": 15, "sasrec": 40, "narm": 400}
    return {
        ("beauty", method, seed): ranks(rng.integers(1, worst, 300))
        for method, worst in draw.items()
        for seed in range(1 if method == "narm" else 3)
    }


def test_the_mean_over_seeds_stands_beside_the_published_value_or_reaches_it(of_retrievers):
    table = retrieval_table(of_retrievers, published=PUBLISHED, **SETTINGS)
    assert len(table) == 3 * 6
    row = table[(table["method"] == "lrurec") & (table["metric"] == "Recall@10")].iloc[0]
    runs = [mean(of_retrievers["beauty", "lrurec", seed]["rank"], "Recall@10") for seed in range(3)]
    expected = [np.mean(runs), np.std(runs, ddof=1), 0.0916, np.mean(runs) - 0.0916]
    assert row[["measured", "seed_sd", "published", "difference"]].tolist() == pytest.approx(expected)
    assert row[["at_or_above", "published_in_interval"]].tolist() == [True, False]
    assert table.loc[table["method"] == "narm", "seed_sd"].isna().all()
    reached = report.reached_table(table).set_index("method")
    for method, name in {"narm": "NARM", "lrurec": "LRURec"}.items():
        cells = table[table["method"] == method]
        within = cells["published"].between(cells["ci_low"], cells["ci_high"])
        either = (cells["measured"] >= cells["published"]) | within
        assert reached.loc[name, ["cells", "either"]].tolist() == [6, either.sum()]


def test_every_two_retrievers_are_compared_on_the_same_users(of_retrievers):
    table = pairs_table(of_retrievers, **SETTINGS)
    assert len(table) == 3 * 6
    pairs = {("sasrec", "narm"), ("lrurec", "narm"), ("lrurec", "sasrec")}
    assert set(zip(table["method"], table["reference"], strict=True)) == pairs
    assert (table[(table["method"] == "lrurec") & (table["reference"] == "narm")]["difference"] > 0).all()
    tested = table.dropna(subset="p_holm")
    assert set(tested["metric"]) == {"NDCG@10"}
    assert tested["p_holm"].to_numpy() == pytest.approx(holm(tested["p_value"]))
    with pytest.raises(InputError, match="no two retrievers"):
        pairs_table(of("beauty", lrurec=[1, 2]), **SETTINGS)


def test_noise_has_the_size_of_its_sources(of_retrievers):
    orders = [("a", "a", 1.0), ("a", "b", 0.0), ("b", "a", 0.0), ("b", "b", 1.0)]
    ties = pd.DataFrame(orders, columns=["trained", "tested", "measured"]).assign(dataset="beauty", metric="Recall@10")
    noise = noise_table(of_retrievers, ties, published=PUBLISHED, **SAMPLING).set_index(["metric", "source"])["size"]
    of_seeds = [per_user(of_retrievers["beauty", "lrurec", seed]["rank"], "Recall@10") for seed in range(3)]
    interval = estimate(of_seeds[0], **SAMPLING)
    of_paper = noise.pop(("Recall@10", "published: LlamaRec − LRURec"))
    assert of_paper > 0
    assert noise["Recall@10"].to_dict() == pytest.approx(
        {
            "users": (interval.ci_high - interval.ci_low) / 2,
            "seeds": 1.96 * np.std(np.mean(of_seeds, axis=1), ddof=1),
            "ties, tested": 0.5,  # 1 under its own order, 0 under the other
            "ties, trained and tested": 0,
            "published: LRURec − SASRec": 0.0916 - 0.0844,
        }
    )


def test_noise_leaves_out_a_data_set_without_lrurec(of_retrievers):
    orders, given = pd.DataFrame(), {"published": PUBLISHED, **SAMPLING}
    others = of_retrievers | of("toys", narm=[1, 2])
    pd.testing.assert_frame_equal(noise_table(others, orders, **given), noise_table(of_retrievers, orders, **given))
    with pytest.raises(InputError, match="No ranks are of lrurec"):
        noise_table(of("toys", narm=[1, 2]), orders, **given)


TOYS = {"dataset": "toys", "samples": 500, "seed": 0, "commit": "abc"}


def variant(group, name, values, answers=0):
    return ranks(values).assign(group=group, variant=name, answer=answers)


def test_each_variant_is_compared_with_the_first_of_its_group():
    good, bad, first = np.ones(60, dtype=int), np.full(60, 3), np.tile([1, 2], 30)
    variants = [variant("order", "descending", bad, first), variant("order", "reversed", good, 4)]
    variants += [variant("order", "shuffled", bad, first), variant("floor", "popularity", bad)]
    of_variants = pd.concat(variants)
    table = report.ablation_table(of_variants, **TOYS).set_index("method")
    assert table["reference"].tolist() == ["descending"] * 3 + ["popularity"]
    assert table["measured"].tolist() == [0.5, 1.0, 0.5, 0.5]  # 1 / log2(3 + 1) = 1/2
    assert table.loc["reversed", "difference"] == 0.5
    assert table.loc["shuffled", ["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    assert table.loc["reversed", "p_holm"] == pytest.approx(2 / 501)  # the smaller of two p-values counts twice
    assert table.loc["shuffled", "p_holm"] == 1
    assert table.loc["reversed", "detectable"] == 0  # all users differ by the same
    assert table.loc[["descending", "popularity"], ["difference", "p_holm"]].isna().all(axis=None)
    assert table["first_label"].tolist() == pytest.approx([0.5, 0.0, 0.5, np.nan], nan_ok=True)
    assert set(table["users"]) == {60}
    with pytest.raises(InputError, match=r"The ranks of 'late' \(order\) hold other users"):
        report.ablation_table(pd.concat([of_variants, variant("order", "late", [1] * 59)]), **TOYS)


def test_the_training_table_says_what_was_read_and_reached(tmp_path):
    made = {"git_commit": "abc", "git_dirty": False, "peak_memory_mib": 2048}
    (tmp_path / "circumstances.json").write_text(json.dumps(made))
    (tmp_path / "training.csv").write_text("answers,tokens,seconds\n0,0,0.0\n120,3000,30.0\n")
    (tmp_path / "ranker.json").write_text(json.dumps({"best": {"ndcg@10": 0.5, "ndcg@10_with_retriever": 0.6}}))
    (row,) = report.training_table({"tuned": tmp_path}).to_dict("records")
    assert row == {
        "tuning": "tuned", "answers": 120, "tokens": 3000, "seconds": 30.0, "tokens_per_second": 100, "reached": 0.5,
        "reached_with_retriever": 0.6, "peak_memory_mib": 2048, "commit": "abc",
    }  # fmt: skip
