"""The :class:`Dataset`: every user's items in time order, and the leave-one-out split of them.

All sequences lie one after another in one array (compressed form), so that the largest data set is
a few hundred kilobytes and a user's sequence is a view. With a user's sequence (i_1, …, i_n), the
split of the paper (LlamaRec, section 4.1) is::

    train: i_1 … i_{n-2}        validation target: i_{n-1}        test target: i_n

Every later stage reads a ``Dataset`` and nothing else of the raw data.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llamarec_core.files import InputError, read_json, replacing, write_json

SPLITS = ("validation", "test")
"""The two splits that are predicted, by name."""

MIN_LENGTH = 3
"""Interactions a user needs at least, one to learn from, one to validate on, one to test on."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Users' item sequences in time order, with titles.

    Items are numbered 1 … ``n_items`` (0 is padding) and users 0 … ``n_users`` - 1, both in the sorted
    order of the source's own ids, so that no number depends on a hash seed or on the order of a file.
    """

    name: str  #: such as ``ml-100k``
    items: np.ndarray  #: item numbers, one user after another; int32, shape (n_interactions,)
    offsets: np.ndarray  #: user u has ``items[offsets[u] : offsets[u + 1]]``; int64, shape (n_users + 1,)
    titles: list[str]  #: of each item number; ``titles[0]`` is empty
    user_ids: list[str]  #: the source's own
    item_ids: list[str]  #: the source's own of each item number; ``item_ids[0]`` is empty
    source: dict[str, Any] = field(default_factory=dict)
    """Where the raw files came from, with the SHA-256 of each, and what was dropped; no part of the content hash."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", np.ascontiguousarray(self.items, dtype=np.int32))
        object.__setattr__(self, "offsets", np.ascontiguousarray(self.offsets, dtype=np.int64))
        for name in ("titles", "user_ids", "item_ids"):
            object.__setattr__(self, name, list(getattr(self, name)))
        lengths = np.diff(self.offsets)
        if len(self.offsets) < 2 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError("offsets must run from 0 to the number of items")
        if lengths.min() < MIN_LENGTH or len(self.user_ids) != len(lengths):
            raise ValueError(f"every user needs an id and at least {MIN_LENGTH} interactions")
        if len(self.titles) != len(self.item_ids) or self.titles[0] or self.item_ids[0]:
            raise ValueError("titles and item_ids must be as long as each other and begin with an empty string")
        if self.items.min() < 1 or self.items.max() >= len(self.titles):
            raise ValueError("items must be numbered from 1 to the number of titles")

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        """Number of items, padding not counted."""
        return len(self.titles) - 1

    @property
    def n_interactions(self) -> int:
        """Number of interactions of all users together."""
        return len(self.items)

    def sequence(self, user: int) -> np.ndarray:
        """Return all of a user's items in time order: a view, int32, shape (length,)."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def train(self, user: int) -> np.ndarray:
        """Return the items a model may learn from, all but the last two: a view, int32."""
        return self.sequence(user)[:-2]

    def history(self, user: int, split: str) -> np.ndarray:
        """Return what a model may read when it predicts a split's target: a view, int32.

        For ``validation`` these are all items but the last two, for ``test`` all but the last.
        """
        return self.sequence(user)[: -_from_end(split)]

    def targets(self, split: str) -> np.ndarray:
        """Return the item to predict for each user, the last but one or the last: int32, shape (n_users,)."""
        return self.items[self.offsets[1:] - _from_end(split)]

    def statistics(self) -> dict[str, Any]:
        """Return the data set's row of the paper's Table 2, with interactions a user and their share of all pairs."""
        return {
            "dataset": self.name,
            "users": self.n_users,
            "items": self.n_items,
            "interactions": self.n_interactions,
            "mean_length": self.n_interactions / self.n_users,
            "density": self.n_interactions / (self.n_users * self.n_items),
        }

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over sequences, titles and ids, in hexadecimal; the same on every platform."""
        digest = hashlib.sha256()
        parts = {
            "items": self.items.astype("<i4").tobytes(),
            "offsets": self.offsets.astype("<i8").tobytes(),
            "titles": json.dumps(self.titles).encode(),
            "user_ids": json.dumps(self.user_ids).encode(),
            "item_ids": json.dumps(self.item_ids).encode(),
        }
        for name, content in parts.items():  # name and length first: no two data sets make the same stream
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``sequences.parquet``, ``items.parquet`` and, last, ``dataset.json`` into a folder.

        The tables are ``user_id, items`` (one row a user) and ``item_id, title`` (row k is item k + 1).
        A killed save is noticed by :meth:`load`, because the content hash is written last.
        """
        folder = Path(folder)
        sequences = pa.ListArray.from_arrays(pa.array(self.offsets.astype(np.int32)), pa.array(self.items))
        _write_parquet(folder / "sequences.parquet", {"user_id": self.user_ids, "items": sequences})
        _write_parquet(folder / "items.parquet", {"item_id": self.item_ids[1:], "title": self.titles[1:]})
        about = {"name": self.name, "content_hash": self.content_hash, "source": self.source}
        write_json(folder / "dataset.json", about)

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: a file is missing, or the content is not what ``dataset.json`` says it is.
        """
        folder = Path(folder)
        description = read_json(folder / "dataset.json")
        for table in (folder / "sequences.parquet", folder / "items.parquet"):
            if not table.is_file():
                raise InputError(f"{table} is missing: run the data step again.")
        try:
            sequences = pq.read_table(folder / "sequences.parquet")
            items = pq.read_table(folder / "items.parquet")
            lists = sequences["items"].combine_chunks()
            dataset = cls(
                name=description["name"],
                items=lists.values.to_numpy(),
                offsets=lists.offsets.to_numpy(),
                titles=["", *items["title"].to_pylist()],
                user_ids=sequences["user_id"].to_pylist(),
                item_ids=["", *items["item_id"].to_pylist()],
                source=description["source"],
            )
            intact = dataset.content_hash == description["content_hash"]
        except (KeyError, TypeError, ValueError, pa.ArrowException):
            intact = False
        if not intact:
            raise InputError(f"The data set in {folder} was altered or only half written: run the data step again.")
        return dataset


def _from_end(split: str) -> int:
    """Return the place of a split's target, counted from the end of a sequence."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    return 1 if split == "test" else 2


def _write_parquet(path: Path, columns: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
