"""From a trained retriever to what the next stages read: the top-20 candidates and the ranks files.

Every item is ranked, none is sampled; items of a user's history are never recommended back. The
order is by descending score, and by ascending item id among equal scores, so that a file does not
depend on the batch size or on the sorting of the day::

    rank = 1 + #{i : s_i > s_target} + #{i < target : s_i = s_target},   i over the items outside the history.

The target itself always counts, even where the history holds it already. It is among the k
candidates exactly when its rank is at most k, and then stands at place rank − 1.

The candidates file feeds the ranker, the ranks files every table (DESIGN: the contracts between stages).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing
from llamarec_core.retrieval.recommender import SequentialRecommender

Split = Literal["validation", "test"]

CANDIDATES = pa.schema(
    {
        "user": pa.int32(),
        "split": pa.string(),
        "target": pa.int32(),
        "rank": pa.int32(),
        "items": pa.list_(pa.int32()),
        "scores": pa.list_(pa.float32()),
    }
)
"""Columns of a candidates file, one row a user and split."""

RANKS = pa.schema({"user": pa.int32(), "target": pa.int32(), "rank": pa.int32()})
"""Columns of a ranks file, one row a user."""


def retrieve(
    model: SequentialRecommender, dataset: Dataset, split: Split, *, max_length: int, k: int = 20, batch_size: int = 256
) -> pd.DataFrame:
    """Rank the whole catalogue for every user and keep the best k items.

    Args:
        model: a retriever, e.g. :class:`~llamarec_core.retrieval.lru.LRURec`.
        dataset: the users.
        split: ``validation`` or ``test``: which target is to be found, from the history before it.
        max_length: most recent interactions that the model reads; the whole history is excluded.
        k: candidates a user.
        batch_size: users scored at once; (batch_size, n_items + 1) scores are in memory.

    Returns:
        One row a user, with the columns of :data:`CANDIDATES`; ``items`` and ``scores`` hold k values, best first.

    Raises:
        InputError: some user has fewer than k items outside the history, or the scores are not numbers.
    """
    if k > dataset.n_items:
        raise InputError(f"{dataset.name} has {dataset.n_items} items, but {k} a user are to be kept: take more data.")
    frames = []
    for users, targets, scores in _scored_batches(model, dataset, split, max_length=max_length, batch_size=batch_size):
        top_scores, top_items = _top(scores, k)
        if top_scores.isneginf().any():
            user = users[int(top_scores.isneginf().any(1).nonzero()[0])]
            raise InputError(
                f"User {user} of {dataset.name} has fewer than {k} items outside the history: choose a smaller k."
            )
        frames.append(
            pd.DataFrame(
                {
                    "user": users,
                    "split": split,
                    "target": targets.numpy(force=True).astype(np.int32),
                    "rank": _ranks(scores, targets).numpy(force=True).astype(np.int32),
                    "items": list(top_items.numpy(force=True).astype(np.int32)),
                    "scores": list(top_scores.numpy(force=True)),
                }
            )
        )
    return pd.concat(frames).sort_values("user", ignore_index=True)


def scorer(model: SequentialRecommender, *, max_length: int) -> Callable[[list[np.ndarray]], np.ndarray]:
    """Return a function that scores the whole catalogue after each of some histories, whoever's they are.

    Args:
        model: a retriever.
        max_length: most recent interactions that the model reads.

    Returns:
        Histories, item ids oldest first, (length,) each, to float32 (n, n_items + 1), with −inf for the padding.
    """
    device = next(model.parameters()).device

    @torch.inference_mode()
    def score(histories: list[np.ndarray]) -> np.ndarray:
        recent = [torch.from_numpy(np.asarray(history[-max_length:], dtype=np.int64)) for history in histories]
        states = model.eval().last_states([history.to(device) for history in recent])
        return model.scores(states).numpy(force=True)

    return score


def top_candidates(model: SequentialRecommender, history: np.ndarray, *, max_length: int, k: int = 20) -> np.ndarray:
    """Retrieve candidates for one history, of any person.

    Args:
        model: a retriever.
        history: item ids, oldest first, (length,).
        max_length: most recent interactions that the model reads; the whole history is excluded.
        k: number of candidates.

    Returns:
        The k best items outside the history, best first, int32 (k,).

    Raises:
        InputError: fewer than k items are outside the history.
    """
    scores = torch.from_numpy(scorer(model, max_length=max_length)([history]))  # (1, n_items + 1)
    scores[:, np.asarray(history)] = -torch.inf
    top_scores, top_items = _top(scores, k)
    if top_scores.isneginf().any():
        raise InputError(f"Fewer than {k} items are outside the history: give a shorter history.")
    return top_items[0].numpy(force=True).astype(np.int32)


def target_ranks(
    model: SequentialRecommender,
    dataset: Dataset,
    split: Split,
    *,
    max_length: int,
    batch_size: int = 256,
    exclude_history: bool = True,
) -> np.ndarray:
    """Return the rank of every user's target, int64 (n_users,): :func:`retrieve` without the candidates.

    Without ``exclude_history`` the history's items compete too, as they do in the authors' validation.

    Raises:
        InputError: the scores are not numbers.
    """
    ranks = np.empty(dataset.n_users, dtype=np.int64)
    for users, targets, scores in _scored_batches(
        model, dataset, split, max_length=max_length, batch_size=batch_size, exclude_history=exclude_history
    ):
        ranks[users] = _ranks(scores, targets).numpy(force=True)
    return ranks


def popularity_scores(dataset: Dataset) -> np.ndarray:
    """Count each item's training interactions: int64 (n_items + 1,), 0 for the padding."""
    training = np.concatenate([dataset.train(user) for user in range(dataset.n_users)])
    return np.bincount(training, minlength=dataset.n_items + 1)


