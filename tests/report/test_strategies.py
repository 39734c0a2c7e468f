"""The tables of the comparison follow from the answers alone, each stratum weighing what it stands for."""

import numpy as np
import pandas as pd
import pytest

from llamarec_core.evaluation import published_llm_baselines
from llamarec_core.files import InputError
from llamarec_core.llm_baselines.comparison import COLUMNS
from llamarec_core.report import show_table
from llamarec_core.report.forms import FORMS
from llamarec_core.report.show import laid_out
from llamarec_core.report.strategies import claimed_pairs, differences_table, strategies_table, strategy_pairs, table4
from tests.conftest import ROOT

PUBLISHED = ROOT / "results" / "published"
SAMPLING = {"samples": 100, "seed": 0}


def answers(ranks=(1, 3, 25, 30), *, seconds=0.1, reads=True, reranked=None, **changes):
    """Four requests: two with a retrieved target, who stand for 10 users, two without, who stand for 30."""
    frame = pd.DataFrame({"user": range(len(ranks)), "target": 1, "rank": ranks})
    frame["retriever_rank"] = (2, 2, 25, 30)
    frame["reranked"] = ranks if reranked is None else reranked
    frame["stratum"] = ["retrieved"] * 2 + ["missed"] * 2
    frame["stratum_users"] = [10, 10, 30, 30]
    costs = {"forward_passes": 5, "tokens_read": 100, "tokens_generated": 4, "valid": 3, "invalid": 1}
    costs |= {"predicted_forward_passes": 5, "predicted_tokens_read": 100, "predicted_tokens_generated": 9}
    costs |= dict.fromkeys(["tokenizing_seconds", "generating_seconds", "parsing_seconds"], 0.0)
    costs["reading_seconds"] = seconds
    costs |= {"reads_candidates": reads, "examples": 8, "dtype": "float32", "threads": 1, "processors": 0.97}
    costs |= {"batch_requests": 4, "batch_seconds": 0.5, "batch_peak_mib": 70.0}
    return frame.assign(**costs | {"commit": "abc"} | changes)[list(COLUMNS)]


@pytest.fixture
def found():
    return {
        ("beauty", "verbalizer", False, 0): answers((3, 3, 25, 30), tokens_generated=0, predicted_tokens_generated=0),
        ("beauty", "verbalizer", True, 0): answers(tokens_generated=0, predicted_tokens_generated=0),
        ("beauty", "causal_lm", False, 0): answers(seconds=4.0),
        ("beauty", "p5", True, 0): answers((90, 90, 1, 90), seconds=1.0, reads=False, reranked=(2, 2, 25, 30)),
    }


@pytest.fixture
def table(found):
    return strategies_table(found, **SAMPLING)


def cell(table, method, metric, *, state="tuned", ranked="candidates", subset="all"):
    keys = ["method", "metric", "state", "ranked", "subset"]
    return table[(table[keys] == [method, metric, state, ranked, subset]).all(axis=1)].squeeze()


def test_each_stratum_weighs_what_it_stands_for_in_the_candidates_and_in_the_catalogue(table):
    of_all, of_retrieved = (cell(table, "verbalizer", "NDCG@10", subset=subset) for subset in ("all", "retrieved"))
    assert of_retrieved["measured"] == pytest.approx((1 + 1 / 2) / 2)
    assert of_all["measured"] == pytest.approx((1 + 1 / 2) / 2 * 10 / 40)
    assert (of_all["ci_low"], of_all["ci_high"]) == pytest.approx((0.125, 0.25))  # the same target drawn twice
    assert (of_all["users"], of_retrieved["users"]) == (4, 2)
    assert np.isnan(of_all["published"])
    assert table["method"].iloc[0] == "retriever"
    assert cell(table, "retriever", "MRR@10", state="trained", subset="retrieved")["measured"] == pytest.approx(1 / 2)
    assert cell(table, "retriever", "MRR@10", state="trained")["measured"] == pytest.approx(1 / 2 * 10 / 40)
    assert (table["method"] == "retriever").sum() == 12  # once
    catalogue, candidates = (cell(table, "p5", "Recall@10", ranked=ranked) for ranked in ("catalogue", "candidates"))
    assert catalogue["measured"] == pytest.approx(30 / 40 / 2)  # one of the two that stand for 30
    assert candidates["measured"] == pytest.approx(10 / 40)
    assert set(table.loc[table["method"] == "causal_lm", "ranked"]) == {"candidates", "named"}
    assert cell(table, "p5", "forward_passes", ranked="catalogue")["measured"] == 5
    assert cell(table, "p5", "forward_passes", ranked="candidates").empty


