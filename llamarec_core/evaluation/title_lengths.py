"""The time to rank a request against the length of its titles: Figure 3 of LlamaRec, for any strategies.

Titles are made up of words of the catalogue that are one token each, so that all have exactly the length asked for.
Time is split into the parts of :data:`llamarec_core.ranking.strategies.meter.PARTS`; titles are tokenized once per data
set and not for a request, as everywhere in this library.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from llamarec_core.files import InputError
from llamarec_core.ranking import PromptBuilder
from llamarec_core.ranking.strategies import Strategy
from llamarec_core.ranking.strategies.meter import PARTS
from llamarec_core.settings import RankerSettings

CATALOGUE = 400
"""Titles from which made-up requests are drawn."""

WHOLE = "whole"
"""Names the time of a request from its item ids to its ranks; beyond the parts it holds only bookkeeping."""


def made_up_titles(
    prompts: PromptBuilder, titles: Sequence[str], *, length: int, count: int, generator: np.random.Generator
) -> list[str]:
    """Return titles that a prompt gives exactly ``length`` tokens each.

    Args:
        prompts: tokenizes as in the middle of a prompt.
        titles: of the catalogue, whose words are taken.
        length: in tokens.
        count: titles to make.
        generator: of the random draws.

    Raises:
        InputError: the catalogue has no word of one token, or the tokenizer joins words.
    """
    words = sorted({word for title in titles for word in title.split() if word.isalpha()})
    tokens = prompts.tokenize([f" {word}" for word in words])
    words = [word for word, of_word in zip(words, tokens, strict=True) if len(of_word) == 1]
    if not words:
        raise InputError("No word of the catalogue's titles is a single token: take another data set or backbone.")
    made = [" ".join(generator.choice(words, size=length)) for _ in range(count)]
    if any(len(of_title) != length for of_title in prompts.tokenize([f" {title}" for title in made])):
        raise InputError("The tokenizer joins words to one token: titles of a given length cannot be made up of them.")
    return made


def made_up_requests(
    tokenizer: PreTrainedTokenizerBase,
    titles: Sequence[str],
    settings: RankerSettings,
    *,
    length: int,
    batch: int,
    generator: np.random.Generator,
) -> tuple[PromptBuilder, np.ndarray, np.ndarray]:
    """Make up a catalogue of titles of one length, and requests for its items.

    Args:
        tokenizer: of the backbone.
        titles: of a catalogue, whose words are taken; the first stands for padding.
        settings: ``history_length`` and ``candidates`` say how many titles a request has.
        length: of a title, in tokens; settings with fewer ``title_tokens`` would cut it.
        batch: requests.
        generator: of the random draws.

    Returns:
        The catalogue's prompts, the histories ``(batch, H)``, the candidates ``(batch, K)``.

    Raises:
        InputError: as :func:`made_up_titles`.
    """
    of_catalogue = PromptBuilder(tokenizer, titles, settings)
    made = made_up_titles(of_catalogue, titles, length=length, count=CATALOGUE, generator=generator)
    past, listed = settings.history_length, settings.candidates
    items = np.stack([generator.permutation(CATALOGUE)[: past + listed] + 1 for _ in range(batch)])
    return PromptBuilder(tokenizer, ["", *made], settings), items[:, :past], items[:, past:]


def inference_times(
    strategies: Mapping[str, Strategy],
    histories: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    *,
    repetitions: Mapping[str, int],
    warmup: int = 0,
) -> pd.DataFrame:
    """Time strategies on the same requests, all of them in one batch, in turn within one run.

    Args:
        strategies: name → strategy; its ``batch_size`` is set here.
        histories: item ids, one sequence a request.
        candidates: item ids, ``(n, K)``.
        repetitions: name → rounds that count, in which a strategy takes part.
        warmup: rounds before, that do not.

    Returns:
        ``method``, ``batch`` (requests), ``part`` (:data:`WHOLE`, or one of
        :data:`~llamarec_core.ranking.strategies.meter.PARTS`), ``seconds`` (median over the rounds, a request's equal
        share of its batch), ``iqr_seconds`` (interquartile range; empty for a single round), ``repetitions``.
    """
    batch = len(histories)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in strategies}
    for number in range(-warmup, max(repetitions.values())):
        for name, strategy in strategies.items():
            if number >= repetitions[name]:
                continue
            strategy.batch_size = batch
            started = time.perf_counter()
            cost = strategy.rank(histories, candidates).cost
            seconds = {WHOLE: (time.perf_counter() - started) / batch}
            if number >= 0:
                rounds[name].append(seconds | {part: cost[f"{part}_seconds"].mean() for part in PARTS})
    rows = [
        {
            "method": name,
            "batch": batch,
            "part": part,
            "seconds": float(np.median(values)),
            "iqr_seconds": float(np.subtract(*np.percentile(values, [75, 25]))) if len(values) > 1 else np.nan,
            "repetitions": len(values),
        }
        for name, of_rounds in rounds.items()
        for part, values in pd.DataFrame(of_rounds).items()
    ]
    return pd.DataFrame(rows)
