import errno
import hashlib
from pathlib import Path

import pytest

from llamarec_core.files import InputError, read_json, replacing, sha256, write_json


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with replacing(target) as temporary:
        temporary.write_text("a,b\n")
        assert not target.exists()
    assert target.read_text() == "a,b\n"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.EACCES, "denied")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    target = tmp_path / "adapter"
    for content in ("first", "second"):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [file.name for file in target.iterdir()] == ["second"]


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


def test_a_block_that_writes_nothing_leaves_the_old_folder(tmp_path):
    write_folder(tmp_path / "adapter", "first")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "adapter"):
        pass
    assert contents(tmp_path) == {"adapter": ["first"]}


def test_after_a_kill_between_two_renames_the_old_folder_is_put_back(tmp_path):
    (tmp_path / ".adapter.old.partial").mkdir()
    (tmp_path / ".adapter.old.partial" / "first").touch()
    with pytest.raises(RuntimeError), replacing(tmp_path / "adapter"):
        raise RuntimeError
    assert contents(tmp_path) == {"adapter": ["first"]}
    (tmp_path / ".adapter.old.partial").mkdir()  # as a kill just before the end leaves it
    write_folder(tmp_path / "adapter", "second")
    assert contents(tmp_path) == {"adapter": ["second"]}


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    # /dev/full answers every write with "No space left on device"
    with pytest.raises(InputError, match=r"disk is full while writing .*table\.csv.*run the same command again"):
        with replacing(tmp_path / "table.csv") as temporary:
            temporary.write_text("half")
            with open("/dev/full", "w") as full:
                full.write("x")
    assert list(tmp_path.iterdir()) == []


def test_json_survives_the_way_to_disk_and_back(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "é"})
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": [1, 2.5, None]}


def test_missing_and_broken_json_are_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.json is missing: run the step"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"llama")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"llama").hexdigest()
