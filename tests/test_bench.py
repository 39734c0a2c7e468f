"""Benches: calls are taken in turn, ratios are against the first, memory is what a call takes at its highest."""

import time

import numpy as np
import pytest
import torch

from llamarec_core import bench
from llamarec_core.files import InputError
from llamarec_core.llm_baselines import CausalLM, Verbalizer
from llamarec_core.llm_baselines.generation import PARTS
from llamarec_core.ranking import PromptBuilder, VerbalizerRanker
from tests.llm_baselines.conftest import (  # noqa: F401 (fixtures)
    dataset,
    model,
    prompts,
    requests,
    smollm2,
    tiny,
    tokenizer,
)


def test_variants_are_timed_in_turn_against_the_first():
    calls = []

    def slow():
        calls.append("slow")
        time.sleep(0.02)

    def fast():
        calls.append("fast")
        time.sleep(0.005)

    table = bench.compare_times("sleeping", {"slow": slow, "fast": fast}, repetitions=5, warmup=1)
    assert calls[:12] == ["slow", "fast"] * 6
    columns = ["case", "variant", "median_seconds", "iqr_seconds", "ratio_to_reference", "peak_mib"]
    assert list(table.columns) == columns
    assert table["ratio_to_reference"][0] == 1
    assert 2 < table["ratio_to_reference"][1] < 5
    assert table["median_seconds"][0] >= 0.02
    assert (table["iqr_seconds"] >= 0).all()
    rate = bench.compare_times("rate", {"product": bench.matrix_product(torch.float32)}, repetitions=2)
    assert 1e9 < bench.MATRIX_OPERATIONS / rate["median_seconds"].item() < 1e15  # a processor's


def test_the_peak_is_what_a_call_takes_at_its_highest():
    if not (bench.PROCESS / "clear_refs").exists():
        assert np.isnan(bench.peak_memory(lambda: None))
        return
    given_back_at_once = bench.peak_memory(lambda: np.ones(50 * 2**17).sum())  # 50 MiB
    assert given_back_at_once == pytest.approx(50, abs=5)
    assert bench.peak_memory(lambda: None) < 5


def test_every_way_of_ranking_says_the_same(model, prompts, requests, tmp_path):  # noqa: F811
    ours = VerbalizerRanker(model, prompts).probabilities(*requests)
    built, labels = [prompts.build(*request) for request in zip(*requests, strict=True)], prompts.label_ids[:4]
    np.testing.assert_allclose(bench.plain_probabilities(model, built, labels), ours, atol=1e-4)
    engine = bench.Engine(model, prompts.tokenizer, tmp_path / "engine")
    np.testing.assert_allclose(engine.probabilities(built, labels), ours, atol=1e-3)
    alike = [prompts.build(requests[0][0], listed) for listed in requests[1]]
    shared = len(prompts.encode_shared([prompts.text(requests[0][0], listed) for listed in requests[1]])[0])
    of_alike = VerbalizerRanker(model, prompts).probabilities([requests[0][0]] * 5, requests[1])
    np.testing.assert_allclose(bench.continued_probabilities(model, alike, labels, shared=shared), of_alike, atol=1e-4)
    generated = bench.generate_greedily(model, built[0], 5)[0, -5:].tolist()
    assert engine.generate_greedily(built[0], 5)[0].sequences_ids[0] == generated


def test_a_step_of_learning_counts_answers_and_tokens(tiny, dataset):  # noqa: F811
    step = bench.TrainingStep(dataset, tiny.settings, seed=0)
    for _ in range(2):
        step()
    assert step.mean("answers") == 4  # two passes over two prompts
    assert step.mean("tokens") > 4 * 30


@pytest.mark.parametrize("length", [1, 5, 40])
def test_made_up_titles_have_exactly_the_length_asked_for(prompts, length):  # noqa: F811
    settings = prompts.settings.model_copy(update={"title_tokens": 50})
    of_catalogue = PromptBuilder(prompts.tokenizer, prompts.titles, settings)
    drawn = {"length": length, "batch": 2, "generator": np.random.default_rng(0)}
    made, histories, candidates = bench.made_up_requests(of_catalogue, **drawn)
    assert set(CausalLM(None, made)._title_tokens(range(1, len(made.titles)))) == {length}
    assert set(" ".join(made.titles).split()) <= {"The", "Story", "Film"}
    assert (histories.shape, candidates.shape) == ((2, 3), (2, 4))
    assert not set(histories[0]) & set(candidates[0])
    without_words = PromptBuilder(prompts.tokenizer, ["", "(1999)", "2046"], prompts.settings)
    with pytest.raises(InputError, match="No word of the catalogue"):
        bench.made_up_requests(without_words, **drawn)


def test_both_methods_are_timed_in_turn_and_by_parts(model, prompts, monkeypatch):  # noqa: F811
    calls = []
    for kind in (Verbalizer, CausalLM):
        whole = kind.rank
        monkeypatch.setattr(kind, "rank", lambda self, *given, w=whole: calls.append(self.name) or w(self, *given))
    pair = {"LlamaRec": ("bfloat16", model), "Llama CausalLM": ("float32", model)}
    table = bench.title_length_times([pair], prompts, cases=[(1, 2, 1), (3, 4, 2)], seed=0)
    assert calls == ["verbalizer", "causal_lm"] * 2 + ["verbalizer"] * 4 + ["verbalizer", "causal_lm"] * 2
    columns = ["mean_title_length_tokens", "method", "batch", "part", "seconds", "iqr_seconds", "repetitions"]
    assert list(table) == [*columns, "precision"]
    times = {key: rows.set_index("part") for key, rows in table.groupby(["mean_title_length_tokens", "method"])}
    assert set(times[4, "LlamaRec"]["batch"]) == {3}
    assert set(times[2, "LlamaRec"]["precision"]) == {"bfloat16"}
    assert {key: rows["repetitions"].iloc[0] for key, rows in times.items()} == {
        (2, "LlamaRec"): 5, (2, "Llama CausalLM"): 1, (4, "LlamaRec"): 2, (4, "Llama CausalLM"): 2
    }  # fmt: skip
    assert times[2, "Llama CausalLM"]["iqr_seconds"].isna().all()
    for method, generates in (("LlamaRec", False), ("Llama CausalLM", True)):
        seconds = times[4, method]["seconds"]
        assert [seconds["generating"] > 0, seconds["parsing"] > 0] == [generates] * 2
        assert 0 < sum(seconds[part] for part in PARTS) <= 1.2 * seconds[bench.WHOLE]
