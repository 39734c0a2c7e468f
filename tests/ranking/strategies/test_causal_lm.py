import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec_core.ranking.strategies import PALR, Answers, CausalLM
from llamarec_core.ranking.strategies.causal_lm import list_scores
from llamarec_core.ranking.strategies.generation import Hypothesis

LISTED = [3, 14, 7, 28]


@pytest.fixture(scope="module")
def strategy(model, prompts):
    return CausalLM(model, prompts)


def parsed(strategy, text):
    """What a strategy makes of a generated text."""
    tokens = strategy.prompts.tokenizer(text, add_special_tokens=False).input_ids
    return strategy._parse([Hypothesis(tuple(tokens))], [1, 2], LISTED)


def test_the_prompt_reads_as_designed(strategy, prompts):
    assert prompts.tokenizer.decode(strategy.prompt.build([1, 2], [3, 4])) == (
        "[Instruction] Here is the purchase history of a user:\n"
        "- Film 1: The Story (1\n"
        "- Film 2: The Story (1\n\n"
        "Please rank the following candidate items based on the user's preferences:\n"
        "- Film 3: The Story (1\n"
        "- Film 4: The Story (1\n\n"
        "All candidate items from the most suitable to the least suitable, one title a line:\n-"
    )


def test_the_model_that_lists_titles_ranks_by_them(strategy, prompts):
    titles = [prompts.title(item) for item in LISTED]
    scores, recommended, counts = parsed(strategy, f"{titles[2]}\n-{titles[0]}\n- and so on\n-{titles[2]}")
    assert recommended.tolist() == [7, 3, 14, 28]  # what no line names follows in the retriever's order
    assert scores.tolist() == [3, 0, 4, 0]
    assert counts == (2, 2)


def test_what_names_nothing_keeps_the_retrievers_order(strategy):
    scores, recommended, counts = parsed(strategy, "Sorry, I cannot help with that.")
    assert recommended.tolist() == LISTED
    assert not scores.any()
    assert counts == (0, 1)


@pytest.mark.parametrize("kind", [CausalLM, PALR])
def test_the_list_stops_at_the_models_end(model, prompts, requests, kind, monkeypatch):
    strategy = kind(model, prompts)
    unended = kind(model, prompts, runs_to_limit=True).rank(*requests).cost["tokens_generated"]
    assert unended.equals(strategy.predicted_costs(*requests)["tokens_generated"])
    monkeypatch.setattr(strategy, "ends", set(range(0, len(prompts.tokenizer), 3)))
    ended = strategy.rank(*requests).cost["tokens_generated"]
    assert (ended < unended).any()


def test_scores_fall_along_the_list():
    assert list_scores([2, 0], 4).tolist() == [3, 0, 4, 0]
    assert list_scores([], 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", [CausalLM, PALR])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.lists(st.integers(0, 49_151), max_size=60), data=st.data())
def test_ranks_are_a_permutation_whatever_is_generated(model, prompts, kind, tokens, data):
    # random tokens, broken bytes and special ones among them, mixed with real titles and repeats
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(tokens)))
        tokens[place:place] = prompts.title_tokens[data.draw(st.sampled_from([*LISTED, 1, 2]))]
    scores, recommended, (valid, _) = kind(model, prompts)._parse([Hypothesis(tuple(tokens))], [1, 2], LISTED)
    assert sorted(Answers(scores[None], [], None).ranks[0]) == [1, 2, 3, 4]
    assert sorted(recommended) == sorted(LISTED)
    assert valid == np.count_nonzero(scores)
