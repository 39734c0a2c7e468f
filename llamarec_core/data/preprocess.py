"""Preprocessing: events and titles as the source has them → :class:`Dataset` (LlamaRec, section 4.1).

In this order: an event that stands twice counts once; interactions with items that have no title go; users and items
with fewer than five interactions go, again and again until none is left (the 5-core); the rest is sorted by user, time
and, within one moment, item id. No interaction is dropped for its rating.

Ties of a timestamp are broken by item id. The authors' code breaks them by an item number that depends
on Python's hash seed, so their published sequences cannot be rebuilt exactly; ours can.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.data.dataset import Dataset
from llamarec_core.files import InputError

CORE = 5
"""Interactions that every user and every item keeps at least."""


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
        ids are whole numbers, as text otherwise). Its ``source`` also says, under ``preprocessing``, what was read
        and dropped.

    Raises:
        InputError: no interaction is with a titled item, or nothing is left after the 5-core.
    """
    users, user_ids = pd.factorize(events["user_id"])
    items, item_ids = pd.factorize(events["item_id"])
    times = events["timestamp"].to_numpy()
    once = ~pd.DataFrame({"user": users, "item": items, "time": times}).duplicated().to_numpy()
    has_title = np.array([bool(titles.get(item)) for item in item_ids])
    titled = once & has_title[items]
    if not titled.any():
        raise InputError(
            f"No interaction of {name!r} is with an item that has a title: check that both files use the same item ids."
        )
    kept = np.flatnonzero(titled)
    kept = kept[k_core(users[kept], items[kept], k=CORE)]
    if not len(kept):
        raise InputError(
            f"Nothing is left after the {CORE}-core: {name!r} has {titled.sum()} interactions of "
            f"{len(np.unique(users[titled]))} users with {has_title.sum()} titled items, but no group of them in which "
            f"every user and every item has at least {CORE}; give more interactions."
        )
    report = {
        "interactions": len(events),
        "duplicates": int((~once).sum()),
        "items_without_title": int((~has_title).sum()),
        "interactions_without_title": int((once & ~titled).sum()),
        "titles_without_interaction": len(titles.keys() - set(item_ids)),
        "interactions_outside_core": int(titled.sum()) - len(kept),
    }
    users, user_ids = _number(users[kept], user_ids)
    items, item_ids = _number(items[kept], item_ids)
    order = np.lexsort((items, times[kept], users))
    same = (np.diff(users[order]) == 0) & (np.diff(times[kept][order]) == 0)
    report["tied"] = float(np.mean(np.append(same, False) | np.append(False, same)))
    return Dataset(
        name=name,
        items=items[order] + 1,  # 0 is padding
        offsets=np.concatenate([[0], np.cumsum(np.bincount(users))]),
        titles=["", *(titles[item] for item in item_ids)],
        user_ids=user_ids,
        item_ids=["", *item_ids],
        source={**(source or {}), "preprocessing": report},
    )


def describe(dataset: Dataset, *, titles: Mapping[str, Sequence[Hashable]] | None = None) -> str:
    """Say what was read and dropped, and what timestamps and titles do not tell apart: one fact a line.

    Args:
        dataset: As :func:`build_dataset` made it.
        titles: Other forms of the items' titles, padding left out, by what they are, e.g. ``cut at 8 tokens``.
    """
    counts = dataset.source["preprocessing"]
    lines = [
        (f"{counts['interactions']:,}", f"interactions read ({', '.join(dataset.source.get('sha256', {}))})"),
        (f"{counts['duplicates']:,}", "dropped: the same user, item and timestamp as another"),
        (f"{counts['interactions_without_title']:,}", f"dropped: no title ({counts['items_without_title']:,} items)"),
        (f"{counts['interactions_outside_core']:,}", f"dropped: a user or item with fewer than {CORE} interactions"),
        (f"{dataset.n_interactions:,}", "interactions kept"),
        (f"{counts['titles_without_interaction']:,}", "titles of items without interactions"),
        (
            f"{counts['tied']:.1%}",
            "of the interactions kept share user and timestamp with another; item ids order them",
        ),
    ]
    for form, of in {"whole": dataset.titles[1:], **(titles or {})}.items():
        alike = pd.Series(list(of)).duplicated(keep=False).mean()
        lines.append((f"{alike:.1%}", f"of the items kept share their title, {form}, with another"))
    return "\n".join(f"{value:>12} {text}" for value, text in lines)


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
    names = [str(name) for name in ids[present]]
    numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    order = sorted(range(len(names)), key=lambda i: (int(names[i]), names[i]) if numeric else names[i])
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return place[codes], [names[i] for i in order]
