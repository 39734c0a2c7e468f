"""ItemKNN: neighbours counted by hand, and training lists that know nothing of their own user's choices."""

import numpy as np
import pytest

from llamarec_core.files import InputError
from llamarec_core.retrieval.item_knn import training_prefix_candidates


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
def random_walks(make_dataset):
    rng = np.random.default_rng(0)
    walks = [(rng.integers(1, 31, rng.integers(4, 40)) ** 2 // 31 + 1).tolist() for _ in range(25)]
    return make_dataset(*walks, [7, 8, 9, 10], n_items=60)


def test_training_lists_are_those_of_a_count_without_their_user(random_walks):
    dataset = random_walks
    users, positions, items = training_prefix_candidates(dataset, 20, batch_size=16)
    assert len(users) == sum(len(dataset.train(user)) - 1 for user in range(dataset.n_users))
    assert items.shape == (len(users), 20)
    assert items.dtype == users.dtype == positions.dtype == np.int32
    for user, position, listed in zip(users, positions, items, strict=True):
        history = dataset.train(user)[:position]
        scores, counts = scores_by_hand(dataset, history.tolist(), without=user)
        order = np.lexsort((np.arange(len(scores)), -counts, -scores.astype(np.float32)))
        expected = [item for item in order if item > 0 and item not in history]
        assert listed.tolist() == expected[:20]


def test_lists_longer_than_the_catalogue_are_refused(random_walks):
    with pytest.raises(InputError, match="too few items for lists of 60"):
        training_prefix_candidates(random_walks, 60)
