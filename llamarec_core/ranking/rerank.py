"""From probabilities to ranks: the candidates in the ranker's order, in the retriever's, in both, at random.

Only the target's rank among its candidates can change; a target that was not retrieved keeps the rank that the
retriever gave it. The ranks frames made here are the input of the evaluation.
"""

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking.verbalizer import VerbalizerRanker

ORDERS = ("descending", "reversed", "shuffled")
"""The orders in which a prompt may list the candidates."""

WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Weights of the retriever's log-probability that are tried on validation."""


def rerank(
    ranker: VerbalizerRanker,
    dataset: Dataset,
    candidates: pd.DataFrame,
    split: str,
    *,
    order: str = "descending",
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Re-rank each user's candidates with the language model and return the targets' ranks.

    Args:
        ranker: the language model with its prompts.
        dataset: the users' histories.
        candidates: the retriever's candidates (user, split, target, rank, items, scores).
        split: ``validation`` or ``test``.
        order: as for :func:`candidate_probabilities`.
        seed: as for :func:`candidate_probabilities`.
        progress: show a progress bar.

    Returns:
        A ranks frame (user, target, rank), in the order of ``candidates``.

    Raises:
        InputError: the order or the split is unknown, or there are more candidates than labels.
    """
    rows = split_rows(candidates, split)
    return rerank_by_scores(
        rows, candidate_probabilities(ranker, dataset, rows, split, order=order, seed=seed, progress=progress)
    )


def candidate_probabilities(
    ranker: VerbalizerRanker,
    dataset: Dataset,
    rows: pd.DataFrame,
    split: str,
    *,
    order: str = "descending",
    seed: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """Return P(candidate) of every user's candidates, in the retriever's order whatever order the prompt shows.

    A prompt is read only for users whose target is among their candidates: nothing that the ranker
    does can change the rank of another user's target.

    Args:
        ranker: the language model with its prompts.
        dataset: the users' histories.
        rows: candidates of one split, from :func:`split_rows`.
        split: ``validation`` or ``test``: where the histories end.
        order: the order in which a prompt lists the candidates: ``descending`` in the retriever's score, as published;
            ``reversed`` or ``shuffled``, which expose a preference for early labels.
        seed: of the shuffled order, which is drawn per user.
        progress: show a progress bar.

    Returns:
        float32 ``(n, n_candidates)``; zeros for users whose target is not among the candidates.

    Raises:
        InputError: the order is unknown, or there are more candidates than labels.
    """
    items = candidate_items(rows)[:, : ranker.prompts.settings.candidates]  # (n, n_candidates)
    retrieved = np.flatnonzero(is_retrieved(rows, items.shape[1]))
    users = rows["user"].to_numpy()[retrieved]
    shown = shown_candidates(users, items.shape[1], order=order, seed=seed)
    listed = np.take_along_axis(items[retrieved], shown, axis=1)
    histories = [dataset.history(int(user), split) for user in users]
    probabilities = ranker.probabilities(histories, listed, progress=progress)
    scores = np.zeros(items.shape, dtype=np.float32)
    scores[retrieved[:, None], shown] = probabilities.reshape(shown.shape)
    return scores


def shown_candidates(users: np.ndarray, count: int, *, order: str, seed: int) -> np.ndarray:
    """Return which candidate, by its place in the retriever's order, stands under each label, ``(n, count)``.

    Args:
        users: their numbers, ``(n,)``; a shuffled order is drawn for each.
        count: candidates in a prompt.
        order: one of :data:`ORDERS`.
        seed: of the shuffled order.

    Raises:
        InputError: the order is unknown.
    """
    if order not in ORDERS:
        raise InputError(f"Unknown order {order!r}: choose from {', '.join(ORDERS)}.")
    if order == "shuffled":
        permutations = [_generator(seed, user).permutation(count) for user in users]
        return np.array(permutations, dtype=np.int64).reshape(len(users), count)
    labels = np.arange(count) if order == "descending" else np.arange(count)[::-1]
    return np.tile(labels, (len(users), 1))


def rerank_by_scores(rows: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """Return the targets' ranks after each user's candidates were put in the order of new scores.

    A target outside the candidates keeps the rank that the retriever gave it; candidates of equal
    score keep the retriever's order.

    Args:
        rows: candidates of one split.
        scores: a score for each of the first ``n_candidates`` candidates, ``(n, n_candidates)``.

    Returns:
        A ranks frame (user, target, rank), in the order of ``rows``.

    Raises:
        InputError: a score is not a number.
    """
    if np.isnan(scores).any():
        raise InputError("A candidate's score is not a number: train with a smaller learning_rate.")
    targets = rows["target"].to_numpy()
    hits = _is_target(rows, scores.shape[1])  # (n, n_candidates)
    place = hits.argmax(axis=1)[:, None]
    score = np.take_along_axis(scores, place, axis=1)
    before = (scores > score) | ((scores == score) & (np.arange(scores.shape[1]) < place))
    ranks = np.where(hits.any(axis=1), before.sum(axis=1) + 1, rows["rank"].to_numpy())
    columns = {"user": rows["user"].to_numpy(), "target": targets, "rank": ranks}
    return pd.DataFrame({name: values.astype(np.int32) for name, values in columns.items()})


def with_retriever(rows: pd.DataFrame, scores: np.ndarray, weight: float) -> np.ndarray:
    """Add the retriever's log-probability of each candidate to a ranker's scores.

    Args:
        rows: candidates of one split; their ``scores`` are the retriever's.
        scores: a score for each of the first ``n_candidates`` candidates, ``(n, n_candidates)``; of the language model
            the logarithm of :func:`candidate_probabilities`.
        weight: w in ``score + w · log P_retriever``, where P_retriever is a softmax over the candidates.

    Returns:
        Scores for :func:`rerank_by_scores`, ``(n, n_candidates)``.
    """
    retrieved = np.stack([np.asarray(of_user) for of_user in rows["scores"]])[:, : scores.shape[1]]
    return scores + weight * log_softmax(retrieved.astype(np.float64), axis=1)


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return finite logarithms; the zeros of users that were not read become equal to one another."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def fit_retriever_weight(rows: pd.DataFrame, scores: np.ndarray) -> float:
    """Return the weight of :data:`WEIGHTS` whose sums give the best NDCG@10; to be fitted on validation.

    Args:
        rows: candidates of the validation users.
        scores: as for :func:`with_retriever`, for the same rows.
    """

    def ndcg(weight: float) -> float:
        return ndcg_at_10(rerank_by_scores(rows, with_retriever(rows, scores, weight))["rank"].to_numpy())

    return max(WEIGHTS, key=ndcg)


def ndcg_at_10(ranks: np.ndarray) -> float:
    """Return the mean NDCG@10 of targets' ranks: what is chosen by on validation."""
    return float(np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)))


