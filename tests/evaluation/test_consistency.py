"""What the published tables say of each other, on tables small enough to check on paper, and on the paper's."""

from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

from llamarec_core.evaluation import (
    constant_shares,
    gains_in_users,
    published,
    published_statistics,
    recall_counts,
    retrieved_shares,
)
from llamarec_core.evaluation.consistency import most_lost

FOLDER = Path(__file__).parents[2] / "results" / "published"
USERS = published_statistics(FOLDER).set_index("dataset")["users"].astype(int)


def table(values, subset="all", dataset="toys"):
    rows = [(dataset, subset, metric, method, value) for (method, metric), value in values.items()]
    return pd.DataFrame(rows, columns=["dataset", "subset", "metric", "method", "value"])


def shares_of(all_users, retrieved, users=1000):
    shares = retrieved_shares(pd.concat([table(all_users), table(retrieved, "retrieved")]))
    return constant_shares(shares, pd.Series({"toys": users})).set_index("method")


def test_a_share_that_rounding_explains_is_constant_and_is_a_number_of_users():
    all_users = {("LRURec", "Recall@5"): 0.0500, ("LRURec", "Recall@10"): 0.1000}
    retrieved = {("LRURec", "Recall@5"): 0.2500, ("LRURec", "Recall@10"): 0.5000}
    row = shares_of(all_users, retrieved).loc["LRURec"]
    assert row["constant"]
    assert row["consistent"]
    assert row["smallest"] == pytest.approx(0.2)
    assert row["largest"] == pytest.approx(0.2)
    assert (row["retrieved_from"], row["retrieved_to"]) == (200, 200)


def test_a_share_that_no_number_of_users_gives_is_found():
    row = shares_of({("LRURec", "Recall@5"): 0.0502}, {("LRURec", "Recall@5"): 0.2500}, users=4).loc["LRURec"]
    assert row["constant"]
    assert not row["consistent"]


def test_a_share_that_differs_between_metrics_is_found():
    all_users = {("LRURec", "Recall@5"): 0.0500, ("LRURec", "Recall@10"): 0.1010}
    retrieved = {("LRURec", "Recall@5"): 0.2500, ("LRURec", "Recall@10"): 0.5000}
    row = shares_of(all_users, retrieved).loc["LRURec"]
    assert not row["constant"]
    assert not row["consistent"]
    assert pd.isna(row["retrieved_from"])


def test_another_method_may_find_more_but_not_fewer():
    all_users = {("LlamaRec", "Recall@5"): 0.05, ("SASRec", "Recall@5"): 0.06, ("NARM", "Recall@5"): 0.04}
    retrieved = {(method, "Recall@5"): 0.25 for method in ("LlamaRec", "SASRec", "NARM")}
    shares = shares_of(all_users, retrieved)
    assert shares["consistent"].to_dict() == {"LlamaRec": True, "SASRec": True, "NARM": False}


def test_of_the_papers_rows_lrurec_on_ml_100k_contradicts_itself():
    shares = constant_shares(retrieved_shares(published(FOLDER)), USERS).set_index(["dataset", "method"])
    assert shares.index[~shares["consistent"]].tolist() == [("ml-100k", "LRURec")]
    row = shares.loc[("ml-100k", "LRURec")]
    assert row["smallest"] == pytest.approx(0.1985, abs=1e-4)
    assert row["largest"] == pytest.approx(0.2143, abs=1e-4)
    assert shares.loc[("ml-100k", "LlamaRec"), "retrieved_from"] == 123
    # Table 3 is over LRURec's retrieved users for every method: the others' quotients are not constant
    assert not shares.loc[pd.IndexSlice[:, ["NARM", "BERT4Rec", "SASRec"]], "constant"].any()


def test_a_recall_is_a_number_of_users():
    values = {("A", "Recall@5"): 0.0328, ("B", "Recall@5"): 0.0327, ("C", "Recall@5"): 0.0340, ("A", "NDCG@5"): 0.02}
    counts = recall_counts(table(values), pd.Series({"toys": 610})).set_index("method")
    # 20 / 610 = 0.03278…, printed as 0.0328, or cut off as 0.0327; 0.0340 lies between 20 and 21 users
    assert counts["hits"].to_dict() == {"A": 20, "B": 20, "C": 21}
    assert counts["multiple"].to_dict() == {"A": True, "B": True, "C": False}
    low, high = binomtest(20, 610).proportion_ci(method="wilson")
    assert (counts.loc["A", "ci_low"], counts.loc["A", "ci_high"]) == (low, high)


def test_with_many_users_every_value_is_a_multiple():
    counts = recall_counts(table({("A", "Recall@5"): 0.0340}), pd.Series({"toys": 20_000}))
    assert counts["multiple"].isna().all()


def test_of_the_papers_recalls_on_ml_100k_only_lrurecs_and_llamarecs_are_numbers_of_users():
    counts = recall_counts(published(FOLDER), USERS)
    decided = counts[counts["multiple"].notna()]
    assert set(decided["dataset"]) == {"ml-100k"}
    assert set(decided.loc[decided["multiple"], "method"]) == {"LRURec", "LlamaRec"}
    assert decided["multiple"].sum() == 4


def test_a_published_gain_is_a_number_of_users():
    gains = gains_in_users(published(FOLDER), USERS).set_index(["dataset", "metric", "method"])
    row = gains.loc[("ml-100k", "Recall@5", "LlamaRec")]
    assert row["gain_users"] == 52 - 43
    assert row["least_p"] == pytest.approx(2 * 0.5**9)
    assert pd.isna(gains.loc[("ml-100k", "Recall@5", "LRURec"), "most_lost"])  # four users are never significant


@pytest.mark.parametrize("gain", [6, 9, 26, 200])
def test_the_most_lost_is_the_last_that_is_significant(gain):
    lost = most_lost(gain)
    assert binomtest(lost, gain + 2 * lost).pvalue < 0.05
    assert binomtest(lost + 1, gain + 2 * lost + 2).pvalue >= 0.05


@pytest.mark.parametrize("gain", [-3, 0, 5])
def test_five_users_are_never_significant(gain):
    assert most_lost(gain) is None
