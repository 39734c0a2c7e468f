"""The orders in which a recommender puts items: by the retriever, by the ranker, or by both.

    score(i) = log P_ranker(i) + w · log P_retriever(i)

Both probabilities are over the candidates of one history; w was fitted on validation.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from llamarec_core.files import InputError
from llamarec_core.settings import MAX_CANDIDATES

if TYPE_CHECKING:
    from llamarec_core.ranking import VerbalizerRanker
    from llamarec_core.retrieval import Retriever

Order = Literal["fused", "ranker", "retriever"]
ORDERS: tuple[Order, ...] = ("fused", "ranker", "retriever")
"""By the sum above, or by one of its two terms alone."""

BATCH_SIZE = 256
"""Histories that the retriever scores at once; (BATCH_SIZE, n_items + 1) scores are in memory."""


def checked_order(order: str) -> None:
    """Refuse what is none of :data:`ORDERS`.

    Raises:
        InputError: it is not.
    """
    if order not in ORDERS:
        raise InputError(f"Unknown order {order!r}: choose from {', '.join(ORDERS)}.")


def retrieved(
    retriever: "Retriever", histories: Sequence[np.ndarray], allowed: np.ndarray, *, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each history's best allowed items outside it, best first, and the retriever's scores of them.

    Args:
        retriever: scores the catalogue.
        histories: item ids, (length,) each.
        allowed: bool (n_items + 1,).
        count: most items.

    Raises:
        InputError: nothing is left for some history.
    """
    for start in range(0, len(histories), BATCH_SIZE):
        some = histories[start : start + BATCH_SIZE]
        for history, scores in zip(some, retriever.score(list(some)).numpy(force=True), strict=True):
            left = allowed.copy()
            left[history] = False
            items = np.flatnonzero(left).astype(np.int32)
            if not len(items):
                raise InputError("Nothing is left to recommend: exclude fewer items, or choose from more.")
            if len(items) > count:  # all that tie for the last place stay, in the order of their ids
                items = items[scores[items] >= np.partition(scores[items], -count)[-count]]
            items = items[np.argsort(-scores[items], kind="stable")][:count]
            yield items, scores[items]


def ordered(
    ranker: "VerbalizerRanker | None",
    histories: Sequence[np.ndarray],
    listed: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    weight: float,
    order: Order,
    progress: bool = False,
) -> list[tuple[np.ndarray, pd.DataFrame]]:
    """Return each history's candidates, best first, and their ``score`` with its terms, indexed by item.

    Args:
        ranker: not asked, and may be none, where ``order`` is ``retriever``.
        histories: item ids, (length,) each.
        listed: of each history the distinct candidates in the prompt's order, (n_candidates,), and the retriever's
            scores of them.
        weight: w.
        order: one of :data:`ORDERS`.
        progress: show a progress bar.
    """
    read = [] if ranker is None else _read(ranker, histories, [items for items, _ in listed], progress=progress)
    result = []
    for number, (items, scores) in enumerate(listed):
        shifted = scores.astype(np.float64) - scores.max()
        parts = {"log_p_retriever": shifted - np.log(np.exp(shifted).sum())}
        if ranker is not None:
            parts = {"log_p_ranker": read[number]} | parts
        if order == "fused":
            score = parts["log_p_ranker"] + weight * parts["log_p_retriever"]
        else:
            score = parts[f"log_p_{order}"]
        best = np.argsort(-score, kind="stable")  # equals keep the order in which they came
        result.append((items[best], pd.DataFrame({"score": score} | parts).iloc[best].set_axis(items[best])))
    return result


def slide(
    ranker: "VerbalizerRanker | None",
    history: np.ndarray,
    items: np.ndarray,
    scores: np.ndarray,
    *,
    weight: float,
    order: Order,
    window: int,
    step: int,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return candidates, best first, and their ``score`` with its terms, by a window that slides from back to front.

    Good candidates rise with it: the best ``window − step`` of a consistent ranker reach the front in one pass (Sun et
    al., 2023, arXiv 2304.09542). Candidates that fit into one window are ordered as by :func:`ordered`. A candidate's
    score and its terms are those of the last window in which it stood.

    Args:
        ranker, weight, order: as of :func:`ordered`.
        history: item ids, (length,).
        items: best first, (n_candidates,).
        scores: the retriever's of these items.
        window: candidates in a prompt.
        step: places by which the window moves.

    Raises:
        InputError: window or step are out of range.
    """
    if not (2 <= window <= MAX_CANDIDATES and 1 <= step <= window):
        raise InputError(
            f"window {window}, step {step}: choose a window of 2 to {MAX_CANDIDATES} and a step of 1 to the window."
        )
    items, score_of = items.copy(), dict(zip(items.tolist(), scores, strict=True))
    latest = {}
    for start in [*range(len(items) - window, 0, -step), 0]:
        shown = items[start : start + window]
        listed = shown.copy(), np.array([score_of[item] for item in shown.tolist()])
        ((best, parts),) = ordered(ranker, [history], [listed], weight=weight, order=order)
        items[start : start + window] = best
        latest |= parts.to_dict("index")
    return items, pd.DataFrame([latest[item] for item in items.tolist()], index=items)


def _read(
    ranker: "VerbalizerRanker", histories: Sequence[np.ndarray], listed: Sequence[np.ndarray], *, progress: bool
) -> list[np.ndarray]:
    """Return log P_ranker of each history's candidates; prompts of as many candidates are read together."""
    result: list[np.ndarray] = [np.empty(0)] * len(listed)
    for length in sorted({len(items) for items in listed}):
        rows = [row for row, items in enumerate(listed) if len(items) == length]
        some = [histories[row] for row in rows], [listed[row] for row in rows]
        probabilities = ranker.probabilities(*some, progress=progress).astype(np.float64)
        for row, log_p in zip(rows, np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)), strict=True):
            result[row] = log_p
    return result
