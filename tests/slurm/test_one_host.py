"""The study on a Slurm of one host: where there is none, it is skipped; it takes minutes, so that it is asked for."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import one_host


@pytest.mark.skipif(one_host.missing() != "", reason=f"{one_host.missing()} is missing: apt install slurm-wlm munge")
@pytest.mark.skipif(os.geteuid() != 0, reason="munged, slurmctld and slurmd are started by root")
@pytest.mark.skipif("LLAMAREC_SLURM" not in os.environ, reason="set LLAMAREC_SLURM=1 to run the study through Slurm")
def test_the_study_and_a_tuning_in_two_processes_run_through_slurm(tmp_path):
    one_host.run(tmp_path)
