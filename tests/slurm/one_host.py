"""Run the study on a Slurm of one host: `python tests/slurm/one_host.py`, as root, with Debian's slurm-wlm and munge.

It starts munged, slurmctld and slurmd on folders of their own, beside any other Slurm. Then Snakemake's Slurm executor
runs the smoke profile, a job tunes a ranker under torchrun in two processes, and the daemons are ended again. The
executor plugin is installed into a temporary folder. It took eleven minutes on two busy cores.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
EXECUTOR = "snakemake-executor-plugin-slurm"
PLUGINS = (f"{EXECUTOR}==2.8.0", f"{EXECUTOR}-jobstep==0.6.1", "throttler==1.2.3")

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MinJobAge=600
NodeName={host} CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return listening.getsockname()[1]


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which `sbatch` and Snakemake find a Slurm of this host alone."""
    folder.chmod(0o755)  # munge wants its socket open to all users
    for part in ("munge", "state", "spool"):
        (folder / part).mkdir(mode=0o755)
    key, configuration = folder / "munge" / "key", folder / "slurm.conf"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    filled = {
        "folder": folder, "host": socket.gethostname().split(".")[0], "controller": free_port(), "node": free_port(),
        "cores": os.cpu_count(), "memory": psutil.virtual_memory().total // 2**20,
    }  # fmt: skip
    configuration.write_text(CONFIGURATION.format_map(filled))
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    munge = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
    munged = ["munged", "--foreground", f"--socket={folder}/munge/socket", *munge]
    started: list[subprocess.Popen] = []
    try:
        for command in (munged, ["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
            started.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
            time.sleep(1)
        deadline = time.monotonic() + 60
        asked = {"env": environment, "stdout": subprocess.PIPE, "text": True}
        while "idle" not in subprocess.run(["sinfo", "--noheader", "--format=%t"], **asked).stdout:
            logs = "".join(path.read_text()[-2000:] for path in folder.rglob("*.log"))
            assert time.monotonic() < deadline, f"Slurm did not start: {logs}"
            time.sleep(1)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)


def run(folder: Path) -> None:
    """Run the smoke profile, and the test that tunes a ranker in two processes of torchrun, through Slurm."""
    pip = [BIN / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "plugins", *PLUGINS]
    subprocess.run(pip, check=True)
    study = folder / "study"
    subprocess.run(["git", "clone", "--quiet", ROOT, study], check=True)
    srun = folder / "srun"  # the plugin calls it without SLURM_CONF: a cluster has its configuration in /etc
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    with slurm(folder) as environment:
        environment |= {
            "PATH": f"{folder}:{BIN}:{environment['PATH']}",
            "PYTHONPATH": f"{study}:{folder / 'plugins'}",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        options = ["--jobs=2", "--cores=2", "--nolock", "--slurm-no-account", "--latency-wait=30"]
        options += ["--slurm-status-command=squeue", "--slurm-init-seconds-before-status-checks=5"]  # no accounting
        needs = ["--default-resources", "runtime=60", "mem_mb=5000"]
        command = ["snakemake", "--executor=slurm", *options, *needs, "--config", "profile=smoke"]
        subprocess.run(command, cwd=study, env=environment, check=True)
        assert (study / "results" / "smoke" / "notebooks" / "4_results.ipynb").is_file()
        tuning = "python -m pytest -q -p no:cacheprovider tests/ranking/test_qlora.py -k two_processes"
        job = ["sbatch", "--wait", "--cpus-per-task=2", f"--output={folder}/tuning.log", f"--wrap={tuning}"]
        tuned = subprocess.run(job, cwd=study, env=environment)
        print((folder / "tuning.log").read_text())
        assert tuned.returncode == 0


def missing() -> str:
    """Return the first program of Slurm that is not there."""
    return next((name for name in NEEDED if shutil.which(name) is None), "")


if __name__ == "__main__":
    if missing():
        raise SystemExit(f"{missing()} is missing: apt install slurm-wlm munge")
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    print(f"All of it lies in {place}, and stays there if it fails.", flush=True)
    run(place)
    shutil.rmtree(place)
