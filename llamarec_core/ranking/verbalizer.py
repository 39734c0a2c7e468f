"""The verbalizer: rank all candidates of a prompt in one forward pass (LlamaRec, section 3.2.3).

One forward pass gives::

    P(candidate i) = softmax over the labels of the next-token logits after the prompt, at the token of label i

Nothing is generated and nothing is parsed. The backbone runs without its language-model head; the
head's rows of the labels alone are multiplied with the hidden state of the prompt's last position.
Prompts are padded on the right: attention is causal, so that no position of a prompt sees the
padding after it, and no mask is needed. The ranks made here are the input of the evaluation.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaForCausalLM

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking.prompt import PromptBuilder


class NextTokenLogits(nn.Module):
    """A causal language model that computes logits at the last position of each prompt only.

    Args:
        model: the backbone, or the backbone with its adapter.
    """

    def __init__(self, model: LlamaForCausalLM | PeftModel):
        super().__init__()
        self.model = model

    def forward(
        self, tokens: torch.Tensor, lengths: torch.Tensor, token_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits of the token after each prompt.

        Args:
            tokens: prompts padded on the right, ``(batch, length)``.
            lengths: the prompts' lengths, ``(batch,)``.
            token_ids: tokens whose logits are computed, ``(n,)``; without it those of the whole vocabulary.

        Returns:
            float32 logits, ``(batch, n)``.
        """
        language_model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        hidden = language_model.model(input_ids=tokens, use_cache=False).last_hidden_state  # (batch, length, dim)
        last = hidden[torch.arange(len(tokens), device=hidden.device), lengths - 1]  # (batch, dim)
        head = language_model.lm_head.weight  # (vocabulary, dim)
        if token_ids is None:
            return F.linear(last, head).float()
        # in bfloat16 many labels would share a logit, and such ties fall to the retriever's order
        return F.linear(last.float(), head[token_ids].float())


class VerbalizerRanker:
    """A language model as a ranker of labelled candidates.

    Args:
        model: the backbone, or the backbone with its adapter.
        prompts: builds the prompts of one data set with the backbone's tokenizer.
        batch_size: prompts in one forward pass.
    """

    def __init__(self, model: LlamaForCausalLM | PeftModel, prompts: PromptBuilder, *, batch_size: int):
        self.model = model
        self.prompts = prompts
        self.batch_size = batch_size
        self._network = NextTokenLogits(model)

    def probabilities(
        self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], *, progress: bool = False
    ) -> np.ndarray:
        """Return P(candidate) of every request, by one forward pass per prompt.

        Prompts are batched by length, so that little is computed on padding.

        Args:
            histories: item ids in the order of time, one sequence per request.
            candidates: item ids in the order of their labels, ``(n, n_candidates)``.
            progress: show a progress bar.

        Returns:
            float32 ``(n, n_candidates)``; each row sums to 1.

        Raises:
            InputError: there are more candidates than labels, or the model's logits are not numbers.
        """
        requests = zip(histories, candidates, strict=True)
        prompts = [self.prompts.build(history, labelled) for history, labelled in requests]
        n_candidates = len(candidates[0]) if len(candidates) else 0
        label_ids = torch.tensor(self.prompts.label_ids[:n_candidates], device=self.model.device)
        order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")  # longest first: memory peaks at once
        result = np.empty((len(prompts), n_candidates), dtype=np.float32)
        was_training = self._network.training
        self._network.eval()
        with torch.inference_mode(), _bar(len(prompts), shown=progress) as bar:
            for start in range(0, len(prompts), self.batch_size):
                rows = order[start : start + self.batch_size]
                tokens, lengths = pad([prompts[row] for row in rows], device=self.model.device)
                logits = self._network(tokens, lengths, label_ids)  # (batch, n_candidates)
                result[rows] = logits.softmax(dim=-1).cpu().numpy()
                bar.update(len(rows))
        self._network.train(was_training)
        if not np.isfinite(result).all():
            # a comparison with NaN is false, which would put every target first
            raise InputError("The ranker's probabilities are not numbers: tune it again with a smaller learning_rate.")
        return result


