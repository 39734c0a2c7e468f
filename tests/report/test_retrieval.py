"""The tables of the retrieval pages, from ranks that a reader can count."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llamarec_core import report
from llamarec_core.evaluation import mean, published
from llamarec_core.files import InputError
from llamarec_core.report.retrieval import noise_table, pairs_table, retrieval_table

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
    table = retrieval_table(ranks, published=PUBLISHED, commit="abc", **SAMPLING)
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
    table = retrieval_table(ranks, published=PUBLISHED, commit="abc", **SAMPLING)
    reached = report.reached_table(table).set_index("method")
    for method, name in {"narm": "NARM", "lrurec": "LRURec"}.items():
        cells = table[table["method"] == method]
        within = cells["published"].between(cells["ci_low"], cells["ci_high"])
        either = (cells["measured"] >= cells["published"]) | within
        assert reached.loc[name, "cells"] == 6
        assert reached.loc[name, "either"] == either.sum()


def test_every_two_retrievers_are_compared_on_the_same_users(ranks):
    table = pairs_table(ranks, commit="abc", **SAMPLING)
    assert len(table) == 3 * 6
    assert set(zip(table["method"], table["reference"], strict=True)) == {
        ("sasrec", "narm"), ("lrurec", "narm"), ("lrurec", "sasrec"),
    }  # fmt: skip
    better = table[(table["method"] == "lrurec") & (table["reference"] == "narm")]
    assert (better["difference"] > 0).all()
    tested = table.dropna(subset="p_holm")
    assert set(tested["metric"]) == {"NDCG@10"}
    assert (tested["p_holm"] >= tested["p_value"]).all()
    assert tested["p_holm"].min() == pytest.approx(3 * tested["p_value"].min())
    with pytest.raises(InputError, match="no two retrievers"):
        pairs_table({("beauty", "lrurec", 0): frame([1, 2])}, commit="abc", **SAMPLING)


def test_noise_has_the_size_of_its_sources(ranks):
    table = retrieval_table(ranks, published=PUBLISHED, commit="abc", **SAMPLING)
    orders = [("a", "a", 1.0), ("a", "b", 0.0), ("b", "a", 0.0), ("b", "b", 1.0)]
    ties = pd.DataFrame(orders, columns=["trained", "tested", "measured"]).assign(dataset="beauty", metric="Recall@10")
    noise = noise_table(ranks, ties, published=PUBLISHED, **SAMPLING).set_index(["metric", "source"])["size"]
    one_run = {key: frame for key, frame in ranks.items() if key[2] == 0}
    alone = retrieval_table(one_run, published=PUBLISHED, commit="abc", **SAMPLING)
    row, of_one = (
        found[(found["method"] == "lrurec") & (found["metric"] == "Recall@10")].iloc[0] for found in (table, alone)
    )
    assert noise["Recall@10", "users"] == pytest.approx((of_one["ci_high"] - of_one["ci_low"]) / 2)
    assert noise["Recall@10", "seeds"] == pytest.approx(1.96 * row["seed_sd"])
    assert noise["Recall@10", "ties, tested"] == pytest.approx(0.5)  # 1 under its own order, 0 under the other
    assert noise["Recall@10", "ties, trained and tested"] == 0
    assert noise["Recall@10", "published: LRURec − SASRec"] == pytest.approx(0.0916 - 0.0844)
