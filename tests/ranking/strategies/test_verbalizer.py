import numpy as np

from llamarec_core.ranking import VerbalizerRanker
from llamarec_core.ranking.strategies import Verbalizer


def test_the_strategy_is_the_ranker(model, prompts, requests):
    answers = Verbalizer(model, prompts, batch_size=2).rank(*requests)
    probabilities = VerbalizerRanker(model, prompts, batch_size=3).probabilities(*requests)
    exponentials = np.exp(answers.scores)
    np.testing.assert_allclose(exponentials / exponentials.sum(axis=1, keepdims=True), probabilities, atol=1e-5)
    assert probabilities.std() > 0.05
    assert answers.cost["forward_passes"].tolist() == [1] * 5
    assert answers.cost["valid"].tolist() == [4] * 5
