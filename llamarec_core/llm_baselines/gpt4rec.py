"""GPT4Rec: generated queries, a search over the catalogue's titles (Li et al., 2023, arXiv 2304.03879).

The model reads the history alone and generates m search queries by beam search; a BM25 index over all titles answers
each of them with 20 / m items, in the order of the queries' probabilities. Tuned, it generates the title of what the
user chose next. A candidate's score here is its best BM25 score over all queries. For queries of at most L tokens::

    forward passes 1 + m · (L − 1),    tokens read c + H · (mark + T),    tokens generated m · L.

No candidate is read, so that K does not matter.
"""

from collections.abc import Sequence

import bm25s
import numpy as np
from peft import PeftModel
from transformers import LlamaForCausalLM

from llamarec_core.llm_baselines.base import Example, GeneratingStrategy, Parsed
from llamarec_core.llm_baselines.generation import Hypothesis
from llamarec_core.ranking.prompt import PromptBuilder, Template

QUERIES = 10
"""Queries that are generated for a request, m."""

RECOMMENDED = 20
"""Items that all queries together retrieve."""


class GPT4Rec(GeneratingStrategy):
    """Searches the catalogue with queries that the model generates."""

    name = "gpt4rec"
    template = Template(
        opening="Previously, the customer has bought:",
        history_mark="\n-",
        bridge="",
        candidate_mark="",
        closing="\n\nIn the future, the customer wants to buy:\n-",
    )
    reads_candidates = False
    width = QUERIES

    def __init__(self, model: LlamaForCausalLM | PeftModel, prompts: PromptBuilder, *, batch_size: int = 1):
        super().__init__(model, prompts, batch_size=batch_size)
        (line_break,) = self.following([" a title\n"])
        self.ends = {line_break[-1], prompts.tokenizer.eos_token_id} - {None}
        self._search = TitleSearch(prompts.titles)

    def example(self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int) -> Example:
        """Return the history, and the title of what was chosen next as the query to learn."""
        (query,) = self.following([f" {self.prompts.titles[candidates[answer]]}\n"])
        return self.prompts.build(history, ()), query

    def _predicted_cost(self, prompt_tokens: int, candidates: Sequence[int]) -> tuple[int, int, int]:
        limit = self._limit(candidates)
        return 1 + self.width * (limit - 1), prompt_tokens, self.width * limit

    def _limit(self, candidates: Sequence[int]) -> int:
        return self.prompts.settings.title_tokens

    def _parse(self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]) -> Parsed:
        decode = self.prompts.tokenizer.decode
        # a token may hold a line break among other characters
        lines = [decode(hypothesis.tokens, skip_special_tokens=True).splitlines() for hypothesis in hypotheses]
        scores = np.stack([self._search.scores(line[0] if line else "") for line in lines])  # (m, n_items + 1)
        scores[:, history] = 0.0  # what the user has is not recommended again
        valid = int(scores.any(axis=1).sum())
        return scores.max(axis=0)[candidates], items_found(scores, RECOMMENDED), (valid, len(scores) - valid)


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


def items_found(scores: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` distinct items that queries find, each query its share, in the queries' order.

    ``scores`` are of each query and item, ``(m, n_items + 1)``; what scores 0 is not found.
    """
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
