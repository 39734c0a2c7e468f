import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import papermill
import pytest

from llamarec_core import paths, provenance, study
from llamarec_core.data import load_dataset
from llamarec_core.data.sources import RECBOLE_SHA256
from llamarec_core.files import InputError, sha256
from llamarec_core.retrieval import write_ranks

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the study's notebooks and profiles, as the working folder."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_study_is_found_from_its_own_folders_and_elsewhere_the_remedy_is_named(project, monkeypatch):
    monkeypatch.chdir(project / "notebooks")
    assert paths.find_root() == project
    with pytest.raises(InputError, match="is not inside a copy of the study: change to the folder"):
        paths.find_root(project.parent)


def test_a_run_knows_where_everything_lies(project):
    run = study.begin("2_retriever", profile="quick", dataset="beauty", seed=3)
    places = {
        run.dataset_folder(): "runs/quick/beauty/dataset",
        run.candidates_file: "runs/quick/beauty/seed3/candidates.parquet",
        run.ranks_file("lrurec"): "results/quick/ranks/beauty/lrurec-seed3.parquet",
        run.table("table1"): "results/quick/tables/table1",
        run.executed_notebook: "results/quick/notebooks/beauty/2_retriever.ipynb",
    }
    assert list(places) == [project / place for place in places.values()]


@pytest.mark.parametrize("seed", [-1, "one", 1.5])
def test_a_seed_that_is_no_whole_number_is_refused(project, seed):
    with pytest.raises(InputError, match="Parameter seed is .*: give a whole number"):
        study.begin("2_retriever", profile="quick", dataset="beauty", seed=seed)


def test_a_stage_names_the_notebook_that_must_run_first(project):
    run = study.begin("2_retriever", profile="quick", dataset="ml-100k-1998")
    with pytest.raises(InputError, match=r"is missing: run notebooks/1_data\.ipynb with profile 'quick'"):
        run.load_dataset()


def test_provenance_stands_beside_every_artefact(project):
    run = study.begin("2_retriever", profile="smoke", dataset="ml-100k-1998")
    run.note_data(load_dataset("ml-100k-1998"))
    ranks, table = run.ranks_file("lrurec"), run.table("a").with_suffix(".csv")
    for path in (ranks, table):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    run.wrote(ranks, table)
    run.finish()
    record = json.loads((ranks.parent / "provenance.json").read_text())["2_retriever-ml-100k-1998-seed0"]
    assert record["artefacts"] == {"lrurec-seed0.parquet": sha256(ranks)}
    assert record["seed"] == 0
    assert record["data_sha256"] == {"ml-100k-1998": load_dataset("ml-100k-1998").content_hash}
    assert record["raw_sha256"] == {"ml-100k-1998": RECBOLE_SHA256}
    assert record["profile_sha256"] == sha256(project / "notebooks" / "profiles" / "smoke.yaml")
    assert record["command"] == (
        "papermill notebooks/2_retriever.ipynb results/smoke/notebooks/ml-100k-1998/2_retriever.ipynb "
        "-p profile smoke -p dataset ml-100k-1998 -p seed 0"
    )
    assert record["hardware"]["cores"] >= 1
    assert record["packages"]["torch"].startswith("2.")
    assert list(json.loads((table.parent / "provenance.json").read_text())) == ["2_retriever-ml-100k-1998-seed0"]


def test_the_recorded_command_says_all_that_the_notebook_was_given(project, tmp_path, monkeypatch):
    profile = tmp_path / "mine.yaml"
    shutil.copy(project / "notebooks" / "profiles" / "smoke.yaml", profile)
    inject(monkeypatch, f"profile = {str(profile)!r}\ncases = [[1, 5]]")
    run = study.begin("bench_latency", profile=str(profile))
    assert run.finish()["command"].endswith(f"-p profile {profile} -p seed 0 -y 'cases: [[1, 5]]'")


def inject(monkeypatch, parameters):
    shell = SimpleNamespace(user_ns={"In": ["", f"# Parameters\n{parameters}\n"]})
    monkeypatch.setattr(study, "_ipython", lambda: shell)
    monkeypatch.setattr(study, "_show_input_errors_alone", lambda: None)


def test_papermill_may_change_any_setting_and_the_record_says_so(project, monkeypatch):
    inject(monkeypatch, "settings = ['ranker.title_tokens=9', 'retriever.dropout=0.25']")
    run = study.begin("3_ranker", profile="small", dataset="beauty")
    assert (run.profile.ranker.title_tokens, run.profile.retriever.dropout) == (9, 0.25)
    record = run.finish()
    assert record["settings"]["ranker"]["title_tokens"] == 9
    assert """-y 'settings: ["ranker.title_tokens=9", "retriever.dropout=0.25"]'""" in record["command"]


@pytest.mark.parametrize(
    ("settings", "dataset", "says"),
    [
        ("'ranker.title_tokens=9'", "beauty", "give a list of texts"),
        ("['ranker.title_tokens=9']", None, "reads all data sets"),
        ("['ranker.colour=9']", "beauty", "colour"),
    ],
)
def test_settings_that_cannot_be_changed_so_are_refused(project, monkeypatch, settings, dataset, says):
    inject(monkeypatch, f"settings = {settings}")
    with pytest.raises(InputError, match=says):
        study.begin("3_ranker", profile="small", dataset=dataset)


