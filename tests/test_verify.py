"""`llamarec verify` finds nothing in a small study that is whole, and each of the faults planted in it."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from llamarec_core import report
from llamarec_core.evaluation import published_statistics
from llamarec_core.files import InputError, sha256, write_json
from llamarec_core.llm_baselines import CausalLM, Verbalizer
from llamarec_core.llm_baselines.comparison import COLUMNS, answers_file
from llamarec_core.retrieval import write_ranks
from llamarec_core.study import Run
from llamarec_core.verify import verify

ROOT = Path(__file__).parents[1]
RESULTS = Path("results/tiny")
RANKS = RESULTS / "ranks" / "toys"
USERS, ITEMS = 40, 60
PROFILE = "seed: 0\ndatasets: {toys: {}}\nevaluation: {bootstrap_samples: 50}\n"


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def finish(run):
    """Close a run as its last cell does, and leave its executed notebook."""
    run.finish()
    source = run.root / "notebooks" / f"{run.notebook}.ipynb"
    shutil.copy(source, run.executed_notebook)


def write_study(root):
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    shutil.copytree(ROOT / "results" / "published", root / "results" / "published")
    (root / "notebooks" / "profiles" / "tiny.yaml").write_text(PROFILE)
    (root / ".gitignore").write_text("/runs/\n")
    (root / "book").mkdir()
    condition = [{"rows": {"method": "llamarec"}, "every": {"users": f"<= {USERS}"}}]
    sentence = {"name": "a", "sentence": "It is so.", "table": "tiny/tables/table1.csv", "condition": condition}
    (root / "book" / "conclusions.yaml").write_text(json.dumps([sentence]))  # JSON is YAML
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "a study")
    generator = np.random.default_rng(0)
    users = {"user": range(USERS), "target": generator.integers(1, ITEMS + 1, USERS)}
    for notebook, methods in {"1_data": [], "2_retriever": ["lrurec"], "3_ranker": ["llamarec"]}.items():
        for seed in (0, 1):
            run = Run(notebook, profile="tiny", dataset="toys", seed=seed, root=root)
            run.note_data(SimpleNamespace(name="toys", content_hash="a" * 64, source={}))
            for method in methods:
                ranks = pd.DataFrame(users | {"rank": generator.integers(1, ITEMS, USERS)})
                write_ranks(ranks, run.ranks_file(method))
                run.wrote(run.ranks_file(method))
            finish(run)
    write_tables(root)
    write_strategies(root)


def write_strategies(root):
    """Leave answers of two strategies to four requests, and the tables that follow from them."""
    run = Run("3_strategies", profile="tiny", dataset="toys", seed=0, root=root)
    run.note_data(SimpleNamespace(name="toys", content_hash="a" * 64, source={}))
    frame = pd.DataFrame({column: np.ones(4, dtype=np.int32) for column in COLUMNS})
    frame = frame.assign(user=range(4), rank=[1, 3, 25, 30], reranked=[1, 3, 25, 30], commit=run.commit)
    frame = frame.assign(stratum=["retrieved", "retrieved", "missed", "missed"], stratum_users=[10, 10, 30, 30])
    for strategy in (Verbalizer, CausalLM):
        path = answers_file(run.results, "toys", strategy, tuned=False, seed=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.assign(reads_candidates=True).to_parquet(path, index=False)
        run.wrote(path)
    finish(run)
    run = Run("4_comparison", profile="tiny", dataset=None, seed=None, root=root)
    write(run, report.Tables(run.profile, root), "strategies", "key_differences", "table4")


def write(run, tables, *names, **frames):
    """Write tables as the notebook of the run does."""
    for name, frame in {**frames, **{name: tables.make(name) for name in names}}.items():
        run.wrote(*report.write_table(frame, run.table(name)))
    finish(run)


def write_tables(root):
    run = Run("4_results", profile="tiny", dataset=None, seed=None, root=root)
    counts = {"users": USERS, "items": ITEMS, "interactions": 400, "mean_length": 10, "density": 400 / 2400}
    printed = published_statistics(root / "results" / "published")
    table2 = report.statistics_table({"toys": counts}, published=printed, commit=run.commit)
    names = ["table1", "table3", "comparison", "consistency_recalls"]
    write(run, report.Tables(run.profile, root), *names, table2=table2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_study(root)
    return root


@pytest.fixture
def study(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "study")


def found(study):
    with pytest.raises(InputError) as raised:
        verify(study)
    return str(raised.value)


def edit_record(folder, name, **changes):
    file = folder / "provenance.json"
    records = json.loads(file.read_text())
    write_json(file, records | {name: records[name] | changes})


def hide(path, name):
    """Give a changed file the hash that its record asks for, as an edit that covers its tracks."""
    records = json.loads(path.with_name("provenance.json").read_text())
    edit_record(path.parent, name, artefacts=records[name]["artefacts"] | {path.name: sha256(path)})


def edit_ranks(study, edit):
    """Change LlamaRec's ranks of seed 0, and hide it."""
    path = study / RANKS / "llamarec-seed0.parquet"
    frame = edit(pd.read_parquet(path).astype("int32"))
    frame.to_parquet(path, schema=pq.read_schema(path), index=False)
    hide(path, "3_ranker-toys-seed0")


