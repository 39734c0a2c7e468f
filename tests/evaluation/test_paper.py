"""The published tables are whole, say what the paper's text says of them, and what they say of each other."""

import json

import pandas as pd
import pytest
from scipy.stats import binomtest

from llamarec_core.evaluation import METRICS, consistency_tables, paper
from llamarec_core.evaluation.paper import measured_inference_times, most_lost, published, recall_counts
from llamarec_core.files import InputError
from tests.conftest import ROOT

FOLDER = ROOT / "results" / "published"
TABLES = consistency_tables(FOLDER)


def test_tables_1_and_3_hold_every_cell_once_and_what_the_paper_does_not_quote_is_empty():
    table = published(FOLDER)
    assert len(table) == 3 * 2 * 6 * 5
    assert not table.duplicated(["dataset", "subset", "metric", "method"]).any()
    assert set(table["metric"]) == set(METRICS)
    assert table["value"].between(0, 1).all()
    wide = table[table["subset"] == "all"].pivot_table("value", ["dataset", "metric"], "method")
    assert (wide.idxmax(axis=1) == "LlamaRec").all()
    gains = 100 * (wide["LlamaRec"] / wide["LRURec"] - 1).groupby("dataset").mean()
    assert gains.to_dict() == pytest.approx({"ml-100k": 11.99, "beauty": 3.99, "games": 11.06}, abs=0.005)  # the text
    cells = paper.published_llm_baselines(FOLDER).set_index(["method", "metric"])["value"]
    assert cells["GPT4Rec"].isna().to_dict() == {"NDCG@10": True, "NDCG@5": True, "Recall@10": False, "Recall@5": False}


def test_a_missing_file_or_content_is_named(tmp_path):
    with pytest.raises(InputError, match=r"table1_all_users\.csv cannot be read"):
        published(tmp_path)
    (tmp_path / "table2_dataset_statistics.csv").write_text("")
    with pytest.raises(InputError, match=r"table2_dataset_statistics\.csv cannot be read"):
        paper.published_statistics(tmp_path)


def test_of_our_own_times_those_of_whole_requests_answered_alone_count(tmp_path):
    assert measured_inference_times(tmp_path) is None
    lines = ["20,LlamaRec,1,reading,0.3,toy", "20,LlamaRec,1,whole,0.5,toy", "20,LlamaRec,16,whole,0.1,toy"]
    file = tmp_path / "inference_time.csv"
    file.write_text("\n".join(["mean_title_length_tokens,method,batch,part,seconds,backbone", *lines, ""]))
    record = {"artefacts": {file.name: ""}, "git_commit": "abc", "git_dirty": True, "hardware": {"accelerators": []}}
    (tmp_path / "provenance.json").write_text(json.dumps({"bench": record}))
    made = {"commit": "abc-dirty", "on_gpu": False}
    assert measured_inference_times(tmp_path).to_dict("records") == [
        {"mean_title_length_tokens": 20, "method": "LlamaRec", "seconds": 0.5, "backbone": "toy"} | made
    ]


def table(values, subset="all"):
    rows = [("toys", subset, metric, method, value) for (method, metric), value in values.items()]
    return pd.DataFrame(rows, columns=["dataset", "subset", "metric", "method", "value"])


def shares_of(all_users, retrieved, users=1000):
    tables = pd.concat([table(all_users), table(retrieved, "retrieved")])
    counts = paper.retrieved_counts(tables, pd.Series({"toys": users}))
    return paper.constant_shares(tables, counts).set_index("method"), counts.set_index(["method", "printing"])


def test_a_share_is_a_number_of_users_unless_it_differs_between_metrics():
    all_users = {("LRURec", "Recall@5"): 0.0500, ("LRURec", "Recall@10"): 0.1000}
    retrieved = {("LRURec", "Recall@5"): 0.2500, ("LRURec", "Recall@10"): 0.5000}
    shares, counts = shares_of(all_users, retrieved)
    assert shares.loc["LRURec", ["smallest", "largest", "constant", "consistent"]].tolist() == [0.2, 0.2, True, True]
    assert counts.loc[("LRURec", "rounded"), ["fits", "fewest", "most"]].tolist() == [1, 200, 200]
    shares, counts = shares_of(all_users | {("LRURec", "Recall@10"): 0.1010}, retrieved)
    assert not shares.loc["LRURec", ["constant", "consistent"]].any()
    assert counts["fits"].sum() == 0
    assert counts["fewest"].isna().all()


def test_a_number_of_users_needs_whole_hits_in_both_tables():
    # 3 of 7 and 3 of 10: printed 0.4286 if rounded, 0.4285 if cut
    for value, rounded, cut in ((0.4286, 1, 0), (0.4285, 0, 1), (0.4290, 0, 0)):
        shares, counts = shares_of({("LRURec", "Recall@5"): 0.3}, {("LRURec", "Recall@5"): value}, users=10)
        assert counts["fits"].to_dict() == {("LRURec", "rounded"): rounded, ("LRURec", "cut"): cut}
        assert shares.loc["LRURec", "consistent"] == bool(rounded + cut)
        assert shares.loc["LRURec", "constant"]


