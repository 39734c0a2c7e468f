import pytest
import torch

from llamarec_core.llm_baselines.generation import Meter, generate
from llamarec_core.ranking import load_backbone
from llamarec_core.ranking.adapter import add_adapter
from tests.llm_baselines.conftest import log_probability

PROMPTS = [[100, 200, 300, 400], [500, 600], [700, 800, 900]]


@pytest.fixture
def meter():
    return Meter(len(PROMPTS), torch.device("cpu"))


@pytest.mark.parametrize("width", [1, 3])
def test_the_beam_is_that_of_transformers(model, meter, width):
    ours = generate(model, PROMPTS, meter, limits=[6] * 3, width=width)
    for prompt, hypotheses in zip(PROMPTS, ours, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), num_beams=width,
            num_return_sequences=width, max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0,
            eos_token_id=-1,
        )  # fmt: skip
        assert [list(hypothesis.tokens) for hypothesis in hypotheses] == theirs[:, len(prompt) :].tolist()


def test_scores_are_log_probabilities_also_with_an_adapter(tiny):
    model = add_adapter(load_backbone(tiny.settings, device="cpu")[0], tiny.settings, seed=0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    found = generate(model, PROMPTS, Meter(3, model.device), limits=[5] * 3, width=4)
    for hypotheses, prompt in zip(found, PROMPTS, strict=True):
        assert len(hypotheses) == 4
        expected = [log_probability(model, prompt, hypothesis.tokens) for hypothesis in hypotheses]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx(expected, abs=1e-4)
        assert expected == sorted(expected, reverse=True)


def test_each_prompt_has_its_own_limit_and_a_finished_one_is_not_run_any_further(model, meter, pass_counter):
    found = generate(model, PROMPTS, meter, limits=[1, 5, 3])
    assert [len(hypotheses[0].tokens) for hypotheses in found] == [1, 5, 3]
    assert meter.frame()["forward_passes"].tolist() == [1, 5, 3]
    assert pass_counter.passes == 9
    assert (meter.frame()[["reading_seconds", "generating_seconds"]] > 0).all(axis=None)
    assert (meter.frame()[["tokenizing_seconds", "parsing_seconds"]] == 0).all(axis=None)


def test_an_end_is_kept_out_of_the_tokens_but_in_the_score_and_the_count(model, meter):
    whole = generate(model, PROMPTS, Meter(3, model.device), limits=[6] * 3)
    end = whole[0][0].tokens[3]
    assert end not in whole[0][0].tokens[:3]
    (cut,), *_ = generate(model, PROMPTS, meter, limits=[6] * 3, ends={end})
    assert cut.tokens == whole[0][0].tokens[:3]
    assert cut.score == pytest.approx(log_probability(model, PROMPTS[0], [*cut.tokens, end]), abs=1e-4)
    assert meter.frame()["tokens_generated"][0] == 4


def test_a_hypothesis_that_ended_gives_way_to_better_ones(model, meter):
    ends = set(range(0, 40_000, 2))
    few, many = (
        generate(model, PROMPTS, Meter(3, model.device), limits=[4] * 3, width=width, ends=ends) for width in (2, 50)
    )
    for narrow, wide in zip(few, many, strict=True):
        assert len(narrow) == 2
        assert wide[0].score >= narrow[0].score - 1e-4
        assert len({hypothesis.score for hypothesis in wide}) == 50
