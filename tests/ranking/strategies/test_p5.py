import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec_core.ranking.strategies import P5, Answers, RequestSize
from llamarec_core.ranking.strategies.generation import Hypothesis
from llamarec_core.ranking.strategies.p5 import Trie


@pytest.fixture(scope="module")
def strategy(model, prompts):
    return P5(model, prompts, width=30)


def test_the_prompt_reads_as_designed(strategy, prompts):
    assert prompts.tokenizer.decode(strategy.prompt.build([1, 22])) == (
        "[Instruction] Here is the purchase history of a user, as item numbers:\n"
        "- 01\n"
        "- 22\n\n"
        "Predict the number of the item that the user will purchase next:\n-"
    )


def test_an_example_answers_with_the_targets_id(strategy, prompts):
    prompt, answer = strategy.example(0, [1, 2], [3, 14, 7, 28], 2)
    assert prompt == strategy.prompt.build([1, 2])
    assert prompts.tokenizer.decode(answer) == " 07"


def test_a_trie_knows_all_that_may_follow():
    trie = Trie([[1, 2, 3], [1, 2, 4], [1, 5, 3], [6, 2, 3]])
    assert trie.following(()) == [1, 6]
    assert trie.following((1,)) == [2, 5]
    assert trie.following((1, 2)) == [3, 4]
    assert trie.following((1, 2, 3)) == trie.following((9,)) == []
    assert trie.widths == [2, 3, 4]


def test_a_beam_of_the_catalogues_size_scores_every_item_by_its_ids_probability(strategy, model, prompts, requests):
    history, listed = requests[0][0], requests[1][0]
    prompt = strategy.prompt.build(history)
    expected = []
    for item in range(1, 31):
        tokens = prompts.tokenize([f" {item:02}"])[0]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected.append(logits.log_softmax(-1)[torch.arange(len(tokens)), tokens].sum().item())
    answers = strategy.rank([history], [listed])
    np.testing.assert_allclose(answers.scores[0], [expected[item - 1] for item in listed], atol=1e-4)
    best = [item for item in np.argsort([-value for value in expected]) + 1 if item not in history]
    assert answers.recommended[0].tolist() == best
    assert answers.cost.loc[0, ["valid", "invalid"]].tolist() == [30 - len(history), len(history)]


def test_candidates_beyond_the_beam_keep_the_retrievers_order(model, prompts, requests):
    answers = P5(model, prompts, width=3).rank(*requests)
    for scores, ranks, listed, found in zip(
        answers.scores, answers.ranks, requests[1], answers.recommended, strict=True
    ):
        generated = np.isin(listed, found)
        assert np.isfinite(scores).tolist() == generated.tolist()
        assert ranks[~generated].tolist() == list(range(generated.sum() + 1, 5))
        assert len(found) <= 3
    assert not np.isfinite(answers.scores).all()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(st.integers(1, 30), unique=True), scores=st.lists(st.floats(-90, 0), min_size=30, max_size=30))
def test_ranks_are_a_permutation_whatever_is_generated(strategy, items, scores):
    hypotheses = [Hypothesis(tuple(strategy._ids[item]), score) for item, score in zip(items, scores, strict=False)]
    of_candidates, found, counts = strategy._parse(hypotheses, [1, 2], [3, 14, 7, 28])
    assert sorted(Answers(of_candidates[None], [], None).ranks[0]) == [1, 2, 3, 4]
    assert found.tolist() == [item for item in items if item not in (1, 2)]
    assert counts == (len(found), len(items) - len(found))


def test_the_cost_of_a_beam_follows_from_the_ids(model, prompts):
    depth_of_tens = len(prompts.tokenize([" 07"])[0]) - 1
    widths = P5(model, prompts)._trie.widths
    assert widths[-2:] == [4, 30]  # 0…3 for the tens
    assert widths[:-2] == [1] * (depth_of_tens - 1)
    cost = P5(model, prompts, width=3).predicted_cost(RequestSize(0, 4, history_title_tokens=8, title_tokens=8))
    assert cost["tokens_generated"] == len(widths[:-2]) + 3 + 3
    assert cost["forward_passes"] == 1 + len(widths[:-2]) + 3
