"""The :class:`Dataset`: every user's items in time order, their leave-one-out split, and the items' titles.

With a user's sequence (i_1, …, i_n), the split of the paper (LlamaRec, section 4.1) is::

    train: i_1 … i_{n-2}        validation target: i_{n-1}        test target: i_n

Every later stage reads a ``Dataset`` and nothing else of the raw data.
"""

import hashlib
import html
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rapidfuzz import fuzz, process, utils

from llamarec_core.files import InputError, read_json, replacing, write_json

_FROM_END = {"validation": 2, "test": 1}


@dataclass(eq=False)
class Dataset:
    """Users' item sequences in time order, one after another in one array, with titles.

    Items are numbered 1 … ``n_items`` (0 is padding) and users from 0, both in the sorted order of the source's ids.
    """

    name: str  #: such as ``ml-100k``
    items: np.ndarray  #: item numbers, one user after another; int32, shape (n_interactions,)
    offsets: np.ndarray  #: user u has ``items[offsets[u] : offsets[u + 1]]``; int64, shape (n_users + 1,)
    titles: list[str]  #: of each item number; ``titles[0]`` is empty
    user_ids: list[str]  #: the source's own
    item_ids: list[str]  #: the source's own of each item number; ``item_ids[0]`` is empty
    source: dict[str, Any] = field(default_factory=dict)  #: origin, SHA-256 of each raw file, and what was dropped

    n_users: int = field(init=False)
    n_items: int = field(init=False)  #: padding not counted
    n_interactions: int = field(init=False)

    def __post_init__(self) -> None:
        self.items = np.ascontiguousarray(self.items, dtype=np.int32)
        self.offsets = np.ascontiguousarray(self.offsets, dtype=np.int64)
        self.n_users, self.n_items, self.n_interactions = len(self.offsets) - 1, len(self.titles) - 1, len(self.items)

    @cached_property
    def user_numbers(self) -> dict[str, int]:
        """The number of each user by the source's own id."""
        return {name: user for user, name in enumerate(self.user_ids)}

    @cached_property
    def item_numbers(self) -> dict[str, int]:
        """The number of each item by the source's own id."""
        return {name: item for item, name in enumerate(self.item_ids) if item}

    def sequence(self, user: int) -> np.ndarray:
        """Return all of a user's items in time order: a view, shape (length,)."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def train(self, user: int) -> np.ndarray:
        """Return the items a model may learn from: all but the last two."""
        return self.sequence(user)[:-2]

    def history(self, user: int, split: str) -> np.ndarray:
        """Return what a model may read when it predicts the target of ``validation`` or ``test``: all items before."""
        return self.sequence(user)[: -_FROM_END[split]]

    def targets(self, split: str) -> np.ndarray:
        """Return the item to predict for each user, the last but one or the last: shape (n_users,)."""
        return self.items[self.offsets[1:] - _FROM_END[split]]

    def statistics(self) -> dict[str, Any]:
        """Return the data set's row of the paper's Table 2."""
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
        parts = {"items": self.items.astype("<i4").tobytes(), "offsets": self.offsets.astype("<i8").tobytes()}
        parts |= {name: json.dumps(getattr(self, name)).encode() for name in ("titles", "user_ids", "item_ids")}
        for name, content in parts.items():  # name and length first: no two data sets make the same stream
            digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``sequences.parquet``, ``items.parquet`` (row k is item k + 1) and, last, ``dataset.json``."""
        sequences = pa.ListArray.from_arrays(pa.array(self.offsets.astype(np.int32)), pa.array(self.items))
        tables = {
            "sequences.parquet": {"user_id": self.user_ids, "items": sequences},
            "items.parquet": {"item_id": self.item_ids[1:], "title": self.titles[1:]},
        }
        for file, columns in tables.items():
            with replacing(Path(folder) / file) as temporary:
                pq.write_table(pa.table(columns), temporary)
        about = {"name": self.name, "content_hash": self.content_hash, "source": self.source}
        write_json(Path(folder) / "dataset.json", about)

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Read what :meth:`save` wrote; an ``InputError`` where a file is missing or the content hash differs."""
        about = read_json(Path(folder) / "dataset.json")
        try:
            sequences = pq.read_table(Path(folder) / "sequences.parquet")
            items = pq.read_table(Path(folder) / "items.parquet")
            lists = sequences["items"].combine_chunks()
            dataset = cls(
                name=about["name"],
                items=lists.values.to_numpy(),
                offsets=lists.offsets.to_numpy(),
                titles=["", *items["title"].to_pylist()],
                user_ids=sequences["user_id"].to_pylist(),
                item_ids=["", *items["item_id"].to_pylist()],
                source=about["source"],
            )
            intact = dataset.content_hash == about["content_hash"]
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
            intact = False
        if not intact:
            raise InputError(f"The data set in {folder} was altered or only half written: run the data step again.")
        return dataset


def find_item(dataset: Dataset, name: str) -> int:
    """Return the number of an item by its source id, else its title, else its title but for case and punctuation."""
    if name in dataset.item_numbers:  # first, so that every item can be named, whatever the titles are
        return dataset.item_numbers[name]
    cleaned = " ".join(html.unescape(name).split())
    for given, form in ((name, str), (cleaned, str), (cleaned, lambda title: utils.default_process(title).split())):
        wanted = form(given)
        found = [item for item, title in enumerate(dataset.titles) if item and wanted and form(title) == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(dataset.item_ids[item] for item in found[:5])
            raise InputError(
                f"{len(found)} items of {dataset.name} are called {cleaned[:100]!r}: give an id, e.g. {ids}."
            )
    name = cleaned[:1_000]
    nearest = process.extract(name, dataset.titles[1:], scorer=fuzz.WRatio, processor=utils.default_process, limit=3)
    suggestions = " or ".join(repr(title[:100]) for title, *_ in nearest)
    raise InputError(f"No item of {dataset.name} is called {name[:100]!r}: did you mean {suggestions}?")
