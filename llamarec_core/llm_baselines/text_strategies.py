"""The baselines that generate: lists of titles (Llama CausalLM, PALR), queries (GPT4Rec), item ids (P5).

**Llama CausalLM**, the baseline of LlamaRec's Figure 3, is asked for all candidates, best first, and stopped when its
list is longer than their titles together. For K candidates, H titles of history and T tokens a title (the first token
comes from the prompt's own pass)::

    forward passes K · T,    tokens read P = c + (H + K) · (mark + T),    tokens generated K · T.

**PALR** (Yang et al., 2023, arXiv 2305.07622) is asked for the items to recommend, R = 10 at most, and generates
min(R, K) · (mark + T) tokens. Tuned, it answers with the title of what the user chose next. The original first has a
language model describe the user in keywords, which is left out, so that all strategies read the same.

**GPT4Rec** (Li et al., 2023, arXiv 2304.03879) reads the history alone and generates m search queries by beam search; a
BM25 index over all titles answers each with 20 / m items, in the order of the queries' probabilities. Tuned, it
generates the title of what the user chose next. A candidate's score here is its best BM25 score over all queries. With
queries of at most L tokens::

    forward passes 1 + m · (L − 1),    tokens read c + H · (mark + T),    tokens generated m · L.

**P5** (Geng et al., 2022, arXiv 2203.13366) writes items as numbers with leading zeros, and a beam search of width w
runs over the trie of all ids. The original also tells the user's id and learns many tasks at once. With n_d distinct
beginnings of d tokens among the ids, each of D tokens (as many or fewer than digits), and b_d = min(w, n_d)::

    forward passes 1 + Σ_{d < D} b_d,    tokens read c + H · (mark + D),    tokens generated Σ_{d ≤ D} b_d.
"""

import re
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property

import bm25s
import numpy as np
from rapidfuzz import fuzz, process, utils
from torch import nn

from llamarec_core.llm_baselines.base import Answer, Example, Request, Strategy, in_order
from llamarec_core.llm_baselines.generation import Constraint, Hypothesis, Meter, generate
from llamarec_core.ranking.prompt import TEMPLATES, PromptBuilder, Template
from llamarec_core.ranking.verbalizer import refuse_too_long

LISTED = 10  # titles that PALR is asked for, and given room for
SIMILAR = 80.0  # from this similarity on, in percent, a line is taken for a title
QUERIES = 10  # that GPT4Rec generates for a request, m
FOUND = 20  # items that all queries together retrieve
_MARK = re.compile(r"^\s*(?:[-*•]|\(?\w{1,2}[.):])\s+")  # before an entry of a list: a dash, a number, a label
_YEAR = re.compile(r"\s*\(\d*\)?$")  # a film's year at the end of a title, which may have been cut

Parsed = tuple[np.ndarray, np.ndarray, tuple[int, int]]  # an answer, and how many outputs were valid and not


class GeneratingStrategy(Strategy):
    """A strategy whose answers are generated, with these options of :func:`.generation.generate`, and parsed."""

    width: int = 1
    ends: Collection[int] = ()
    constraint: Constraint | None = None

    def _answer(self, requests: Sequence[Request], meter: Meter) -> list[Answer]:
        with meter.timed("tokenizing"):
            prompts = self._encoded(requests)
            limits = [self._limit(listed) for _, listed in requests]
        longest = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        refuse_too_long(self.prompts, self.model, longest)
        rules = {"width": self.width, "ends": self.ends, "constraint": self.constraint}
        generated = generate(self.model, prompts, meter, limits=limits, **rules)
        answers = []
        with meter.timed("parsing"):
            for index, (hypotheses, request) in enumerate(zip(generated, requests, strict=True)):
                scores, recommended, (valid, invalid) = self._parse(hypotheses, *request)
                meter.add(index, valid=valid, invalid=invalid)
                answers.append((scores, recommended))
        return answers

    def _predicted_cost(self, prompt_tokens: int, candidates: Sequence[int]) -> tuple[int, int, int]:
        hypotheses = self._beam(self._limit(candidates))
        return 1 + sum(hypotheses[:-1]), prompt_tokens, sum(hypotheses)

    def _beam(self, limit: int) -> list[int]:
        """Return how many hypotheses there may be of 1, 2, … tokens."""
        return [self.width] * limit

    @abstractmethod
    def _limit(self, candidates: Sequence[int]) -> int:
        """Return how many tokens a hypothesis may have."""

    @abstractmethod
    def _parse(self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]) -> Parsed:
        """Return the answer to a request that the hypotheses give."""


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
        bridge=f"\n\nRecommend up to {LISTED} items for the user from these candidates:",
        candidate_mark="\n-",
        closing="\n\nRecommended, one title a line:\n-",
    )

    def example(self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int) -> Example:
        """Return history and candidates, and the title of what was chosen next."""
        (title,) = self.following([f" {self.prompts.titles[candidates[answer]]}"])
        return self.prompts.build(history, candidates), [*title, *self.ends]

    def _limit(self, candidates: Sequence[int]) -> int:
        entries, mark = min(LISTED, len(candidates)), len(self.following([self.template.candidate_mark])[0])
        return entries * mark + -(-entries * sum(self._title_tokens(candidates)) // len(candidates))


class GPT4Rec(GeneratingStrategy):
    """Searches the catalogue with queries that the model generates."""

    name = "gpt4rec"
    template = Template(
        opening="Previously, the customer has bought:",
        closing="\n\nIn the future, the customer wants to buy:\n-",
    )
    reads_candidates = False
    width = QUERIES

    def __init__(self, model: nn.Module, prompts: PromptBuilder, *, batch_size: int = 1):
        super().__init__(model, prompts, batch_size=batch_size)
        (line_break,) = self.following([" a title\n"])
        self.ends = {line_break[-1], self.prompts.tokenizer.eos_token_id} - {None}
        self._search = TitleSearch(self.prompts.titles)

    def example(self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int) -> Example:
        """Return the history, and the title of what was chosen next as the query to learn."""
        (query,) = self.following([f" {self.prompts.titles[candidates[answer]]}\n"])
        return self.prompts.build(history, ()), query

    def _limit(self, candidates: Sequence[int]) -> int:
        return self.prompts.settings.title_tokens

    def _parse(self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]) -> Parsed:
        decode = self.prompts.tokenizer.decode
        # a token may hold a line break among other characters
        lines = [decode(hypothesis.tokens, skip_special_tokens=True).splitlines() for hypothesis in hypotheses]
        scores = np.stack([self._search.scores(line[0] if line else "") for line in lines])  # (m, n_items + 1)
        scores[:, history] = 0.0  # what the user has is not recommended again
        valid = int(scores.any(axis=1).sum())
        return scores.max(axis=0)[candidates], items_found(scores), (valid, len(scores) - valid)


