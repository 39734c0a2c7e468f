import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llamarec_core.files import (
    InputError,
    alone,
    cache_folder,
    clear_partial,
    read_json,
    replacing,
    sha256,
    write_json,
)


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with replacing(target) as temporary:
        temporary.write_text("a,b\n")
        assert not target.exists()
    assert target.read_text() == "a,b\n"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def write_folder(path, content):
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / content).write_text(content)


def contents(folder):
    return {path.name: [file.name for file in path.iterdir()] for path in folder.iterdir()}


def test_a_failure_to_rename_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    write_folder(tmp_path / "adapter", "first")
    renamed = Path.replace

    def fail(path, target):
        if Path(target).name == "adapter" and ".old" not in path.name:
            raise OSError(errno.EACCES, "denied")
        return renamed(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="denied"):
        write_folder(tmp_path / "adapter", "second")
    assert contents(tmp_path) == {"adapter": ["first"]}


def test_a_folder_takes_the_place_of_a_folder_but_a_block_that_writes_nothing_leaves_it(tmp_path):
    write_folder(tmp_path / "adapter", "zeroth")
    write_folder(tmp_path / "adapter", "first")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "adapter"):
        pass
    assert contents(tmp_path) == {"adapter": ["first"]}


def a_dead_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_cleared_and_what_living_ones_write_stays(tmp_path):
    dead, living = (f"{process}-0a1b2c3d" for process in (a_dead_process(), os.getpid()))
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
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "work"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=r"Another process is at work in .*work: wait until it has ended"):
        with alone(tmp_path / "work"):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with alone(tmp_path / "work"):
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
    with pytest.raises(InputError, match=r"work/\.lock cannot be written"):
        monkeypatch.setattr(Path, "mkdir", refuse)
        with alone(tmp_path / "work"):
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
