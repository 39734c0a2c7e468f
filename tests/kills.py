"""Kill `make study` at random moments, by SIGKILL, SIGTERM and SIGINT in turn: `python tests/kills.py 40`.

The study is the smoke profile, in a clone that has its results already, from a run that was left alone. At no moment
may one of them be missing. Ranks, weights and tables must be those of that run, byte for byte, after every kill and in
the end, but for what a table says of time and memory. No test suite runs it, because it takes about a minute a kill.
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
import pandas as pd
import psutil

ROOT = Path(__file__).parents[1]
MEASURED = ["seconds", "tokens_per_second", "peak_memory_mib"]  # columns that no two runs share
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


def clone(folder: Path) -> Path:
    """Return a clone of the checkout that shares its environment."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != ".complete":
            (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv" / ".complete").write_text(f"{folder}\n")
    return folder


def start(folder: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(folder)}  # the clone's own library
    with open(folder.parent / f"{folder.name}.log", "ab") as log:
        options = {"cwd": folder, "env": environment, "stdout": log, "stderr": log, "start_new_session": True}
        return subprocess.Popen(["make", "study", "PROFILE=smoke"], **options)


def results(folder: Path) -> set[str]:
    files = (folder / "results").rglob("*")
    return {str(path.relative_to(folder)) for path in files if path.is_file() and ".partial" not in path.name}


def outcome(folder: Path) -> dict[str, bytes]:
    """Return what must be the same bytes in the end: ranks, weights and tables."""
    results = folder / "results" / "smoke"
    files = [path for kind in ("ranks/*/*.parquet", "weights/*/**/*.safetensors") for path in results.glob(kind)]
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    for table in results.glob("tables/*.csv"):
        contents[table.stem] = pd.read_csv(table).drop(columns=MEASURED, errors="ignore").to_csv().encode()
    return contents


def step_of(process: psutil.Process) -> str:
    """Return what runs at this moment: a notebook, the book, or what stands between them."""
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            for word in child.cmdline():
                if word.endswith(".ipynb"):
                    return Path(word).stem
                if word.endswith("jupyter-book"):
                    return "book"
    return "between steps"


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # which its parent has yet to ask for
    except psutil.NoSuchProcess:
        return False


def kill(process: subprocess.Popen, number: signal.Signals) -> str:
    """Send a signal to a run and to all that it started; return the step that it hit."""
    main = psutil.Process(process.pid)
    hit, running = step_of(main), [*main.children(recursive=True), main]
    for one in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)
    end = time.monotonic() + 120
    while alive := [one for one in running if is_alive(one)]:
        assert time.monotonic() < end, f"alive after {number.name}: {alive}"
        time.sleep(0.1)
    process.wait()
    return hit


def main(kills: int) -> None:
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    alone, killed = clone(base / "alone"), clone(base / "killed")

    def check(moment: str) -> None:
        missing = committed - results(killed)
        assert not missing, f"missing {moment}: {sorted(missing)}"

    def finish(process: subprocess.Popen) -> None:
        assert process.wait() == 0, (base / "killed.log").read_text()[-2000:]
        assert outcome(killed) == outcome(alone)

    def begin_again() -> None:
        shutil.rmtree(killed / "runs", ignore_errors=True)
        for notebook in (killed / "notebooks").glob("*.ipynb"):
            notebook.touch()  # newer than the results, which stay

    begun = time.monotonic()
    assert start(alone).wait() == 0, (base / "alone.log").read_text()
    seconds = time.monotonic() - begun
    print(f"a run that is left alone: {seconds:.0f} s", flush=True)
    shutil.copytree(alone / "results" / "smoke", killed / "results" / "smoke")
    begin_again()
    committed, done, finished = results(killed), Counter(), 0
    chance, begun = np.random.default_rng(0), time.monotonic()
    while done.total() < kills:
        number, process, hit = SIGNALS[done.total() % 3], start(killed), "the end"
        end = time.monotonic() + chance.uniform(1, seconds / 4)  # soon enough to hit every step
        while process.poll() is None and time.monotonic() < end:
            check("while a step ran")
            time.sleep(0.2)
        if process.poll() is None:
            hit = kill(process, number)
            done[f"{number.name} {hit}"] += 1
            check(f"after {number.name} in {hit}")
            assert outcome(killed) == outcome(alone)
        else:
            finish(process)
            finished += 1
        if hit in ("the end", "book"):  # all steps are done: begin again
            begin_again()
        print(f"{time.monotonic() - begun:.0f} s: {done.total()} kills, the last in {hit}", flush=True)
    finish(start(killed))
    print(json.dumps({"kills": done.total(), "runs to the end": finished + 1, "by step": dict(done)}, indent=2))
    shutil.rmtree(base)


if __name__ == "__main__":
    os.environ.pop("MAKEFLAGS", None)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to it
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
