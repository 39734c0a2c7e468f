from typing import Any

import pandas as pd
import pytest

from llamarec_core.report import opening, show_record, show_runs, show_versions
from llamarec_core.report.pairs import FLOORS
from llamarec_core.settings import RankerSettings

RECORD = {
    "command": "papermill notebooks/2_retriever.ipynb results/quick/notebooks/beauty/2_retriever.ipynb -p seed 0",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "seed": 0,
    "data_sha256": {"beauty": "f" * 64},
    "parameters": {"profile": "quick", "dataset": "beauty", "seed": 0},
    "hardware": {"processor": "Z80", "cores": 1, "memory_gib": 2, "accelerators": [], "system": "Linux"},
    "packages": {"python": "3.11.7", "torch": "2.13.0"},
    "wall_seconds": 90.0,
    "peak_memory_mib": 1536,
}


def opening_page(
    *,
    difference: float = 0.02,
    p_value: float = 0.01,
    methods: tuple[str, ...] = ("lrurec", "llamarec"),
    kept: dict[str, int] | None = None,
    floors: pd.DataFrame | None = None,
    **settings: Any,
) -> str:
    rows = [
        {"dataset": "toys", "method": method, "metric": "NDCG@10", "subset": subset, "measured": 0.25, "users": users}
        for method in methods
        for subset, users in (("all", 1000), ("retrieved", 300))
    ]
    columns = ["dataset", "method", "metric", "subset", "difference", "ci_low", "ci_high", "p_holm"]
    differences = [row | {"difference": difference} for row in rows if row["method"] != "lrurec"]
    differences = [
        row | {"ci_low": row["difference"] - 0.01, "ci_high": row["difference"] + 0.01, "p_holm": p_value}
        for row in differences
    ]
    published = pd.DataFrame(
        {
            "dataset": "beauty",
            "subset": "all",
            "metric": "NDCG@10",
            "method": ["LRURec", "LlamaRec"],
            "value": [0.1, 0.2],
        }
    )
    options = {"published": published, "ranker": RankerSettings(training_examples=7, **settings), "records": [RECORD]}
    options["floors"] = pd.DataFrame() if floors is None else floors
    return opening(pd.DataFrame(rows), pd.DataFrame(differences, columns=columns), **options, kept=kept)


@pytest.mark.parametrize(
    ("difference", "p_value", "verdict", "cell"),
    [
        (0.02, 0.01, "is better", "**+0.020** [+0.010, +0.030]"),
        (
            0.02,
            0.05,
            "shows no difference beyond chance",
            "| +0.020 [+0.010, +0.030]",
        ),  # its interval is above zero, alone
        (-0.02, 0.01, "is worse", "**-0.020** [-0.030, -0.010]"),
    ],
)
def test_the_opening_pages_verdict_follows_the_corrected_test(difference, p_value, verdict, cell):
    page = opening_page(difference=difference, p_value=p_value)
    assert f"LlamaRec's order, held against LRURec's, {verdict} on toys." in page
    assert cell in page
    assert "300 of 1,000" in page


def test_the_opening_page_states_the_claim_and_the_scale():
    page = opening_page()
    assert "NDCG@10 rises from 0.1000 to 0.2000 on beauty" in page
    assert "`smollm2-135m` (4-bit NF4 weights) with LoRA was given 7 prompts to learn from. Seed 0, on Z80" in page
    assert "neither confirms nor refutes" in page
    assert "neither confirms nor refutes" not in opening_page(backbone="llama-2-7b")


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ({"toys": 1200}, "Validation kept what it had learnt after 1,200 answers on toys."),
        ({"toys": 0, "games": 0}, "On toys and games, validation preferred the adapter of the warm-up"),
    ],
)
def test_the_opening_page_says_which_adapter_ranked(kept, sentence):
    assert sentence in opening_page(kept=kept)


def test_the_opening_page_says_where_the_ranker_was_not_run():
    page = opening_page(methods=("lrurec", "sasrec"))
    assert "The ranker was not run." in page
    assert "not run" in page.partition("| data set")[2]


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        ((0.1, 0.0, -0.1, -0.1), "alone is better than random order on toys; worse than title overlap on toys."),
        ((0.0, 0.0, 0.0, 0.0), "alone is better than no order without a language model."),
    ],
)
def test_the_opening_page_holds_the_ranker_against_orders_without_a_language_model(differences, sentence):
    methods = ("lrurec", "llamarec", "llamarec-with-retriever", "title-overlap-with-retriever")
    rows = [
        {
            "dataset": "toys",
            "method": method,
            "reference": floor,
            "difference": found,
            "p_holm": 1.0 if found == 0 else 0.01,
        }
        for (method, floor), found in zip(FLOORS, differences, strict=True)
    ]
    page = opening_page(methods=methods, floors=pd.DataFrame(rows))
    assert "With LRURec's score added, it is better on toys." in page
    verdict = "is worse" if differences[3] else "shows no difference beyond chance"
    assert f"title overlap with LRURec's score added, which needs no language model, that {verdict} on toys." in page
    assert sentence in page


def test_a_record_is_shown_with_its_command_commit_and_cost():
    shown = repr(show_record(RECORD))
    for fact in (
        RECORD["command"],
        "0123456789ab",
        "beauty: ffffffffffff",
        "Z80, 1 cores, 2 GiB, no GPU",
        "90 s, 1.5 GiB",
    ):
        assert fact in shown
    assert "with uncommitted changes" in repr(show_record(RECORD | {"git_dirty": True}))


def test_the_status_page_lists_runs_machines_and_versions_once():
    other = RECORD | {"packages": {"python": "3.11.7", "torch": "2.14.0"}}
    records = {"2_retriever-beauty-seed0": RECORD, "2_retriever-beauty-seed1": other}
    assert show_runs(records).frame["minutes"].tolist() == ["1.5", "1.5"]
    assert set(show_runs(records).frame["machine"]) == {"Z80, 1 cores, 2 GiB, no GPU"}
    expected = {"system": "Linux", "python": "3.11.7", "torch": "2.13.0, 2.14.0"}
    assert dict(show_versions(records).frame.to_numpy()) == expected
