from llamarec_core.report import show_record, show_runs, show_versions

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
