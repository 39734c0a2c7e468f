"""The tables of the retrieval pages, from ranks that a reader can count."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llamarec_core import report
from llamarec_core.evaluation import METRICS, mean, published
from llamarec_core.files import InputError

PUBLISHED = published(Path(__file__).parents[2] / "results" / "published")
SAMPLING = {"samples": 200, "seed": 0}


def frame(ranks, targets=None):
    users = np.arange(len(ranks))
    return pd.DataFrame({"user": users, "target": users + 1 if targets is None else targets, "rank": ranks})


@pytest.fixture
def ranks():
    rng = np.random.default_rng(0)
    draw = {"lrurec": 15, "sasrec": 40, "narm": 400}
    return {
        ("beauty", method, seed): frame(rng.integers(1, worst, 300))
        for method, worst in draw.items()
        for seed in range(1 if method == "narm" else 3)
    }


def test_the_mean_over_seeds_stands_beside_the_published_value(ranks):
    table = report.retrieval_table(ranks, published=PUBLISHED, commit="abc", **SAMPLING)
    assert len(table) == 3 * 6
    row = table[(table["method"] == "lrurec") & (table["metric"] == "Recall@10")].iloc[0]
    runs = [mean(ranks["beauty", "lrurec", seed]["rank"], "Recall@10") for seed in range(3)]
    assert row["measured"] == pytest.approx(np.mean(runs))
    assert row["seed_sd"] == pytest.approx(np.std(runs, ddof=1))
    assert row["published"] == 0.0916
    assert row["difference"] == pytest.approx(np.mean(runs) - 0.0916)
    assert row["at_or_above"]
    assert not row["published_in_interval"]
    assert table.loc[table["method"] == "narm", "seed_sd"].isna().all()


def test_a_cell_is_reached_from_above_or_within_the_interval(ranks):
    table = report.retrieval_table(ranks, published=PUBLISHED, commit="abc", **SAMPLING)
    reached = report.reached_table(table).set_index("method")
    for method, name in {"narm": "NARM", "lrurec": "LRURec"}.items():
        cells = table[table["method"] == method]
        within = cells["published"].between(cells["ci_low"], cells["ci_high"])
        either = (cells["measured"] >= cells["published"]) | within
        assert reached.loc[name, "cells"] == 6
        assert reached.loc[name, "either"] == either.sum()


def test_every_two_retrievers_are_compared_on_the_same_users(ranks):
    table = report.pairs_table(ranks, commit="abc", **SAMPLING)
    assert len(table) == 3 * 6
    assert set(zip(table["method"], table["reference"], strict=True)) == {
        ("sasrec", "narm"), ("lrurec", "narm"), ("lrurec", "sasrec"),
    }  # fmt: skip
    better = table[(table["method"] == "lrurec") & (table["reference"] == "narm")]
    assert (better["difference"] > 0).all()
    assert (better["p_holm"] >= better["p_value"]).all()
    assert (better["p_holm"] < 0.1).all()
    with pytest.raises(InputError, match="no two retrievers"):
        report.pairs_table({("beauty", "lrurec", 0): frame([1, 2])}, commit="abc", **SAMPLING)


def test_the_opening_page_says_what_the_retrievers_reach(ranks):
    table = report.retrieval_table(ranks, published=PUBLISHED, commit="abc", **SAMPLING)
    pairs = report.pairs_table(ranks, commit="abc", samples=2_000, seed=0)
    text = report.retrieval_sentences(table, pairs)
    assert "6 of LRURec's 6 and 6 of SASRec's 6 cells reach the value of Table 1." in text
    assert "LRURec's lead over SASRec in NDCG@10 is beyond chance on beauty." in text
    swapped = {(name, {"lrurec": "sasrec", "sasrec": "lrurec"}.get(method, method), seed): frame
               for (name, method, seed), frame in ranks.items()}  # fmt: skip
    pairs = report.pairs_table(swapped, commit="abc", samples=2_000, seed=0)
    assert "is reversed on beauty." in report.retrieval_sentences(table, pairs)


def test_the_order_of_ties_is_compared_with_the_share_of_equal_targets():
    orders = {
        ("beauty", "ours", "ours"): frame([1, 2, 30, 4], [1, 2, 3, 4]),
        ("beauty", "ours", "theirs"): frame([1, 50, 30, 4], [1, 9, 3, 4]),
    }
    table = report.ties_table(orders, **SAMPLING).set_index(["tested", "metric"])
    assert table.loc[("ours", "Recall@10"), "measured"] == pytest.approx(3 / 4)
    assert table.loc[("theirs", "Recall@10"), "measured"] == pytest.approx(2 / 4)
    assert table.loc[("theirs", "Recall@10"), "same_target"] == pytest.approx(3 / 4)


def test_noise_has_the_size_of_its_sources(ranks):
    table = report.retrieval_table(ranks, published=PUBLISHED, commit="abc", **SAMPLING)
    orders = {
        ("beauty", trained, tested): frame(np.full(100, 1 + 20 * (trained != tested)))
        for trained in ("a", "b")
        for tested in ("a", "b")
    }
    ties = report.ties_table(orders, **SAMPLING)
    noise = report.noise_table(ranks, ties, published=PUBLISHED, **SAMPLING).set_index(["metric", "source"])["size"]
    one_run = {key: frame for key, frame in ranks.items() if key[2] == 0}
    alone = report.retrieval_table(one_run, published=PUBLISHED, commit="abc", **SAMPLING)
    row, of_one = (
        found[(found["method"] == "lrurec") & (found["metric"] == "Recall@10")].iloc[0] for found in (table, alone)
    )
    assert noise["Recall@10", "users"] == pytest.approx((of_one["ci_high"] - of_one["ci_low"]) / 2)
    assert noise["Recall@10", "seeds"] == pytest.approx(1.96 * row["seed_sd"])
    assert noise["Recall@10", "ties, tested"] == pytest.approx(0.5)  # 1 under its own order, 0 under the other
    assert noise["Recall@10", "ties, trained and tested"] == 0
    assert noise["Recall@10", "published: LRURec − SASRec"] == pytest.approx(0.0916 - 0.0844)


def test_validation_as_published_is_compared_with_the_same_seed(ranks):
    given = {**ranks, ("beauty", "lrurec-validated-as-published", 0): ranks["beauty", "lrurec", 0]}
    table = report.validation_table(given, commit="abc", **SAMPLING)
    assert list(table["metric"]) == list(METRICS)
    assert (table["difference"] == 0).all()
    assert report.validation_table(ranks, commit="abc", **SAMPLING).empty
