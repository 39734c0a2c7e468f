"""A small study that is whole: two seeds, a grid of one point, two strategies, a bench, in a git repository."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
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
from tests.conftest import ROOT

USERS, ITEMS, HASH = 40, 60, "a" * 64
PROFILE = """\
seed: 0
datasets: {toys: {retriever: {max_length: 9}, columns: {title: name}}}
evaluation: {bootstrap_samples: 50, strategy_datasets: [toys]}
grid: {lrurec: {toys: {weight_decay: [0.0], dropout: [0.1]}}}
"""


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def write_study(root):
    shutil.copytree(ROOT / "results" / "published", root / "results" / "published")
    (root / "notebooks" / "profiles").mkdir(parents=True)
    for profile in ("tiny", "other"):
        (root / "notebooks" / "profiles" / f"{profile}.yaml").write_text(PROFILE)
    for name in ("1_data", "2_retriever", "3_ranker", "3_strategies", "4_comparison", "4_results", "bench_a"):
        write_notebook(root / "notebooks" / f"{name}.ipynb")
    versions = package_versions().items()
    lock = [f"{name}=={version}\n" for name, version in versions if name not in ("python", "llamarec-core")]
    condition = [{"rows": {"method": "llamarec"}, "every": {"users": f"<= {USERS}"}}]
    sentence = {"name": "a", "sentence": "It is so.", "table": "tiny/tables/table1.csv", "condition": condition}
    (root / "requirements.lock").write_text("".join(lock))
    (root / "book").mkdir()
    (root / "book" / "conclusions.yaml").write_text(json.dumps([sentence]))  # JSON is YAML
    (root / ".gitignore").write_text("/runs/\n")
    for command in ("init", "add .", "commit -m study"):
        git(root, *command.split())
    generator = np.random.default_rng(0)
    users = {"user": range(USERS), "target": generator.integers(1, ITEMS + 1, USERS)}
    weights = {"2_retriever": "retriever.safetensors", "3_ranker": "adapter/adapter_model.safetensors"}
    for seed in (0, 1):
        finish(start("1_data", root, seed=seed))
        for notebook, methods in {"2_retriever": ["lrurec"], "3_ranker": RANKED}.items():
            run = start(notebook, root, seed=seed)
            for path in map(run.ranks_file, methods):
                write_ranks(pd.DataFrame(users | {"rank": generator.integers(1, ITEMS, USERS)}), path)
                run.wrote(path)
            write_file(run, run.weights / weights[notebook], "weights")
            finish(run)
    write_grid(root, users)
    write_strategies(root)
    write_tables(root)
    run = start("bench_a", root, dataset=None)
    write_file(run, root / "results" / "bench" / "times.csv", "case,median_seconds\na,0.5\n")
    finish(run)
    write_json(root / "results" / "manifest.json", manifest(root))


def write_notebook(path, *, given=None):
    """Write a source notebook, or one that ran with the parameters given."""
    notebook = new_notebook(cells=[new_markdown_cell(f"# {path.stem}"), new_code_cell("print(0.5)")])
    if given is not None:
        notebook.cells[1].outputs = [new_output("stream", text="0.5\n")]
        injected = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in given.items())
        notebook.cells.insert(1, new_code_cell(injected, metadata={"tags": ["injected-parameters"]}))
        notebook.metadata["papermill"] = {"parameters": given}
    for number, cell in enumerate(notebook.cells):
        cell.id = str(number)
    nbformat.write(notebook, path)


def start(notebook, root, *, dataset="toys", seed=0):
    run = Run(notebook, profile="tiny", dataset=dataset, seed=seed, root=root)
    if dataset:
        run.note_data(SimpleNamespace(name=dataset, content_hash=HASH, source={}))
    return run


def finish(run):
    """Close a run as its last cell does, and leave its executed notebook."""
    run.finish()
    write_notebook(run.executed_notebook, given=run.parameters)


def write_file(run, path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    run.wrote(path)


def write_grid(root, users):
    """Leave a grid of one point: its record and curve, and the ranks of what was chosen."""
    grid, made = Grid(start("2_retriever", root).profile, "toys", "lrurec", root), circumstances(root)
    settings = grid.retriever(weight_decay=0.0, dropout=0.1)
    record = {"recall@10": 0.25, "settings": settings.model_dump(), "data_sha256": HASH, "dataset": "toys", "seed": 0}
    file = grid.record_file(settings, seed=0)
    write_json(file, made | record | {"method": "lrurec", "parameters": 7})
    file.with_suffix(".csv").write_text("epoch,recall@10\n1,0.125\n2,0.25\n")
    path = root / "results" / "tiny" / "grid" / "ranks" / "toys" / "lrurec-seed0.parquet"
    write_ranks(pd.DataFrame(users | {"rank": 5}), path)
    chosen = {"command": "llamarec train toys lrurec --profile tiny --seed 0", "data_sha256": {"toys": HASH}}
    keep_record(root, [path], name=path.stem, record=made | chosen | {"seed": 0, "settings": {}})


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
    finish(run)
    write(start("4_comparison", root, dataset=None), "strategies", "key_differences", "table4")


def write_tables(root):
    run = start("4_results", root, dataset=None)
    counts = {"users": USERS, "items": ITEMS, "interactions": 400, "mean_length": 10, "density": 400 / 2400}
    printed = published_statistics(root / "results" / "published")
    table2 = report.statistics_table({"toys": counts}, published=printed, commit=run.commit)
    write_file(run, run.results / "figures" / "bars.svg", "<svg>0.5</svg>")
    write(run, "table1", "table3", "comparison", "floors", "consistency_recalls", table2=table2)


def write(run, *names, **frames):
    """Write tables as the notebook of the run does."""
    tables = report.Tables(run.profile, run.root)
    for name, frame in {**frames, **{name: tables.make(name) for name in names}}.items():
        run.wrote(*report.write_table(frame, run.table(name), name if name in FORMS else None))
    finish(run)
