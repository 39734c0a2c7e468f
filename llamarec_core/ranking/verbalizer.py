"""The verbalizer: rank all candidates of a prompt in one forward pass, and the loss of what it says (LlamaRec, 3.2.3).

    P(candidate i) = softmax over the labels of the next-token logits after the prompt, at the token of label i

Nothing is generated and nothing is parsed. Of the last position alone the head's rows of the labels are computed, and
the last block's feed-forward network. Prompts are padded on the right, where causal attention never looks.

The paper's loss is the cross-entropy of the label's token over the whole vocabulary. This study adds a loss over the
labels alone (``loss: labels``)::

    log p = log softmax(z / T + log q),        L = − mean over questions of Σ_i answer_i log p_i

z are the labels' logits, T a temperature (1 for names, which want sharp logits), and q the list's prior
(:mod:`~llamarec_core.ranking.examples`). The *meter* of learning, in nats an answer, is the mean of
log p(answer) − log q(answer).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AttentionInterface, LlamaForCausalLM

from llamarec_core.files import InputError
from llamarec_core.ranking.examples import Example
from llamarec_core.ranking.prompt import PromptBuilder

TOKEN_BUDGET = 16_384  # in one forward pass, padding included: long prompts go in smaller batches
BATCH_SIZE = 16  # most prompts in one forward pass
ENCODED = 1_000  # prompts at a time: lists of Python integers take twenty times the memory of arrays
CHUNK = 128  # positions of a packed row that attend together
SIMILAR = 0.95  # a prompt shorter than this share of a batch's longest waits: it would mostly be padding


class NextTokenLogits(nn.Module):
    """A Llama, with PEFT's adapter or without, that computes logits at the last position of each prompt only."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: torch.Tensor,
        lengths: torch.Tensor,
        token_ids: torch.Tensor | None = None,
        *,
        positions: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
        chunks: "list[Chunk] | None" = None,
    ) -> torch.Tensor:
        """Return the float32 logits of the token after each prompt, ``(batch, n)`` or ``(batch, k, n)``.

        ``tokens`` are prompts padded on the right, ``(batch, length)``, or what :func:`pack` made. ``lengths`` says how
        many of a row's tokens its prompt takes, ``(batch,)``, or each of several, ``(batch, k)``. ``token_ids`` are
        those whose logits are computed, ``(n,)``; without it all are.
        """
        llama = llama_of(self.model)
        options = {"position_ids": positions, "use_cache": False}
        if seen is not None:
            lowest = torch.finfo(llama.dtype).min
            options["attention_mask"] = torch.zeros_like(seen, dtype=llama.dtype).masked_fill_(~seen, lowest)[:, None]
            options["chunks"] = chunks
        rows = torch.arange(len(tokens), device=tokens.device).view(-1, *[1] * (lengths.ndim - 1))
        read = torch.zeros_like(tokens, dtype=torch.bool)
        read[rows, lengths - 1] = True
        with _feeding_forward(llama.model.layers[-1].mlp, at=read), _attending(llama, chunks):
            hidden = llama.model(input_ids=tokens, **options).last_hidden_state  # (batch, length, dim)
        last = hidden[rows, lengths - 1]  # (batch, dim) or (batch, k, dim)
        head = llama.lm_head.weight  # (vocabulary, dim)
        if token_ids is None:
            return F.linear(last, head).float()
        # in bfloat16 many labels would share a logit, and such ties fall to the retriever's order
        return F.linear(last.float(), head[token_ids].float())


def llama_of(model: nn.Module) -> LlamaForCausalLM:
    """Return the language model itself, whose layers hold the adapter if there is one."""
    return model if isinstance(model, LlamaForCausalLM) else model.get_base_model()


