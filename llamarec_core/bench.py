"""Benches: variants of one computation, timed in turn within one run, and the memory that a call takes.

What is quoted is a ratio: every round calls each variant once, and what slows the machine slows them all. Figure 3 of
LlamaRec, the time to rank a request against the length of its titles, is measured likewise.
"""

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import iqr
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.llm_baselines import CausalLM, Verbalizer
from llamarec_core.llm_baselines.generation import PARTS
from llamarec_core.ranking import PromptBuilder, load_backbone
from llamarec_core.ranking.qlora import RankerTask
from llamarec_core.ranking.verbalizer import NextTokenLogits, pack, pad
from llamarec_core.settings import RankerSettings

MATRIX = 2048  # rows and columns: larger than a processor's caches
MATRIX_OPERATIONS = 2 * MATRIX**3
"""Floating-point operations of :func:`matrix_product`."""

CATALOGUE = 400  # titles from which made-up requests are drawn
PROCESS = Path("/proc/self")

WHOLE = "whole"
"""Names the time of a request from its item ids to its ranks; beyond the parts it holds only bookkeeping."""


def compare_times(
    case: str, variants: Mapping[str, Callable[[], object]], *, repetitions: int = 20, warmup: int = 3
) -> pd.DataFrame:
    """Time variants of one computation, and how many times as fast as the first each is: ``ratio_to_reference``."""
    rounds = []
    for number in range(warmup + repetitions):
        for name, call in variants.items():
            started = time.perf_counter()
            call()
            if number >= warmup:
                rounds.append({"case": case, "variant": name, "seconds": time.perf_counter() - started})
    table = _medians(rounds).rename(columns={"seconds": "median_seconds"}).drop(columns="repetitions")
    table["ratio_to_reference"] = table["median_seconds"][0] / table["median_seconds"]
    return table.assign(peak_mib=[peak_memory(call) for call in variants.values()])


def peak_memory(call: Callable[[], object]) -> float:
    """Return how many MiB a call takes at its peak, of a GPU where there is one; NaN where the system does not say."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # gives back what earlier calls freed: it would hide what this one takes
        (PROCESS / "clear_refs").write_text("5")  # the peak starts from here
    except (OSError, AttributeError):
        call()
        return float("nan")
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    # of this process, in MiB
    return int((PROCESS / "status").read_text().partition(f"{field}:")[2].split()[0]) / 1024


def matrix_product(dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Return a matrix product to time, of :data:`MATRIX_OPERATIONS`: it shows the machine's rate."""
    left, right = (torch.from_numpy(np.random.default_rng(0).standard_normal((MATRIX, MATRIX))).to(dtype) for _ in "ab")
    return lambda: left @ right


@torch.inference_mode()
def plain_probabilities(
    model: LlamaForCausalLM, prompts: Sequence[Sequence[int]], label_ids: Sequence[int]
) -> np.ndarray:
    """Return P(candidate), ``(n, labels)``, the plain way: all prompts padded to the longest, with all logits."""
    tokens, lengths = pad(prompts, device=model.device)
    mask = torch.arange(tokens.shape[1], device=model.device) < lengths[:, None]
    logits = model(input_ids=tokens, attention_mask=mask).logits  # (n, length, vocabulary)
    ends = torch.arange(len(tokens), device=model.device), lengths - 1
    return logits[ends][:, label_ids].float().softmax(-1).cpu().numpy()


@torch.inference_mode()
def continued_probabilities(
    model: LlamaForCausalLM, prompts: Sequence[Sequence[int]], label_ids: Sequence[int], *, shared: int
) -> np.ndarray:
    """Return P(candidate) after prompts whose first ``shared`` tokens are the same and are read once."""
    packed = pack([prompts[0][:shared]], [[prompt[shared:] for prompt in prompts]], device=model.device)
    logits = NextTokenLogits(model)(**packed, token_ids=torch.tensor(label_ids, device=model.device))
    return logits[0].softmax(-1).cpu().numpy()


@torch.inference_mode()
def generate_greedily(model: LlamaForCausalLM, prompt: Sequence[int], count: int) -> torch.Tensor:
    """Generate exactly ``count`` tokens after a prompt, by transformers."""
    tokens = torch.tensor([prompt], device=model.device)
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    return model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)


class Engine:
    """CTranslate2, a well-kept engine for processors; ``folder`` gets the model's weights, converted, in float32."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path):
        import ctranslate2  # of this bench alone
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(model.config.name_or_path).convert(str(folder), force=True)
        threads = torch.get_num_threads()
        self._generator = ctranslate2.Generator(str(folder), compute_type="float32", intra_threads=threads)
        self._tokenizer = tokenizer

    def probabilities(self, prompts: Sequence[Sequence[int]], label_ids: Sequence[int]) -> np.ndarray:
        """Return P(candidate), ``(n, labels)``: the engine pads too, and returns the logits of all positions."""
        words = [self._tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts]
        logits = torch.as_tensor(np.array(self._generator.forward_batch(words)))  # (n, length, vocabulary)
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return logits[torch.arange(len(ends)), ends][:, label_ids].softmax(-1).numpy()

    def generate_greedily(self, prompt: Sequence[int], count: int) -> object:
        """Generate exactly ``count`` tokens."""
        words = [self._tokenizer.convert_ids_to_tokens(prompt)]
        return self._generator.generate_batch(words, max_length=count, min_length=count, include_prompt_in_result=False)


class TrainingStep:
    """One optimiser step of the ranker's tuning to time, another at each call."""

    def __init__(self, dataset: Dataset, settings: RankerSettings, *, seed: int):
        self._task = RankerTask(dataset, None, settings, seed=seed)
        self._passes: list[list[dict[str, float]]] = []

    def __call__(self) -> None:
        """Take a step."""
        self._passes.append(self._task.step(len(self._passes)))

    def mean(self, count: str) -> float:
        """Return the mean of a count over the steps taken: ``answers`` or ``tokens``."""
        return sum(passed[count] for step in self._passes for passed in step) / len(self._passes)