def test_a_whole_study_has_no_difference(study):
    assert verify(study) == "tiny: whole and from a clean tree; 7 tables follow from the ranks, by their hashes alone: table2."  # fmt: skip  # noqa: E501
    assert verify(study, profiles=["tiny"]) == verify(study)


def edit_cell(study):
    path = study / RESULTS / "tables" / "table1.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[3, "measured"] = "0.123456"
    table.to_csv(path, index=False)
    return path


def test_an_edited_table_cell_is_found_by_the_files_hash(study):
    edit_cell(study)
    assert "results/tiny/tables/table1.csv has another hash than in the record '4_results-seed0'" in found(study)


def test_an_edited_table_cell_is_found_by_computing_the_table_again(study):
    hide(edit_cell(study), "4_results-seed0")
    assert "results/tiny/tables/table1.csv, line 5, measured: 0.123456 is written, " in found(study)


def test_an_edited_rank_is_found_by_the_files_hash(study):
    path = study / RANKS / "llamarec-seed0.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    assert "results/tiny/ranks/toys/llamarec-seed0.parquet has another hash" in found(study)


def test_an_edited_rank_is_found_by_computing_the_tables_again(study):
    def to_the_top(frame):
        frame.loc[frame["rank"].idxmax(), "rank"] = 1
        return frame

    edit_ranks(study, to_the_top)
    assert "results/tiny/tables/comparison.csv, line 2, difference: " in found(study)


def test_an_edited_answer_of_a_strategy_is_found_by_computing_the_table_again(study):
    path = study / RESULTS / "strategies" / "toys" / "causal_lm-seed0.parquet"
    frame = pd.read_parquet(path)
    frame.assign(rank=1, reranked=1).to_parquet(path, index=False)
    hide(path, "3_strategies-toys-seed0")
    assert "results/tiny/tables/strategies.csv, line " in found(study)


def test_a_missing_provenance_file_is_found(study):
    (study / RANKS / "provenance.json").unlink()
    assert "results/tiny/ranks/toys has no provenance.json" in found(study)


def test_a_file_that_no_record_accounts_for_is_found(study):
    (study / RANKS / "notes.txt").write_text("by hand")
    assert "results/tiny/ranks/toys/notes.txt has no record in provenance.json" in found(study)


def test_a_missing_file_is_found(study):
    (study / RANKS / "lrurec-seed1.parquet").unlink()
    assert "lrurec-seed1.parquet is missing, which the record '2_retriever-toys-seed1'" in found(study)


def edit_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source += "\n\nOne more sentence."
    nbformat.write(notebook, path)


def test_an_executed_notebook_has_the_cells_of_the_commit_that_it_names(study):
    edit_notebook(study / RESULTS / "notebooks" / "4_results.ipynb")
    assert "results/tiny/notebooks/4_results.ipynb has other cells than the notebook that ran" in found(study)


def test_what_changed_since_a_run_is_listed_and_no_fault_but_of_a_profile_made_in_minutes(study, monkeypatch):
    edit_notebook(study / "notebooks" / "4_results.ipynb")
    (study / "notebooks" / "4_comparison.ipynb").unlink()
    (study / "notebooks" / "profiles" / "tiny.yaml").write_text(PROFILE + "ranker: {training_examples: 5}\n")
    git(study, "commit", "-am", "later")
    _, *notes = verify(study).splitlines()
    commit = json.loads((study / RANKS / "provenance.json").read_text())["3_ranker-toys-seed0"]["git_commit"][:7]
    assert f"results/tiny/notebooks/4_results.ipynb: made at {commit}; the notebook has changed since" in notes
    assert f"results/tiny/notebooks/4_comparison.ipynb: made at {commit}; the notebook has another name now" in notes
    assert f"results/tiny/notebooks/toys/1_data.ipynb: made at {commit}; the settings have changed since" in notes
    monkeypatch.setattr("llamarec_core.verify.FRESH", ("tiny",))
    assert ": run it again, `make study PROFILE=tiny`." in found(study)


def edit_everywhere(study, name, **changes):
    for file in (study / RESULTS).rglob("provenance.json"):
        if name in json.loads(file.read_text()):
            edit_record(file.parent, name, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"git_commit": "0" * 40}, f"names the commit {'0' * 40}, which does not lead to the present one"),
        ({"notebook_sha256": "0" * 64}, "is not of notebooks/3_ranker.ipynb at the commit"),
        ({"profile_sha256": "0" * 64}, "is not of notebooks/profiles/tiny.yaml at the commit"),
        ({"settings": {"evaluation": {"bootstrap_samples": 51}}}, "has other settings than notebooks/profiles/tiny"),
    ],
)
def test_a_record_is_held_against_the_commit_that_it_names(study, changes, message):
    edit_everywhere(study, "3_ranker-toys-seed0", **changes)
    assert message in found(study)