def ranks_of(candidates: pd.DataFrame) -> pd.DataFrame:
    """Take the retriever's own ranks file out of the candidates of one split."""
    return candidates[RANKS.names].reset_index(drop=True)


def write_candidates(candidates: pd.DataFrame, path: Path) -> None:
    """Write a candidates file, whole or not at all; frames of both splits may be concatenated."""
    _write(candidates, path, schema=CANDIDATES)


def read_candidates(path: Path, split: Split | None = None) -> pd.DataFrame:
    """Read a candidates file, or one split of it.

    Raises:
        InputError: the file is missing, is not a candidates file, or holds nothing of this split.
    """
    candidates = _read(path, schema=CANDIDATES)
    if split is None:
        return candidates
    chosen = candidates[candidates["split"] == split].reset_index(drop=True)
    if chosen.empty:
        raise InputError(f"{path} holds no candidates of split {split!r}: run the step that writes it again.")
    return chosen


def write_ranks(ranks: pd.DataFrame, path: Path) -> None:
    """Write a ranks file, whole or not at all; the same ranks give the same bytes.

    Raises:
        InputError: a user has two rows, or a rank is below 1.
    """
    if ranks["user"].duplicated().any():
        user = ranks.loc[ranks["user"].duplicated(), "user"].iloc[0]
        raise InputError(f"{path} would hold user {user} twice: write one file for each split, method and seed.")
    if (ranks["rank"] < 1).any():
        raise InputError(f"{path} would hold a rank below 1: ranks count from 1.")
    _write(ranks[RANKS.names], path, schema=RANKS)


def read_ranks(path: Path) -> pd.DataFrame:
    """Read a ranks file.

    Raises:
        InputError: the file is missing or is not a ranks file.
    """
    return _read(path, schema=RANKS)


@torch.inference_mode()
def _scored_batches(
    model: SequentialRecommender,
    dataset: Dataset,
    split: Split,
    *,
    max_length: int,
    batch_size: int,
    exclude_history: bool = True,
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Yield (users, targets (batch,), scores (batch, n_items + 1)), excluded items' scores being −inf."""
    device = next(model.parameters()).device
    model.eval()
    all_targets = dataset.targets(split)
    by_length = np.argsort(np.diff(dataset.offsets), kind="stable").astype(np.int32)  # little padding in a batch
    for start in range(0, dataset.n_users, batch_size):
        users = by_length[start : start + batch_size]
        histories = [torch.from_numpy(dataset.history(int(user), split).astype(np.int64)).to(device) for user in users]
        targets = torch.from_numpy(all_targets[users].astype(np.int64)).to(device)  # (batch,)
        rows = torch.arange(len(users), device=device)
        states = model.last_states([history[-max_length:] for history in histories])  # (batch, dim)
        scores = model.scores(states)  # (batch, n_items + 1)
        target_scores = scores[rows, targets]
        if not scores[:, 1:].isfinite().all():  # column 0 is padding
            raise InputError(
                f"The retriever's scores on {dataset.name} are not finite numbers: "
                "train it again with a smaller learning_rate."
            )
        if exclude_history:
            lengths = torch.tensor([len(history) for history in histories], device=device)
            scores[rows.repeat_interleave(lengths), torch.cat(histories)] = -torch.inf
            scores[rows, targets] = target_scores
        yield users, targets, scores


def _ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Rank each target, (batch,), in scores (batch, n_items + 1)."""
    target_scores = scores.gather(1, targets[:, None])  # (batch, 1)
    before = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return 1 + ((scores > target_scores) | ((scores == target_scores) & before)).sum(1)


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best scores and their items, (batch, k) each; equal scores stay in the order of their ids."""
    worst = scores.topk(k, dim=1)[0][:, -1:]
    chosen = scores >= worst
    top_items = torch.empty(len(scores), k, dtype=torch.int64, device=scores.device)
    unique = chosen.sum(1) == k
    top_items[unique] = chosen[unique].nonzero()[:, 1].view(-1, k)  # in the order of their ids
    # where several items tie for the last place, only a stable sort of the whole row tells who comes first
    top_items[~unique] = scores[~unique].sort(dim=1, descending=True, stable=True).indices[:, :k]
    top_scores, order = scores.gather(1, top_items).sort(dim=1, descending=True, stable=True)
    return top_scores, top_items.gather(1, order)


def _write(frame: pd.DataFrame, path: Path, *, schema: pa.Schema) -> None:
    # without the frame's own metadata, which names library versions
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _read(path: Path, *, schema: pa.Schema) -> pd.DataFrame:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the step that writes it first.") from None
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path} is not a parquet file ({error}): delete it and run the step that writes it."
        ) from None
    if not table.schema.equals(schema):
        expected = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise InputError(f"{path} must have the columns {expected}: delete it and run the step that writes it.")
    return table.to_pandas()
