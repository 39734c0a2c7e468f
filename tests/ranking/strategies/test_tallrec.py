import numpy as np
import pytest
import torch

from llamarec_core.ranking.strategies import TALLRec, TALLRecApart


@pytest.fixture(scope="module")
def strategy(model, prompts):
    return TALLRec(model, prompts)


def test_the_prompt_reads_as_designed(strategy, prompts):
    assert prompts.tokenizer.decode(strategy._prompt.build([1, 2], [3])) == (
        "[Instruction] Here is the purchase history of a user:\n"
        "- Film 1: The Story (1\n"
        "- Film 2: The Story (1\n\n"
        "Will the user want this item next? Answer Yes or No.\n"
        "- Film 3: The Story (1\n\n"
        "Answer:"
    )


def test_a_candidate_scores_by_yes_against_no_in_a_prompt_of_its_own(strategy, model, prompts, requests):
    yes, no = (prompts.tokenizer("Answer:" + word, add_special_tokens=False).input_ids[-1] for word in (" Yes", " No"))
    expected = np.empty((5, 4))
    for row, (history, listed) in enumerate(zip(*requests, strict=True)):
        for column, item in enumerate(listed):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([strategy._prompt.build(history, [item])])).logits[0, -1]
            expected[row, column] = logits[yes] - logits[no]
    assert expected.std() > 0.01
    np.testing.assert_allclose(strategy.rank(*requests).scores, expected, atol=1e-4)


def test_sharing_changes_the_cost_but_not_the_scores(model, prompts, requests):
    shared, apart = (kind(model, prompts) for kind in (TALLRec, TALLRecApart))
    first, second = shared.rank(*requests), apart.rank(*requests)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)
    assert first.cost["forward_passes"].tolist() == [5] * 5
    assert second.cost["forward_passes"].tolist() == [4] * 5
    for strategy, answers in ((shared, first), (apart, second)):
        assert answers.cost["tokens_read"].equals(strategy.predicted_costs(*requests)["tokens_read"])
    assert second.cost["tokens_read"][0] > 2 * first.cost["tokens_read"][0]


def test_every_other_example_is_about_a_negative(strategy, prompts):
    yes, no = strategy._answers
    assert strategy.example(0, [1, 2], [3, 14, 7, 28], 3) == (strategy._prompt.build([1, 2], [28]), [yes])
    assert strategy.example(1, [1, 2], [3, 14, 7, 28], 3) == (strategy._prompt.build([1, 2], [3]), [no])
    assert prompts.tokenizer.decode([yes, no]) == " Yes No"
