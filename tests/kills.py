"""Kill `make study` at random moments, by SIGKILL, SIGTERM and SIGINT in turn: `python tests/kills.py 40`.

The study is the smoke profile, in a clone with results of its own committed. At no moment may one of them be missing or
changed before a run publishes, and in the end the ranks must be those of a run that was left alone. It takes about half
a minute a kill, so that no test suite runs it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
LONGEST = 60  # seconds until a kill, at most


def clone(folder: Path) -> Path:
    """Return a clone of the checkout that shares its environment."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    (folder / ".venv").mkdir()
    for part in (ROOT / ".venv").resolve().iterdir():
        if part.name != ".complete":
            (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv" / ".complete").write_text(f"{folder}\n")
    return folder


def start(folder: Path) -> subprocess.Popen:
    with open(folder.parent / f"{folder.name}.log", "ab") as log:
        command = ["make", "study", "PROFILE=smoke"]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in (folder / "results").rglob("*") if path.is_file() and ".partial" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def ranks(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if "smoke/ranks" in name and "parquet" in name}


def step_of(process: psutil.Process) -> str:
    """Return what runs at this moment: a notebook, the book, or what stands between them."""
    for child in process.children(recursive=True):
        for word in child.cmdline() if child.is_running() else []:
            if word.endswith(".ipynb"):
                return Path(word).stem
            if word.endswith("jupyter-book"):
                return "book"
    return "between steps"


def kill(process: subprocess.Popen, number: signal.Signals) -> str:
    """Send a signal to a run and to all that it started; return the step that it hit."""
    main = psutil.Process(process.pid)
    hit, running = step_of(main), [*main.children(recursive=True), main]
    for one in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)
    psutil.wait_procs(running, timeout=120)
    return hit


def main(kills: int) -> None:
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    alone, killed = clone(base / "alone"), clone(base / "killed")
    assert start(alone).wait() == 0, (base / "alone.log").read_text()
    shutil.copytree(alone / "results" / "smoke", killed / "results" / "smoke")
    committed, done, finished = contents(killed), Counter(), 0
    chance = np.random.default_rng(0)
    while done.total() < kills:
        number, process = SIGNALS[done.total() % 3], start(killed)
        end = time.monotonic() + chance.uniform(1, LONGEST)
        while process.poll() is None and time.monotonic() < end:
            missing = committed.keys() - contents(killed).keys()
            assert not missing, f"missing while a step ran: {sorted(missing)}"
            time.sleep(0.2)
        if process.poll() is None:
            done[f"{number.name} {kill(process, number)}"] += 1
            missing = committed.keys() - contents(killed).keys()
            assert not missing, f"missing after {number.name}: {sorted(missing)}"
        else:  # it came to its end: begin again
            assert process.returncode == 0, (base / "killed.log").read_text()[-2000:]
            finished += 1
            assert ranks(killed) == ranks(alone)
            shutil.rmtree(killed / "runs")
        print(dict(done), f"{finished} runs came to their end", flush=True)
    assert start(killed).wait() == 0, (base / "killed.log").read_text()[-2000:]
    assert ranks(killed) == ranks(alone)
    print(json.dumps({"kills": done.total(), "runs to the end": finished + 1, "by step": dict(done)}, indent=2))
    shutil.rmtree(base)


if __name__ == "__main__":
    os.environ.pop("MAKEFLAGS", None)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
