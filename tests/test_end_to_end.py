"""The smoke profile from raw files to the last table, undisturbed and killed: real data, the real small LLM."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import psutil
import pytest

from llamarec_core.data import find_item
from llamarec_core.files import alone
from llamarec_core.paths import RANKED
from llamarec_core.recommender import Recommender

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WORK = Path("runs/smoke/ml-100k-1998/seed0")
NOTEBOOKS = Path("results/smoke/notebooks")
LIMIT = 600  # seconds for one run of the smoke profile: a hang ends as a failure


@pytest.fixture(scope="session")
def start(environment):
    """A function that starts what `make study PROFILE=smoke` starts, with more of Snakemake's options."""

    def begin(folder: Path, profile: str = "smoke", *more: str) -> subprocess.Popen:
        options = ["--cores", "2", "--nolock", "--rerun-incomplete", "--quiet", "rules", *more]
        command = [BIN / "snakemake", *options, "--config", f"profile={profile}"]
        with open(folder / "log", "ab") as log:
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    return begin


def finish(process: subprocess.Popen, folder: Path) -> None:
    assert process.wait(LIMIT) == 0, (folder / "log").read_text()


def kill_when(process: subprocess.Popen, folder: Path, appears: Path, number: signal.Signals) -> None:
    """Send a signal to a run and to all that it started, as soon as a file is there.

    Until then and after it, everything among the results stays as it was.
    """
    before = contents(folder / "results")
    deadline = time.monotonic() + LIMIT
    while not (folder / appears).exists():
        assert process.poll() is None, f"{appears} never appeared: " + (folder / "log").read_text()
        assert time.monotonic() < deadline
        assert contents(folder / "results") == before
        time.sleep(0.05)
    for running in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        running.send_signal(number)
    process.wait(LIMIT)
    assert contents(folder / "results") == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ranks(folder: Path) -> dict[str, bytes]:
    files = (folder / "results" / "smoke" / "ranks").rglob("*.parquet")
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, copy_study, start):
    folder = copy_study(tmp_path_factory.mktemp("undisturbed"))
    finish(start(folder), folder)
    return folder


def test_the_study_writes_what_a_reader_cites(undisturbed):
    assert ranks(undisturbed).keys() == {f"{method}-seed0.parquet" for method in ("lrurec", *RANKED)}
    tables = undisturbed / "results" / "smoke" / "tables"
    table = pd.read_csv(tables / "table1.csv")
    assert {"dataset", "method", "metric", "subset", "published", "seeds", "commit"} <= set(table)
    assert (table["ci_low"] <= table["measured"]).all()
    assert (table["measured"] <= table["ci_high"]).all()
    assert set(table["users"]) == {943}
    assert "\\toprule" in (tables / "table1.tex").read_text()
    for folder in {file.parent for file in (undisturbed / "results" / "smoke").rglob("*.*")}:
        records = json.loads((folder / "provenance.json").read_text())
        assert all(record["peak_memory_mib"] < 6 * 1024 for record in records.values()), folder
        known = {name for record in records.values() for name in record["artefacts"]} | {"provenance.json"}
        files = {file.name for file in folder.iterdir() if file.is_file() and file.suffix != ".ipynb"}
        assert files <= known, folder


