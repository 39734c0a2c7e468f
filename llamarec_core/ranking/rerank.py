"""From scores to ranks: the candidates in the ranker's order, the retriever's, both, by shared words, or at random.

Scores are ``(n, n_candidates)``, one row a user, in the retriever's order of the candidates. A target that was not
retrieved keeps the rank that the retriever gave it.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking.verbalizer import VerbalizerRanker
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.seeds import rng

ORDERS = ("descending", "reversed", "shuffled")
"""In which a prompt may list the candidates: as published, or to expose a preference for early labels."""


def candidate_probabilities(
    ranker: VerbalizerRanker,
    dataset: Dataset,
    candidates: Candidates,
    split: str,
    *,
    order: str = "descending",
    seed: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """Return P(candidate), float32 ``(n, n_candidates)``, in the retriever's order whatever ``order`` the prompt shows.

    Users whose target is not among their candidates get zeros, as the ranker cannot change that target's rank.
    ``split`` says where the histories end, ``seed`` is of the shuffled order, which is drawn per user.
    """
    items = candidates.items[:, : ranker.prompts.settings.candidates]  # (n, n_candidates)
    retrieved = np.flatnonzero(is_target(candidates, items.shape[1]).any(axis=1))
    users = candidates.users[retrieved]
    shown = shown_candidates(users, items.shape[1], order=order, seed=seed)
    listed = np.take_along_axis(items[retrieved], shown, axis=1)
    histories = [dataset.history(int(user), split) for user in users]
    probabilities = ranker.probabilities(histories, listed, progress=progress)
    scores = np.zeros(items.shape, dtype=np.float32)
    scores[retrieved[:, None], shown] = probabilities.reshape(shown.shape)
    return scores


def shown_candidates(users: np.ndarray, count: int, *, order: str, seed: int) -> np.ndarray:
    """Return which candidate, by its number in the retriever's order, stands under each label, ``(n, count)``."""
    if order == "shuffled":
        permutations = [rng(seed, int(user)).permutation(count) for user in users]
        return np.array(permutations, dtype=np.int64).reshape(len(users), count)
    labels = {"descending": np.arange(count), "reversed": np.arange(count)[::-1]}[order]
    return np.tile(labels, (len(users), 1))


def rerank_by_scores(candidates: Candidates, scores: np.ndarray) -> pd.DataFrame:
    """Return the ranks (user, target, rank) by new scores; candidates of equal score keep the retriever's order."""
    hits = is_target(candidates, scores.shape[1])  # (n, n_candidates)
    target = hits.argmax(axis=1)[:, None]
    score = np.take_along_axis(scores, target, axis=1)
    before = (scores > score) | ((scores == score) & (np.arange(scores.shape[1]) < target))
    ranks = np.where(hits.any(axis=1), before.sum(axis=1) + 1, candidates.ranks)
    columns = {"user": candidates.users, "target": candidates.targets, "rank": ranks}
    return pd.DataFrame({name: values.astype(np.int32) for name, values in columns.items()})


def with_retriever(candidates: Candidates, scores: np.ndarray, weight: float) -> np.ndarray:
    """Return ``score + weight · log P_retriever``, where P_retriever is a softmax over the user's candidates."""
    retrieved = candidates.scores[:, : scores.shape[1]].astype(np.float64)
    return scores + weight * log_softmax(retrieved, axis=1)


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return finite logarithms; the zeros of users that were not read become equal to one another."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def fit_retriever_weight(candidates: Candidates, scores: np.ndarray) -> float:
    """Return the weight ``b / a`` under which ``softmax(a · score + b · log P_retriever)`` makes the targets likeliest.

    NDCG@10 would have many maxima over the weight, the likelihood has one.
    """
    hits = is_target(candidates, scores.shape[1])
    retrieved = hits.any(axis=1)
    features = np.stack([scores, with_retriever(candidates, 0 * scores, 1.0)]).astype(np.float64)
    (a, b), _ = conditional_logit(features[:, retrieved], hits[retrieved])
    return float(b / a)


def conditional_logit(
    features: np.ndarray, chosen: np.ndarray, offsets: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Fit ``softmax(a · first + b · second + offset)`` by likelihood: return (a, b) and log p of what was chosen, (n,).

    ``features`` are ``(2, n, k)``, ``chosen`` is bool ``(n, k)`` with one in each row. ``a`` is positive and ``b`` not
    negative, because no order is worth more for being turned around.
    """

    def log_p(factors: np.ndarray) -> np.ndarray:
        return log_softmax(np.tensordot(factors, features, axes=1) + offsets, axis=1)

    def loss(factors: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_p(factors)
        return -logs[chosen].mean(), (features * (np.exp(logs) - chosen)).sum(axis=2).mean(axis=1)

    fitted = minimize(loss, [1.0, 1.0], jac=True, method="L-BFGS-B", bounds=[(0.01, 100), (0, 100)]).x
    return fitted, log_p(fitted)[chosen]


def ndcg_at_10(candidates: Candidates, scores: np.ndarray) -> float:
    """Return the mean NDCG@10 of the targets after :func:`rerank_by_scores`."""
    ranks = rerank_by_scores(candidates, scores)["rank"].to_numpy()
    return float(np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)))


def random_scores(candidates: Candidates, *, seed: int) -> np.ndarray:
    """Return scores that put each user's candidates in random order, which any ranker should beat."""
    count = candidates.items.shape[1]
    return np.array([rng(seed, int(user)).random(count) for user in candidates.users])


def retrieved_candidates(candidates: Candidates, *, size: int, users: int | None = None, seed: int = 0) -> Candidates:
    """Return the candidates of users whose target is among the first ``size``, or of ``users`` drawn from them."""
    retrieved = np.flatnonzero(is_target(candidates, size).any(axis=1))
    if not len(retrieved):
        raise InputError(
            "No user's target is among the candidates, so there is nothing to rank: train the retriever longer, or "
            "retrieve more candidates."
        )
    if users and users < len(retrieved):
        retrieved = np.sort(np.random.default_rng(seed).choice(retrieved, size=users, replace=False))
    return candidates.take(retrieved)


def is_target(candidates: Candidates, size: int) -> np.ndarray:
    """Return whether each of the first ``size`` candidates is its user's target: bool ``(n, size)``."""
    return candidates.items[:, :size] == candidates.targets[:, None]
