import numpy as np
import pytest
import torch

from llamarec_core.llm_baselines import TALLRec, TALLRecWithoutCache


@pytest.mark.parametrize("kind", [TALLRec, TALLRecWithoutCache])
def test_a_candidate_scores_by_yes_against_no_in_a_prompt_of_its_own(kind, model, prompts, requests):
    strategy = kind(model, prompts)
    yes, no = (prompts.tokenizer("Answer:" + word, add_special_tokens=False).input_ids[-1] for word in (" Yes", " No"))
    expected = np.empty((5, 4))
    for row, (history, listed) in enumerate(zip(*requests, strict=True)):
        for column, item in enumerate(listed):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([strategy.prompts.build(history, [item])])).logits[0, -1]
            expected[row, column] = logits[yes] - logits[no]
    assert expected.std() > 0.01
    np.testing.assert_allclose(strategy.rank(*requests).scores, expected, atol=1e-4)


def test_two_items_of_one_title_score_alike(model, prompts):
    scores = TALLRec(model, prompts).rank([[1, 2]], [[3, 3, 3]]).scores
    assert np.isfinite(scores).all()
    assert np.ptp(scores) < 1e-5


def test_every_other_example_is_about_a_negative(model, prompts):
    strategy = TALLRec(model, prompts)
    yes, no = strategy.following([" Yes", " No"])
    assert strategy.example(0, [1, 2], [3, 14, 7, 28], 3) == (strategy.prompts.build([1, 2], [28]), yes)
    assert strategy.example(1, [1, 2], [3, 14, 7, 28], 3) == (strategy.prompts.build([1, 2], [3]), no)
    assert strategy.example(1, [1, 2], [28], 0) == (strategy.prompts.build([1, 2], [28]), yes)