class P5(GeneratingStrategy):
    """Recommends the items whose ids the model generates, at most as many as its beam is wide."""

    name = "p5"
    template = Template(
        opening="[Instruction] Here is the purchase history of a user, as item numbers:",
        closing="\n\nPredict the number of the item that the user will purchase next:\n-",
    )
    reads_candidates = False
    width = 20

    def __init__(self, model: nn.Module, prompts: PromptBuilder, *, batch_size: int = 1):
        digits = len(str(len(prompts.titles) - 1))
        ids = [f"{item:0{digits}}" for item in range(len(prompts.titles))]  # the first is padding
        uncut = prompts.settings.model_copy(update={"title_tokens": 2 * digits})
        super().__init__(model, PromptBuilder(prompts.tokenizer, ids, uncut), batch_size=batch_size)
        self._ids = self.following([f" {number}" for number in ids])
        self._items = {tuple(tokens): item for item, tokens in enumerate(self._ids) if item}
        following: dict[tuple[int, ...], set[int]] = {}  # the trie: after each beginning of an id
        for tokens in self._items:
            for end, token in enumerate(tokens):
                following.setdefault(tokens[:end], set()).add(token)
        self.constraint = lambda generated: sorted(following.get(generated, ()))
        ends = range(1, max(map(len, self._items)) + 1)
        # how many distinct beginnings of 1, 2, … tokens there are
        self.widths = [len({tokens[:end] for tokens in self._items if len(tokens) >= end}) for end in ends]

    def example(self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int) -> Example:
        """Return the history, and the id of what was chosen next."""
        return self.prompts.build(history, ()), self._ids[candidates[answer]]

    def _beam(self, limit: int) -> list[int]:
        return [min(self.width, beginnings) for beginnings in self.widths]

    def _limit(self, candidates: Sequence[int]) -> int:
        return len(self.widths)

    def _parse(self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]) -> Parsed:
        found = {self._items[hypothesis.tokens]: hypothesis.score for hypothesis in hypotheses}
        new = [item for item in found if item not in history]  # what the user has is not recommended again
        # below all that were generated, the retriever's order is kept
        scores = np.array([found.get(item, -np.inf) for item in candidates])
        return scores, np.array(new, dtype=np.int64), (len(new), len(found) - len(new))


def parse_titles(text: str, titles: Sequence[str]) -> tuple[list[int], int]:
    """Return the indices of the titles that a text lists, a title a line, and how many lines named no further one.

    A line names the title nearest by normalised edit distance (insertions and deletions), with or without its year,
    letter case and punctuation aside; of several that are the same, the first is meant.
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


class TitleSearch:
    """A BM25 index over titles, by item id; the first is padding."""

    def __init__(self, titles: Sequence[str]):
        self._index = bm25s.BM25()
        self._index.index(_words(titles[1:]), show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """Return the BM25 score of every item, float32, ``(n_items + 1,)``; 0 where no word is shared."""
        known = [word for word in _words([query])[0] if word in self._index.vocab_dict]
        if not known:
            return np.zeros(self._index.scores["num_docs"] + 1, dtype=np.float32)
        return np.concatenate([np.zeros(1, dtype=np.float32), self._index.get_scores(known)])


def items_found(scores: np.ndarray, count: int = FOUND) -> np.ndarray:
    """Return ``count`` distinct items at most, of each query its share of what scores above 0: ``(m, n_items + 1)``."""
    share, found = -(-count // len(scores)), []
    for of_query in scores:
        best = np.argsort(-of_query, kind="stable")[: share + len(found)]  # enough, were all of them found before
        new = [item for item in best.tolist() if of_query[item] > 0 and item not in found]
        found += new[:share]
    return np.array(found[:count], dtype=np.int64)


def _words(texts: Sequence[str]) -> list[list[str]]:
    # by default single characters are no words: the 2 of a sequel would be lost
    options = {"stopwords": None, "token_pattern": r"(?u)\b\w+\b", "return_ids": False, "show_progress": False}
    return bm25s.tokenize(list(texts), **options)
