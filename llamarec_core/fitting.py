"""Training both stages of a recommender, and what they are worth on users' last interactions.

    Dataset ──retriever──▶ candidates ──ranker, fusion weight──▶ orders ──measure──▶ NDCG@10 and what to doubt

The last interaction of a user is never learnt and chooses nothing. All orders rank the retriever's candidates of the
same users, so that they differ by the ranking alone; where the target was not retrieved, all of them miss it alike.
"""

from pathlib import Path
from typing import Any

import numpy as np

from llamarec_core.data import Dataset
from llamarec_core.evaluation.metrics import difference, estimate, per_user
from llamarec_core.files import InputError
from llamarec_core.ranking import VerbalizerRanker, fit_ranker, rerank, title_overlap
from llamarec_core.ranking.qlora import starting_adapter
from llamarec_core.retrieval import Retriever, fit_retriever, popularity_scores, retrieve, sampled_users
from llamarec_core.settings import RankerSettings, RetrieverSettings

USERS = 1_000  # at most, whom the weight is fitted on, and who are measured on: the ranker reads a prompt for each
SAMPLES = 10_000  # bootstrap samples of the users behind each interval
FOLLOWS = 0.9  # from this mean rank correlation on, a ranker only repeats the retriever


def fit_stages(
    dataset: Dataset, retriever: RetrieverSettings, ranker: RankerSettings, *, folders: tuple[Path, Path], seed: int
) -> tuple[Retriever, VerbalizerRanker, float, dict[str, Any]]:
    """Return the trained stages, the weight of the order ``fused``, and what :func:`measure` says of them.

    An :class:`InputError` says where the folders hold another training, or the data are too small for the settings.
    """
    # now, not when the retriever has trained for hours
    _refuse_few_items(dataset, ranker.candidates)
    starting_adapter(ranker)
    finder = fit_retriever(dataset, retriever, folder=folders[0], seed=seed)
    users = sampled_users(dataset.n_users, retriever.validation_users, "validation")
    validation = retrieve(finder, dataset, "validation", k=ranker.candidates, users=users)
    reader = fit_ranker(dataset, validation, ranker, folder=folders[1], seed=seed)
    fitted = rerank.retrieved_candidates(validation, size=ranker.candidates, users=USERS, seed=seed)
    read = rerank.candidate_probabilities(reader, dataset, fitted, "validation", progress=True)
    weight = rerank.fit_retriever_weight(fitted, rerank.log_probabilities(read))
    return finder, reader, weight, measure(dataset, finder, reader, weight=weight, seed=seed)


def measure(
    dataset: Dataset, retriever: Retriever, ranker: VerbalizerRanker, *, weight: float, seed: int
) -> dict[str, Any]:
    """Return what each order is worth on held-out users, as JSON values.

    These are ``users``, ``retrieved`` (those whom the ranker can help), ``ndcg@10`` (a row an order: ``order``,
    ``measured``, and its 95 % interval ``ci_low``, ``ci_high``), ``correlation`` (mean rank correlation of the ranker's
    scores with the retriever's) and ``warnings`` (sentences).
    """
    users = sampled_users(dataset.n_users, USERS, "test")
    candidates = retrieve(retriever, dataset, "test", k=ranker.prompts.settings.candidates, users=users)
    read = rerank.candidate_probabilities(ranker, dataset, candidates, "test", progress=True)
    scores = rerank.log_probabilities(read)
    orders = {
        "random": rerank.random_scores(candidates, seed=seed),
        "popularity": popularity_scores(dataset)[candidates.items],
        "title overlap": title_overlap(dataset, candidates, "test"),
        "retriever": candidates.scores,
        "ranker": scores,
        "fused": rerank.with_retriever(candidates, scores, weight),
    }
    gains = {name: per_user(rerank.rerank_by_scores(candidates, of)["rank"], "NDCG@10") for name, of in orders.items()}
    drawn = {"samples": SAMPLES, "seed": seed}
    ranks = read[read.any(axis=1)].argsort(axis=1).argsort(axis=1)  # (n retrieved, n_candidates)
    places = np.arange(ranks.shape[1])[::-1]  # the retriever's order
    correlation = float(np.mean([np.corrcoef(row, places)[0, 1] for row in ranks])) if len(ranks) else 0.0
    return {
        "users": len(users),
        "retrieved": len(ranks),
        "ndcg@10": [{"order": name} | estimate(values, **drawn)._asdict() for name, values in gains.items()],
        "correlation": correlation,
        "warnings": doubts(gains, correlation, **drawn),
    }


def doubts(gains: dict[str, np.ndarray], correlation: float, **drawn: int) -> list[str]:
    """Return what a person should doubt, given each order's values (users,) and how the bootstrap is drawn."""
    if difference(gains["ranker"], gains["random"], **drawn).ci_low <= 0:
        return ["The ranker is no better than random order: tune it longer, or use --order retriever."]
    if correlation > FOLLOWS:
        return ["The ranker only repeats the retriever's order: use --order retriever, which needs no model."]
    if difference(gains["fused"], gains["retriever"], **drawn).ci_low <= 0:
        return ["The ranker adds nothing measurable to the retriever on so many users."]
    return []


def _refuse_few_items(dataset: Dataset, size: int) -> None:
    """Refuse data in which the history of some user leaves fewer than ``size`` items to choose the candidates from."""
    long, targets = np.flatnonzero(np.diff(dataset.offsets) > dataset.n_items - size), dataset.targets("test")
    seen = [np.setdiff1d(dataset.history(user, "test"), targets[user]).size for user in long]
    left = dataset.n_items - max(seen, default=0)
    if left < size:
        wanted = f"but the ranker reads {size} candidates: set ranker.candidates to {left} or less, or give more items"
        raise InputError(
            f"One history of {dataset.name} holds all but {left} of its {dataset.n_items} items, {wanted}."
        )
