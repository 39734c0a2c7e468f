"""Titles: how they are cleaned when they are read, and how an item is found by its title."""

import html
import re

from rapidfuzz import fuzz, process, utils

from llamarec_core.data.dataset import Dataset
from llamarec_core.files import InputError

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


def find_item(dataset: Dataset, name: str) -> int:
    """Return the number of an item by its source id, else its title, else its title but for case and punctuation.

    Raises:
        InputError: several items have that title (their ids are named), or none has it (the nearest titles are named).
    """
    if name in dataset.item_ids[1:]:  # first, so that every item can be named, whatever the titles are
        return dataset.item_ids.index(name)
    name = clean_product_title(name)
    for form in (str, _words):
        wanted = form(name)
        found = [item for item, title in enumerate(dataset.titles) if item and wanted and form(title) == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(dataset.item_ids[item] for item in found[:5])
            more = f" or one of {len(found) - 5} more" if len(found) > 5 else ""
            raise InputError(
                f"{len(found)} items of {dataset.name} are called {name[:100]!r}: give an id, {ids}{more}."
            )
    choices = dataset.titles[1:]
    nearest = process.extract(name[:1_000], choices, scorer=fuzz.WRatio, processor=utils.default_process, limit=3)
    suggestions = " or ".join(repr(title[:100]) for title, *_ in nearest)
    raise InputError(f"No item of {dataset.name} is called {name[:100]!r}: did you mean {suggestions}?")


def _words(title: str) -> list[str]:
    """Return a title's words in lower case, without punctuation."""
    return utils.default_process(title).split()


def _collapse(text: str) -> str:
    return " ".join(text.split())
