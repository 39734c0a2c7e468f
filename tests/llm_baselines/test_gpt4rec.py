import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec_core.llm_baselines import GPT4Rec
from llamarec_core.llm_baselines.catalogue import TitleSearch, items_found
from llamarec_core.llm_baselines.generation import Hypothesis

LISTED = [3, 14, 7, 28]


@pytest.fixture(scope="module")
def strategy(model, prompts):
    return GPT4Rec(model, prompts)


def parsed(strategy, *queries, history=()):
    """What a strategy makes of generated queries."""
    tokens = [strategy.prompts.tokenizer(text, add_special_tokens=False).input_ids for text in queries]
    return strategy._parse([Hypothesis(tuple(query)) for query in tokens], list(history), LISTED)


def test_an_example_asks_for_the_target_by_its_title(strategy, prompts):
    prompt, answer = strategy.example(0, [1, 2], LISTED, 3)
    assert prompt == strategy.prompts.build([1, 2], [])
    assert prompts.tokenizer.decode(answer) == f" {prompts.titles[28]}\n"
    assert answer[-1] in strategy.ends


def test_search_scores_words_that_titles_share_and_rare_ones_more():
    search = TitleSearch(["", "red fox", "red whale", "grey owl and grey fox and fox"])
    scores = search.scores("The RED, fox")
    assert scores.shape == (4,)
    assert scores.argmax() == 1
    assert scores[0] == 0
    assert TitleSearch(["", "Rocky", "Rocky 2"]).scores("Rocky 2").argmax() == 2
    assert search.scores("whale red")[2] > search.scores("whale red")[1] > 0
    assert not search.scores("tiger").any()
    assert not search.scores("").any()


def test_each_query_finds_its_share_of_new_items_in_order():
    scores = np.array([[0, 9, 8, 7, 0, 0], [0, 9, 0, 8, 7, 6], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0]], dtype=float)
    assert items_found(scores, 8).tolist() == [1, 2, 3, 4]
    assert items_found(scores, 4).tolist() == [1, 3, 2]
    assert items_found(scores[:1], 2).tolist() == [1, 2]
    assert items_found(scores[2:3], 2).tolist() == []


def test_candidates_score_by_their_best_query_and_the_history_is_not_found_again(strategy):
    scores, found, counts = parsed(strategy, "something", "Film 7\n- Film 28", "Film 14", "12", history=[12])
    assert scores[[2, 1]].min() > scores[[0, 3]].max()  # a query ends at its line
    assert {7, 14} <= set(found.tolist())
    assert 12 not in found
    assert counts == (2, 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(queries=st.lists(st.lists(st.integers(0, 49_151), max_size=8), min_size=1, max_size=5), data=st.data())
def test_distinct_new_items_are_found_whatever_is_generated(strategy, prompts, queries, data):
    queries += prompts.encode([prompts.titles[item] for item in data.draw(st.lists(st.integers(0, 30), max_size=3))])
    history, hypotheses = [1, 2], [Hypothesis(tuple(query)) for query in queries]
    scores, found, counts = strategy._parse(hypotheses, history, LISTED)
    assert np.isfinite(scores).all()
    assert len(set(found.tolist())) == len(found) <= 20
    assert not set(found.tolist()) & {0, *history}
    assert sum(counts) == len(queries)
