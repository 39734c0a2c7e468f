"""`llamarec verify` finds nothing in a small study that is whole, and each of the faults planted in it."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_study import HASH, USERS, git, write_study

from llamarec_core.files import InputError, read_json, sha256, write_json
from llamarec_core.provenance import notebook_hash, package_versions
from llamarec_core.records import manifest
from llamarec_core.verify import verify

RESULTS = Path("results/tiny")
RANKS = RESULTS / "ranks" / "toys"
TINY = Path("notebooks/profiles/tiny.yaml")
TABLES = RESULTS / "tables"
NOTEBOOKS = RESULTS / "notebooks"
POINT = RESULTS / "grid" / "records" / "toys" / "lrurec" / "decay0-dropout0.1-seed0.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_study(root)
    return root


@pytest.fixture
def study(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "study", symlinks=True)


def found(study, **options):
    with pytest.raises(InputError) as raised:
        verify(study, **options)
    return str(raised.value)


def test_a_whole_study_has_no_difference(study):
    said = "tiny: whole and from a clean tree; 8 tables follow from the ranks, by their hashes alone: table2."
    assert verify(study) == said
    (study / "results" / "mine").mkdir()
    (study / "results" / "mine" / "a.csv").touch()  # a person's own
    assert verify(study, profiles=["tiny"]) == said


# -- faults: functions that change a study, and most of them the records of what they change ---------------------------


def edit_records(study, name, folder="results", **changes):
    """Change a record wherever it stands, or in one folder alone."""
    for file in (study / folder).rglob("provenance.json"):
        records = read_json(file)
        if name in records:
            write_json(file, records | {name: records[name] | changes})


def hide(path):
    """Give a changed or deleted file the hash that its record asks for, or none."""
    file = path.with_name("provenance.json")
    if file.is_file():
        records = read_json(file)
        for record in records.values():
            if record["artefacts"].pop(path.name, None) and path.is_file():
                record["artefacts"][path.name] = sha256(path)
        write_json(file, records)


def hidden(path, edit):
    """A fault: ``edit`` changes a file, and its record with it."""

    def plant(study):
        edit(study / path)
        hide(study / path)

    return plant


def overwrite(path, content=b"x"):
    return hidden(path, lambda file: file.write_bytes(content))


def text(path, old="0.5", new="0.7"):
    def replace(file):
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return hidden(path, replace)


def ranks(edit):
    def replace(file):
        frame = edit(pd.read_parquet(file).astype("int32"))
        frame.to_parquet(file, schema=pq.read_schema(file), index=False)

    return hidden(RANKS / "llamarec-seed0.parquet", replace)


def table(edit, name="table1"):
    return hidden(TABLES / f"{name}.csv", lambda file: edit(pd.read_csv(file, dtype=str)).to_csv(file, index=False))


def removed(path, hidden=False):
    def plant(study):
        shutil.rmtree(study / path) if (study / path).is_dir() else (study / path).unlink()
        if hidden:
            hide(study / path)

    return plant


def added(path, content="x"):
    def plant(study):
        (study / path).parent.mkdir(parents=True, exist_ok=True)
        (study / path).write_text(content)

    return plant


def recorded(name="3_ranker-toys-seed0", **changes):
    return lambda study: edit_records(study, name, **changes)


def point(**changes):
    return lambda study: write_json(study / POINT, read_json(study / POINT) | changes)


def cell(frame, *, column="measured", value="0.123456"):
    frame.loc[3, column] = value
    return frame


def to_the_top(frame):
    return frame.assign(rank=frame["rank"].where(frame["rank"] != frame["rank"].max(), 1).astype("int32"))


def first_answers(file):
    pd.read_parquet(file).assign(rank=1, reranked=1).to_parquet(file, index=False)


def two_records(study):
    artefacts = read_json(study / RANKS / "provenance.json")["3_ranker-toys-seed0"]["artefacts"]
    edit_records(study, "2_retriever-toys-seed0", folder=RANKS, artefacts=artefacts)


def a_commit_aside(study):
    main = git(study, "rev-parse", "HEAD").strip()
    git(study, "commit", "--allow-empty", "-m", "aside")
    aside = git(study, "rev-parse", "HEAD").strip()
    git(study, "reset", "--soft", main)
    edit_records(study, "3_ranker-toys-seed0", git_commit=aside)


def another_source(study):
    """Change an executed notebook and its hash in all records."""
    text(RANKER, "print(0.5)", "print(0.7)")(study)
    for seed in (0, 1):
        edit_records(study, f"3_ranker-toys-seed{seed}", notebook_sha256=notebook_hash(study / RANKER))


RANKER = NOTEBOOKS / "toys" / "3_ranker.ipynb"
ADAPTER = RESULTS / "weights" / "toys-seed0" / "adapter" / "adapter_model.safetensors"
ANSWERS = RESULTS / "strategies" / "toys" / "causal_lm-seed0.parquet"
LOCKED = package_versions()

# of files that only the manifest holds: the records are of the files as they are edited
BY_THE_MANIFEST = {
    "a number in an executed notebook's output": text(RANKER, "0.5\\n", "0.7\\n"),
    "a figure": text(RESULTS / "figures" / "bars.svg"),
    "a bench": text("results/bench/times.csv"),
    "a published number": text("results/published/table1_all_users.csv", "0.", "0.9"),
    "a file beside the published ones": added("results/published/new.csv"),
    "all results of a profile": removed(RESULTS),
    "a time in all records": recorded(wall_seconds=1.0),
}

# of which the manifest was written again
BY_THE_REST = {
    "a table's cell, without its hash": (added(TABLES / "table1.csv", "a\n1\n"), "table1.csv has another hash than in"),
    "a table's cell": (table(cell), "table1.csv, line 5, measured: 0.123456 is written, "),
    "a table's columns": (table(lambda frame: frame[frame.columns[::-1]]), "or other columns"),
    "a table of another commit": (table(lambda frame: cell(frame, column="commit", value="b" * 40)), "line 5, commit"),
    "a number of a table's LaTeX": (text(TABLES / "table1.tex", "0.", "0.9"), "table1.tex has other cells than table1"),
    "a rank": (ranks(to_the_top), "comparison.csv, line "),
    "an answer of a strategy": (hidden(ANSWERS, first_answers), "strategies.csv, line "),
    "ranks that are none": (overwrite(RANKS / "llamarec-seed0.parquet"), "llamarec-seed0.parquet"),
    "a user missing": (ranks(lambda frame: frame[frame["user"] != 7]), "lacks user 7: toys has 40."),
    "a user too many": (ranks(lambda frame: pd.concat([frame, frame.tail(1).assign(user=USERS)])), "holds user 40"),
    "a rank beyond the catalogue": (ranks(lambda frame: frame.assign(rank=frame["rank"] + 60)), ", of 60 items."),
    "a provenance file gone": (removed(RANKS / "provenance.json"), "ranks/toys has no provenance.json"),
    "a file without a record": (added(RANKS / "notes.txt"), "notes.txt has no record in provenance.json"),
    "a file gone": (removed(RANKS / "lrurec-seed1.parquet"), "lrurec-seed1.parquet is missing, which the record"),
    "a method's ranks gone": (removed(RANKS / "llamarec-seed0.parquet", hidden=True), "which the profile must hold"),
    "a table's LaTeX gone": (removed(TABLES / "table3.tex", hidden=True), "which the profile must hold"),
    "a notebook gone": (removed(RANKER), "3_ranker.ipynb is missing, which the profile must hold"),
    "a notebook gone of which records speak": (removed(NOTEBOOKS / "4_comparison.ipynb"), "4_comparison.ipynb is miss"),
    "weights gone": (removed(ADAPTER, hidden=True), "which the profile must hold"),
    "a data set without results": (text(TINY, "{toys: {r", "{games: {}, toys: {r"), "games/lrurec-seed0.parquet is mi"),
    "a point of the grid without a record": (text(TINY, "[0.1]", "[0.1, 0.2]"), "dropout0.2-seed0.json is miss"),
    "results of no profile": (added("results/ghost/tables/table1.csv"), "Unknown profile 'ghost'"),
    "a cell of an executed notebook": (text(RANKER, "print(0.5)", "print(0.7)"), "has other cells than the notebook"),
    "an executed notebook, hashes and all": (another_source, "is not of notebooks/3_ranker.ipynb at the commit"),
    "injected parameters": (text(RANKER, "seed = 1", "seed = 2"), "has other parameters than its record"),
    "papermill's parameters": (text(RANKER, '"tiny"', '"other"'), "has other parameters than its record"),
    "a notebook that is none": (overwrite(RANKER), "cannot be read"),
    "a commit aside": (a_commit_aside, "which does not lead to the present one"),
    "a dirty tree": (recorded(git_dirty=True), "was not measured from a clean tree"),
    "the hash of a notebook": (recorded(notebook_sha256="0" * 64), "notebooks/3_ranker.ipynb at the commit"),
    "the hash of a profile": (recorded(profile_sha256="0" * 64), "is not of notebooks/profiles/tiny.yaml at"),
    "settings": (recorded(settings={"evaluation": {"bootstrap_samples": 51}}), "has other settings than notebooks/pro"),
    "settings in one folder": (recorded(folder=RANKS, settings={}), "says something else than the record of the same"),
    "a command to paste": (recorded(command="papermill a.ipynb b; rm -rf ~"), "3_ranker-toys-seed0.command"),
    "another notebook's command": (recorded(command="papermill notebooks/1_data.ipynb b"), "has a command that does"),
    "a version": (recorded(packages=LOCKED | {"numpy": "9.9.9"}), "was made with numpy 9.9.9, but at the commit"),
    "a seed": (recorded("2_retriever-toys-seed1", seed=0), "is of seed 1, but its record"),
    "other data": (recorded(data_sha256={"toys": "b" * 64}), "with the hash bbbbbbbbbbbb…, the other results on aaaa"),
    "a record that is a text": (added(RANKS / "provenance.json", '{"a": "b"}'), "provenance.json: a"),
    "records that nest": (added(RANKS / "provenance.json", "[" * 100_000), "provenance.json is not valid JSON"),
    "an artefact elsewhere": (recorded(folder=RANKS, artefacts={"../x": HASH}), "3_ranker-toys-seed0.artefacts"),
    "two records of one file": (two_records, "llamarec-seed0.parquet has two records"),
    "the grid's metric": (point(**{"recall@10": 0.9}), "records another best Recall@10 than its curve has"),
    "the grid's settings": (point(settings={"dim": 4}), "was trained with other settings than tiny.yaml has now"),
    "the grid's data": (point(data_sha256="b" * 64), "was measured on toys with the hash"),
    "a conclusion": (text("book/conclusions.yaml", "<= 40", "< 40"), "It is so.” does not hold"),
    "no conclusions": (removed("book/conclusions.yaml"), "No such file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BY_THE_MANIFEST)
def test_a_fault_in_what_a_reader_sees_is_found_by_the_manifest(study, fault):
    BY_THE_MANIFEST[fault](study)
    assert re.match("results/.* (results/manifest.json)", found(study))


@pytest.mark.parametrize("fault", BY_THE_REST)
def test_a_fault_is_found_also_when_the_manifest_is_forged(study, fault):
    plant, message = BY_THE_REST[fault]
    plant(study)
    write_json(study / "results" / "manifest.json", manifest(study))
    assert message in found(study)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "results/manifest.json is missing: restore it, or write it by"),
        ("[", "manifest.json is not valid JSON"),
        ("[1]", "results/manifest.json holds something that cannot be read"),
    ],
)
def test_a_broken_manifest_is_found(study, content, message):
    file = study / "results" / "manifest.json"
    file.unlink() if content is None else file.write_text(content)
    assert message in found(study)


def test_the_manifest_is_written_of_results_that_fit_and_from_a_clean_tree(study):
    (study / "results" / "manifest.json").unlink()
    edited = study / "notebooks" / "1_data.ipynb"
    before = edited.read_text()
    edited.write_text(before.replace("print(0.5)", "print(0.7)"))
    assert "has changes beside its results" in found(study, write=True)
    edited.write_text(before)
    verify(study, write=True)
    verify(study)
    (study / RANKS / "lrurec-seed1.parquet").unlink()
    assert "lrurec-seed1.parquet is missing" in found(study, write=True)


# -- what has changed since, and what could not be checked -------------------------------------------------------------


def test_what_changed_since_a_run_is_listed_and_no_fault_but_of_a_profile_made_in_minutes(study, monkeypatch):
    (study / "notebooks" / "4_comparison.ipynb").unlink()
    changed = study / "notebooks" / "4_results.ipynb"
    changed.write_text(changed.read_text().replace("print(0.5)", "print(0.7)"))
    profile = study / "notebooks" / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text() + "ranker: {training_examples: 5}\n")
    git(study, "commit", "-am", "later")
    _, *notes = verify(study).splitlines()
    commit = read_json(study / RANKS / "provenance.json")["3_ranker-toys-seed0"]["git_commit"][:7]
    assert f"tiny, 4_results: made at {commit}; the notebook has changed since" in notes
    assert f"tiny, 4_comparison: made at {commit}; the notebook has another name now" in notes
    assert any(note.endswith(f"toys/3_strategies: made at {commit}; the settings have changed since") for note in notes)
    monkeypatch.setattr("llamarec_core.verify.FRESH", ("tiny",))
    assert ": run `make study PROFILE=tiny`." in found(study)


def test_without_gits_history_verify_says_what_it_could_not_check(study, tmp_path):
    git(tmp_path, "clone", "--depth=1", f"file://{study}", "shallow")
    shutil.copytree(study / "results", tmp_path / "shallow" / "results", dirs_exist_ok=True)
    assert "This clone is shallow" in verify(tmp_path / "shallow")
    shutil.rmtree(study / ".git")
    assert "is no git repository: whether the records are of the commits" in verify(study)


def test_a_folder_that_git_does_not_trust_is_one_sentence(study, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test it
    assert "Git does not trust" in found(study)
    assert "git config --global --add safe.directory" in found(study)


def test_a_profile_without_results_is_not_whole(study):
    assert "other has no results: run `make study PROFILE=other` first" in found(study, profiles=["other"])
    assert "Unknown profile 'huge'" in found(study, profiles=["huge"])