def test_costs_stand_beside_what_the_formula_says(found):
    given = {"forward_passes": [1, 5, 6, 5], "valid": [0, 3, 4, 3], "invalid": [0, 1, 0, 0]}
    found["beauty", "palr", False, 0] = answers(**given, reading_seconds=[1.0, 2.0, 3.0, 9.0], parsing_seconds=1.0)
    table = strategies_table(found, **SAMPLING)
    assert cell(table, "verbalizer", "tokens_read")["formula"] == "equal"
    generated = cell(table, "causal_lm", "tokens_generated", state="zero-shot")
    assert generated[["measured", "predicted", "formula"]].tolist() == [4, 9, "bounded"]
    passes = cell(table, "palr", "forward_passes", state="zero-shot")
    assert passes[["measured", "predicted", "formula"]].tolist() == [3 * 0.25 + 5.5 * 0.75, 5, "exceeded"]
    valid = cell(table, "palr", "valid_outputs", state="zero-shot")["measured"]
    assert valid == pytest.approx(0.25 * (0 + 0.75) / 2 + 0.75 * 1.0)
    measured = {"seconds_p50": 3.5, "seconds_p95": 4 + 0.85 * 6, "requests_per_second": 8, "peak_mib": 70}
    measured |= {"threads": 1, "processors": 0.97}
    of_palr = {metric: cell(table, "palr", metric, state="zero-shot")["measured"] for metric in measured}
    assert of_palr == pytest.approx(measured)


def test_what_a_generated_answer_names_stands_apart_from_what_the_retriever_orders(found):
    # one answer names the target; the other names nothing, so that the retriever's order is left
    named = answers((1, 1, 25, 30), reranked=(1, 1, 25, 30), valid=[2, 0, 1, 0], invalid=[0, 2, 0, 1])
    table = strategies_table(found | {("beauty", "palr", False, 0): named}, **SAMPLING)
    of_palr = {"state": "zero-shot", "subset": "retrieved"}
    assert cell(table, "palr", "Recall@10", **of_palr)["measured"] == 1
    assert cell(table, "palr", "Recall@10", ranked="named", **of_palr)["measured"] == 0.5
    assert cell(table, "palr", "answered", state="zero-shot")["measured"] == pytest.approx(0.5)
    assert set(table.loc[table["ranked"] == "named", "method"]) == {"palr", "causal_lm"}


def test_seeds_count_alike(found):
    case = ("beauty", "verbalizer", True)
    one = {(*case, 0): answers((1, 1, 25, 30))}
    two = one | {(*case, 1): answers((30, 30, 25, 30), commit="def").assign(user=[5, 6, 7, 8])}
    first, both = (cell(strategies_table(given, **SAMPLING), "verbalizer", "NDCG@10") for given in (one, two))
    assert both["measured"] == pytest.approx(first["measured"] / 2)
    assert both[["users", "seeds", "commit"]].tolist() == [8, 2, "abc+def"]


def test_the_page_has_a_line_for_each_strategy_and_state(table):
    shown = laid_out(FORMS["strategies"].prepare(table), FORMS["strategies"])
    assert shown.index[0] == ("Retriever's order, trained", "candidates")
    assert shown.index[-2:].tolist() == [("P5, tuned", "catalogue"), ("P5, tuned", "candidates")]
    counts = [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in shown["tokens generated"]]
    assert counts == ["", "0 (=)", "0 (=)", "4 (≤ 9)", "", "4 (≤ 9)", ""]
    assert shown["median seconds"].tolist()[3:] == ["4.00", "", "1.00", ""]
    assert shown["NDCG@10"].iloc[2] == "0.1875 [0.125,\N{NO-BREAK SPACE}0.250]"


