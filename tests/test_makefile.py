"""`make` sets up the environment that it needs, and again when that is not whole, with a Python that only pretends."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PYTHON = f"""#!/bin/sh
# Pretends to make environments and to install; it notes what it was asked for.
case "$*" in
    --version) echo Python 3.11 ;;
    "-m venv "*) echo "venv" >> "$NOTES"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip --version") test ! -e "$(dirname "$0")/broken" ;;
    "-m pip "*) echo "pip $5 $PIP_USER" >> "$NOTES" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
SET_UP = ["venv", "pip --no-deps 0", "pip --requirement 0", "pip --no-deps 0"]


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    for file in (ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("requirements*.lock")):
        shutil.copy(file, folder)
    write_program(tmp_path / "bin" / "python3.11", PYTHON)
    return folder


def write_program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run_make(checkout, *arguments, **environment):
    notes = checkout.parent / "notes"
    notes.write_text("")
    path = f"{checkout.parent / 'bin'}:/usr/bin:/bin"
    environment = {"PATH": path, "NOTES": str(notes), "HOME": str(checkout.parent)} | environment
    command = ["make", *arguments, ".venv/.complete"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def make(checkout, **environment):
    """Set up, and return what was asked of Python."""
    answer = run_make(checkout, **environment)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return (checkout.parent / "notes").read_text().splitlines()


def test_it_sets_up_once_and_installs_a_changed_lock_into_the_same_environment(checkout):
    assert make(checkout, PIP_USER="1") == SET_UP  # a person's own settings of pip do not count
    assert make(checkout) == []
    later = (checkout / ".venv" / ".complete").stat().st_mtime + 10
    os.utime(checkout / "requirements.lock", (later, later))
    assert make(checkout) == SET_UP[1:]


def test_an_interrupted_environment_is_made_again(checkout):
    (checkout / ".venv").mkdir()
    write_program(checkout / ".venv" / "bin" / "python", "#!/bin/sh\nexit 1\n")  # killed before pip was there
    assert make(checkout) == SET_UP
    (checkout / ".venv" / ".complete").unlink()  # killed while it installed
    assert make(checkout) == SET_UP
    (checkout / ".venv" / "bin" / "broken").touch()  # complete, but its Python is gone
    assert make(checkout) == SET_UP


def test_a_moved_checkout_is_set_up_again_and_a_name_of_python_that_leads_nowhere_is_passed_over(checkout):
    make(checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    python = checkout.parent / "bin" / "python3.11"
    python.rename(python.with_name("python3.12"))
    write_program(python, "#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n")
    assert make(moved) == SET_UP


def test_without_python_one_sentence_says_what_to_install(checkout):
    answer = run_make(checkout, "PYTHON=")
    assert answer.returncode == 2
    assert answer.stdout.startswith("No Python 3.11, 3.12 or 3.13 that can make a virtual environment was found:")
    assert len(answer.stdout.splitlines()) == 1


def test_what_a_killed_build_of_the_book_left_does_not_fail_the_next_one(checkout):
    make(checkout)
    half = "test ! -e _build/half || exit 1\nif [ $KILLED ]; then touch _build/half; exit 1; fi"
    write_program(checkout / ".venv" / "bin" / "jupyter-book", f"#!/bin/sh\n{half}\n")
    for killed, status in (("yes", 2), ("", 0), ("", 0)):
        environment = {"PATH": f"{checkout.parent / 'bin'}:/usr/bin:/bin", "KILLED": killed, "NOTES": "/dev/null"}
        command = ["make", "book"]
        assert (
            subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False).returncode
            == status
        )