def test_without_gits_history_verify_says_what_it_could_not_check(study, tmp_path):
    git(tmp_path, "clone", "--depth=1", f"file://{study}", "shallow")
    shutil.copytree(study / "results", tmp_path / "shallow" / "results", dirs_exist_ok=True)
    assert "This clone is shallow: whether the records are of the commits" in verify(tmp_path / "shallow")
    shutil.rmtree(study / ".git")
    assert "is no git repository: whether the records are of the commits" in verify(study)


def test_a_dirty_tree_result_is_found(study):
    edit_record(study / RANKS, "3_ranker-toys-seed0", git_dirty=True)
    assert "The record '3_ranker-toys-seed0' in results/tiny/ranks/toys was not measured from a clean tree" in found(
        study
    )


def test_a_swapped_seed_is_found(study):
    first, second = (study / RANKS / f"lrurec-seed{seed}.parquet" for seed in (0, 1))
    bytes_of_first = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(bytes_of_first)
    assert "lrurec-seed0.parquet has another hash" in found(study)


def test_a_record_of_another_seed_is_found(study):
    edit_record(study / RANKS, "2_retriever-toys-seed1", seed=0)
    assert "lrurec-seed1.parquet is of seed 1, but the record '2_retriever-toys-seed1'" in found(study)


def test_a_wrong_data_hash_is_found(study):
    edit_record(study / RANKS, "3_ranker-toys-seed1", data_sha256={"toys": "b" * 64})
    assert (
        "'3_ranker-toys-seed1' in results/tiny/ranks/toys/provenance.json was measured on toys with the hash "
        "bbbbbbbbbbbb…, the other results on aaaaaaaaaaaa…"
    ) in found(study)


def test_a_missing_user_is_found(study):
    edit_ranks(study, lambda frame: frame[frame["user"] != 7])
    assert "llamarec-seed0.parquet lacks user 7: toys has 40." in found(study)


def test_a_duplicate_user_is_found(study):
    edit_ranks(study, lambda frame: pd.concat([frame, frame[frame["user"] == 7]]))
    assert "llamarec-seed0.parquet holds user 7 twice." in found(study)


def test_a_user_too_many_is_found(study):
    edit_ranks(study, lambda frame: pd.concat([frame, frame.tail(1).assign(user=USERS)]))
    assert "llamarec-seed0.parquet holds user 40, but toys has 40, counted from 0." in found(study)


@pytest.mark.parametrize("rank", [0, ITEMS + 1])
def test_a_rank_outside_the_catalogue_is_found(study, rank):
    edit_ranks(study, lambda frame: frame.assign(rank=frame["rank"].where(frame["user"] != 7, rank).astype("int32")))
    assert f"llamarec-seed0.parquet ranks the target of user 7 at {rank}, of 60 items." in found(study)


def test_a_table_that_nobody_computes_is_found(study):
    table = study / RESULTS / "tables" / "table1.csv"
    shutil.copy(table, table.with_name("table9.csv"))
    records = json.loads((table.parent / "provenance.json").read_text())["4_results-seed0"]["artefacts"]
    artefacts = records | {"table9.csv": records["table1.csv"]}
    edit_record(table.parent, "4_results-seed0", artefacts=artefacts)
    assert "results/tiny/tables/table9.csv is a table that nobody makes" in found(study)


def test_a_sentence_that_no_longer_holds_is_found(study):
    file = study / "book" / "conclusions.yaml"
    file.write_text(file.read_text().replace("<=", ">"))
    assert "“It is so.” does not hold: of tiny/tables/table1.csv, users is 40" in found(study)


def test_a_profile_without_results_is_not_whole(study):
    with pytest.raises(InputError, match="paper has no results: run `make study PROFILE=paper` first"):
        verify(study, profiles=["paper"])


def test_a_notebook_is_held_against_the_record_of_its_own_seed(study):
    path = study / RESULTS / "notebooks" / "toys" / "3_ranker.ipynb"
    executed = nbformat.read(path, as_version=4)
    executed.metadata["papermill"] = {"parameters": {"profile": "tiny", "dataset": "toys", "seed": 1}}
    nbformat.write(executed, path)
    verify(study)
    edit_record(path.parent, "3_ranker-toys-seed1", seed=2)
    assert "'3_ranker-toys-seed1'" in found(study)


def test_an_unknown_profile_is_named(study):
    with pytest.raises(InputError, match="Unknown profile 'huge'"):
        verify(study, profiles=["huge"])