def load_precisions(
    settings: RankerSettings, *precisions: str
) -> tuple[dict[str, LlamaForCausalLM], PreTrainedTokenizerBase]:
    """Load a backbone in several precisions: ``float32``, ``bfloat16``, or ``nf4``, which computes in bfloat16."""
    models = {}
    for name in precisions:
        kinds = ("nf4", "bfloat16") if name == "nf4" else ("none", name)
        changes = dict(zip(("quantization", "dtype"), kinds, strict=True))
        models[name], tokenizer = load_backbone(settings.model_copy(update=changes))
    return models, tokenizer


def title_length_times(
    pairs: Sequence[Mapping[str, tuple[str, LlamaForCausalLM]]],
    prompts: PromptBuilder,
    *,
    cases: Sequence[tuple[int, int, int]],
    seed: int,
) -> pd.DataFrame:
    """Time the verbalizer and the generation of the list against the length of titles (Figure 3).

    ``pairs`` give the precision and the model of ``LlamaRec`` and of ``Llama CausalLM``, which take turns; ``cases``
    are requests answered together, tokens of a title, rounds of generation. ``part`` is :data:`WHOLE` or one of
    :data:`.PARTS`, and ``seconds`` a request's share of its batch.
    """
    rounds = []
    for pair in pairs:
        generator = np.random.default_rng(seed)
        for number, (batch, length, count) in enumerate(cases):
            made, *requests = made_up_requests(prompts, length=length, batch=batch, generator=generator)
            strategies = {
                "LlamaRec": Verbalizer(pair["LlamaRec"][1], made, batch_size=batch),
                "Llama CausalLM": CausalLM(pair["Llama CausalLM"][1], made, batch_size=batch),
            }
            strategies["Llama CausalLM"].ends = ()  # a list of the same length each time
            repetitions = {"LlamaRec": 5 if batch == 1 else 2, "Llama CausalLM": count}
            for turn in range(-int(number == 0), max(repetitions.values())):  # one round of the first case warms up
                for method in (name for name in strategies if turn < repetitions[name]):
                    started = time.perf_counter()
                    cost = strategies[method].rank(*requests).cost
                    seconds = {WHOLE: (time.perf_counter() - started) / batch}
                    seconds |= {part: cost[f"{part}_seconds"].mean() for part in PARTS}
                    case = {"mean_title_length_tokens": length, "method": method, "batch": batch}
                    case |= {"precision": pair[method][0]}
                    rounds += [case | {"part": part, "seconds": of} for part, of in seconds.items() if turn >= 0]
    columns = ["mean_title_length_tokens", "method", "batch", "part", "seconds", "iqr_seconds", "repetitions"]
    return _medians(rounds)[[*columns, "precision"]]


def made_up_requests(
    prompts: PromptBuilder, *, length: int, batch: int, generator: np.random.Generator
) -> tuple[PromptBuilder, np.ndarray, np.ndarray]:
    """Make up titles of ``length`` tokens from words that are one token each: their prompts, histories, candidates."""
    words = sorted({word for title in prompts.titles for word in title.split() if word.isalpha()})
    words = [word for word, tokens in zip(words, _tokens_of(prompts, words), strict=True) if tokens == 1]
    if not words:
        raise InputError("No word of the catalogue's titles is a single token: take another data set or backbone.")
    titles = [" ".join(generator.choice(words, size=length)) for _ in range(CATALOGUE)]
    if set(_tokens_of(prompts, titles)) != {length}:
        raise InputError("The tokenizer joins words to one token: titles of a given length cannot be made up of them.")
    past, listed = prompts.settings.history_length, prompts.settings.candidates
    items = np.stack([generator.permutation(CATALOGUE)[: past + listed] + 1 for _ in range(batch)])
    return PromptBuilder(prompts.tokenizer, ["", *titles], prompts.settings), items[:, :past], items[:, past:]


def _tokens_of(prompts: PromptBuilder, texts: Sequence[str]) -> list[int]:
    """Return how many tokens each text has after a space, in the middle of another."""
    before, *whole = prompts.encode(["-", *(f"- {text}" for text in texts)])
    return [len(tokens) - len(before) for tokens in whole]


def _medians(rounds: list[dict[str, object]]) -> pd.DataFrame:
    """Return the median of ``seconds`` over equal rounds, the interquartile range (none of one round), and how many."""
    frame = pd.DataFrame(rounds)
    grouped = frame.groupby([name for name in frame if name != "seconds"], sort=False)["seconds"]
    spread = grouped.agg(lambda seconds: iqr(seconds) if len(seconds) > 1 else np.nan)
    table = pd.DataFrame({"seconds": grouped.median(), "iqr_seconds": spread, "repetitions": grouped.size()})
    return table.reset_index()
