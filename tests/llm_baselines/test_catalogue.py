"""GPT4Rec and P5: queries and ids that are generated, and what they find in the whole catalogue."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec_core.llm_baselines import P5, GPT4Rec
from llamarec_core.llm_baselines.generation import Hypothesis
from llamarec_core.llm_baselines.text_strategies import TitleSearch, items_found
from tests.llm_baselines.conftest import log_probability

LISTED = [3, 14, 7, 28]


@pytest.fixture(scope="module")
def gpt4rec(model, prompts):
    return GPT4Rec(model, prompts)


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


def test_candidates_score_by_their_best_query_and_the_history_is_not_found_again(gpt4rec):
    texts = ["something", "Film 7\n- Film 28", "Film 14", "12"]
    queries = [gpt4rec.prompts.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    scores, found, counts = gpt4rec._parse([Hypothesis(tuple(query)) for query in queries], [12], LISTED)
    assert scores[[2, 1]].min() > scores[[0, 3]].max()  # a query ends at its line
    assert {7, 14} <= set(found.tolist())
    assert 12 not in found
    assert counts == (2, 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(queries=st.lists(st.lists(st.integers(0, 49_151), max_size=8), min_size=1, max_size=5), data=st.data())
def test_distinct_new_items_are_found_whatever_is_generated(gpt4rec, prompts, queries, data):
    queries += prompts.encode([prompts.titles[item] for item in data.draw(st.lists(st.integers(0, 30), max_size=3))])
    history, hypotheses = [1, 2], [Hypothesis(tuple(query)) for query in queries]
    scores, found, counts = gpt4rec._parse(hypotheses, history, LISTED)
    assert np.isfinite(scores).all()
    assert len(set(found.tolist())) == len(found) <= 20
    assert not set(found.tolist()) & {0, *history}
    assert sum(counts) == len(queries)


def of_width(width, model, prompts):
    strategy = P5(model, prompts)
    strategy.width = width
    return strategy


@pytest.fixture(scope="module")
def p5(model, prompts):
    return of_width(30, model, prompts)


def test_examples_ask_for_the_targets_title_or_id(gpt4rec, p5, prompts):
    prompt, answer = gpt4rec.example(0, [1, 2], LISTED, 3)
    assert prompt == gpt4rec.prompts.build([1, 2], [])
    assert prompts.tokenizer.decode(answer) == f" {prompts.titles[28]}\n"
    assert answer[-1] in gpt4rec.ends
    prompt, answer = p5.example(0, [1, 2], LISTED, 2)
    assert prompt == p5.prompts.build([1, 2], [])
    assert prompts.tokenizer.decode(answer) == " 07"


def test_ids_alone_may_be_generated_and_their_beginnings_give_the_cost(p5, model, prompts):
    *first, tens, units = p5.following([" 12"])[0]
    allowed = p5.constraint((*first, tens))
    assert len(allowed) == 10
    assert units in allowed
    assert p5.constraint((*first, tens, units)) == []
    assert p5.widths == [1] * len(first) + [4, 30]  # 0 … 3 for the tens
    cost = of_width(3, model, prompts).predicted_costs([[1]], [[2]]).iloc[0]
    assert cost["tokens_generated"] == len(first) + 3 + 3
    assert cost["forward_passes"] == 1 + len(first) + 3


def test_a_beam_of_the_catalogues_size_scores_every_item_by_its_ids_probability(p5, model, prompts, requests):
    history, listed = requests[0][0], requests[1][0]
    prompt = p5.prompts.build(history, [])
    ids = p5.following([f" {item:02}" for item in range(1, 31)])
    expected = [log_probability(model, prompt, tokens) for tokens in ids]
    answers = p5.rank([history], [listed])
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
