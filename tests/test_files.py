import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llamarec_core.files import InputError, alone, cache_folder, clear_partial, read_json, replacing, sha256, write_json


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_file_appears_only_when_it_is_whole_and_a_failure_leaves_the_old_one(tmp_path, error):
    target = tmp_path / "new" / "table.csv"
    with replacing(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    with pytest.raises(type(error)), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def write_folder(path, content):
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / content).touch()


def test_a_folder_takes_the_place_of_a_folder_unless_writing_or_renaming_fails(tmp_path, monkeypatch):
    folder, renamed = tmp_path / "adapter", Path.replace

    def fail(path, target):
        if Path(target) == folder and ".old" not in path.name:
            raise OSError(errno.EIO, "broken")
        return renamed(path, target)

    for content in ("zeroth", "first"):
        write_folder(folder, content)
    with pytest.raises(FileNotFoundError), replacing(folder):
        pass
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="broken"):
        write_folder(folder, "second")
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "first"]


def test_what_killed_processes_left_is_cleared_and_what_living_ones_write_stays(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        pass
    dead, living = (f"{process}-0a1b2c3d" for process in (ended.pid, os.getpid()))
    aside = tmp_path / f".adapter.{dead}.old.partial"  # killed between two renames
    aside.mkdir()
    (aside / "first").touch()
    (tmp_path / f".adapter.{dead}.partial").mkdir()
    (tmp_path / f".other.{dead}.partial").touch()
    (tmp_path / f".adapter.{living}.partial").touch()
    with pytest.raises(RuntimeError), replacing(tmp_path / "adapter"):
        raise RuntimeError
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"adapter", f".other.{dead}.partial", f".adapter.{living}.partial"}
    assert [file.name for file in (tmp_path / "adapter").iterdir()] == ["first"]
    clear_partial(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", f".adapter.{living}.partial"}


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # what ends last
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_folder_is_held_by_one_process_and_a_kill_sets_it_free(tmp_path):
    code = "import sys, time; from pathlib import Path; from llamarec_core.files import alone\n"
    code += "with alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="Another process is at work in .*: wait until it has ended"):
            with alone(tmp_path):
                pass
        holder.send_signal(signal.SIGKILL)
    with alone(tmp_path):
        pass


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/a\.csv cannot be written \(Not a directory|File exists\)"):
        with replacing(tmp_path / "file" / "a.csv"):
            pass

    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(InputError, match=r"a\.json cannot be written \(Permission denied\): check the folder's place"):
        write_json(tmp_path / "a.json", {})
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"work/\.lock cannot be written"), alone(tmp_path / "work"):
        pass


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    # /dev/full answers every write with "No space left on device"
    with pytest.raises(InputError, match=r"disk is full while writing .*table\.csv.*run the same command again"):
        with replacing(tmp_path / "table.csv") as temporary:
            temporary.write_text("half")
            with open("/dev/full", "w") as full:
                full.write("x")
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_folder_the_cache_asks_for_one(monkeypatch):
    monkeypatch.delenv("LLAMAREC_CACHE", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: Path("~/.cache") / name)  # as where no user is known
    with pytest.raises(InputError, match="no home folder for the cache: set LLAMAREC_CACHE"):
        cache_folder("data")


def test_json_survives_the_way_to_disk_and_back_and_a_missing_or_broken_file_is_named(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"a\.json is missing: run the step"):
        read_json(path)
    write_json(path, {"b": [1, 2.5, None], "a": "é"})
    assert read_json(path) == {"a": "é", "b": [1, 2.5, None]}
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(path)