def test_a_record_is_of_the_code_that_the_run_began_with(project, monkeypatch):
    state = {"git_commit": "before", "git_dirty": False}
    monkeypatch.setattr(study, "circumstances", lambda root: dict(state))
    run = study.begin("2_retriever", profile="smoke", dataset="ml-100k-1998")
    source, profile = project / "notebooks" / "2_retriever.ipynb", project / "notebooks" / "profiles" / "smoke.yaml"
    begun = {"notebook_sha256": provenance.notebook_hash(source), "profile_sha256": sha256(profile)}
    state |= {"git_commit": "after", "git_dirty": True}
    shutil.copy(project / "notebooks" / "1_data.ipynb", source)
    profile.write_text(profile.read_text() + "# later\n")
    record = run.finish()
    assert begun.items() <= record.items()
    assert (record["git_commit"], record["git_dirty"], run.commit) == ("before", False, "before")


def test_an_adapter_to_start_from_lies_in_this_checkout_whatever_the_record_says(project):
    profile = project / "notebooks" / "profiles" / "smoke.yaml"
    profile.write_text(profile.read_text().replace("ranker:\n", "ranker:\n  start_from: results/small/weights/games\n"))
    run = study.begin("3_ranker", profile="smoke", dataset="ml-100k-1998")
    assert run.profile.ranker.start_from == str(project / "results/small/weights/games")
    assert run.finish()["settings"]["ranker"]["start_from"] == "results/small/weights/games"


def test_a_file_has_one_record_that_of_its_last_writer(project):
    folder = project / "results"
    folder.mkdir()
    for name, names in {"2_noise": ["a"], "2_grid": ["a", "b"], "1_data": []}.items():
        for one in names:
            (folder / one).write_text(name)
        provenance.keep_record(project, [folder / one for one in names], name=name, record={}, also=folder)
    records = json.loads((folder / "provenance.json").read_text())
    assert {name: set(record["artefacts"]) for name, record in records.items()} == {
        "2_grid": {"a", "b"},
        "1_data": set(),
    }


def test_ranks_of_a_later_folder_take_the_place_of_earlier_ones(project):
    run = study.begin("2_retriever", profile="smoke", dataset="toys")
    for folder, rank, methods in (("grid", 3, ("lrurec", "sasrec")), ("", 5, ("lrurec",))):
        paths = [run.results / folder / "ranks" / "toys" / f"{method}-seed0.parquet" for method in methods]
        for path in paths:
            write_ranks(pd.DataFrame({"user": [0], "target": [1], "rank": [rank]}), path)
        study.keep_record(project, paths, name="a", record={"git_commit": folder or "study", "git_dirty": False})
    ranks, commit = study.load_ranks(run.results / "grid", run.results, datasets=["toys", "others"])
    assert {key: frame["rank"].item() for key, frame in ranks.items()} == {
        ("toys", "lrurec", 0): 5,
        ("toys", "sasrec", 0): 3,
    }
    assert commit == "grid+study"


@pytest.mark.parametrize(("platform", "mib"), [("linux", 2048), ("darwin", 2)])
def test_peak_memory_is_in_mib_whatever_the_system_counts_in(monkeypatch, platform, mib):
    monkeypatch.setattr(provenance.sys, "platform", platform)
    monkeypatch.setattr(provenance.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=2**21))
    assert provenance.peak_memory_mib() == mib


def test_the_git_state_tells_source_edits_from_new_results(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    assert provenance.git_state(tmp_path) == (None, None)
    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "a")
    commit, dirty = provenance.git_state(tmp_path)
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("1")
    assert provenance.git_state(tmp_path)[1] is False
    (tmp_path / "code.py").write_text("2")
    assert provenance.git_state(tmp_path)[1] is True


def test_an_executed_notebook_has_its_sources_hash_until_a_cell_changes(project):
    source = project / "notebooks" / "1_data.ipynb"
    executed = nbformat.read(source, as_version=4)
    executed.cells.insert(2, nbformat.v4.new_code_cell("profile = 'smoke'", metadata={"tags": ["injected-parameters"]}))
    nbformat.write(executed, project / "executed.ipynb")
    assert provenance.notebook_hash(project / "executed.ipynb") == provenance.notebook_hash(source)
    executed.cells[0].source += "!"
    nbformat.write(executed, project / "executed.ipynb")
    assert provenance.notebook_hash(project / "executed.ipynb") != provenance.notebook_hash(source)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"datset": "beauty"},
            "Notebook 1_data has no parameter 'datset': choose from columns, dataset, folder, profile, seed.",
        ),
        ({"profile": "quik"}, "Unknown profile 'quik'"),
        ({"dataset": "ml-1m"}, "ml-1m"),
        ({"seed": "one"}, "Parameter seed is 'one'"),
    ],
)
def test_a_notebook_answers_a_bad_parameter_by_one_sentence_and_writes_nothing(project, parameters, message):
    with pytest.raises(papermill.PapermillExecutionError) as raised:
        papermill.execute_notebook(
            "notebooks/1_data.ipynb", "out.ipynb", parameters={"profile": "smoke"} | parameters, progress_bar=False
        )
    assert raised.value.ename == "InputError"
    assert message in raised.value.evalue
    assert "Traceback" not in str(raised.value)
    assert not (project / "runs").exists()
    assert not (project / "results").exists()
