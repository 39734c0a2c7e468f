"""Preprocessing: events and titles as the source has them → :class:`Dataset` (LlamaRec, section 4.1).

In this order: interactions with items that have no title go; users and items with fewer than five
interactions go, again and again until none is left (the 5-core); the rest is sorted by user, time and,
within one moment, item id. No interaction is dropped for its rating.

Ties of a timestamp are broken by item id. The authors' code breaks them by an item number that depends
on Python's hash seed, so their published sequences cannot be rebuilt exactly; ours can.
"""

import html
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.data.dataset import Dataset
from llamarec_core.files import InputError

CORE = 5
"""Interactions that every user and every item keeps at least."""

_YEAR = re.compile(r"\s*(\(\d{4}(?:[-–](?:\d{4})?)?\))\s*$")
_PARENTHESES = re.compile(r"\([^()]*\)")
_TRAILING_ARTICLE = re.compile(r"^(.+), (The|A|An)$")


def clean_movie_title(title: str) -> str:
    """Bring a MovieLens title into reading order.

    The year stays, other parentheses go, a trailing article moves to the front:
    ``Postman, The (Postino, Il) (1994)`` becomes ``The Postman (1994)``.
    """
    year = _YEAR.search(title)
    name = title[: year.start()] if year else title
    name = _collapse(_PARENTHESES.sub(" ", name)) or _collapse(name)
    name = _TRAILING_ARTICLE.sub(r"\2 \1", name)
    return f"{name} {year[1]}".strip() if year else name


def clean_product_title(title: str) -> str:
    """Replace HTML entities by their characters and every run of white space by one space."""
    return _collapse(html.unescape(title))


def build_dataset(
    name: str, events: pd.DataFrame, titles: Mapping[str, str], *, source: Mapping[str, Any] | None = None
) -> Dataset:
    """Reduce raw events to the 5-core of titled items and number users and items.

    Args:
        name: Name of the data set.
        events: One row an interaction: ``user_id`` and ``item_id`` (strings), ``timestamp`` (a number in any
            unit). The order of the rows does not matter.
        titles: Title of each item id, cleaned; items without a title, or with an empty one, are dropped.
        source: Where the files came from, kept with the data set.

    Returns:
        The data set; users and items are numbered in the sorted order of their ids (as numbers where all
        ids are whole numbers, as text otherwise).

    Raises:
        InputError: no interaction is with a titled item, or nothing is left after the 5-core.
    """
    events = events[events["item_id"].isin([item for item, title in titles.items() if title])]
    if events.empty:
        raise InputError(
            f"No interaction of {name!r} is with an item that has a title: check that both files use the same item ids."
        )
    users, user_ids = pd.factorize(events["user_id"])
    items, item_ids = pd.factorize(events["item_id"])
    kept = k_core(users, items, k=CORE)
    if not kept.any():
        raise InputError(
            f"Nothing is left after the {CORE}-core: {name!r} has {len(events)} interactions of {len(user_ids)} users "
            f"with {len(item_ids)} titled items, but no group of them in which every user and every item has at least "
            f"{CORE}; give more interactions."
        )
    users, user_ids = _number(users[kept], user_ids)
    items, item_ids = _number(items[kept], item_ids)
    order = np.lexsort((items, events["timestamp"].to_numpy()[kept], users))
    return Dataset(
        name=name,
        items=items[order] + 1,  # 0 is padding
        offsets=np.concatenate([[0], np.cumsum(np.bincount(users))]),
        titles=["", *(titles[item] for item in item_ids)],
        user_ids=user_ids,
        item_ids=["", *item_ids],
        source=dict(source or {}),
    )


def k_core(users: np.ndarray, items: np.ndarray, *, k: int) -> np.ndarray:
    """Find the largest set of interactions in which every user and every item has at least ``k``.

    There is one such set, whatever is dropped first: a union of two of them is one.

    Args:
        users: User of each interaction, a number from 0 on; shape (n_interactions,).
        items: Item of each interaction, likewise.
        k: The least number of interactions.

    Returns:
        Which interactions are in the core, bool, shape (n_interactions,).
    """
    kept = np.ones(len(users), dtype=bool)
    while True:
        # An interaction that is out adds 0 to its user's and its item's count.
        enough_items = np.bincount(items, weights=kept)[items] >= k
        enough_users = np.bincount(users, weights=kept)[users] >= k
        remaining = kept & enough_items & enough_users
        if remaining.sum() == kept.sum():
            return kept
        kept = remaining


def _number(codes: np.ndarray, ids: pd.Index) -> tuple[np.ndarray, list[str]]:
    """Renumber codes in the sorted order of those ids that still occur."""
    present, codes = np.unique(codes, return_inverse=True)
    names = [str(ids[code]) for code in present]
    numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    order = sorted(range(len(names)), key=lambda i: (int(names[i]), names[i]) if numeric else names[i])
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return place[codes], [names[i] for i in order]


def _collapse(text: str) -> str:
    return " ".join(text.split())
