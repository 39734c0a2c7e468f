"""Preprocessing: events and titles as the source has them → :class:`Dataset` (LlamaRec, section 4.1).

In this order: an event that stands twice counts once; items without a title go; users and items with fewer than five
interactions go, until none is left (the 5-core); the rest is sorted by user, time and item id. The authors' code breaks
ties of time by a number that depends on Python's hash seed: their sequences cannot be rebuilt exactly, ours can.
"""

import html
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.data.dataset import Dataset
from llamarec_core.files import InputError

CORE = 5
"""Interactions that every user and every item keeps at least."""


def clean_product_title(title: str) -> str:
    """Replace HTML entities by their characters and every run of white space by one space."""
    return " ".join(html.unescape(title).split())


def clean_movie_title(title: str) -> str:
    """Bring a MovieLens title into reading order: ``Postman, The (Postino, Il) (1994)`` → ``The Postman (1994)``."""
    name, year = re.fullmatch(r"(?s)(.*?)\s*(\(\d{4}(?:[-–](?:\d{4})?)?\))?\s*", title).groups(default="")
    name = " ".join((re.sub(r"\([^()]*\)", " ", name).strip() or name).split())
    name = re.sub(r"^(.+), (The|A|An)$", r"\2 \1", name)
    return f"{name} {year}".strip()


def build_dataset(name: str, events: pd.DataFrame, titles: Mapping[str, str], source: Mapping[str, Any]) -> Dataset:
    """Reduce raw events to the 5-core of titled items and number users and items.

    ``events`` has one row an interaction: ``user_id`` and ``item_id`` (strings), ``timestamp`` (a number). What was
    dropped is added to ``source`` as ``preprocessing``.
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
    users, user_ids = _number(users[kept], user_ids)
    items, numbered_ids = _number(items[kept], item_ids)
    order = np.lexsort((items, times[kept], users))
    tied = pd.DataFrame({"user": users, "time": times[kept]}).duplicated(keep=False).mean()
    report = {
        "interactions": len(events),
        "duplicates": int((~once).sum()),
        "items_without_title": int((~has_title).sum()),
        "interactions_without_title": int((once & ~titled).sum()),
        "titles_without_interaction": len(titles.keys() - set(item_ids)),
        "interactions_outside_core": int(titled.sum()) - len(kept),
        "tied": float(tied),
    }
    return Dataset(
        name=name,
        items=items[order] + 1,  # 0 is padding
        offsets=np.concatenate([[0], np.cumsum(np.bincount(users))]),
        titles=["", *(titles[item] for item in numbered_ids)],
        user_ids=user_ids,
        item_ids=["", *numbered_ids],
        source={**source, "preprocessing": report},
    )


def k_core(users: np.ndarray, items: np.ndarray, *, k: int) -> np.ndarray:
    """Return a mask of the largest set of interactions in which every user and every item has at least ``k``."""
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
    """Renumber codes in the sorted order of the ids that occur: as numbers if all are whole ones, else as text."""
    present, codes = np.unique(codes, return_inverse=True)
    names = [str(name) for name in ids[present]]
    numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    order = sorted(range(len(names)), key=lambda i: (int(names[i]), names[i]) if numeric else names[i])
    return np.argsort(order)[codes], [names[i] for i in order]


def describe(dataset: Dataset, *, titles: Mapping[str, Sequence[Hashable]] | None = None) -> str:
    """Say what was read and dropped, and what timestamps and titles do not tell apart: one fact a line.

    ``titles`` holds other forms of the items' titles by name, e.g. ``cut at 8 tokens``.
    """
    counts = dataset.source["preprocessing"]
    facts = {
        f"interactions read ({', '.join(dataset.source['sha256'])})": counts["interactions"],
        "dropped: the same user, item and timestamp as another": counts["duplicates"],
        f"dropped: no title ({counts['items_without_title']:,} items)": counts["interactions_without_title"],
        f"dropped: a user or item with fewer than {CORE} interactions": counts["interactions_outside_core"],
        "interactions kept": dataset.n_interactions,
        "titles of items without interactions": counts["titles_without_interaction"],
        "of the interactions kept share user and timestamp with another; item ids order them": counts["tied"],
    }
    for form, of in {"whole": dataset.titles[1:], **(titles or {})}.items():
        alike = pd.Series(list(of)).duplicated(keep=False).mean()
        facts[f"of the items kept share their title, {form}, with another"] = float(alike)
    shown = {text: f"{value:.1%}" if isinstance(value, float) else f"{value:,}" for text, value in facts.items()}
    return "\n".join(f"{value:>12} {text}" for text, value in shown.items())
