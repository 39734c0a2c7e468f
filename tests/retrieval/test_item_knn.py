"""ItemKNN: neighbours counted by hand, and training lists that know nothing of their own user's choices."""

import numpy as np
import pandas as pd
import pytest

from llamarec_core.files import InputError
from llamarec_core.retrieval import fit_retriever, item_knn, load_retriever, retrieve, sampled_users, target_ranks
from llamarec_core.retrieval.item_knn import TRIED, ItemKNN, training_prefix_candidates, training_prefixes
from llamarec_core.settings import RetrieverSettings
from tests.conftest import dataset_of


def scores_by_hand(dataset, history, *, without=None):
    """Return the scores after a history, term by term; the training sequence of one user may be left out."""
    sequences = [set(dataset.train(user).tolist()) for user in range(dataset.n_users) if user != without]
    counts = [sum(item in sequence for sequence in sequences) for item in range(dataset.n_items + 1)]
    scores = np.zeros(dataset.n_items + 1)
    for item in range(1, dataset.n_items + 1):
        for age, old in enumerate(reversed(history[-20:])):
            together = sum({item, old} <= sequence for sequence in sequences) if old != item else 0
            scores[item] += 0.9**age * together / (counts[old] + 5) ** 0.5 / (counts[item] + 5) ** 0.3
    return scores, np.array(counts)


@pytest.fixture
def random_walks():
    rng = np.random.default_rng(0)
    walks = [(rng.integers(1, 31, rng.integers(4, 30)) ** 2 // 31 + 1).tolist() for _ in range(12)]
    return dataset_of(*walks, [7, 8, 9, 10], n_items=60)


def test_training_lists_are_those_of_a_count_without_their_user(random_walks, monkeypatch):
    dataset = random_walks
    monkeypatch.setattr(item_knn, "BATCH_SIZE", 16)
    (users, positions), items = training_prefixes(dataset), training_prefix_candidates(dataset, 20)
    assert len(users) == sum(len(dataset.train(user)) - 1 for user in range(dataset.n_users))
    assert items.shape == (len(users), 20)
    assert items.dtype == users.dtype == positions.dtype == np.int32
    for user, position, listed in zip(users, positions, items, strict=True):
        history = dataset.train(user)[:position]
        scores, counts = scores_by_hand(dataset, history.tolist(), without=user)
        order = np.lexsort((np.arange(len(scores)), -counts, -scores.astype(np.float32)))
        expected = [item for item in order if item > 0 and item not in history]
        assert listed.tolist() == expected[:20]
    with pytest.raises(InputError, match="too few items for lists of 60"):
        training_prefix_candidates(dataset, 60)


def test_scores_are_those_by_hand_and_popularity_decides_without_neighbours(random_walks):
    dataset = random_walks
    model = ItemKNN(dataset)
    histories = [dataset.history(user, "test") for user in range(dataset.n_users)]
    found = model.score(histories).numpy()
    assert np.isneginf(found[:, 0]).all()
    for scores, history in zip(found, histories, strict=True):
        expected, counts = scores_by_hand(dataset, history.tolist())
        known = expected > 0
        np.testing.assert_allclose(scores[known], expected[known], rtol=1e-6)
        strangers = ~known[1:]
        assert (np.diff(scores[1:][strangers][np.argsort(counts[1:][strangers])]) >= 0).all()
        assert scores[1:][strangers].max(initial=0) < scores[known].min(initial=1)


def test_it_is_tuned_on_validation_and_comes_back_from_its_file(cycle, tmp_path):
    settings = RetrieverSettings(method="item_knn", validation_users=20)
    model = fit_retriever(cycle, settings, seed=0, folder=tmp_path)
    curve = pd.read_csv(tmp_path / "training.csv")
    assert len(curve) == 32
    best = curve.loc[curve["recall@10"].idxmax()]
    assert {name: value.item() for name, value in model.named_parameters()} == best[list(TRIED)].to_dict()
    ranks = target_ranks(model, cycle, "validation", users=sampled_users(48, 20, "validation"))
    assert best["recall@10"] == pytest.approx(np.mean(ranks <= 10))
    loaded = load_retriever(cycle, settings, tmp_path)
    assert target_ranks(loaded, cycle, "test").tolist() == target_ranks(model, cycle, "test").tolist()
    assert retrieve(loaded, cycle, "test", k=5).items.shape == (48, 5)
