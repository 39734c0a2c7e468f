"""Ranked lists of titles, generated and then parsed: Llama CausalLM, and PALR.

**Llama CausalLM**, the baseline of LlamaRec's Figure 3, is asked for all candidates, best first, and stopped when its
list is longer than their titles together. For K candidates, H titles of history and T tokens a title (the first token
comes from the prompt's own pass)::

    forward passes K · T,    tokens read P = c + (H + K) · (mark + T),    tokens generated K · T.

**PALR** (Yang et al., 2023, arXiv 2305.07622) is asked for the items to recommend, R = 10 at most, and generates
min(R, K) · (mark + T) tokens. Tuned, it answers with the title of what the user chose next. The original first has a
language model describe the user in keywords, which is left out, so that all strategies read the same.

Candidates that no line names follow in the retriever's order; ``valid`` counts those that were named.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from rapidfuzz import fuzz, process, utils

from llamarec_core.llm_baselines.base import Example, GeneratingStrategy, Parsed, in_order
from llamarec_core.llm_baselines.generation import Hypothesis
from llamarec_core.ranking.prompt import TEMPLATES, Template

RECOMMENDED = 10  # titles that PALR is asked for, and given room for
SIMILAR = 80.0  # from this similarity on, in percent, a line is taken for a title
_MARK = re.compile(r"^\s*(?:[-*•]|\(?\w{1,2}[.):])\s+")  # before an entry of a list: a dash, a number, a label
_YEAR = re.compile(r"\s*\(\d*\)?$")  # a film's year at the end of a title, which may have been cut


class CausalLM(GeneratingStrategy):
    """Ranks candidates in the order in which the model lists their titles."""

    name = "causal_lm"
    template = replace(
        TEMPLATES["ranking"],
        candidate_mark="\n-",
        closing="\n\nAll candidate items from the most suitable to the least suitable, one title a line:\n-",
    )

    @cached_property
    def ends(self) -> set[int]:
        """The token that ends what the model writes, if it has one."""
        return {self.prompts.tokenizer.eos_token_id} - {None}

    def _limit(self, candidates: Sequence[int]) -> int:
        return sum(self._title_tokens(candidates))

    def _parse(self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]) -> Parsed:
        text = self.prompts.tokenizer.decode(hypotheses[0].tokens, skip_special_tokens=True)
        named, invalid = parse_titles(text, [self.prompts.titles[item] for item in candidates])
        scores = np.zeros(len(candidates))
        scores[named] = len(candidates) - np.arange(len(named))  # K, K − 1, …
        return *in_order(candidates, scores), (len(named), invalid)


class PALR(CausalLM):
    """Ranks candidates in the order in which the model recommends them."""

    name = "palr"
    template = Template(
        opening="[Instruction] A user has purchased these items:",
        bridge=f"\n\nRecommend up to {RECOMMENDED} items for the user from these candidates:",
        candidate_mark="\n-",
        closing="\n\nRecommended, one title a line:\n-",
    )

    def example(self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int) -> Example:
        """Return history and candidates, and the title of what was chosen next."""
        (title,) = self.following([f" {self.prompts.titles[candidates[answer]]}"])
        return self.prompts.build(history, candidates), [*title, *self.ends]

    def _limit(self, candidates: Sequence[int]) -> int:
        entries, mark = min(RECOMMENDED, len(candidates)), len(self.following([self.template.candidate_mark])[0])
        return entries * mark + -(-entries * sum(self._title_tokens(candidates)) // len(candidates))


def parse_titles(text: str, titles: Sequence[str]) -> tuple[list[int], int]:
    """Return the indices of the titles that a text lists, a title a line, and how many lines named no further one.

    A line names the title that is most similar to it, with or without its year, by normalised edit distance
    (insertions and deletions), letter case and punctuation aside; of several that are the same, the first is meant.
    """
    forms = [*titles, *(_YEAR.sub("", title) for title in titles)]
    known = [utils.default_process(form) for form in forms]
    named: list[int] = []
    lines = list(filter(None, (utils.default_process(_MARK.sub("", line)) for line in text.splitlines())))
    for line in lines:
        found = process.extractOne(line, known, scorer=fuzz.ratio, score_cutoff=SIMILAR)
        if found is not None and (index := found[2] % len(titles)) not in named:
            named.append(index)
    return named, len(lines) - len(named)
