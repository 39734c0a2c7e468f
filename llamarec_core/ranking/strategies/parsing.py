"""Parsing: find the items that a generated text names, whatever else it says."""

import re
from collections.abc import Sequence

from rapidfuzz import fuzz, process, utils

SIMILAR = 75.0
"""From this similarity on, in percent, a line is taken for a title: one without its year still is."""

_MARK = re.compile(r"^\s*(?:[-*•]|\(?\w{1,2}[.):])\s+")
"""What stands before an entry of a list: a dash, a number, a label."""


def parse_titles(text: str, titles: Sequence[str]) -> tuple[list[int], int]:
    """Find which titles a text lists, a title a line.

    A line names the title that is most similar to it by normalised edit distance (insertions and deletions), letter
    case and punctuation aside.

    Args:
        text: whatever a model generated.
        titles: those that it may name; of several that are the same, the first is meant.

    Returns:
        The places of the titles named, each once, in the text's order; and how many lines named none, or one that an
        earlier line had named.
    """
    known = [utils.default_process(title) for title in titles]
    named: list[int] = []
    lines = [utils.default_process(_MARK.sub("", line)) for line in text.splitlines()]
    lines = [line for line in lines if line]
    for line in lines:
        found = process.extractOne(line, known, scorer=fuzz.ratio, score_cutoff=SIMILAR)
        if found is not None and found[2] not in named:
            named.append(found[2])
    return named, len(lines) - len(named)
