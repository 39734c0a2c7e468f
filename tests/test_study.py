import json
import shutil
from types import SimpleNamespace

import papermill
import pytest

from llamarec_core import paths, provenance, study
from llamarec_core.data import load_dataset
from llamarec_core.data.sources import KNOWN
from llamarec_core.files import InputError, sha256
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the study's notebooks and profiles, as the working folder."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inject(monkeypatch, parameters):
    """Let the next run be given parameters as papermill gives them."""
    shell = SimpleNamespace(user_ns={"In": ["", f"# Parameters\n{parameters}\n"]}, set_custom_exc=lambda *_: None)
    monkeypatch.setattr(study, "_ipython", lambda: shell)


def test_a_run_knows_where_everything_lies(project, monkeypatch):
    monkeypatch.chdir(project / "notebooks")
    run = study.begin("2_retriever", profile="quick", dataset="beauty", seed=3)
    places = {
        run.root: ".",
        run.dataset_folder(): "runs/quick/beauty/dataset",
        run.candidates_file: "runs/quick/beauty/seed3/candidates.parquet",
        run.ranks_file("lrurec"): "results/quick/ranks/beauty/lrurec-seed3.parquet",
        run.table("table1"): "results/quick/tables/table1",
        run.executed_notebook: "results/quick/notebooks/beauty/2_retriever.ipynb",
    }
    assert list(places) == [project / place for place in places.values()]
    with pytest.raises(InputError, match=r"is missing: run notebooks/1_data\.ipynb with profile 'quick'"):
        run.load_dataset()
    with pytest.raises(InputError, match="is not inside a copy of the study: change to the folder"):
        paths.find_root(project.parent)


def test_papermill_may_change_any_setting_and_the_record_says_so(project, monkeypatch):
    inject(monkeypatch, "settings = ['ranker.title_tokens=9', 'retriever.dropout=0.25']")
    data = load_dataset("ml-100k-1998")
    run = study.begin("3_ranker", profile="small", dataset=data.name)
    run.note_data(data)
    assert (run.profile.ranker.title_tokens, run.profile.retriever.dropout) == (9, 0.25)
    record = run.finish()
    assert record["settings"]["ranker"]["title_tokens"] == 9
    assert record["data_sha256"] == {data.name: data.content_hash}
    assert record["raw_sha256"] == {data.name: KNOWN["ml-100k-1998"].downloads}
    assert record["hardware"]["cores"] >= 1
    assert """-y 'settings: ["ranker.title_tokens=9", "retriever.dropout=0.25"]'""" in record["command"]


def test_the_recorded_command_says_all_that_a_notebook_of_a_persons_own_profile_was_given(project, monkeypatch):
    profile = shutil.copy(project / "notebooks" / "profiles" / "smoke.yaml", project / "mine.yaml")
    inject(monkeypatch, f"profile = {str(profile)!r}\ncases = [[1, 5]]")
    run = study.begin("bench_latency", profile=str(profile))
    assert run.finish()["command"].endswith(f"-p profile {profile} -p seed 0 -y 'cases: [[1, 5]]'")


@pytest.mark.parametrize(
    ("settings", "dataset", "says"),
    [
        ("'ranker.title_tokens=9'", "beauty", "give a list of texts"),
        ("['ranker.title_tokens=9']", None, "reads all data sets"),
    ],
)
def test_settings_that_cannot_be_changed_so_are_refused(project, monkeypatch, settings, dataset, says):
    inject(monkeypatch, f"settings = {settings}")
    with pytest.raises(InputError, match=says):
        study.begin("3_ranker", profile="small", dataset=dataset)


def test_a_record_is_of_the_code_that_the_run_began_with(project, monkeypatch):
    state = {"git_commit": "before", "git_dirty": False}
    monkeypatch.setattr(provenance, "circumstances", lambda root: dict(state))
    run = study.begin("2_retriever", profile="smoke", dataset="ml-100k-1998")
    source, profile = project / "notebooks" / "2_retriever.ipynb", project / "notebooks" / "profiles" / "smoke.yaml"
    begun = {"notebook_sha256": provenance.notebook_hash(source), "profile_sha256": sha256(profile)} | state
    state |= {"git_commit": "after", "git_dirty": True}
    shutil.copy(project / "notebooks" / "1_data.ipynb", source)
    profile.write_text(profile.read_text() + "# later\n")
    assert begun.items() <= run.finish().items()
    assert run.commit == "before"


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
    artefacts = {name: set(record["artefacts"]) for name, record in records.items()}
    assert artefacts == {"2_grid": {"a", "b"}, "1_data": set()}


@pytest.mark.parametrize("seed", [-1, "one", 1.5])
def test_a_seed_that_is_no_whole_number_is_refused(project, seed):
    with pytest.raises(InputError, match="Parameter seed is .*: give a whole number"):
        study.begin("2_retriever", profile="quick", dataset="beauty", seed=seed)


def test_a_notebook_answers_a_bad_parameter_by_one_sentence_and_writes_nothing(project):
    given = {"profile": "smoke", "datset": "beauty"}
    with pytest.raises(papermill.PapermillExecutionError) as raised:
        papermill.execute_notebook("notebooks/1_data.ipynb", "out.ipynb", parameters=given, progress_bar=False)
    assert raised.value.ename == "InputError"
    assert "no parameter 'datset': choose from columns, dataset, folder, profile, seed." in raised.value.evalue
    assert "Traceback" not in str(raised.value)
    assert not (project / "runs").exists()
    assert not (project / "results").exists()
