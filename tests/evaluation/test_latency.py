"""Latency: calls are taken in turn, ratios are against the first, memory is what a call takes at its highest."""

import time

import numpy as np
import pytest
import torch

from llamarec_core.evaluation import MATRIX_OPERATIONS, compare, matrix_product
from llamarec_core.evaluation.latency import PROCESS, peak_memory


def test_variants_are_timed_in_turn_against_the_first():
    calls = []

    def slow():
        calls.append("slow")
        time.sleep(0.02)

    def fast():
        calls.append("fast")
        time.sleep(0.005)

    table = compare("sleeping", {"slow": slow, "fast": fast}, repetitions=5, warmup=1)
    assert calls[:12] == ["slow", "fast"] * 6
    columns = ["case", "variant", "median_seconds", "iqr_seconds", "ratio_to_reference", "peak_mib"]
    assert list(table.columns) == columns
    assert table["ratio_to_reference"][0] == 1
    assert 2 < table["ratio_to_reference"][1] < 5
    assert table["median_seconds"][0] >= 0.02
    assert (table["iqr_seconds"] >= 0).all()


def test_the_peak_is_what_a_call_takes_at_its_highest():
    if not (PROCESS / "clear_refs").exists():
        assert np.isnan(peak_memory(lambda: None))
        return
    assert peak_memory(lambda: np.ones(50 * 2**17).sum()) == pytest.approx(50, abs=5)  # 50 MiB, given back at once
    assert peak_memory(lambda: None) < 5


def test_the_machines_rate_is_that_of_a_processor():
    seconds = compare("rate", {"product": matrix_product(torch.float32)}, repetitions=2)["median_seconds"].item()
    assert 1e9 < MATRIX_OPERATIONS / seconds < 1e15
