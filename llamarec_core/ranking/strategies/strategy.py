"""What all strategies share: requests in, scores, recommended items and counted cost out."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import LlamaForCausalLM

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.rerank import candidate_items
from llamarec_core.ranking.strategies.generation import Constraint, Hypothesis, generate
from llamarec_core.ranking.strategies.meter import Meter
from llamarec_core.ranking.strategies.wording import ListPrompt, RequestSize


@dataclass(frozen=True)
class Answers:
    """A strategy's answers to n requests of K candidates each."""

    scores: np.ndarray
    """Of each candidate, the larger the better, float64, ``(n, K)``: for
    :func:`~llamarec_core.ranking.rerank_by_scores`, where equals keep the retriever's order."""
    recommended: list[np.ndarray]
    """Item ids, best first: all candidates, or, of a strategy that reads none, what it found in the catalogue."""
    cost: pd.DataFrame
    """One row a request, see :meth:`~llamarec_core.ranking.strategies.meter.Meter.frame`."""

    @property
    def ranks(self) -> np.ndarray:
        """The candidates' ranks, int64 ``(n, K)``, a permutation of 1 … K in each row."""
        order = np.argsort(-self.scores, axis=1, kind="stable")
        ranks = np.empty(order.shape, dtype=np.int64)
        np.put_along_axis(ranks, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
        return ranks


class Strategy(ABC):
    """A way of making a language model rank.

    Attributes:
        name: of the strategy, for tables and folders.
        reads_candidates: whether its prompts show them; if not, it searches the whole catalogue by itself.

    Args:
        model: the backbone, or the backbone with its adapter.
        prompts: of the data set and the backbone; the strategy takes titles and their cuts from it.
        batch_size: requests that are answered together.
    """

    name: ClassVar[str]
    reads_candidates: ClassVar[bool] = True

    def __init__(self, model: LlamaForCausalLM | PeftModel, prompts: PromptBuilder, *, batch_size: int = 1):
        self.model, self.prompts, self.batch_size = model, prompts, batch_size

    def rank(
        self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], *, progress: bool = False
    ) -> Answers:
        """Answer requests.

        Args:
            histories: item ids in the order of time, one sequence per request.
            candidates: item ids in the retriever's order, best first, ``(n, K)``.
            progress: show a progress bar.

        Raises:
            InputError: there is no request, a prompt is longer than what the backbone reads, or the model's logits are
                not numbers.
        """
        if not len(histories):
            raise InputError("There is no request to answer: give at least one history and its candidates.")
        histories, candidates = [list(map(int, items)) for items in histories], np.asarray(candidates)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        costs = []
        was_training = self.model.training
        self.model.eval()
        bar = tqdm(total=len(histories), desc=self.name, unit="user", mininterval=10, disable=not progress)
        try:
            with torch.inference_mode(), bar:
                for start in range(0, len(histories), self.batch_size):
                    batch = slice(start, start + self.batch_size)
                    meter = Meter(len(histories[batch]), self.model.device)
                    found += self._answer(histories[batch], candidates[batch].tolist(), meter)
                    costs.append(meter.frame())
                    bar.update(len(histories[batch]))
        finally:
            self.model.train(was_training)
        scores = np.array([of_request for of_request, _ in found], dtype=np.float64).reshape(candidates.shape)
        if np.isnan(scores).any():
            raise InputError(f"The scores of {self.name!r} are not numbers: tune it with a smaller learning_rate.")
        return Answers(scores, [items for _, items in found], pd.concat(costs, ignore_index=True))

    def example(
        self, number: int, history: Sequence[int], candidates: Sequence[int], answer: int
    ) -> tuple[list[int], list[int]]:
        """Return a training example as the tokens of its prompt and those of its answer, which alone are learnt.

        Args:
            number: of the example among those of the epoch.
            history: item ids in the order of time.
            candidates: the target and negatives.
            answer: the target's place among them.

        Raises:
            InputError: the strategy has no training format of its own.
        """
        raise InputError(f"The strategy {self.name!r} has no training format: tune palr, gpt4rec, tallrec or p5.")

    def predicted_costs(self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> pd.DataFrame:
        """Return :meth:`predicted_cost` of requests as of :meth:`rank`, one row each."""
        costs = []
        for history, listed in zip(histories, candidates, strict=True):
            past = history[-self.prompts.settings.history_length :]
            tokens = [[len(self.prompts.title_tokens[item]) for item in items] for items in (past, listed)]
            means = [float(np.mean(of_titles)) if of_titles else 0.0 for of_titles in tokens]
            costs.append(self.predicted_cost(RequestSize(len(past), len(listed), *means)))
        return pd.DataFrame(costs)

    @abstractmethod
    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return what is read for a request; where each candidate has a prompt of its own, that of the first.

        Args:
            history: item ids in the order of time.
            candidates: item ids in the retriever's order.
        """

    @abstractmethod
    def predicted_cost(self, size: RequestSize) -> dict[str, int]:
        """Return ``forward_passes``, ``tokens_read`` and ``tokens_generated`` of one request, by a formula.

        What is generated is taken to run to its limit, so that the formula is an upper bound where a model may end
        earlier.
        """

    @abstractmethod
    def _answer(
        self, histories: list[list[int]], candidates: list[list[int]], meter: Meter
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return of each request of a batch the candidates' scores, ``(K,)``, and the items recommended."""

    def _refuse_too_long(self, n_tokens: int) -> None:
        """Refuse a sequence beyond the backbone's positions, which is never cut silently."""
        limit = self.model.config.max_position_embeddings
        if n_tokens > limit:
            raise InputError(
                f"A request to {self.name!r} takes {n_tokens} tokens with its answer, but "
                f"{self.prompts.settings.backbone!r} reads at most {limit}: lower history_length or title_tokens."
            )


class GeneratingStrategy(Strategy):
    """A strategy whose answers are generated and then parsed.

    Attributes:
        prompt: the wording.
        width: hypotheses that the beam keeps.
        ends: tokens each of which ends a hypothesis.
        constraint: which tokens may follow those that were generated; none allows all.
    """

    prompt: ListPrompt
    width: int = 1
    ends: Collection[int] = ()
    constraint: Constraint | None = None

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return a request's prompt."""
        return self.prompts.tokenizer.decode(self._build(history, candidates))

    def _build(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        return self.prompt.build(history, candidates if self.reads_candidates else ())

    def _answer(
        self, histories: list[list[int]], candidates: list[list[int]], meter: Meter
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        requests = list(zip(histories, candidates, strict=True))
        with meter.timed("tokenizing"):
            prompts = [self._build(*request) for request in requests]
            tokens = [sum(len(self.prompts.title_tokens[item]) for item in listed) for listed in candidates]
            limits = [self._limit(len(listed), of_titles) for listed, of_titles in zip(candidates, tokens, strict=True)]
        self._refuse_too_long(max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)))
        rules = {"width": self.width, "ends": self.ends, "constraint": self.constraint}
        generated = generate(self.model, prompts, meter, limits=limits, **rules)
        answers = []
        with meter.timed("parsing"):
            for request, hypotheses in enumerate(generated):
                scores, recommended, (valid, invalid) = self._parse(hypotheses, *requests[request])
                meter.add(request, valid=valid, invalid=invalid)
                answers.append((scores, recommended))
        return answers

    @abstractmethod
    def _limit(self, n_candidates: int, title_tokens: int) -> int:
        """Return how many tokens a hypothesis may have.

        Args:
            n_candidates: K.
            title_tokens: of all candidates' titles together.
        """

    @abstractmethod
    def _parse(
        self, hypotheses: list[Hypothesis], history: list[int], candidates: list[int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Return the candidates' scores, ``(K,)``, the items recommended, and how many outputs were valid and not."""


def in_order(candidates: Sequence[int], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores as they are, and the candidates in their order: the answer of a strategy that reads them."""
    return scores, np.asarray(candidates)[np.argsort(-scores, kind="stable")]


def answer_rows(
    strategy: Strategy, dataset: Dataset, rows: pd.DataFrame, split: str, *, progress: bool = False
) -> Answers:
    """Answer the requests of a candidates file, all of them, in its order.

    Args:
        strategy: with its model and prompts.
        dataset: the users' histories.
        rows: the retriever's candidates of one split.
        split: ``validation`` or ``test``: where the histories end.
        progress: show a progress bar.
    """
    histories = [dataset.history(int(user), split) for user in rows["user"]]
    listed = candidate_items(rows)[:, : strategy.prompts.settings.candidates]
    return strategy.rank(histories, listed, progress=progress)


def catalogue_ranks(rows: pd.DataFrame, answers: Answers, *, n_items: int) -> pd.DataFrame:
    """Return the targets' ranks among the items recommended: how a strategy does without a retriever.

    Args:
        rows: the requests that were answered.
        answers: of a strategy that reads no candidates.
        n_items: of the catalogue; a target that was not recommended gets this rank, the last.

    Returns:
        A ranks frame (user, target, rank), in the order of ``rows``.
    """
    ranks = []
    for target, items in zip(rows["target"], answers.recommended, strict=True):
        place = np.flatnonzero(items == target)
        ranks.append(place[0] + 1 if len(place) else n_items)
    columns = {"user": rows["user"], "target": rows["target"], "rank": ranks}
    return pd.DataFrame({name: np.asarray(values, dtype=np.int32) for name, values in columns.items()})
