"""Every verdict is reached by made-up comparisons, and every claim of the paper follows from the paper's own tables."""

import pandas as pd
import pytest

from llamarec_core.evaluation import claims_table, published_inference_times, verdict_counts
from llamarec_core.evaluation.claims import CLAIMS, PAPER_BACKBONE, verdict
from llamarec_core.evaluation.paper import published_claims
from tests.conftest import ROOT

FOLDER = ROOT / "results" / "published"


def pair(method, reference, difference, *, low=None, high=None, p_holm=0.001, dataset="games", subset="all"):
    low, high = difference - 0.001 if low is None else low, difference + 0.001 if high is None else high
    row = {"dataset": dataset, "method": method, "reference": reference, "metric": "NDCG@10", "subset": subset}
    row |= {"difference": difference, "ci_low": low, "ci_high": high, "p_value": p_holm, "p_holm": p_holm}
    return row | {"detectable": 0.002, "users": 1000, "seeds": 1, "commit": "abc1234"}


def claims(scale="a toy", trainable_share=0.002, retrieval=(), ranking=(), sampled=(), **times):
    tables = {"retrieval": retrieval, "ranking": ranking, "sampled": sampled}
    given = {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}
    table = claims_table(FOLDER, given, scale=scale, trainable_share=trainable_share, **times)
    return table.set_index(["claim", "dataset"])


@pytest.mark.parametrize(
    ("measured", "low", "high", "p_holm", "expected"),
    [
        (0.10, 0.05, 0.15, 0.01, "reproduced"),
        (0.20, 0.15, 0.25, 0.01, "reproduced"),  # more than published
        (0.05, 0.02, 0.08, 0.01, "direction only"),
        (0.05, -0.01, 0.12, 0.30, "inconclusive"),
        (-0.01, -0.10, 0.11, 0.90, "inconclusive"),
        (0.05, 0.01, 0.12, 0.06, "inconclusive"),  # its own interval is above zero, the corrected test is not
        (0.05, 0.01, 0.09, 0.06, "inconclusive"),
        (-0.05, -0.08, -0.02, 0.01, "contradicted"),
        (0.0006, -0.01, 0.01, 0.80, "contradicted"),
        (-0.0004, -0.01, 0.01, 0.80, "contradicted"),  # noise around zero has one verdict, whatever its sign
    ],
)
def test_the_rules_decide_by_interval_and_corrected_test(measured, low, high, p_holm, expected):
    assert verdict(measured, low, high, published=0.10, p_holm=p_holm) == expected


def test_each_statement_of_the_paper_counts_as_one_claim():
    statements = published_claims(FOLDER)
    table = claims()
    assert len(table) == 12
    assert table["wordings"].sum() == len(statements) == 23
    assert table.loc[("ranker_gains", "ml-100k"), "wordings"] == 6  # in each metric, in the mean, among the retrieved
    others = {"trainable_share", "ranking_seconds", "generation_ratio"}
    assert set(statements["counts_as"]) == CLAIMS.keys() | others
    printed = table["published"]
    assert printed.notna().all()
    assert printed["ranker_gains", "ml-100k"] == pytest.approx(0.3766 - 0.3367)
    assert printed["retriever_leads", "games"] == pytest.approx(0.0800 - 0.0783)
    assert printed["gain_over_palr", "beauty"] == pytest.approx(0.0554 - 0.0446)
    assert printed["generation_ratio", ""] == published_inference_times(FOLDER).set_index("source")["seconds"]["text"]


def test_a_claim_without_runs_is_not_tested_and_says_why():
    table = claims(retrieval=[pair("lrurec", "sasrec", 0.1)], sampled=[pair("llamarec", "p5", 0.1, dataset="beauty")])
    assert table.loc[("retriever_leads", "games"), "why"] == "NARM, BERT4Rec: not run on games"
    assert table.loc[("ranker_gains", "games"), "why"] == "LlamaRec, LRURec: not run on games"
    assert table.loc[("gain_over_llm_based", "beauty"), "why"] == "PALR, GPT4Rec, RecMind, POD: not run on beauty"
    assert "no times were measured" in table.loc[("ranking_seconds", ""), "why"]
    assert table.loc[table["verdict"] == "not tested", ["measured", "observed"]].isna().all(axis=None)
    assert verdict_counts(table)["claims"].tolist() == [1, 0, 0, 0, 11]


def test_a_lead_over_several_is_worth_its_weakest_pair():
    ahead = [pair("lrurec", "sasrec", 0.01), pair("lrurec", "narm", 0.05)]
    row = claims(retrieval=[*ahead, pair("lrurec", "bert4rec", 0.012)]).loc[("retriever_leads", "games")]
    assert row[["verdict", "measured"]].tolist() == ["direction only", 0.012]
    assert row["published"] == pytest.approx(0.0800 - 0.0649)
    assert pd.isna(row["scale"])  # no language model ranks
    row = claims(retrieval=[*ahead, pair("bert4rec", "lrurec", 0.02, high=0.03)]).loc[("retriever_leads", "games")]
    assert (row["verdict"], row["measured"]) == ("contradicted", -0.02)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((-0.03, -0.019))
    assert row[["users", "detectable", "p_holm", "commit"]].tolist() == [1000, 0.002, 0.001, "abc1234"]


def test_only_a_run_at_the_papers_scale_tests_the_papers_ranker():
    ranking = [pair("llamarec", "lrurec", 0.05, subset="retrieved"), pair("llamarec", "lrurec", -0.05, subset="all")]
    row = claims(ranking=ranking).loc[("ranker_gains", "games")]
    assert row[["verdict", "observed", "scale", "measured"]].tolist() == ["not tested", "reproduced", "a toy", 0.05]
    assert "ours is a toy" in row["why"]
    row = claims(ranking=ranking, scale=PAPER_BACKBONE).loc[("ranker_gains", "games")]
    assert (row["verdict"], pd.isna(row["observed"])) == ("reproduced", True)


def times(llamarec, generation=60.0, backbone=PAPER_BACKBONE, on_gpu=True):
    rows = [(20, "LlamaRec", llamarec), (40, "LlamaRec", 2 * llamarec), (20, "Llama CausalLM", generation)]
    table = pd.DataFrame(rows, columns=["mean_title_length_tokens", "method", "seconds"])
    return table.assign(backbone=backbone, on_gpu=on_gpu, commit="abc")


@pytest.mark.parametrize(
    ("seconds", "in_time", "ratio"),
    [(0.4, "reproduced", "reproduced"), (2.0, "contradicted", "direction only"), (70, "contradicted", "contradicted")],
)
def test_times_and_the_trainable_share_are_held_against_the_bounds_and_the_ratio(seconds, in_time, ratio):
    table = claims(times=times(seconds), trainable_share=seconds / 200)
    assert table.loc[("ranking_seconds", ""), ["verdict", "measured"]].tolist() == [in_time, 2 * seconds]
    assert table.loc[("generation_ratio", ""), ["verdict", "measured"]].tolist() == [ratio, 60 / seconds]
    assert table.loc[("trainable_share", ""), "verdict"] == in_time


def test_times_of_another_model_or_machine_are_observations():
    for changes in ({"on_gpu": False}, {"backbone": "a toy"}):
        row = claims(times=times(0.4, **changes)).loc[("ranking_seconds", "")]
        assert row[["verdict", "observed", "measured"]].tolist() == ["not tested", "reproduced", 0.8]
    lacking = times(0.4)[lambda table: table["method"] != "LlamaRec"]
    assert "no times were measured at 20 tokens" in claims(times=lacking).loc[("generation_ratio", ""), "why"]