def rerank_at_random(candidates: pd.DataFrame, split: str, *, seed: int) -> pd.DataFrame:
    """Return the targets' ranks after each user's candidates were put in random order: the floor of any ranker."""
    rows = split_rows(candidates, split)
    n_candidates = candidate_items(rows).shape[1]
    return rerank_by_scores(rows, np.array([_generator(seed, user).random(n_candidates) for user in rows["user"]]))


def rerank_by_item_scores(candidates: pd.DataFrame, split: str, item_scores: np.ndarray) -> pd.DataFrame:
    """Return the targets' ranks when an item scores the same for all users: its popularity, ``(n_items + 1,)``."""
    rows = split_rows(candidates, split)
    return rerank_by_scores(rows, np.asarray(item_scores)[candidate_items(rows)])


def split_rows(candidates: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the candidates of one split.

    Raises:
        InputError: there are none.
    """
    rows = candidates[candidates["split"] == split]
    if rows.empty:
        known = ", ".join(sorted(set(candidates["split"]))) or "none"
        raise InputError(f"The candidates hold no split {split!r} (they hold {known}): run the retriever for it first.")
    return rows


def retrieved_rows(
    candidates: pd.DataFrame, split: str, *, size: int, users: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Return the candidates of users whose target is among them: the users whom a ranker can help.

    Args:
        candidates: the retriever's candidates.
        split: ``validation`` or ``test``.
        size: candidates that are shown to the ranker.
        users: so many of them are drawn, in their own order; ``None`` takes all.
        seed: of the draw.

    Raises:
        InputError: no user's target is among the candidates.
    """
    rows = split_rows(candidates, split)
    rows = rows[is_retrieved(rows, size)]
    if rows.empty:
        raise InputError(
            f"No user's {split} target is among the candidates, so there is nothing to rank: train the retriever "
            "longer, or retrieve more candidates."
        )
    if users and users < len(rows):
        chosen = np.random.default_rng(seed).choice(len(rows), size=users, replace=False)
        rows = rows.iloc[np.sort(chosen)]
    return rows


def is_retrieved(rows: pd.DataFrame, size: int) -> np.ndarray:
    """Return of each user whether the target is among the first ``size`` candidates, ``(n,)``."""
    return _is_target(rows, size).any(axis=1)


def candidate_items(rows: pd.DataFrame) -> np.ndarray:
    """Return the candidates' item ids, best first, ``(n, n_candidates)``."""
    return np.stack([np.asarray(items) for items in rows["items"]])


def _is_target(rows: pd.DataFrame, size: int) -> np.ndarray:
    return candidate_items(rows)[:, :size] == rows["target"].to_numpy()[:, None]  # (n, size)


def _generator(seed: int, user: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(user)])
