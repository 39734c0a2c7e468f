"""Parsing: find the items that a generated text names, whatever else it says."""

import re
from collections.abc import Sequence

from rapidfuzz import fuzz, process, utils

SIMILAR = 80.0
"""From this similarity on, in percent, a line is taken for a title."""

_MARK = re.compile(r"^\s*(?:[-*•]|\(?\w{1,2}[.):])\s+")
"""What stands before an entry of a list: a dash, a number, a label."""

_YEAR = re.compile(r"\s*\(\d*\)?$")
"""A film's year at the end of a title, which may have been cut."""


def parse_titles(text: str, titles: Sequence[str]) -> tuple[list[int], int]:
    """Find which titles a text lists, a title a line.

    A line names the title that is most similar to it, with or without its year, by normalised edit distance
    (insertions and deletions), letter case and punctuation aside.

    Args:
        text: whatever a model generated.
        titles: those that it may name; of several that are the same, the first is meant.

    Returns:
        The places of the titles named, each once, in the text's order; and how many lines named none, or one that an
        earlier line had named.
    """
    forms = [*titles, *(_YEAR.sub("", title) for title in titles)]
    known = [utils.default_process(form) for form in forms]
    named: list[int] = []
    lines = [utils.default_process(_MARK.sub("", line)) for line in text.splitlines()]
    lines = [line for line in lines if line]
    for line in lines:
        found = process.extractOne(line, known, scorer=fuzz.ratio, score_cutoff=SIMILAR)
        if found is not None and (place := found[2] % len(titles)) not in named:
            named.append(place)
    return named, len(lines) - len(named)
