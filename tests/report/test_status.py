import pandas as pd
import pytest

from llamarec_core.report import machines, opening, run_times, show_record, versions
from llamarec_core.settings import RankerSettings

RECORD = {
    "command": "papermill notebooks/2_retriever.ipynb results/quick/notebooks/beauty/2_retriever.ipynb -p seed 0",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "data_sha256": {"beauty": "f" * 64},
    "parameters": {"profile": "quick", "dataset": "beauty", "seed": 0},
    "hardware": {"processor": "Z80", "cores": 1, "memory_gib": 2, "accelerators": [], "system": "Linux"},
    "packages": {"python": "3.11.7", "torch": "2.13.0"},
    "wall_seconds": 90.0,
    "peak_memory_mib": 1536,
}


def opening_page(
    *, low: float, high: float, methods: tuple[str, ...] = ("lrurec", "llamarec"), kept: dict[str, int] | None = None
) -> str:
    rows = [
        {"dataset": "toys", "method": method, "metric": "NDCG@10", "subset": subset, "measured": 0.25, "users": users}
        for method in methods
        for subset, users in (("all", 1000), ("retrieved", 300))
    ]
    differences = [
        row | {"difference": (low + high) / 2, "ci_low": low, "ci_high": high}
        for row in rows
        if row["method"] != "lrurec"
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
    settings = RankerSettings(training_examples=7)
    return opening(pd.DataFrame(rows), pd.DataFrame(differences), published=published, ranker=settings, kept=kept)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.03, "better than"), (-0.01, 0.03, "no different from"), (-0.03, -0.01, "worse than")],
)
def test_the_opening_pages_verdict_follows_the_interval(low, high, verdict):
    page = opening_page(low=low, high=high)
    assert f"On `toys` the tuned ranker's order is {verdict} LRURec's own (NDCG@10)" in page
    assert f"{(low + high) / 2:+.3f} [{low:+.3f}, {high:+.3f}]" in page


def test_the_opening_page_states_the_claim_and_the_scale():
    page = opening_page(low=0.0, high=0.1)
    assert "NDCG@10 rises from 0.1000 to 0.2000 on beauty" in page
    assert "`llama" not in page
    assert "`smollm2-135m` (4-bit NF4 weights, LoRA on q_proj, v_proj)" in page
    assert "after 7 training examples:" in page


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ({"toys": 1200}, "Validation kept the adapter after 1,200 answers."),
        ({"toys": 0}, "Validation kept the adapter of the warm-up: no answer learnt after it made validation better."),
    ],
)
def test_the_opening_page_says_which_adapter_ranked(kept, sentence):
    assert sentence in opening_page(low=0.0, high=0.1, kept=kept)


def test_the_opening_page_says_where_the_ranker_was_not_run():
    assert "On `toys` the ranker was not run." in opening_page(low=0.0, high=0.1, methods=("lrurec", "sasrec"))


def test_the_opening_page_says_what_the_sum_with_the_retriever_is():
    page = opening_page(low=0.01, high=0.03, methods=("lrurec", "llamarec", "llamarec-with-retriever"))
    assert "the tuned ranker's order is better than LRURec's own, and with LRURec's score added better than it" in page
    assert "all 1,000 users" in page
    assert "the 300 whose target was retrieved" in page


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
    assert run_times(records).frame["minutes"].tolist() == ["1.5", "1.5"]
    assert machines(records).frame["processor"].tolist() == ["Z80"]
    assert dict(versions(records).frame.to_numpy()) == {"python": "3.11.7", "torch": "2.13.0, 2.14.0"}
