"""Every verdict is reached by made-up ranks, and every claim of the paper follows from the paper's own tables."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llamarec_core.evaluation import METRICS, RULES, claims_table, mean, published_inference_times, stated_table
from llamarec_core.evaluation.claims import interval_of_smallest, verdict
from llamarec_core.evaluation.quantities import QUANTITIES
from llamarec_core.files import InputError

FOLDER = Path(__file__).parents[2] / "results" / "published"
SETTINGS = {"trainable_share": 0.002, "scale": "a toy", "samples": 400, "seed": 0, "commit": "abc1234"}
BASELINES = ("narm", "bert4rec", "sasrec")


def ranks(values):
    count = len(values)
    return pd.DataFrame({"user": range(count), "target": np.arange(count) % 7, "rank": np.array(values)})


def claim(given, name, dataset="games", **changes):
    table = claims_table(FOLDER, given, **SETTINGS | changes).set_index(["claim", "dataset"])
    return table.loc[(name, dataset)]


def hits(count, *, of=1000, rank=1):
    """Ranks of which ``count`` are ``rank`` and the others 15: retrieved, but in no list of ten."""
    return ranks([rank] * count + [15] * (of - count))


@pytest.mark.parametrize(
    ("measured", "low", "high", "expected", "why"),
    [
        (0.10, 0.05, 0.15, "reproduced", "reaches the published value"),
        (0.20, 0.15, 0.25, "reproduced", "reaches the published value"),  # more than published
        (0.05, 0.02, 0.08, "direction only", "less than published"),
        (0.05, -0.01, 0.12, "direction only", "may be chance"),
        (0.05, 0.00, 0.12, "direction only", "may be chance"),
        (0.00, -0.01, 0.01, "not reproduced", "falls short"),
        (-0.01, -0.10, 0.11, "not reproduced", "too few users to tell"),
        (-0.05, -0.08, -0.02, "not reproduced", "the contrary, beyond chance"),
    ],
)
def test_the_rules_decide_by_value_and_interval(measured, low, high, expected, why):
    decided, because = verdict(measured, low, high, published=0.10)
    assert decided == expected
    assert decided in RULES
    assert why in because


def test_a_ratio_is_as_claimed_above_one():
    assert verdict(0.9, 0.8, 1.2, published=56.16, null=1.0)[0] == "not reproduced"
    assert verdict(60.0, 60.0, 60.0, published=56.16, null=1.0)[0] == "reproduced"


@pytest.mark.parametrize(
    ("llamarec", "lrurec", "expected"),
    [
        (hits(250), hits(200), "reproduced"),  # + 25 %; the paper: + 11 %
        (hits(520), hits(500), "direction only"),  # + 4 %, and no user is worse off
        (ranks([15] * 20 + [1] * 26 + [15] * 954), ranks([1] * 20 + [15] * 980), "direction only"),  # other users
        (hits(180), hits(200), "not reproduced"),
    ],
)
def test_a_gain_gets_every_verdict_from_ranks(llamarec, lrurec, expected):
    row = claim({("games", "llamarec", 0): llamarec, ("games", "lrurec", 0): lrurec}, "mean_gain")
    assert row["verdict"] == expected
    gains = [mean(llamarec["rank"], metric) / mean(lrurec["rank"], metric) - 1 for metric in METRICS]
    assert row["measured"] == pytest.approx(np.mean(gains))
    assert row["ci_low"] <= row["measured"] <= row["ci_high"]
    assert (row["users"], row["seeds"], row["scale"]) == (1000, 1, "a toy")


def test_a_claim_without_runs_is_not_tested_and_says_why():
    given = {("games", "lrurec", 0): hits(10), ("games", "llamarec", 1): hits(10), ("games", "narm", 0): hits(9)}
    assert claim(given, "mean_gain")["why"] == "no seed with which LlamaRec, LRURec were all run on games"
    assert claim(given, "lrurec_leads")["why"] == "BERT4Rec, SASRec: not run on games"
    assert claim(given, "mean_gain", "beauty")["why"] == "LlamaRec, LRURec: not run on beauty"
    assert claim(given, "ranking_seconds", "")["why"] == "no times by title length were measured"
    table = claims_table(FOLDER, given, **SETTINGS)
    untested = table[table["claim"] != "trainable_share"]
    assert set(untested["verdict"]) == {"not tested"}
    assert untested["measured"].isna().all()
    assert set(untested["scale"]) == {""}


def test_to_lead_is_to_be_ahead_of_everyone_in_every_metric():
    given = {("games", name, 0): hits(100) for name in BASELINES} | {("games", "lrurec", 0): hits(400)}
    assert claim(given, "lrurec_leads")["verdict"] == "reproduced"
    assert claim(given, "lrurec_leads")["measured"] == pytest.approx(0.3)
    # ahead in all metrics @5, and behind NARM in Recall@10
    given["games", "narm", 0] = hits(500, rank=9)
    row = claim(given, "lrurec_leads")
    assert row["measured"] == pytest.approx(-0.1)
    assert row["verdict"] == "not reproduced"


def test_the_smallest_of_many_equal_values_is_not_taken_for_a_loss():
    sampled = np.random.default_rng(0).normal(size=(20, 4000))
    low, high = interval_of_smallest(sampled)
    assert low < -1.9
    assert high > 2.0  # the percentile of each sample's smallest would be about −0.9
    assert np.quantile(sampled.min(axis=0), 0.975) < 0
    assert interval_of_smallest(sampled[:1]) == pytest.approx(tuple(np.quantile(sampled[0], [0.025, 0.975])))


def test_the_gain_of_the_retrieved_is_the_gain_of_all_over_their_share():
    lrurec = ranks([1] * 10 + [15] * 90 + [300] * 100)
    llamarec = ranks([1] * 30 + [15] * 70 + [300] * 100)
    given = {("games", "llamarec", 0): llamarec, ("games", "lrurec", 0): lrurec}
    everyone, retrieved = (claim(given, f"recall10_gain_of_{subset}")["measured"] for subset in ("all", "retrieved"))
    assert everyone == pytest.approx(20 / 200)
    assert retrieved == pytest.approx(20 / 100)
    assert claim(given, "larger_gain_of_retrieved")["measured"] == pytest.approx(retrieved - everyone)
    # with a list of one candidate, only the ten users at rank 1 were retrieved
    assert claim(given, "recall10_gain_of_retrieved", candidates=1)["measured"] == 0.0


def test_seeds_are_averaged_where_all_methods_have_them():
    given = {("games", "lrurec", seed): hits(100) for seed in (0, 1, 2)}
    given |= {("games", "llamarec", 0): hits(110), ("games", "llamarec", 2): hits(130)}
    row = claim(given, "recall10_gain_of_all")
    assert row["measured"] == pytest.approx(0.02)
    assert row["seeds"] == 2


def test_retrievers_are_compared_by_the_mean_of_their_own_seeds():
    given = {("games", "lrurec", seed): hits(count) for seed, count in enumerate((100, 130, 160))}
    given |= {("games", name, 0): hits(110) for name in BASELINES}
    row = claim(given, "lrurec_leads")
    assert row["measured"] == pytest.approx(0.02)
    assert row["seeds"] == 1  # of those with the fewest


def drawn(frame):
    """The same users, as if they were drawn: the first half stands for 100 users, the second for 900."""
    half = len(frame) // 2
    strata = np.repeat(["retrieved", "missed"], [half, len(frame) - half])
    return frame.assign(stratum=strata, stratum_users=np.where(strata == "retrieved", 100, 900), commit="def5678")


def test_a_method_run_for_a_sample_is_compared_on_the_sample():
    given = {("beauty", "llamarec", 0): hits(500), ("beauty", "lrurec", 0): hits(500)}
    sample = {("beauty", "llamarec", 0): drawn(hits(30, of=100)), ("beauty", "palr", 0): drawn(hits(20, of=100))}
    row = claim(given, "gain_over_palr", "beauty", sample=sample)
    assert row["measured"] == pytest.approx(30 / 20 - 1)
    assert (row["users"], row["verdict"]) == (100, "reproduced")
    assert row["why"].endswith("(a sample of 100 users)")
    assert row["commit"] == "def5678"
    assert row["ci_low"] < row["measured"] < row["ci_high"]
    row = claim(given, "gain_over_llm_based", "beauty", sample=sample)
    assert row["why"] == "P5, GPT4Rec, RecMind, POD: not run on beauty"
    row = claim(given, "mean_gain", "beauty", sample=sample)  # all users, where they are there
    assert (row["users"], row["commit"]) == (1000, "abc1234")


def test_each_user_of_a_sample_weighs_what_he_stands_for():
    ours, other = hits(30, of=100), hits(20, of=100)
    sample = {
        ("beauty", "llamarec", 0): drawn(ours),
        ("beauty", "gpt4rec", 0): drawn(other[::-1].assign(user=range(100))),
    }
    row = claim({}, "gpt4rec_lead", "beauty", sample=sample)
    assert row["measured"] == pytest.approx(0.9 * 20 / 50 - 0.1 * 30 / 50)


def test_nothing_retrieved_is_no_number():
    given = {("games", name, 0): ranks([300] * 5) for name in ("llamarec", "lrurec")}
    assert claim(given, "recall10_gain_of_retrieved")["why"] == "no target of games was retrieved"


@pytest.mark.parametrize("found", [([1] + [300] * 10, [1] + [300] * 10), ([15] * 11, [15] * 11)])
def test_a_ratio_that_cannot_be_formed_gets_no_verdict(found):
    given = {("games", name, 0): ranks(values) for name, values in zip(("llamarec", "lrurec"), found, strict=True)}
    row = claim(given, "mean_gain")
    assert (row["verdict"], row["why"]) == ("not tested", "too few hits among too few users to form the ratio")


def test_other_users_are_refused():
    given = {("games", "llamarec", 0): hits(10, of=50), ("games", "lrurec", 0): hits(10, of=60)}
    with pytest.raises(InputError, match="ranks of LRURec on games with seed 0 hold other users or targets"):
        claims_table(FOLDER, given, **SETTINGS)


def times(llamarec, generation=60.0):
    rows = [(20, "LlamaRec", llamarec), (40, "LlamaRec", 2 * llamarec), (20, "Llama CausalLM", generation)]
    return pd.DataFrame(rows, columns=["mean_title_length_tokens", "method", "seconds"])


def test_times_are_held_against_the_bound_and_the_ratio():
    on_gpu = {"timed_on_gpu": True}
    assert claim({}, "ranking_seconds", "", timings=times(0.4), **on_gpu)["verdict"] == "reproduced"
    # 1.2 s at 40 tokens
    assert claim({}, "ranking_seconds", "", timings=times(0.6), **on_gpu)["verdict"] == "not reproduced"
    row = claim({}, "ranking_seconds", "", timings=times(0.6))
    assert (row["verdict"], row["measured"]) == ("not tested", 1.2)
    assert "on a processor" in row["why"]
    assert claim({}, "generation_ratio", "", timings=times(0.5))["measured"] == 120
    assert claim({}, "generation_ratio", "", timings=times(0.5))["verdict"] == "reproduced"
    assert claim({}, "generation_ratio", "", timings=times(2.0))["verdict"] == "direction only"
    assert claim({}, "generation_ratio", "", timings=times(70.0))["verdict"] == "not reproduced"
    row = claim({}, "ranking_seconds", "", timings=times(0.4)[lambda table: table["method"] != "LlamaRec"])
    assert row["why"] == "the times measured lack a method or title length that it needs"


def test_the_trainable_share_is_counted():
    assert claim({}, "trainable_share", "")["verdict"] == "reproduced"
    assert claim({}, "trainable_share", "", trainable_share=0.02)["verdict"] == "not reproduced"


def test_what_the_text_states_follows_from_the_tables():
    table = stated_table(FOLDER)
    assert len(table) == 23
    assert set(table["claim"]) == set(QUANTITIES)
    stated = table[table["stated"].notna()]
    assert len(stated) == 14
    np.testing.assert_allclose(stated["published"], stated["stated"], rtol=0, atol=0.00006)
    # a claim without a number is that the paper is ahead
    assert (table.loc[table["stated"].isna(), "published"] > 0).all()


def test_the_stated_times_are_those_of_figure_3():
    stated = published_inference_times(FOLDER).query("source == 'text'")["seconds"].item()
    row = stated_table(FOLDER).set_index("claim").loc["generation_ratio"]
    assert math.isclose(row["stated"], stated)
    assert f"{stated} s at 20 tokens" in row["statement"]


def test_a_claim_that_nothing_measures_is_named(tmp_path):
    for file in FOLDER.glob("*.csv"):
        (tmp_path / file.name).write_text(file.read_text())
    with open(tmp_path / "claims.csv", "a") as file:
        file.write("llamas_fly,games,Table 9,Llamas fly,1\n")
    with pytest.raises(InputError, match="has the claim 'llamas_fly', which no quantity measures"):
        stated_table(tmp_path)
