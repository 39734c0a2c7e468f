"""Retrieval from large catalogues: exact search is exact, the inverted file finds nearly all, histories stay out."""

import faiss
import numpy as np
import pytest
import torch

from llamarec_core.retrieval.index import ItemIndex, index_bytes, n_lists


@pytest.fixture
def catalogue():
    rng = np.random.default_rng(0)
    return rng.standard_normal((3000, 16)).astype(np.float32), rng.standard_normal(3000).astype(np.float32)


@pytest.fixture
def states():
    return torch.from_numpy(np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32))


def brute_force(catalogue, states, histories, k):
    scores = states.numpy() @ catalogue[0].T + catalogue[1]
    for row, history in zip(scores, histories, strict=True):
        row[history - 1] = -np.inf
    items = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(scores, items, axis=1), items + 1


@pytest.mark.parametrize("exact", [True, False])
def test_looking_everywhere_finds_the_best_with_their_scores_in_the_memory_that_was_predicted(catalogue, states, exact):
    histories = [np.arange(1 + 7 * user, 8 + 13 * user) for user in range(40)]
    index = ItemIndex(*catalogue, exact=exact)
    scores, items = index.search(states, histories, k=20, probes=n_lists(3000))
    expected_scores, expected_items = brute_force(catalogue, states, histories, 20)
    assert np.array_equal(items, expected_items)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4)
    assert len(faiss.serialize_index(index._index)) == pytest.approx(index_bytes(3000, 16, exact=exact), rel=0.03)


def test_more_groups_find_more_of_the_best_and_where_too_few_are_found_zeros_fill_up(catalogue, states):
    none = [np.empty(0, dtype=np.int64)] * 40
    index, best = ItemIndex(*catalogue, exact=False), brute_force(catalogue, states, none, 20)[1]
    recalls = []
    for probes in (1, 16, 128):
        items = index.search(states, none, probes=probes)[1]
        recalls.append(np.mean([np.isin(mine, true).mean() for mine, true in zip(items, best, strict=True)]))
    assert recalls[0] < recalls[1] < recalls[2]
    assert recalls[2] > 0.95
    scores, items = index.search(states[:1], none[:1], k=500, probes=1)
    found = items[0] > 0
    assert 0 < found.sum() < 500
    assert not found[found.sum() :].any()
    assert np.isneginf(scores[0][~found]).all()
    assert np.isfinite(scores[0][found]).all()
