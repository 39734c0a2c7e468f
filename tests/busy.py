"""Time LRURec's training step beside one busy process, under each of OpenMP's ways to wait: `python tests/busy.py`.

It wants a machine that does nothing else. The threads of a step meet at barriers. Threads that spin there are fast
while each has a core to itself; threads that sleep lose little where one core is taken. The Snakefile lets them sleep
(`PASSIVE`) where it finds the machine busy. The ratios are to the default on the quiet machine.
"""

import os
import subprocess
import sys
import time

import pandas as pd

POLICIES = {
    "default": {},
    "spin 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "spin 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
STEPS = 40


def median_step() -> float:
    """Return the median seconds of a training step in this process, of Beauty's size: 12,086 items, 64 users of 9."""
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
    return sorted(seconds)[STEPS // 2]


def measured(policy: dict[str, str], *, busy: int) -> float:
    """Return the same of a process with a policy, beside so many processes that keep a core busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        command = [sys.executable, __file__, "step"]
        return float(
            subprocess.run(command, env=os.environ | policy, capture_output=True, text=True, check=True).stdout
        )
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["step"]:
        print(median_step())
    else:
        quiet, busy = ({name: measured(of, busy=n) for name, of in POLICIES.items()} for n in (0, 1))
        table = pd.DataFrame({"quiet, seconds": quiet, "busy, seconds": busy})
        for name in ("quiet", "busy"):
            table[f"{name}, ratio"] = table[f"{name}, seconds"] / quiet["default"]
        print(table.round(4).to_string())
