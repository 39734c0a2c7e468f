"""From a trained retriever to what the next stages read: the top-20 candidates and the ranks files.

Every item is ranked, none is sampled; items of a user's history are never recommended back. Equal scores stand in the
order of item ids, so that a file does not depend on the batch size or on the sorting of the day::

    rank = 1 + #{i : s_i > s_target} + #{i < target : s_i = s_target},   i over the items outside the history.

The target itself always counts, even where the history holds it already.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from llamarec_core.retrieval.recommender import Retriever
from llamarec_core.seeds import rng

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

BATCH_SIZE = 256
"""Users scored at once."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The best k items of some users for one split, best first, and the rank of each target among all items."""

    users: np.ndarray  # int32 (n,)
    targets: np.ndarray  # int32 (n,)
    ranks: np.ndarray  # int32 (n,), from 1
    items: np.ndarray  # int32 (n, k)
    scores: np.ndarray  # float32 (n, k), the retriever's

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> "Candidates":
        """Return some rows, given their numbers or a mask."""
        return Candidates(*(column[rows] for column in vars(self).values()))

    def ranks_frame(self) -> pd.DataFrame:
        """Return the retriever's own ranks, as :func:`write_ranks` takes them."""
        return pd.DataFrame({"user": self.users, "target": self.targets, "rank": self.ranks})


def retrieve(
    model: Retriever, dataset: Dataset, split: Split, *, k: int = 20, users: np.ndarray | None = None
) -> Candidates:
    """Rank the whole catalogue for every user, or for some, and keep the best k items."""
    if k > dataset.n_items:
        raise InputError(f"{dataset.name} has {dataset.n_items} items, but {k} a user are to be kept: take more data.")
    parts = []
    for some, targets, ranks, scores in _scored_batches(model, dataset, split, users):
        top_scores, top_items = top(scores, k)
        if top_scores.isneginf().any():
            user = some[int(top_scores.isneginf().any(1).nonzero()[0])]
            raise InputError(
                f"User {user} of {dataset.name} has fewer than {k} items outside the history: choose a smaller k."
            )
        integers = (column.astype(np.int32) for column in (some, targets, ranks, top_items.numpy(force=True)))
        parts.append([*integers, top_scores.numpy(force=True)])
    together = Candidates(*map(np.concatenate, zip(*parts, strict=True)))
    return together.take(np.argsort(together.users))


def target_ranks(model: Retriever, dataset: Dataset, split: Split, *, users: np.ndarray | None = None) -> np.ndarray:
    """Return the rank of every user's target, int64 (n,): :func:`retrieve` without the candidates."""
    found = [(some, ranks) for some, _, ranks, _ in _scored_batches(model, dataset, split, users)]
    of_users, ranks = map(np.concatenate, zip(*found, strict=True))
    return ranks[np.argsort(of_users)]


def sampled_users(n_users: int, count: int | None, split: Split) -> np.ndarray:
    """Draw the users of a split on whom all retrievers, settings and seeds are measured: int32, ascending."""
    if count is None or count >= n_users:
        return np.arange(n_users, dtype=np.int32)
    return np.sort(rng(0, "sampled users", split).choice(n_users, count, replace=False)).astype(np.int32)


def popularity_scores(dataset: Dataset) -> np.ndarray:
    """Count each item's training interactions: int64 (n_items + 1,), 0 for the padding."""
    training = np.concatenate([dataset.train(user) for user in range(dataset.n_users)])
    return np.bincount(training, minlength=dataset.n_items + 1)


def write_candidates(candidates: Mapping[Split, Candidates], path: Path) -> None:
    """Write the candidates of some splits to one file, whole or not at all."""
    parts = [
        found.ranks_frame().assign(split=split, items=list(found.items), scores=list(found.scores))
        for split, found in candidates.items()
    ]
    _write(pd.concat(parts), CANDIDATES, path)


def load_candidates(path: Path, split: Split) -> Candidates:
    """Read the candidates of one split."""
    frame = _read(path, CANDIDATES)
    frame = frame[frame["split"] == split]
    if frame.empty:
        raise InputError(f"{path} holds no candidates of split {split!r}: run the step that writes it again.")
    columns = [frame[name].to_numpy() for name in ("user", "target", "rank")]
    try:
        found = Candidates(*columns, np.stack(frame["items"]), np.stack(frame["scores"]))
    except ValueError:  # lists of several lengths
        raise _faulty(path) from None
    at_rank = np.arange(1, found.items.shape[1] + 1) == found.ranks[:, None]
    if not np.isfinite(found.scores).all() or ((found.items == found.targets[:, None]) != at_rank).any():
        raise _faulty(path)
    return found


def write_ranks(ranks: pd.DataFrame, path: Path) -> None:
    """Write a ranks file, whole or not at all; the same ranks give the same bytes."""
    _write(ranks, RANKS, path)


def read_ranks(path: Path) -> pd.DataFrame:
    """Read a ranks file."""
    return _read(path, RANKS)


@torch.inference_mode()
def _scored_batches(
    model: Retriever, dataset: Dataset, split: Split, users: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]]:
    """Yield users, targets and ranks (batch,), and scores (batch, n_items + 1), −inf for what the history holds."""
    all_targets = dataset.targets(split)
    users = np.arange(dataset.n_users, dtype=np.int32) if users is None else users
    users = users[np.argsort(np.diff(dataset.offsets)[users], kind="stable")]  # little padding in a batch
    for start in range(0, len(users), BATCH_SIZE):
        some = users[start : start + BATCH_SIZE]
        histories = [dataset.history(int(user), split).astype(np.int64) for user in some]
        scores = model.score(histories)  # (batch, n_items + 1)
        if not scores[:, 1:].isfinite().all():  # column 0 is padding
            raise InputError(
                f"The retriever's scores on {dataset.name} are not finite numbers: "
                "train it again with a smaller learning_rate."
            )
        targets = torch.from_numpy(all_targets[some].astype(np.int64)).to(scores.device)[:, None]  # (batch, 1)
        target_scores = scores.gather(1, targets)
        for row, history in zip(scores, histories, strict=True):
            row[history] = -torch.inf
        scores.scatter_(1, targets, target_scores)
        before = torch.arange(scores.shape[1], device=scores.device) < targets
        ranks = 1 + ((scores > target_scores) | ((scores == target_scores) & before)).sum(1)
        yield some, all_targets[some], ranks.numpy(force=True), scores


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
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


def _write(frame: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    with replacing(path) as temporary:  # without the frame's own metadata, which names library versions
        pq.write_table(table.replace_schema_metadata(None), temporary, compression="zstd")


def _read(path: Path, schema: pa.Schema) -> pd.DataFrame:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the step that writes it first.") from None
    except (pa.ArrowInvalid, OSError):  # the latter of a page that is damaged
        raise _faulty(path) from None
    columns = [column.combine_chunks() for column in table.columns]
    cells = [*columns, *(column.flatten() for column in columns if column.type.num_fields)]
    if not table.schema.equals(schema) or any(column.null_count for column in cells):
        raise _faulty(path)
    frame = table.to_pandas()
    if frame.duplicated([name for name in ("user", "split") if name in frame]).any() or (frame["rank"] < 1).any():
        raise _faulty(path)
    return frame


def _faulty(path: Path) -> InputError:
    return InputError(f"{path} is damaged, or no step wrote it so: delete it and run the step that writes it.")
