"""What the published tables say of each other, on tables small enough to check on paper, and on the paper's."""

from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

from llamarec_core.evaluation import consistency_tables, published
from llamarec_core.evaluation.consistency import (
    constant_shares,
    gains_in_users,
    most_lost,
    recall_counts,
    relative_gains,
    retrieved_counts,
    stated_table,
)
from llamarec_core.evaluation.paper import published_statistics

FOLDER = Path(__file__).parents[2] / "results" / "published"
USERS = published_statistics(FOLDER).set_index("dataset")["users"].astype(int)


def table(values, subset="all", dataset="toys"):
    rows = [(dataset, subset, metric, method, value) for (method, metric), value in values.items()]
    return pd.DataFrame(rows, columns=["dataset", "subset", "metric", "method", "value"])


def shares_of(all_users, retrieved, users=1000):
    tables = pd.concat([table(all_users), table(retrieved, "retrieved")])
    counts = retrieved_counts(tables, pd.Series({"toys": users}))
    return constant_shares(tables, counts).set_index("method"), counts.set_index(["method", "printing"])


def test_a_share_that_rounding_explains_is_constant_and_is_a_number_of_users():
    all_users = {("LRURec", "Recall@5"): 0.0500, ("LRURec", "Recall@10"): 0.1000}
    retrieved = {("LRURec", "Recall@5"): 0.2500, ("LRURec", "Recall@10"): 0.5000}
    shares, counts = shares_of(all_users, retrieved)
    assert shares.loc["LRURec", ["smallest", "largest", "constant", "consistent"]].tolist() == [0.2, 0.2, True, True]
    assert counts.loc[("LRURec", "rounded"), ["fits", "fewest", "most"]].tolist() == [1, 200, 200]


def test_a_number_of_users_needs_whole_hits_in_both_tables():
    # 3 of 7 and 3 of 10: printed 0.4286 if rounded, 0.4285 if cut
    for value, rounded, cut in ((0.4286, 1, 0), (0.4285, 0, 1), (0.4290, 0, 0)):
        shares, counts = shares_of({("LRURec", "Recall@5"): 0.3}, {("LRURec", "Recall@5"): value}, users=10)
        assert counts["fits"].to_dict() == {("LRURec", "rounded"): rounded, ("LRURec", "cut"): cut}
        assert shares.loc["LRURec", "consistent"] == bool(rounded + cut)
        assert shares.loc["LRURec", "constant"]


def test_a_share_that_differs_between_metrics_is_found():
    all_users = {("LRURec", "Recall@5"): 0.0500, ("LRURec", "Recall@10"): 0.1010}
    retrieved = {("LRURec", "Recall@5"): 0.2500, ("LRURec", "Recall@10"): 0.5000}
    shares, counts = shares_of(all_users, retrieved)
    assert not shares.loc["LRURec", ["constant", "consistent"]].any()
    assert counts["fits"].sum() == 0
    assert counts["fewest"].isna().all()


def test_another_method_may_find_more_but_not_fewer():
    all_users = {("LlamaRec", "Recall@5"): 0.05, ("SASRec", "Recall@5"): 0.06, ("NARM", "Recall@5"): 0.04}
    retrieved = {(method, "Recall@5"): 0.25 for method in ("LlamaRec", "SASRec", "NARM")}
    shares, _ = shares_of(all_users, retrieved)
    assert shares["consistent"].to_dict() == {"LlamaRec": True, "NARM": False, "SASRec": True}


def test_of_the_papers_rows_lrurec_on_ml_100k_and_beauty_fits_no_number_of_users():
    tables = consistency_tables(FOLDER)
    shares = tables["shares"].set_index(["dataset", "method"])
    assert shares.index[~shares["consistent"]].tolist() == [("ml-100k", "LRURec"), ("beauty", "LRURec")]
    row = shares.loc[("ml-100k", "LRURec")]
    assert (row["smallest"], row["largest"]) == pytest.approx((0.1985, 0.2143), abs=1e-4)
    # Table 3 is over LRURec's retrieved users for every method: the others' quotients are not constant
    assert not shares.loc[pd.IndexSlice[:, ["NARM", "BERT4Rec", "SASRec"]], "constant"].any()
    fitting = tables["counts"].query("fits > 0").set_index(["dataset", "method", "printing"])
    assert (
        fitting["fewest"].to_dict()
        == fitting["most"].to_dict()
        == {
            ("ml-100k", "LlamaRec", "cut"): 123,
            ("beauty", "LlamaRec", "cut"): 2855,
            ("games", "LRURec", "rounded"): 3246,
            ("games", "LlamaRec", "cut"): 3245,
        }
    )


def test_the_two_tables_give_different_gains_on_ml_100k_alone():
    gains = relative_gains(published(FOLDER)).set_index(["dataset", "metric"])
    assert gains.index[~gains["agree"]].unique("dataset").tolist() == ["ml-100k"]
    assert 100 * gains.loc[("ml-100k", "mean"), ["table1", "table3"]].to_numpy() == pytest.approx(
        [11.99, 13.37], abs=0.005
    )
    assert 100 * gains.loc[("ml-100k", "Recall@5"), "table3"] == pytest.approx(19.27, abs=0.005)


def test_what_the_text_states_follows_from_the_tables():
    stated = stated_table(FOLDER)
    assert len(stated) == 11
    assert stated["difference"].abs().max() < 0.00006


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
