"""Time LRURec's training step beside one busy process, under each of OpenMP's ways to wait: `python tests/busy.py`.

It wants a machine that does nothing else. The threads of a step meet at barriers. Threads that spin there are fast
while each has a core to itself; threads that sleep lose little where one core is taken. The Snakefile lets them sleep
(`PASSIVE`) where it finds the machine busy. The notebook `bench_retriever` shows the ratios.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

POLICIES = {
    "default": {},
    "spin 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "spin 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
STEPS = 40


def step_seconds() -> list[float]:
    """Return the seconds of training steps in this process, of Beauty's size: 12,086 items, 64 users of 9."""
    import torch

    from llamarec_core.retrieval.lru import LRURec
    from llamarec_core.settings import RetrieverSettings

    torch.manual_seed(0)
    model = LRURec(12_086, RetrieverSettings())
    optimizer = torch.optim.AdamW(model.parameters())
    users = [torch.randint(1, 12_087, (9,)) for _ in range(64)]
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        optimizer.zero_grad()
        model.loss(*model.training_states(users)).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return seconds


def measured(policy: dict[str, str], *, busy: int) -> list[float]:
    """Return the same of a process with a policy, beside so many processes that keep a core busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    command = [sys.executable, __file__, "step"]
    environment = {**os.environ, **policy, "PYTHONPATH": str(Path(__file__).parents[1])}
    try:
        return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    finally:
        for other in others:
            other.kill()
            other.wait()


def compare_policies() -> pd.DataFrame:
    """Return the times as one case of a bench."""
    rows = []
    for number, machine in enumerate(("alone", "beside a busy process")):
        for name, policy in POLICIES.items():
            low, median, high = np.percentile(measured(policy, busy=number), [25, 50, 75])
            times = {"median_seconds": median, "iqr_seconds": high - low}
            rows.append({"case": "training step, way to wait", "variant": f"{name}, {machine}"} | times)
    table = pd.DataFrame(rows)
    return table.assign(ratio_to_reference=table["median_seconds"][0] / table["median_seconds"], peak_mib=np.nan)


if __name__ == "__main__":
    print(json.dumps(step_seconds()) if sys.argv[1:] == ["step"] else compare_policies().round(4).to_string())