class VerbalizerRanker:
    """A language model as a ranker of labelled candidates, at most ``batch_size`` prompts in a forward pass."""

    def __init__(self, model: nn.Module, prompts: PromptBuilder, *, batch_size: int = BATCH_SIZE):
        self.model, self.prompts, self.batch_size = model, prompts, batch_size
        self._network, self._turn = NextTokenLogits(model), Lock()

    def probabilities(
        self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], *, progress: bool = False
    ) -> np.ndarray:
        """Return P(candidate) of every request, float32 ``(n, K)``, for candidates ``(n, K)`` in the order of labels.

        The model is left in evaluation mode. Processes that ``torchrun`` started must all ask the same: they share out
        the batches, and each returns all, in the same bytes as one process.
        """
        requests = zip(histories, candidates, strict=True)
        texts = [self.prompts.text(history, labelled) for history, labelled in requests]
        some = (self.prompts.encode(texts[start : start + ENCODED]) for start in range(0, len(texts), ENCODED))
        prompts = [np.array(tokens, dtype=np.int32) for tokens in chain.from_iterable(some)]
        refuse_too_long(self.prompts, self.model, max(map(len, prompts), default=0))
        n_candidates = len(candidates[0]) if len(candidates) else 0
        label_ids = torch.tensor(self.prompts.label_ids[:n_candidates], device=self.model.device)
        order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")  # longest first: memory peaks at once
        result = torch.zeros(len(prompts), n_candidates, device=self.model.device)
        together = distributed.is_initialized()
        process, processes = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
        mine = list(self._batches(order, prompts))[process::processes]
        self._network.eval()
        shown = {"disable": not progress or process > 0, "desc": "Ranking", "unit": "user", "mininterval": 10}
        with torch.inference_mode(), tqdm(total=sum(map(len, mine)), **shown) as bar:
            for rows in mine:
                tokens, lengths = pad([prompts[row] for row in rows], device=self.model.device)
                with self._turn:  # requests of a web service come in several threads
                    logits = self._network(tokens, lengths, label_ids)  # (batch, n_candidates)
                result[rows] = logits.softmax(dim=-1)
                bar.update(len(rows))
            if together:
                distributed.all_reduce(result)  # elsewhere the rows are zero
        if not result.isfinite().all():
            # a comparison with NaN is false, which would put every target first
            raise InputError("The ranker's probabilities are not numbers: tune it again with a smaller learning_rate.")
        return result.numpy(force=True)

    def _batches(self, order: np.ndarray, prompts: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """Cut the prompts' order, longest first, into batches of similar length within the bounds."""
        start = 0
        while start < len(order):
            longest = len(prompts[order[start]])
            size = max(1, min(self.batch_size, TOKEN_BUDGET // longest))
            rows = [row for row in order[start : start + size] if len(prompts[row]) >= SIMILAR * longest]
            yield order[start : start + len(rows)]
            start += len(rows)


def refuse_too_long(prompts: PromptBuilder, model: nn.Module, n_tokens: int) -> None:
    """Refuse a sequence beyond the backbone's positions, which is never cut silently."""
    limit = model.config.max_position_embeddings
    if n_tokens > limit:
        raise InputError(
            f"A request takes {n_tokens} tokens, with its answer where one is generated, but "
            f"{prompts.settings.backbone!r} reads at most {limit}: lower history_length or title_tokens."
        )


def pad(prompts: Sequence[Sequence[int]], *, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts padded on the right, ``(batch, longest)``, and their lengths, ``(batch,)``."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens = pad_sequence(
        [torch.as_tensor(prompt, dtype=torch.long) for prompt in prompts], batch_first=True
    )  # what pads is never read
    return tokens.to(device), lengths


def pack(
    beginnings: Sequence[Sequence[int]], endings: Sequence[Sequence[Sequence[int]]], *, device: torch.device | str
) -> dict[str, Any]:
    """Return prompts that begin alike as one row, for :class:`NextTokenLogits`: what they share is read only once.

    A row is a beginning and its endings, each of which sees the beginning and itself, and is counted on from there.
    Where a row has fewer prompts, ``lengths`` repeats its last. ``positions`` (batch, length), ``seen``
    (batch, length, length) and ``chunks`` are ``None`` where each row is one prompt.
    """
    rows = [[*shared, *chain(*of_row)] for shared, of_row in zip(beginnings, endings, strict=True)]
    tokens, _ = pad(rows, device=device)
    width = max(map(len, endings))
    lengths = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    positions, owners = torch.zeros_like(tokens), torch.zeros_like(tokens)
    starts = torch.full_like(tokens, tokens.shape[1])  # where the ending of a token begins
    for row, (shared, of_row) in enumerate(zip(beginnings, endings, strict=True)):
        ends = list(accumulate(map(len, of_row), initial=len(shared)))
        lengths[row] = torch.tensor(ends[1:] + ends[-1:] * (width - len(of_row)))
        positions[row, : len(shared)] = torch.arange(len(shared))
        starts[row, : len(shared)] = 0
        for number, (start, stop) in enumerate(pairwise(ends), start=1):
            positions[row, start:stop] = torch.arange(stop - start) + len(shared)
            owners[row, start:stop] = number
            starts[row, start:stop] = start
    if width == 1:
        return {"tokens": tokens, "lengths": lengths, "positions": None, "seen": None, "chunks": None}
    together = (owners[:, :, None] == owners[:, None, :]) | (owners[:, None, :] == 0)
    seen = together.tril()  # (batch, length, length): what comes later is never seen
    chunks = _chunks(starts.amin(0).tolist(), max(map(len, beginnings)))
    return {"tokens": tokens, "lengths": lengths, "positions": positions, "seen": seen, "chunks": chunks}


Chunk = tuple[slice, list[slice]]
"""Some positions of packed rows, and those that they may see."""


def _chunks(starts: list[int], beginning: int) -> list[Chunk]:
    """Cut rows whose longest beginning has so many tokens, and whose endings start there, into chunks."""
    chunks = []
    for first in range(0, len(starts), CHUNK):
        stop = min(first + CHUNK, len(starts))
        apart = starts[first] > beginning
        chunks.append((slice(first, stop), [slice(beginning), slice(starts[first], stop)] if apart else [slice(stop)]))
    return chunks


def attend_in_chunks(
    _: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    *,
    scaling: float,
    chunks: list[Chunk],
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Return masked attention, ``(batch, length, heads, dim)``, without most of the products that the mask undoes.

    ``query`` is ``(batch, heads, length, dim)``; each head of ``key`` and ``value`` serves several of its heads. On a
    processor this takes half the time of one product under the whole mask.
    """
    grouped = (query * scaling).unflatten(1, (key.shape[1], -1))  # (batch, key heads, queries, length, dim)
    outputs = []
    for positions, visible in chunks:
        keys, values = (torch.cat([of[:, :, part] for part in visible], dim=2) for of in (key, value))
        hidden = torch.cat([mask[:, :, positions, part] for part in visible], dim=3)[:, :, None]
        some = grouped[..., positions, :]
        scores = (some.flatten(2, 3) @ keys.mT).unflatten(2, some.shape[2:4]).add_(hidden)
        outputs.append((scores.softmax(-1).flatten(2, 3) @ values).view_as(some))
    return torch.cat(outputs, dim=3).flatten(1, 2).transpose(1, 2), None


AttentionInterface.register("chunks", attend_in_chunks)


@contextmanager
def _attending(llama: LlamaForCausalLM, chunks: list[Chunk] | None) -> Iterator[None]:
    """Let a model on a processor attend by chunks, if there are any."""
    before = llama.config._attn_implementation
    if chunks and llama.device.type == "cpu":
        llama.config._attn_implementation = "chunks"
    try:
        yield
    finally:
        llama.config._attn_implementation = before


@contextmanager
def _feeding_forward(network: nn.Module, *, at: torch.Tensor) -> Iterator[None]:
    """Let a feed-forward network work at some positions alone, ``(batch, length)``; elsewhere it says zero."""

    def narrow(_: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        return inputs[0][at]  # (n, dim)

    def widen(_: nn.Module, __: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        everywhere = output.new_zeros(*at.shape, output.shape[-1])
        everywhere[at] = output
        return everywhere

    with network.register_forward_pre_hook(narrow), network.register_forward_hook(widen):
        yield


@dataclass(frozen=True)
class Batch:
    """What one forward pass of the tuning reads and is asked: n questions over all its examples."""

    prompts: dict[str, Any]  # as :func:`pack` returns them, a row an example, a prompt a question
    asked: torch.Tensor  # each question's index among all rows' prompts, (n,): short rows repeat their last
    answers: torch.Tensor  # as in :class:`.Question`, (n, n_candidates), and likewise:
    left_out: torch.Tensor
    log_prior: torch.Tensor
    named: torch.Tensor  # whether a question is by name, (n,)
    n_answers: int  # to next-item questions
    n_tokens: int  # without padding


def make_batch(prompts: PromptBuilder, examples: list[Example], *, device: torch.device | str) -> Batch:
    """Return the batch of some examples."""
    beginnings, endings = [], []
    for example in examples:
        candidates = [prompts.titles[item] for item in example.candidates]
        texts = [prompts.template.render(question.titles, candidates) for question in example.questions]
        shared, of_example = prompts.encode_shared(texts)
        beginnings.append(shared)
        endings.append(of_example)
    width = max(map(len, endings))
    asked = [row * width + prompt for row, of_row in enumerate(endings) for prompt in range(len(of_row))]
    questions = [question for example in examples for question in example.questions]
    columns = (np.stack([getattr(of, name) for of in questions]) for name in ("answer", "left_out", "log_prior"))
    answers, left_out, log_prior = (torch.from_numpy(values).to(device) for values in columns)
    return Batch(
        prompts=pack(beginnings, endings, device=device),
        asked=torch.tensor(asked, device=device),
        answers=answers.float(),
        left_out=left_out,
        log_prior=log_prior.float(),
        named=torch.tensor([question.kind == "name" for question in questions], device=device),
        n_answers=sum(question.kind == "next" for question in questions),
        n_tokens=sum(map(len, [*beginnings, *chain(*endings)])),
    )


def vocabulary_loss(logits: torch.Tensor, batch: Batch, target_ids: torch.Tensor) -> torch.Tensor:
    """Return each question's cross-entropy over the whole vocabulary, ``(n,)``, given logits ``(rows, k, vocabulary)``.

    The labels of what else the user chose are left out. ``target_ids`` are the labels' tokens, ``(n_candidates,)``.
    """
    read = logits.flatten(0, 1)[batch.asked]  # (n, vocabulary)
    labels = read[:, target_ids].masked_fill(batch.left_out, -torch.inf)
    read = read.index_copy(1, target_ids, labels)
    return F.cross_entropy(read, target_ids[batch.answers.argmax(1)], reduction="none")


def label_log_probabilities(
    logits: torch.Tensor, batch: Batch, *, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p and log q, ``(n, n_candidates)`` each, given the labels' logits ``(rows, k, n_candidates)``."""
    divisor = torch.where(batch.named, 1.0, temperature)[:, None]
    prior = batch.log_prior.masked_fill(batch.left_out, -torch.inf)
    return (logits.flatten(0, 1)[batch.asked] / divisor + prior).log_softmax(-1), prior.log_softmax(-1)


def expected(answers: torch.Tensor, log_probabilities: torch.Tensor) -> torch.Tensor:
    """Return Σ_i answer_i · log p_i of each question, ``(n,)``, with 0 · −∞ meant as 0."""
    return (answers * log_probabilities.masked_fill(answers == 0, 0.0)).sum(-1)
