"""Training both stages of a recommender, and what they are worth on users' last interactions.

    Dataset ──retriever──▶ candidates ──ranker, fusion weight──▶ orders ──measure──▶ NDCG@10 and what to doubt

The last interaction of a user is never learnt and chooses nothing. All orders rank the retriever's candidates of the
same users, so that they differ by the ranking alone; where the target was not retrieved, all of them miss it alike.
"""

from pathlib import Path
from typing import Any

import numpy as np

from llamarec_core.data import Dataset
from llamarec_core.evaluation.estimates import difference, estimate
from llamarec_core.evaluation.metrics import per_user
from llamarec_core.ranking import (
    VerbalizerRanker,
    candidate_probabilities,
    fit_ranker,
    fit_retriever_weight,
    log_probabilities,
    random_scores,
    rerank_by_scores,
    retrieved_candidates,
    title_overlap,
    with_retriever,
)
from llamarec_core.retrieval import Retriever, fit_retriever, popularity_scores, retrieve, sampled_users
from llamarec_core.settings import RankerSettings, RetrieverSettings

USERS = 1_000
"""Most users who are measured on; the ranker reads a prompt for each whose target was retrieved."""

SAMPLES = 10_000
"""Bootstrap samples of the users behind each interval."""

FOLLOWS = 0.9
"""A ranker whose scores have this mean rank correlation with the retriever's repeats the retriever."""


def fit_stages(
    dataset: Dataset,
    retriever: RetrieverSettings,
    ranker: RankerSettings,
    *,
    folders: tuple[Path, Path],
    seed: int,
    progress: bool,
) -> tuple[tuple[Retriever, VerbalizerRanker], float, dict[str, Any]]:
    """Return the trained stages, the weight of the order ``fused``, and what :func:`measure` says of them.

    Args:
        dataset: all but each user's last two interactions are learnt.
        retriever, ranker: settings of the stages.
        folders: of the stages' training, each of which goes on where it was killed.
        seed: of every random draw.
        progress: show progress bars.

    Raises:
        InputError: a folder holds another training, or the data are too small for the settings.
    """
    options = {"seed": seed, "progress": progress}
    finder = fit_retriever(dataset, retriever, folder=folders[0], **options)
    users = sampled_users(dataset.n_users, retriever.validation_users, "validation")
    validation = retrieve(finder, dataset, "validation", k=ranker.candidates, users=users)
    reader = fit_ranker(dataset, validation, ranker, folder=folders[1], **options)
    chosen = {"size": ranker.candidates, "users": ranker.validation_users, "seed": seed}
    fitted = retrieved_candidates(validation, **chosen)
    read = candidate_probabilities(reader, dataset, fitted, "validation", progress=progress)
    weight = fit_retriever_weight(fitted, log_probabilities(read))
    return (finder, reader), weight, measure(dataset, finder, reader, weight=weight, **options)


def measure(
    dataset: Dataset,
    retriever: Retriever,
    ranker: VerbalizerRanker,
    *,
    weight: float,
    seed: int,
    progress: bool = False,
) -> dict[str, Any]:
    """Return NDCG@10 of each order with its 95 % interval, and warnings, as JSON values.

    Args:
        dataset: its test targets are looked for.
        retriever: finds the candidates.
        ranker: orders them.
        weight: of the retriever's log-probability in the order ``fused``.
        seed: of the random order, the intervals and the tests.
        progress: show a progress bar.

    Returns:
        ``users``, ``retrieved`` (how many of them the ranker can help), ``ndcg@10`` (a row an order: ``order``,
        ``measured``, ``ci_low``, ``ci_high``), ``correlation`` (mean rank correlation of the ranker's scores with the
        retriever's) and ``warnings`` (sentences).
    """
    size = ranker.prompts.settings.candidates
    users = sampled_users(dataset.n_users, USERS, "test")
    candidates = retrieve(retriever, dataset, "test", k=size, users=users)
    read = candidate_probabilities(ranker, dataset, candidates, "test", progress=progress)
    scores = log_probabilities(read)
    orders = {
        "random": random_scores(candidates, seed=seed),
        "popularity": popularity_scores(dataset)[candidates.items],
        "title overlap": title_overlap(dataset, candidates, "test"),
        "retriever": candidates.scores,
        "ranker": scores,
        "fused": with_retriever(candidates, scores, weight),
    }
    gains = {name: per_user(rerank_by_scores(candidates, of)["rank"], "NDCG@10") for name, of in orders.items()}
    drawn = {"samples": SAMPLES, "seed": seed}
    retrieved = read.any(axis=1)
    return {
        "users": len(users),
        "retrieved": int(retrieved.sum()),
        "ndcg@10": [{"order": name} | estimate(values, **drawn)._asdict() for name, values in gains.items()],
        "correlation": (correlation := _correlation(read[retrieved])),
        "warnings": _warnings(gains, correlation, **drawn),
    }


def told(measured: dict[str, Any]) -> str:
    """Return what :func:`measure` found as lines for a person."""
    lines = [f"NDCG@10 on {measured['users']} held-out users; the next item of {measured['retrieved']} is a candidate:"]
    for found in measured["ndcg@10"]:
        lines.append(f"  {found['order']:14s} {found['measured']:.4f}  [{found['ci_low']:.4f}, {found['ci_high']:.4f}]")
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in measured["warnings"])])


def _warnings(gains: dict[str, np.ndarray], correlation: float, **drawn: int) -> list[str]:
    """Return what a person should doubt, given values (users,) by order."""
    found = []
    if difference(gains["ranker"], gains["random"], **drawn).ci_low <= 0:
        found.append("The ranker is no better than random order: tune it longer, or use --order retriever.")
    elif correlation > FOLLOWS:
        found.append("The ranker only repeats the retriever's order: use --order retriever, which needs no model.")
    elif difference(gains["fused"], gains["retriever"], **drawn).ci_low <= 0:
        found.append("The ranker adds nothing measurable to the retriever on so many users.")
    return found


def _correlation(read: np.ndarray) -> float:
    """Return the mean rank correlation of probabilities (n, n_candidates) with the order in which they stand."""
    if not len(read):
        return 0.0
    ranks = read.argsort(axis=1).argsort(axis=1).astype(np.float64)
    places = -np.arange(read.shape[1], dtype=np.float64)
    ranks -= ranks.mean(axis=1, keepdims=True)
    places -= places.mean()
    return float((ranks @ places / (places @ places)).mean())