def test_table_4_has_the_quoted_numbers_and_ours_apart(table):
    found = table4(table, published=published_llm_baselines(PUBLISHED))
    assert len(found) == 24
    methods = found.set_index(["method", "metric"])
    assert methods.loc[("p5", "Recall@10"), "measured"] == pytest.approx(30 / 40 / 2)  # in the whole catalogue
    assert methods.loc[("llamarec", "NDCG@10"), "measured"] == pytest.approx(0.1875)
    assert methods.loc["pod", "published"].notna().all()
    assert methods.loc[["pod", "recmind", "palr"], ["measured", "users"]].isna().all(axis=None)
    shown = show_table(found, "table4")._repr_html_()
    assert "RecMind" in shown
    assert shown.count("<strong>") >= 4
    assert found["users"].dropna().unique().tolist() == [4]


def test_differences_are_measured_facts(table):
    found = differences_table(table).set_index("strategy")
    assert found["two_stage"].to_dict() == {"verbalizer": True, "causal_lm": True, "p5": False}
    assert found["state"].tolist() == ["tuned", "zero-shot", "tuned"]
    assert found["times_verbalizer"].tolist() == pytest.approx([1, 40, 10])


def test_orders_of_the_same_candidates_are_compared_user_by_user(found):
    pairs = strategy_pairs(found, **SAMPLING).set_index(["method", "state", "reference"])
    assert pairs["users"].unique().tolist() == [2]  # those with a retrieved target
    at = {rank: 1 / np.log2(rank + 1) for rank in (1, 2, 3)}
    assert pairs.loc[("verbalizer", "tuned", "retriever"), "difference"] == pytest.approx((at[1] + at[3]) / 2 - at[2])
    assert pairs.loc[("verbalizer", "zero-shot", "verbalizer"), "difference"] == pytest.approx((at[3] - at[1]) / 2)
    assert pairs.loc[("p5", "tuned", "retriever"), ["difference", "p_value"]].tolist() == [0, 1]  # as it came
    assert ("verbalizer", "tuned", "verbalizer") not in pairs.index
    assert (pairs["p_holm"] >= pairs["p_value"]).all()
    del found["beauty", "verbalizer", True, 0]
    assert strategy_pairs(found, **SAMPLING)["reference"].unique().tolist() == ["retriever"]


def test_each_seeds_own_users_count_once(found):
    again = {(*key[:3], 1): frame.assign(user=frame["user"] + 1, rank=9, reranked=9) for key, frame in found.items()}
    pairs = strategy_pairs(found | again, **SAMPLING).set_index(["method", "state", "reference"])
    assert pairs["users"].unique().tolist() == [4]
    alone = strategy_pairs(found, **SAMPLING).set_index(["method", "state", "reference"])
    of_both = (alone.loc[("verbalizer", "tuned", "retriever"), "difference"] + 1 / np.log2(10) - 1 / np.log2(3)) / 2
    assert pairs.loc[("verbalizer", "tuned", "retriever"), "difference"] == pytest.approx(of_both)
    for given, message in (
        (found | dict([again.popitem()]), "on beauty was asked with other seeds"),
        ({}, "no answers"),
    ):
        with pytest.raises(InputError, match=message):
            strategy_pairs(given, **SAMPLING)


def test_the_papers_claims_compare_tuned_strategies_over_all_users(found):
    pairs = claimed_pairs(found, **SAMPLING)
    assert pairs[["method", "reference", "metric"]].to_numpy().tolist() == [["llamarec", "p5", "NDCG@10"]]
    row = pairs.iloc[0]
    # p5 ranks one of the two first that stand for 30 users, LlamaRec those at 1 and 3 that stand for 10
    assert row["difference"] == pytest.approx(10 / 40 * (1 + 1 / 2) / 2 - 30 / 40 / 2)
    assert row[["users", "seeds", "commit"]].tolist() == [4, 1, "abc"]
    assert row["p_holm"] == row["p_value"]
