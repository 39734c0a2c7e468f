"""Ranks from scores: the ranker's, the retriever's, their sum, title overlap's, chance's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from llamarec_core.files import InputError
from llamarec_core.ranking import rerank
from llamarec_core.retrieval.candidates import Candidates

READ = [user for user in range(12) if user % 6 < 4]
"""Users whose target is among their four candidates."""


class Liking:
    """A ranker that prefers the highest item id, whatever the history."""

    def __init__(self, settings):
        self.prompts = SimpleNamespace(settings=settings)
        self.seen = []

    def probabilities(self, histories, candidates, *, progress=False):
        self.seen += [list(map(int, history)) for history in histories]
        return np.asarray(candidates, dtype=np.float32)


def some(users, targets, ranks, items, scores=None):
    """Candidates of hand."""
    items = np.array(items, dtype=np.int32)
    scores = np.tile(np.arange(items.shape[1], 0, -1), (len(items), 1)) if scores is None else np.array(scores)
    return Candidates(np.array(users), np.array(targets), np.array(ranks), items, scores.astype(np.float32))


@pytest.mark.parametrize("order", ["descending", "reversed", "shuffled"])
def test_labels_are_mapped_back_to_candidates(tiny, dataset, candidates, order):
    of_test = candidates["test"]
    scores = rerank.candidate_probabilities(Liking(tiny.settings), dataset, of_test, "test", order=order, seed=3)
    ranks = rerank.rerank_by_scores(of_test, scores)
    higher = (of_test.items > of_test.targets[:, None]).sum(axis=1) + 1
    assert list(ranks.columns) == ["user", "target", "rank"]
    assert set(ranks.dtypes) == {np.dtype("int32")}
    assert ranks["user"].tolist() == list(range(12))
    assert ranks["target"].tolist() == dataset.targets("test").tolist()
    assert ranks["rank"].tolist() == np.where(rerank.is_target(of_test, 4).any(axis=1), higher, of_test.ranks).tolist()


def test_only_users_whose_target_was_retrieved_are_read_with_the_history_of_the_split(tiny, dataset, candidates):
    for split, history in (("validation", dataset.train), ("test", lambda user: dataset.sequence(user)[:-1])):
        ranker = Liking(tiny.settings)
        scores = rerank.candidate_probabilities(ranker, dataset, candidates[split], split)
        assert ranker.seen == [history(user).tolist() for user in READ]
        assert np.flatnonzero(scores.any(axis=1)).tolist() == READ
    few = Liking(tiny.settings.model_copy(update={"candidates": 2}))
    assert rerank.candidate_probabilities(few, dataset, candidates["test"], "test").shape == (12, 2)
    assert len(few.seen) == 4  # targets at rank 3 are not read


def test_ranks_by_scores_break_ties_by_the_retrievers_order():
    candidates = some([0, 1, 2], [7, 8, 9], [2, 3, 40], [[5, 7, 8]] * 3)
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.5], [3.0, 2.0, 1.0]])
    assert rerank.rerank_by_scores(candidates, scores)["rank"].tolist() == [2, 1, 40]
    assert rerank.ndcg_at_10(candidates, scores) == pytest.approx((1 / np.log2(3) + 1 + 0) / 3)
    # by popularity, and by fewer scores than candidates: what is beyond them was not re-ranked
    popularity = np.array([0, 0, 0, 0, 0, 9, 0, 4, 5, 0])
    assert rerank.rerank_by_scores(candidates, popularity[candidates.items])["rank"].tolist() == [3, 2, 40]
    assert rerank.rerank_by_scores(candidates, scores[:, :2])["rank"].tolist() == [2, 3, 40]


def test_random_and_shuffled_orders_are_drawn_by_user():
    shown = rerank.shown_candidates(np.arange(4), 20, order="shuffled", seed=0)
    assert (rerank.shown_candidates(np.arange(4)[::-1], 20, order="shuffled", seed=0)[::-1] == shown).all()
    assert (np.sort(shown) == np.arange(20)).all()
    assert len(np.unique(shown, axis=0)) == 4
    n = 4000
    frame = some(range(n), [1] * n, [1] * n, [[1, 2, 3, 4]] * n)
    ranks = rerank.rerank_by_scores(frame, rerank.random_scores(frame, seed=0))
    assert ranks["rank"].value_counts(normalize=True).to_numpy() == pytest.approx([0.25] * 4, abs=0.03)
    backwards = frame.take(np.arange(n)[::-1])
    assert (rerank.random_scores(backwards, seed=0)[::-1] == rerank.random_scores(frame, seed=0)).all()
    assert (rerank.random_scores(frame, seed=1) != rerank.random_scores(frame, seed=0)).any()


def test_users_to_rank_are_those_whose_target_was_retrieved(candidates):
    assert rerank.retrieved_candidates(candidates["validation"], size=4).users.tolist() == READ
    assert rerank.retrieved_candidates(candidates["validation"], size=2).users.tolist() == [0, 1, 6, 7]
    drawn = rerank.retrieved_candidates(candidates["validation"], size=4, users=3, seed=1).users
    assert len(drawn) == 3
    assert (np.diff(drawn) > 0).all()
    assert set(drawn) <= set(READ)
    missed = candidates["validation"].take(np.arange(12) % 6 >= 4)
    with pytest.raises(InputError, match="No user's target is among the candidates"):
        rerank.retrieved_candidates(missed, size=4)


def test_a_sum_with_the_retrievers_log_probability_goes_from_the_one_order_to_the_other(candidates):
    rows = candidates["validation"]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=12).astype(np.float32)
    logarithms = rerank.log_probabilities(probabilities)
    alone = rerank.rerank_by_scores(rows, probabilities)
    assert rerank.rerank_by_scores(rows, rerank.with_retriever(rows, logarithms, 0.0)).equals(alone)
    heavy = rerank.rerank_by_scores(rows, rerank.with_retriever(rows, logarithms, 1e6))
    assert heavy["rank"].tolist() == rows.ranks.tolist()
    scores = rerank.with_retriever(rows, logarithms, 2.0)[0]
    retriever = torch.tensor([4.0, 3.0, 2.0, 1.0]).double().log_softmax(0).numpy()
    np.testing.assert_allclose(scores, np.log(probabilities[0]) + 2 * retriever, rtol=1e-5)
    # users who were not read keep the retriever's order
    unread = rerank.with_retriever(rows, rerank.log_probabilities(np.zeros((12, 4), dtype=np.float32)), 0.5)
    assert rerank.rerank_by_scores(rows, unread)["rank"].tolist() == rows.ranks.tolist()


def test_the_weight_is_that_of_the_law_that_drew_the_targets():
    chance = np.random.default_rng(0)
    scores, retriever = chance.normal(size=(2, 4000, 4))
    drawn = (0.8 * scores + 0.4 * log_softmax(retriever, axis=1) + chance.gumbel(size=scores.shape)).argmax(1)
    items = np.tile(np.arange(1, 5), (len(scores), 1))
    rows = Candidates(np.arange(4000), drawn + 1, drawn + 1, items, retriever.astype(np.float32))
    assert rerank.fit_retriever_weight(rows, scores) == pytest.approx(0.5, abs=0.1)
    assert rerank.fit_retriever_weight(rows, 10 * scores) == pytest.approx(5, abs=1)  # whatever the scores' unit
    assert rerank.fit_retriever_weight(rows, -scores) > 10  # a ranker that is wrong is left out
    hits = (rows.items == rows.targets[:, None]).astype(np.float32)
    assert rerank.fit_retriever_weight(rows, 0.05 + 0.8 * hits) < 0.05  # one that knows needs no retriever