def test_another_method_may_find_more_but_not_fewer():
    all_users = {("LlamaRec", "Recall@5"): 0.05, ("SASRec", "Recall@5"): 0.06, ("NARM", "Recall@5"): 0.04}
    retrieved = {(method, "Recall@5"): 0.25 for method in ("LlamaRec", "SASRec", "NARM")}
    shares, _ = shares_of(all_users, retrieved)
    assert shares["consistent"].to_dict() == {"LlamaRec": True, "NARM": False, "SASRec": True}


def test_of_the_papers_rows_lrurec_on_ml_100k_and_beauty_fits_no_number_of_users():
    shares = TABLES["shares"].set_index(["dataset", "method"])
    assert shares.index[~shares["consistent"]].tolist() == [("ml-100k", "LRURec"), ("beauty", "LRURec")]
    row = shares.loc[("ml-100k", "LRURec")]
    assert (row["smallest"], row["largest"]) == pytest.approx((0.1985, 0.2143), abs=1e-4)
    # Table 3 is over LRURec's retrieved users for every method: the others' quotients are not constant
    assert not shares.loc[pd.IndexSlice[:, ["NARM", "BERT4Rec", "SASRec"]], "constant"].any()
    fitting = TABLES["counts"].query("fits > 0").set_index(["dataset", "method", "printing"])
    assert (fitting["fewest"] == fitting["most"]).all()
    assert fitting["fewest"].to_dict() == {
        ("ml-100k", "LlamaRec", "cut"): 123,
        ("beauty", "LlamaRec", "cut"): 2855,
        ("games", "LRURec", "rounded"): 3246,
        ("games", "LlamaRec", "cut"): 3245,
    }


def test_the_two_tables_give_different_gains_on_ml_100k_alone_and_the_text_follows_from_them():
    gains = TABLES["relative_gains"].set_index(["dataset", "metric"])
    assert gains.index[~gains["agree"]].unique("dataset").tolist() == ["ml-100k"]
    of_both = 100 * gains.loc[("ml-100k", "mean"), ["table1", "table3"]].to_numpy()
    assert of_both == pytest.approx([11.99, 13.37], abs=0.005)
    assert len(TABLES["stated"]) == 11
    assert TABLES["stated"]["difference"].abs().max() < 0.00006


def test_a_recall_is_a_number_of_users():
    values = {("A", "Recall@5"): 0.0328, ("B", "Recall@5"): 0.0327, ("C", "Recall@5"): 0.0340, ("A", "NDCG@5"): 0.02}
    counts = recall_counts(table(values), pd.Series({"toys": 610})).set_index("method")
    # 20 / 610 = 0.03278…, printed as 0.0328, or cut off as 0.0327; 0.0340 lies between 20 and 21 users
    assert counts["hits"].to_dict() == {"A": 20, "B": 20, "C": 21}
    assert counts["multiple"].to_dict() == {"A": True, "B": True, "C": False}
    low, high = binomtest(20, 610).proportion_ci(method="wilson")
    assert (counts.loc["A", "ci_low"], counts.loc["A", "ci_high"]) == (low, high)
    # with many users, every value is a multiple
    assert recall_counts(table({("A", "Recall@5"): 0.0340}), pd.Series({"toys": 20_000}))["multiple"].isna().all()
    decided = TABLES["recalls"].dropna(subset="multiple")
    assert set(decided["dataset"]) == {"ml-100k"}
    assert sorted(decided.loc[decided["multiple"], "method"]) == ["LRURec", "LRURec", "LlamaRec", "LlamaRec"]


def test_a_published_gain_is_a_number_of_users():
    gains = TABLES["gains"].set_index(["dataset", "metric", "method"])
    row = gains.loc[("ml-100k", "Recall@5", "LlamaRec")]
    assert row[["gain_users", "least_p"]].tolist() == pytest.approx([52 - 43, 2 * 0.5**9])
    assert pd.isna(gains.loc[("ml-100k", "Recall@5", "LRURec"), "most_lost"])  # four users are never significant


@pytest.mark.parametrize("gain", [6, 9, 26, 200])
def test_the_most_lost_is_the_last_that_is_significant(gain):
    lost = most_lost(gain)
    assert binomtest(lost, gain + 2 * lost).pvalue < 0.05
    assert binomtest(lost + 1, gain + 2 * lost + 2).pvalue >= 0.05
    assert [most_lost(few) for few in (-3, 0, 5)] == [None] * 3  # up to five users are never significant
