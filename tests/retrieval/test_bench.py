"""What the retriever's bench times does what it says; how long it takes is the bench's business."""

import copy

import numpy as np
import pandas as pd
import torch
from reference_lru import PublishedLRURec

from llamarec_core.retrieval import LRURec, bench
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
    embeddings, bias = rng.standard_normal((500, 8), dtype=np.float32), np.zeros(500, dtype=np.float32)
    states = torch.from_numpy(rng.standard_normal((5, 8), dtype=np.float32))
    real = bench.SearchBench("real", embeddings, bias, states, [np.array([1, 2])] * 5)
    made_up = bench.SearchBench.made_up(800, real, seed=0)
    for catalogue in (real, made_up):
        catalogue.add_inverted_file()
    table = pd.DataFrame(real.rows + made_up.rows)
    assert table["items"].tolist() == [500] * 3 + [800] * 3
    exact, few, all_groups = table["recall@20"].to_numpy().reshape(2, 3).T
    assert (exact == 1).all()
    assert (all_groups == 1).all()
    assert (few < 1).all()
