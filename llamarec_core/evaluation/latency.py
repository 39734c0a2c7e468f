"""Latency: variants of one computation, timed in turn within one run.

A time says more about the machine than about the code, and on a shared machine it moves from minute to minute. So
what is quoted is a ratio: every round calls each variant once, in turn, and what slows the machine slows them all.
"""

import ctypes
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

MATRIX = 2048
"""Rows and columns of the matrices by which a machine's rate is measured: larger than its caches."""

MATRIX_OPERATIONS = 2 * MATRIX**3
"""Floating-point operations of :func:`matrix_product`."""

PROCESS = Path("/proc/self")


def compare(
    case: str, variants: Mapping[str, Callable[[], object]], *, repetitions: int = 20, warmup: int = 3
) -> pd.DataFrame:
    """Time variants of one computation against the first.

    Args:
        case: what is computed.
        variants: name → function without arguments; the first is the reference.
        repetitions: rounds that count.
        warmup: rounds before, that do not.

    Returns:
        ``case``, ``variant``, ``median_seconds``, ``iqr_seconds`` (interquartile range), ``ratio_to_reference`` (the
        reference's median over the variant's: above 1 is faster), ``peak_mib`` (see :func:`peak_memory`).
    """
    seconds = {name: [] for name in variants}
    for round_number in range(warmup + repetitions):
        for name, call in variants.items():
            started = time.perf_counter()
            call()
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    reference = next(iter(medians.values()))
    rows = [
        {
            "case": case,
            "variant": name,
            "median_seconds": medians[name],
            "iqr_seconds": float(np.subtract(*np.percentile(values, [75, 25]))),
            "ratio_to_reference": reference / medians[name],
            "peak_mib": peak_memory(variants[name]),
        }
        for name, values in seconds.items()
    ]
    return pd.DataFrame(rows)


def peak_memory(call: Callable[[], object]) -> float:
    """Return by how many MiB a call lifts the memory in use at most; NaN where the system does not say.

    On a GPU it is that of the GPU, elsewhere the process's resident memory.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # gives back what earlier calls freed: it would hide what this one takes
        (PROCESS / "clear_refs").write_text("5")  # the peak starts from here
    except (OSError, AttributeError):
        return float("nan")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def matrix_product(dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Return a variant for :func:`compare` that shows the machine's rate: a matrix product.

    It takes :data:`MATRIX_OPERATIONS` floating-point operations.
    """
    left, right = (torch.from_numpy(np.random.default_rng(0).standard_normal((MATRIX, MATRIX))).to(dtype) for _ in "ab")
    return lambda: left @ right


def _status(field: str) -> int:
    """Return a field of the process's status, in KiB."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
