"""What all strategies share, and those that answer by logits: the verbalizer (LlamaRec itself) and TALLRec.

**TALLRec** (Bao et al., 2023, arXiv 2305.00447) asks in one prompt a candidate whether the user will want it; the score
is logit("Yes") − logit("No") at the last position. (The original lists liked and disliked items apart.) A request's
prompts differ in their end alone: in one packed row, what they begin with is read only once. For K candidates, H titles
of history and T tokens a title, where s = c + H · (mark + T) tokens are shared and e = T + c' follow::

    packed in one row:  forward passes 1 + K,    tokens read s + K · e
    each by itself:     forward passes K,        tokens read K · (s + e)
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.llm_baselines.generation import COUNTS, Meter
from llamarec_core.ranking.prompt import TEMPLATES, PromptBuilder, Template
from llamarec_core.ranking.verbalizer import NextTokenLogits, pack, pad, refuse_too_long
from llamarec_core.retrieval.candidates import Candidates

Request = tuple[list[int], list[int]]  # a history, and candidates in the retriever's order
Answer = tuple[np.ndarray, np.ndarray]  # a request's scores of its candidates, (K,), and the items recommended
Example = tuple[list[int], list[int]]  # the tokens of a prompt and of the answer to learn


@dataclass(frozen=True)
class Answers:
    """A strategy's answers to n requests of K candidates each; of two equal scores, the retriever's order decides."""

    scores: np.ndarray  # float64 (n, K), the larger the better
    recommended: list[np.ndarray]  # item ids, best first: all candidates, or what was found in the whole catalogue
    cost: pd.DataFrame  # one row a request, see :meth:`.Meter.frame`


class Strategy(ABC):
    """A way of making a language model rank, with or without its adapter, ``batch_size`` requests together."""

    name: ClassVar[str]
    template: ClassVar[Template | None] = None  # without one the prompts are the ranker's
    reads_candidates: ClassVar[bool] = True  # if not, it searches the whole catalogue by itself

    def __init__(self, model: nn.Module, prompts: PromptBuilder, *, batch_size: int = 1):
        self.model, self.batch_size = model, batch_size
        if self.template:
            prompts = PromptBuilder(prompts.tokenizer, prompts.titles, prompts.settings, template=self.template)
        self.prompts = prompts

    def rank(
        self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], *, progress: bool = False
    ) -> Answers:
        """Answer requests, at least one, in evaluation mode; candidates ``(n, K)`` are in the retriever's order."""
        requests = _requests(histories, candidates)
        answers: list[Answer] = []
        costs = []
        self.model.eval()
        bar = tqdm(total=len(requests), desc=self.name, unit="user", mininterval=10, disable=not progress)
        with torch.inference_mode(), bar:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                meter = Meter(len(batch), self.model.device)
                answers += self._answer(batch, meter)
                costs.append(meter.frame())
                bar.update(len(batch))
        scores = np.array([of_request for of_request, _ in answers], dtype=np.float64)  # (n, K)
        if np.isnan(scores).any():
            raise InputError(f"The scores of {self.name!r} are not numbers: tune it with a smaller learning_rate.")
        return Answers(scores, [items for _, items in answers], pd.concat(costs, ignore_index=True))

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return the prompt of a request, for people to read."""
        return self.prompts.text(history, candidates if self.reads_candidates else ())

    def following(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts that stand after a prompt, as an answer does."""
        end = self.prompts.template.closing
        before, *whole = self.prompts.encode([end, *(end + text for text in texts)])
        return [tokens[len(before) :] for tokens in whole]

    def predicted_costs(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> pd.DataFrame:
        """Return ``forward_passes``, ``tokens_read`` and ``tokens_generated`` by the formula of the strategy's module.

        It is an upper bound where a model may stop generating before its limit.
        """
        requests = _requests(histories, candidates)
        prompts = self._encoded(requests)
        costs = [self._predicted_cost(len(prompt), of) for prompt, (_, of) in zip(prompts, requests, strict=True)]
        return pd.DataFrame(costs, columns=list(COUNTS[:3]))

    def _encoded(self, requests: Sequence[Request]) -> list[list[int]]:
        return self.prompts.encode([self.text(*request) for request in requests])

    def _title_tokens(self, items: Sequence[int]) -> list[int]:
        """Return the number of tokens of each title, after a space."""
        return [len(tokens) for tokens in self.following([f" {self.prompts.titles[item]}" for item in items])]

    @abstractmethod
    def _predicted_cost(self, prompt_tokens: int, candidates: Sequence[int]) -> tuple[int, int, int]:
        """Return forward passes, tokens read and tokens generated of a request, given how long its prompt is."""

    @abstractmethod
    def _answer(self, requests: Sequence[Request], meter: Meter) -> list[Answer]:
        """Answer the requests of a batch."""


class Verbalizer(Strategy):
    """LlamaRec itself: the logits of K candidates' labels after one pass over c + (H + K) · (mark + T) tokens."""

    name = "verbalizer"

    def _predicted_cost(self, prompt_tokens: int, candidates: Sequence[int]) -> tuple[int, int, int]:
        return 1, prompt_tokens, 0

    def _answer(self, requests: Sequence[Request], meter: Meter) -> list[Answer]:
        with meter.timed("tokenizing"):
            prompts = self._encoded(requests)
        refuse_too_long(self.prompts, self.model, max(map(len, prompts)))
        tokens, lengths = pad(prompts, device=self.model.device)
        labels = torch.tensor(self.prompts.label_ids[: len(requests[0][1])], device=self.model.device)
        with meter.timed("reading"):
            logits = NextTokenLogits(self.model)(tokens, lengths, labels).cpu().numpy()  # (batch, K)
        for index, (prompt, (_, listed)) in enumerate(zip(prompts, requests, strict=True)):
            meter.add(index, forward_passes=1, tokens_read=len(prompt), valid=len(listed))
        return [in_order(listed, scores) for (_, listed), scores in zip(requests, logits, strict=True)]


class TALLRec(Strategy):
    """Scores a candidate by how much likelier "Yes" is than "No"; prompts of two requests are never read together."""

    name = "tallrec"
    template = replace(
        TEMPLATES["ranking"],
        bridge="\n\nWill the user want this item next? Answer Yes or No.",
        candidate_mark="\n-",
        closing="\n\nAnswer:",
    )
    cached = True  # what a request's prompts begin with is read only once

    @cached_property
    def _yes_and_no(self) -> tuple[int, int]:
        yes, no = self.following([" Yes", " No"])
        if yes[0] == no[0]:
            raise InputError(
                f"The tokenizer of {self.prompts.settings.backbone!r} begins Yes and No alike: choose another backbone."
            )
        return yes[0], no[0]

    def example(self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int) -> Example:
        """Return a prompt about the target and "Yes", or about a negative and "No"; in turn.

        All candidates but the target must be negatives; where there is none, the answer is "Yes".
        """
        positive = number % 2 == 0 or len(candidates) == 1
        index = answer if positive else (answer + 1) % len(candidates)
        return self.prompts.build(history, [candidates[index]]), [self._yes_and_no[0 if positive else 1]]

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return the prompt about the first candidate."""
        return self.prompts.text(history, candidates[:1])

    def _predicted_cost(self, prompt_tokens: int, candidates: Sequence[int]) -> tuple[int, int, int]:
        short, whole = self.prompts.encode(["a", f"a{self.template.closing}"])
        ends = [title + len(whole) - len(short) for title in self._title_tokens(candidates)]
        shared, n_candidates = prompt_tokens - ends[0], len(candidates)
        if self.cached:
            return 1 + n_candidates, shared + sum(ends), 0
        return n_candidates, n_candidates * shared + sum(ends), 0

    def _answer(self, requests: Sequence[Request], meter: Meter) -> list[Answer]:
        network, answers = NextTokenLogits(self.model), torch.tensor(self._yes_and_no, device=self.model.device)
        found = []
        for index, (history, listed) in enumerate(requests):
            with meter.timed("tokenizing"):
                texts = [self.prompts.text(history, [item]) for item in listed]
                shared, rest = self.prompts.encode_shared(texts) if self.cached else ([], self.prompts.encode(texts))
            refuse_too_long(self.prompts, self.model, len(shared) + max(map(len, rest)))
            beginnings, endings = ([shared], [rest]) if shared else ([[]] * len(rest), [[prompt] for prompt in rest])
            packed = pack(beginnings, endings, device=self.model.device)
            with meter.timed("reading"):
                logits = network(**packed, token_ids=answers).view(-1, 2)  # (K, 2)
                scores = (logits[:, 0] - logits[:, 1]).cpu().numpy().astype(np.float64)
            read = len(shared) + sum(map(len, rest))
            meter.add(index, forward_passes=len(rest) + bool(shared), tokens_read=read, valid=len(listed))
            found.append(in_order(listed, scores))
        return found


class TALLRecWithoutCache(TALLRec):
    """The same scores, up to rounding, from K prompts that are each read whole."""

    name = "tallrec_apart"  # as committed answers are named
    cached = False


def in_order(candidates: Sequence[int], scores: np.ndarray) -> Answer:
    """Return scores as they are, and the candidates in their order: the answer of a strategy that reads them."""
    return scores, np.asarray(candidates)[np.argsort(-scores, kind="stable")]


def answer_candidates(
    strategy: Strategy, dataset: Dataset, candidates: Candidates, split: str, *, progress: bool = False
) -> Answers:
    """Answer the requests of all candidates, in their order, with the histories of a split."""
    histories = [dataset.history(int(user), split) for user in candidates.users]
    return strategy.rank(histories, candidates.items[:, : strategy.prompts.settings.candidates], progress=progress)


def _requests(histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> list[Request]:
    return [tuple(list(map(int, items)) for items in request) for request in zip(histories, candidates, strict=True)]
