"""Made-up titles have the length asked for, and strategies are timed on them in turn."""

import numpy as np
import pytest

from llamarec_core.evaluation.title_lengths import WHOLE, inference_times, made_up_titles
from llamarec_core.files import InputError
from llamarec_core.ranking import PromptBuilder
from llamarec_core.ranking.strategies import CausalLM, Verbalizer
from llamarec_core.ranking.strategies.meter import PARTS


@pytest.mark.parametrize("length", [1, 5, 40])
def test_titles_have_exactly_the_length_asked_for(prompts, dataset, tiny, length):
    options = {"length": length, "count": 9, "generator": np.random.default_rng(0)}
    made = made_up_titles(prompts, dataset.titles, **options)
    settings = tiny.settings.model_copy(update={"title_tokens": 50})
    built = PromptBuilder(prompts.tokenizer, ["", *made], settings)
    assert [len(tokens) for tokens in built.title_tokens[1:]] == [length] * 9
    assert set(" ".join(made).split()) <= {"The", "Story", "Film"}


def test_a_catalogue_without_words_is_refused(prompts):
    with pytest.raises(InputError, match="No word of the catalogue"):
        made_up_titles(prompts, ["", "(1999)", "2046"], length=5, count=1, generator=np.random.default_rng(0))


def test_strategies_are_timed_in_turn_and_by_parts(model, prompts, requests):
    strategies = {"LlamaRec": Verbalizer(model, prompts), "Llama CausalLM": CausalLM(model, prompts)}
    calls = []
    for name, strategy in strategies.items():
        whole = strategy.rank
        strategy.rank = lambda *given, name=name, whole=whole: calls.append(name) or whole(*given)
    repetitions = {"LlamaRec": 3, "Llama CausalLM": 1}
    table = inference_times(strategies, *requests, repetitions=repetitions, warmup=1)
    assert calls == ["LlamaRec", "Llama CausalLM"] * 2 + ["LlamaRec"] * 2
    assert list(table) == ["method", "batch", "part", "seconds", "iqr_seconds", "repetitions"]
    assert set(table["batch"]) == {5}
    times = table.set_index(["method", "part"])
    assert times["repetitions"].groupby("method").first().to_dict() == repetitions
    assert times.loc["Llama CausalLM", "iqr_seconds"].isna().all()
    assert times.loc["LlamaRec", "iqr_seconds"].notna().all()
    seconds = times["seconds"]
    assert seconds["LlamaRec", "generating"] == seconds["LlamaRec", "parsing"] == 0
    assert seconds["Llama CausalLM", "generating"] > 0
    for method in strategies:
        parts = sum(seconds[method, part] for part in PARTS)
        assert 0 < parts <= 1.2 * seconds[method, WHOLE]
