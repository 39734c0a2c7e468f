import os
import shutil
from threading import Lock, Semaphore
from types import SimpleNamespace

import pytest
from snakemake.scheduling.job_scheduler import JobScheduler

from llamarec_core.files import InputError, read_json, sha256, write_json
from llamarec_core.working_copy import WorkingCopy


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "")  # which a run sets
    results = [f"results/{name}" for name in ("published/p.csv", "quick/ranks/a.parquet", "quick/b.csv")]
    for name in ("notebooks/a.ipynb", *results):
        write(tmp_path / name, "committed")
        os.utime(tmp_path / name, (1, 1))
    return tmp_path


def write(path, text="whole"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(root):
    copy = WorkingCopy(root)
    copy.open()
    return copy


def end(copy):
    """End a run as its process does, whether it finished or was killed."""
    copy._held.close()


def results(root):
    files = [path for path in (root / "results").rglob("*") if path.is_file()]
    return {str(path.relative_to(root / "results")): path.read_text() for path in files}


def test_a_run_works_in_a_copy_and_publishes_what_it_changed(root):
    before, copy = results(root), run(root)
    quick = copy.folder / "results" / "quick"
    assert (copy.folder / "notebooks" / "a.ipynb").read_text() == "committed"
    assert (copy.folder / "results" / "published" / "p.csv").read_text() == "committed"
    (quick / "ranks" / "a.parquet").unlink()  # as Snakemake does before a step starts
    write(quick / "b.csv", "half")
    assert results(root) == before
    end(copy)  # killed
    assert results(root) == before
    copy = run(root)
    assert not (quick / "ranks" / "a.parquet").exists()  # its step has to run again
    assert (quick / "b.csv").read_text() == "half"  # it goes on where it was
    write(quick / "b.csv")
    write(quick / "c.csv", "new")
    write(root / "results" / "quick" / "ranks" / "a.parquet", "edited")
    copy.publish()
    assert results(root) == before | {"quick/ranks/a.parquet": "edited", "quick/b.csv": "whole", "quick/c.csv": "new"}


def test_what_changes_between_two_runs_goes_into_the_copy(root):
    copy = run(root)
    copy.publish()
    end(copy)
    for name in ("b.csv", "d.csv"):
        write(root / "results" / "quick" / name, "pulled")
    (root / "results" / "quick" / "ranks" / "a.parquet").unlink()
    shutil.rmtree(root / "notebooks")
    copy = run(root)
    assert not (copy.folder / "notebooks").is_symlink()
    assert results(copy.folder) | {"published/p.csv": "committed"} == results(root)


def test_publishing_is_all_or_nothing(root):
    before, copy = results(root), run(root)
    for name in ("b.csv", "e/f.csv"):
        write(copy.folder / "results" / "quick" / name)
    write(root / "results" / "quick" / "e", "in the way")
    with pytest.raises(InputError, match=r"results/quick/e/f\.csv cannot be written"):
        copy.publish()
    (root / "results" / "quick" / "e").unlink()
    assert results(root) == before
    copy.publish()
    assert results(root) == before | {"quick/b.csv": "whole", "quick/e/f.csv": "whole"}


def test_publishing_keeps_the_manifest_of_the_studys_own_profiles(root):
    copy = run(root)
    manifest = root / "results" / "manifest.json"
    write_json(manifest, {"quick/b.csv": "old", "quick/ranks/a.parquet": "old"})
    for name in ("quick/b.csv", "quick/c.csv", "mine/c.csv"):
        write(copy.folder / "results" / name)
    copy.publish()
    whole = sha256(root / "results" / "quick" / "b.csv")
    assert read_json(manifest) == {"quick/b.csv": whole, "quick/c.csv": whole, "quick/ranks/a.parquet": "old"}


def test_a_moved_study_finds_its_copy_and_a_second_run_in_it_is_refused(root, tmp_path_factory):
    end(run(root))
    moved = tmp_path_factory.mktemp("elsewhere") / "study"
    root.rename(moved)
    first = run(moved)
    assert (first.folder / "notebooks" / "a.ipynb").read_text() == "committed"
    with pytest.raises(InputError, match="Another process is at work in .*: wait until it has ended, or stop it"):
        run(moved)
    end(first)
    run(moved)


PAPERMILL = 'Traceback (most recent call last):\n  File "x.py"\npapermill.exceptions.PapermillExecutionError: \n'


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        (f"1/9\n{PAPERMILL}InputError: No item is called 'x'.\n\n", "No item is called 'x'."),
        ("llamarec: Give --dropout too.\n", "Give --dropout too."),
        (f"{PAPERMILL}RuntimeError: shapes differ\n\n", "A step failed: RuntimeError: shapes differ"),
        ("nbclient.exceptions.DeadKernelError: Kernel died\n", "A notebook's kernel died, as it does where memory"),
        ("[IPKernelApp] WARNING | Kernel is running over TCP without encryption\n", "A step failed: it was killed."),
    ],
)
def test_the_last_words_say_why_and_where_the_log_is(root, log, sentence):
    copy = run(root)
    copy.log.write_text(log)
    assert copy.last_words().startswith(sentence)
    assert copy.last_words().endswith(" (Log: runs/.study/log.txt)")


def test_sigterm_ends_a_run_also_while_snakemake_holds_its_lock(monkeypatch):
    scheduler = SimpleNamespace(_lock=Lock(), _open_jobs=Semaphore(0), _user_kill=None)
    monkeypatch.setattr(JobScheduler, "exit_gracefully", JobScheduler.exit_gracefully)  # put back after the test
    WorkingCopy.heed_sigterm()
    with scheduler._lock:  # the handler runs where this is held
        JobScheduler.exit_gracefully(scheduler)
    assert scheduler._open_jobs.acquire(timeout=10)
    assert scheduler._user_kill == "graceful"