def test_the_executed_notebooks_hold_no_error_and_no_warning(undisturbed):
    notebooks = [nbformat.read(path, as_version=4) for path in (undisturbed / NOTEBOOKS).rglob("*.ipynb")]
    outputs = [output for notebook in notebooks for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert "Warning" not in "".join(output.get("text", "") for output in outputs)


def test_figure_3_runs_for_a_backbone_of_any_shape(undisturbed, tmp_path, copy_study, monkeypatch):
    folder = copy_study(tmp_path)
    shutil.copytree(undisturbed / WORK.parent / "dataset", folder / "runs" / "small" / "ml-100k" / "dataset")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    parameters = {"backbone": "llama-2-7b", "shape": shape, "cases": [[1, 5, 1], [1, 20, 1], [2, 5, 1]]}
    parameters["shape"]["num_key_value_heads"] = 4
    notebook = folder / "notebooks" / "bench_latency.ipynb"
    papermill.execute_notebook(notebook, None, parameters=parameters, cwd=folder, progress_bar=False)
    table = pd.read_csv(folder / "results" / "bench" / "inference_time_7b.csv")
    (backbone,) = set(table["backbone"])
    assert backbone.startswith("llama-2-7b's shape, hidden_size 64,")
    assert backbone.endswith("random weights")
    whole = table[table["part"] == "whole"].set_index(["precision", "method", "batch", "mean_title_length_tokens"])
    assert len(whole) == 12
    for precision in ("nf4", "bfloat16"):
        alone = whole.loc[precision].xs((1, 20), level=["batch", "mean_title_length_tokens"])["seconds"]
        assert alone["Llama CausalLM"] > alone["LlamaRec"]
    assert not list((folder / "runs").glob("tmp*"))  # the weights are gone


def test_a_finished_study_has_nothing_left_to_do(undisturbed, start):
    before = {file: file.stat().st_mtime_ns for file in (undisturbed / "results").rglob("*.*")}
    finish(start(undisturbed), undisturbed)
    assert {file: file.stat().st_mtime_ns for file in (undisturbed / "results").rglob("*.*")} == before


def test_killed_again_and_again_it_ends_with_the_same_ranks(undisturbed, tmp_path, copy_study, start):
    folder = copy_study(tmp_path)
    shutil.copytree(undisturbed / "results" / "smoke", folder / "results" / "smoke")
    for path in (folder / "results" / "smoke" / "ranks").rglob("*.parquet"):
        path.write_bytes(b"an earlier run's")
    kill_when(start(folder), folder, WORK / "retriever" / "checkpoint.safetensors", signal.SIGKILL)
    assert not (folder / WORK / "retriever" / "retriever.safetensors").exists()
    kill_when(start(folder), folder, WORK / "ranker" / "checkpoint.safetensors", signal.SIGTERM)
    assert not (folder / WORK / "ranker" / "adapter").exists()
    kill_when(start(folder), folder, WORK / "ranker" / "adapter", signal.SIGINT)
    finish(start(folder), folder)
    assert ranks(folder) == ranks(undisturbed)
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("profile", sorted(path.stem for path in (ROOT / "notebooks" / "profiles").glob("*.yaml")))
def test_snakemake_finds_a_way_to_all_that_a_profile_asks_for(tmp_path, copy_study, start, profile):
    folder = copy_study(tmp_path)
    shutil.copytree(ROOT / "results", folder / "results", dirs_exist_ok=True)  # adapters to start from
    finish(start(folder, profile, "--dry-run"), folder)


def test_a_run_holds_its_checkout_against_another_but_not_against_its_single_steps_on_a_cluster(
    tmp_path, copy_study, start
):
    folder = copy_study(tmp_path)
    with alone(folder / "runs" / ".study"):
        assert start(folder).wait(LIMIT) == 1
        (line,) = (folder / "log").read_text().splitlines()
        assert line.startswith("llamarec: Another process is at work in ")
        options = ["--dry-run", "--mode", "remote", "--target-jobs", "data:dataset=ml-100k-1998"]
        finish(start(folder, "smoke", *options), folder)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("shop", "datasets: {no-such-shop: {}}", "llamarec: Unknown data set 'no-such-shop': choose from"),
        ("hostile", 'datasets: {"x$(touch PWNED)": {}}', "take letters, digits"),
        ("outside", 'datasets: {"../../../../x": {}}', "take letters, digits"),
    ],
)
def test_a_run_that_cannot_go_on_ends_with_one_sentence(tmp_path, copy_study, start, name, settings, sentence):
    folder = copy_study(tmp_path / "study")
    (folder / "notebooks" / "profiles" / f"{name}.yaml").write_text(settings)
    before = contents(folder / "results")
    assert start(folder, name).wait(LIMIT) == 1
    log = (folder / "log").read_text()
    last = log.splitlines()[-1]
    assert last.startswith("llamarec: ")
    assert sentence in last
    assert "Traceback" not in log
    assert contents(folder / "results") == before
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
    assert not list(tmp_path.rglob("PWNED"))


def test_recommend_answers_with_a_ranked_list_and_probabilities(undisturbed, monkeypatch):
    monkeypatch.chdir(undisturbed)
    recommender = Recommender.of_study("smoke", "ml-100k-1998")
    history = ["Toy Story (1995)", "toy story 1995", "50"]
    ranked = recommender.recommend(history, count=10)
    assert ranked["rank"].tolist() == list(range(1, 11))
    assert ranked["score"].is_monotonic_decreasing
    assert np.exp(ranked["log_p_ranker"]).sum() == pytest.approx(1, abs=1e-4)
    fifty = recommender.dataset.titles[find_item(recommender.dataset, "50")]
    assert not {"Toy Story (1995)", fifty} & set(ranked["title"])