def pad(prompts: Sequence[Sequence[int]], *, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts padded on the right, ``(batch, longest)``, and their lengths, ``(batch,)``."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)  # what pads is never read
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    return tokens.to(device), lengths.to(device)


def rerank(
    ranker: VerbalizerRanker,
    dataset: Dataset,
    candidates: pd.DataFrame,
    split: str,
    *,
    order: str = "descending",
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Re-rank each user's candidates with the language model and return the targets' ranks.

    A prompt is read only for users whose target is among their candidates: nothing that the ranker
    does can change the rank of another user's target.

    Args:
        ranker: the language model with its prompts.
        dataset: the users' histories.
        candidates: the retriever's candidates (user, split, target, rank, items, scores).
        split: ``validation`` or ``test``.
        order: the order in which a prompt lists the candidates: ``descending`` in the retriever's score,
            as published, or ``shuffled``, which exposes a preference for early labels.
        seed: of the shuffled order, which is drawn per user.
        progress: show a progress bar.

    Returns:
        A ranks frame (user, target, rank), in the order of ``candidates``.

    Raises:
        InputError: the order or the split is unknown, or there are more candidates than labels.
    """
    if order not in ("descending", "shuffled"):
        raise InputError(f"Unknown order {order!r}: choose from descending, shuffled.")
    rows = split_rows(candidates, split)
    items = candidate_items(rows)[:, : ranker.prompts.settings.candidates]  # (n, n_candidates)
    retrieved = np.flatnonzero((items == rows["target"].to_numpy()[:, None]).any(axis=1))
    users = rows["user"].to_numpy()[retrieved]
    shown = np.tile(np.arange(items.shape[1]), (len(users), 1))  # the candidate under each label
    if order == "shuffled":
        shown = np.array(
            [_generator(seed, user).permutation(labels) for user, labels in zip(users, shown, strict=True)]
        )
    listed = np.take_along_axis(items[retrieved], shown.reshape(len(users), -1), axis=1)
    histories = [dataset.history(int(user), split) for user in users]
    probabilities = ranker.probabilities(histories, listed, progress=progress)
    scores = np.zeros(items.shape, dtype=np.float32)
    scores[retrieved[:, None], shown.reshape(len(users), -1)] = probabilities.reshape(len(users), -1)
    return rerank_by_scores(rows, scores)


def rerank_by_scores(rows: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """Return the targets' ranks after each user's candidates were put in the order of new scores.

    A target outside the candidates keeps the rank that the retriever gave it; candidates of equal
    score keep the retriever's order.

    Args:
        rows: candidates of one split.
        scores: a score for each of the first ``n_candidates`` candidates, ``(n, n_candidates)``.

    Returns:
        A ranks frame (user, target, rank), in the order of ``rows``.
    """
    targets = rows["target"].to_numpy()
    hits = candidate_items(rows)[:, : scores.shape[1]] == targets[:, None]  # (n, n_candidates)
    place = hits.argmax(axis=1)[:, None]
    score = np.take_along_axis(scores, place, axis=1)
    before = (scores > score) | ((scores == score) & (np.arange(scores.shape[1]) < place))
    ranks = np.where(hits.any(axis=1), before.sum(axis=1) + 1, rows["rank"].to_numpy())
    columns = {"user": rows["user"].to_numpy(), "target": targets, "rank": ranks}
    return pd.DataFrame({name: values.astype(np.int32) for name, values in columns.items()})


def rerank_at_random(candidates: pd.DataFrame, split: str, *, seed: int) -> pd.DataFrame:
    """Return the targets' ranks after each user's candidates were put in random order: the floor of any ranker."""
    rows = split_rows(candidates, split)
    n_candidates = candidate_items(rows).shape[1]
    return rerank_by_scores(rows, np.array([_generator(seed, user).random(n_candidates) for user in rows["user"]]))


def rerank_by_item_scores(candidates: pd.DataFrame, split: str, item_scores: np.ndarray) -> pd.DataFrame:
    """Return the targets' ranks when an item scores the same for all users: its popularity, ``(n_items + 1,)``."""
    rows = split_rows(candidates, split)
    return rerank_by_scores(rows, np.asarray(item_scores)[candidate_items(rows)])


def split_rows(candidates: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the candidates of one split.

    Raises:
        InputError: there are none.
    """
    rows = candidates[candidates["split"] == split]
    if rows.empty:
        known = ", ".join(sorted(set(candidates["split"]))) or "none"
        raise InputError(f"The candidates hold no split {split!r} (they hold {known}): run the retriever for it first.")
    return rows


def candidate_items(rows: pd.DataFrame) -> np.ndarray:
    """Return the candidates' item ids, best first, ``(n, n_candidates)``."""
    return np.stack([np.asarray(items) for items in rows["items"]])


def _generator(seed: int, user: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(user)])


def _bar(total: int, *, shown: bool) -> tqdm:
    return tqdm(total=total, desc="Ranking", unit="user", mininterval=10, disable=not shown)
