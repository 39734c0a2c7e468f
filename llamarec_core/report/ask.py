"""What the book's page *Ask it* shows: some test users, their candidates, and P(candidate) by every order."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamarec_core.data import Dataset
from llamarec_core.files import write_text
from llamarec_core.retrieval.candidates import Candidates

DECIMALS = 4


def write_users(
    path: Path,
    dataset: Dataset,
    candidates: Candidates,
    probabilities: Mapping[str, np.ndarray],
    *,
    shown: np.ndarray,
    shuffled: Mapping[str, np.ndarray],
    history_length: int,
) -> None:
    """Write users with their histories, candidates and probabilities as JSON that a page can hold in a script element.

    Args:
        path: the JSON file.
        dataset: histories and titles.
        candidates: of test users whose target was retrieved.
        probabilities: name of an order → P(candidate), ``(n, n_candidates)``, in the retriever's order.
        shown: which candidate stands under each label after a shuffle, ``(n, n_candidates)``, as
            :func:`~llamarec_core.ranking.rerank.shown_candidates` returns it.
        shuffled: P(candidate) of those orders that read the labels, after that shuffle, in the retriever's order.
        history_length: titles of the history that the ranker reads.
    """
    users: list[dict[str, Any]] = []
    for row, (user, items) in enumerate(zip(candidates.users, candidates.items, strict=True)):
        users.append(
            {
                "history": [dataset.titles[item] for item in dataset.history(int(user), "test")[-history_length:]],
                "candidates": [dataset.titles[item] for item in items],
                "target": int(np.flatnonzero(items == candidates.targets[row])[0]),
                "orders": _rounded(probabilities, row),
                "shown": shown[row].tolist(),
                "shuffled": _rounded(shuffled, row),
            }
        )
    told = json.dumps({"dataset": dataset.name, "users": users}, ensure_ascii=False, separators=(",", ":"))
    write_text(path, told.replace("<", "\\u003c"))  # a title must not be able to end the script element


def _rounded(probabilities: Mapping[str, np.ndarray], row: int) -> dict[str, list[float]]:
    return {name: [round(float(value), DECIMALS) for value in values[row]] for name, values in probabilities.items()}
