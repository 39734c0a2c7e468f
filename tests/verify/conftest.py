"""A small study that is whole: two seeds, a grid of one point, two strategies, a bench, in a git repository."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from llamarec_core import report
from llamarec_core.evaluation import published_statistics
from llamarec_core.files import write_json
from llamarec_core.grid import Grid
from llamarec_core.llm_baselines import CausalLM, Verbalizer
from llamarec_core.llm_baselines.comparison import COLUMNS, answers_file
from llamarec_core.paths import RANKED
from llamarec_core.provenance import circumstances, keep_record, package_versions
from llamarec_core.records import manifest
from llamarec_core.report.forms import FORMS
from llamarec_core.retrieval import write_ranks
from llamarec_core.study import Run

ROOT = Path(__file__).parents[2]
USERS, ITEMS, HASH = 40, 60, "a" * 64
PROFILE = """\
seed: 0
datasets: {toys: {retriever: {max_length: 9}}}
evaluation: {bootstrap_samples: 50, strategy_datasets: [toys]}
grid: {lrurec: {toys: {weight_decay: [0.0], dropout: [0.1]}}}
"""


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


def write_notebook(path, *, given=None):
    """Write a source notebook, or one that ran with the parameters given."""
    cells = [new_markdown_cell(f"# {path.stem}"), new_code_cell("print(0.5)")]
    if given is not None:
        cells[1].outputs = [new_output("stream", text="0.5\n")]
        injected = "".join(f"{name} = {value!r}\n" for name, value in given.items())
        cells.insert(1, new_code_cell("# Parameters\n" + injected, metadata={"tags": ["injected-parameters"]}))
    notebook = new_notebook(cells=cells)
    for number, cell in enumerate(notebook.cells):
        cell.id = str(number)
    if given is not None:
        notebook.metadata["papermill"] = {"parameters": given}
    nbformat.write(notebook, path)


def finish(run):
    """Close a run as its last cell does, and leave its executed notebook."""
    run.finish()
    write_notebook(run.executed_notebook, given=run.parameters)


def start(notebook, root, *, dataset="toys", seed=0):
    run = Run(notebook, profile="tiny", dataset=dataset, seed=seed, root=root)
    if dataset:
        run.note_data(SimpleNamespace(name=dataset, content_hash=HASH, source={}))
    return run


def write(run, tables, *names, **frames):
    """Write tables as the notebook of the run does."""
    for name, frame in {**frames, **{name: tables.make(name) for name in names}}.items():
        run.wrote(*report.write_table(frame, run.table(name), name if name in FORMS else None))
    finish(run)


def write_file(run, path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    run.wrote(path)


def write_study(root):
    shutil.copytree(ROOT / "results" / "published", root / "results" / "published")
    (root / "notebooks" / "profiles").mkdir(parents=True)
    (root / "notebooks" / "profiles" / "tiny.yaml").write_text(PROFILE)
    (root / "notebooks" / "profiles" / "other.yaml").write_text(PROFILE)
    for name in ("1_data", "2_retriever", "3_ranker", "3_strategies", "4_comparison", "4_results", "bench_a"):
        write_notebook(root / "notebooks" / f"{name}.ipynb")
    (root / ".gitignore").write_text("/runs/\n")
    versions = {
        name: version for name, version in package_versions().items() if name not in ("python", "llamarec-core")
    }
    (root / "requirements.lock").write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    (root / "book").mkdir()
    condition = [{"rows": {"method": "llamarec"}, "every": {"users": f"<= {USERS}"}}]
    sentence = {"name": "a", "sentence": "It is so.", "table": "tiny/tables/table1.csv", "condition": condition}
    (root / "book" / "conclusions.yaml").write_text(json.dumps([sentence]))  # JSON is YAML
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "a study")
    generator = np.random.default_rng(0)
    users = {"user": range(USERS), "target": generator.integers(1, ITEMS + 1, USERS)}

    def ranks(run, path):
        write_ranks(pd.DataFrame(users | {"rank": generator.integers(1, ITEMS, USERS)}), path)
        run.wrote(path)

    for seed in (0, 1):
        finish(start("1_data", root, seed=seed))
        for notebook, methods in {"2_retriever": ["lrurec"], "3_ranker": RANKED}.items():
            run = start(notebook, root, seed=seed)
            for method in methods:
                ranks(run, run.ranks_file(method))
            weights = {"2_retriever": "retriever.safetensors", "3_ranker": "adapter/adapter_model.safetensors"}
            write_file(run, run.weights / weights[notebook], "weights")
            finish(run)
    write_grid(root, users)
    write_strategies(root)
    write_tables(root)
    run = start("bench_a", root, dataset=None)
    write_file(run, root / "results" / "bench" / "times.csv", "case,median_seconds\na,0.5\n")
    finish(run)
    write_json(root / "results" / "manifest.json", manifest(root))


def write_grid(root, users):
    """Leave a grid of one point: its record and curve, and the ranks of what was chosen."""
    profile = start("2_retriever", root).profile
    grid, made = Grid(profile, "toys", "lrurec", root), circumstances(root)
    settings = grid.retriever(weight_decay=0.0, dropout=0.1)
    record = {"recall@10": 0.25, "settings": settings.model_dump(), "data_sha256": HASH, "dataset": "toys", "seed": 0}
    file = grid.record_file(settings, seed=0)
    write_json(file, made | record | {"method": "lrurec", "parameters": 7})
    file.with_suffix(".csv").write_text("epoch,recall@10\n1,0.125\n2,0.25\n")
    path = root / "results" / "tiny" / "grid" / "ranks" / "toys" / "lrurec-seed0.parquet"
    write_ranks(pd.DataFrame(users | {"rank": 5}), path)
    command = "llamarec train toys lrurec --profile tiny --seed 0"
    chosen = {"command": command, "seed": 0, "data_sha256": {"toys": HASH}, "settings": {}}
    keep_record(root, [path], name=path.stem, record=made | chosen)


def write_strategies(root):
    """Leave answers of two strategies to four requests, and the tables that follow from them."""
    run = start("3_strategies", root)
    frame = pd.DataFrame({column: np.ones(4, dtype=np.int32) for column in COLUMNS})
    frame = frame.assign(user=range(4), rank=[1, 3, 25, 30], reranked=[1, 3, 25, 30], commit=run.commit)
    frame = frame.assign(stratum=["retrieved", "retrieved", "missed", "missed"], stratum_users=[10, 10, 30, 30])
    for strategy in (Verbalizer, CausalLM):
        path = answers_file(run.results, "toys", strategy, tuned=False, seed=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.assign(reads_candidates=True).to_parquet(path, index=False)
        run.wrote(path)
    write_file(run, run.curves / "strategy.csv", "step,loss\n1,0.5\n")
    finish(run)
    run = start("4_comparison", root, dataset=None)
    write(run, report.Tables(run.profile, root), "strategies", "key_differences", "table4")


def write_tables(root):
    run = start("4_results", root, dataset=None)
    counts = {"users": USERS, "items": ITEMS, "interactions": 400, "mean_length": 10, "density": 400 / 2400}
    printed = published_statistics(root / "results" / "published")
    table2 = report.statistics_table({"toys": counts}, published=printed, commit=run.commit)
    write_file(run, run.results / "figures" / "bars.svg", "<svg>0.5</svg>")
    names = ["table1", "table3", "comparison", "floors", "consistency_recalls"]
    write(run, report.Tables(run.profile, root), *names, table2=table2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_study(root)
    return root


@pytest.fixture
def study(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "study", symlinks=True)
