import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec_core.llm_baselines import P5
from llamarec_core.llm_baselines.generation import Hypothesis


def of_width(width, model, prompts):
    strategy = P5(model, prompts)
    strategy.width = width
    return strategy


@pytest.fixture(scope="module")
def strategy(model, prompts):
    return of_width(30, model, prompts)


def test_an_example_answers_with_the_targets_id(strategy, prompts):
    prompt, answer = strategy.example(0, [1, 2], [3, 14, 7, 28], 2)
    assert prompt == strategy.prompts.build([1, 2], [])
    assert prompts.tokenizer.decode(answer) == " 07"


def test_ids_alone_may_be_generated_and_their_beginnings_give_the_cost(strategy, model, prompts):
    *first, tens, units = strategy.following([" 12"])[0]
    allowed = strategy.constraint((*first, tens))
    assert len(allowed) == 10
    assert units in allowed
    assert strategy.constraint((*first, tens, units)) == []
    assert strategy.widths == [1] * len(first) + [4, 30]  # 0 … 3 for the tens
    cost = of_width(3, model, prompts).predicted_costs([[1]], [[2]]).iloc[0]
    assert cost["tokens_generated"] == len(first) + 3 + 3
    assert cost["forward_passes"] == 1 + len(first) + 3


def test_a_beam_of_the_catalogues_size_scores_every_item_by_its_ids_probability(strategy, model, prompts, requests):
    history, listed = requests[0][0], requests[1][0]
    prompt = strategy.prompts.build(history, [])
    expected = []
    for item in range(1, 31):
        tokens = strategy.following([f" {item:02}"])[0]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected.append(logits.log_softmax(-1)[torch.arange(len(tokens)), tokens].sum().item())
    answers = strategy.rank([history], [listed])
    np.testing.assert_allclose(answers.scores[0], [expected[item - 1] for item in listed], atol=1e-4)
    best = [item for item in np.argsort([-value for value in expected]) + 1 if item not in history]
    assert answers.recommended[0].tolist() == best
    assert answers.cost.loc[0, ["valid", "invalid"]].tolist() == [30 - len(history), len(history)]


def test_candidates_beyond_the_beam_are_below_those_that_were_generated(model, prompts, requests):
    answers = of_width(3, model, prompts).rank(*requests)
    for scores, listed, found in zip(answers.scores, requests[1], answers.recommended, strict=True):
        assert np.isfinite(scores).tolist() == np.isin(listed, found).tolist()
        assert len(found) <= 3
    assert not np.isfinite(answers.scores).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(st.integers(1, 30), unique=True), scores=st.lists(st.floats(-90, 0), min_size=30, max_size=30))
def test_new_items_are_recommended_whatever_is_generated(strategy, items, scores):
    ids = strategy.following([f" {item:02}" for item in range(31)])
    hypotheses = [Hypothesis(tuple(ids[item]), score) for item, score in zip(items, scores, strict=False)]
    of_candidates, found, counts = strategy._parse(hypotheses, [1, 2], [3, 14, 7, 28])
    assert not np.isnan(of_candidates).any()
    assert found.tolist() == [item for item in items if item not in (1, 2)]
    assert counts == (len(found), len(items) - len(found))
