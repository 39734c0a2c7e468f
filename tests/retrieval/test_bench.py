"""What the retriever's bench times does what it says; how long it takes is the bench's business."""

import copy

import numpy as np
import pandas as pd
import torch
from reference_lru import PublishedLRURec

from llamarec_core.retrieval import bench
from llamarec_core.retrieval.lru import LRURec
from llamarec_core.settings import RetrieverSettings

SETTINGS = RetrieverSettings(dim=8, max_length=8, batch_size=16)


def test_both_forms_take_training_steps(cycle):
    made = []

    def published(model):
        made.extend([model, PublishedLRURec(copy.deepcopy(model))])
        return made[1]

    steps = bench.training_steps(cycle, SETTINGS, published, seed=0)
    for model, step in zip(made, [steps["ours"], steps["published form"]], strict=True):
        before = [parameter.clone() for parameter in model.parameters()]
        step()
        assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_step_serves_what_reading_again_serves():
    steps = bench.serving_steps(LRURec(30, SETTINGS).eval(), 6)
    torch.testing.assert_close(steps["one step"](), steps["read the history again"](), atol=1e-5, rtol=1e-4)


def test_a_search_is_measured_by_what_exact_search_finds(monkeypatch):
    monkeypatch.setattr(bench, "PROBES", (1, 10_000))
    rng = np.random.default_rng(0)
    items, bias = rng.standard_normal((500, 8), dtype=np.float32), np.zeros(500, dtype=np.float32)
    states = torch.from_numpy(rng.standard_normal((5, 8), dtype=np.float32))
    larger = bench.made_up_catalogue(items, bias, 800, seed=0)
    for catalogue in ((items, bias), larger):
        rows, best = bench.search_times("a", *catalogue, states, [np.array([1, 2])] * 5)
        table = pd.DataFrame(rows)
        assert table["items"].tolist() == [len(catalogue[0])] * 3
        assert table["recall@20"][[0, 2]].tolist() == [1, 1]
        assert table["recall@20"][1] < 1
        assert not np.isin(best, [1, 2]).any()
