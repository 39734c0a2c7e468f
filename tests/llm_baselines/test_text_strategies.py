"""Lists of titles (Llama CausalLM, PALR), queries (GPT4Rec), ids (P5): what is generated, and what it names."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec_core.llm_baselines import P5, PALR, CausalLM, GPT4Rec
from llamarec_core.llm_baselines.generation import Hypothesis
from llamarec_core.llm_baselines.text_strategies import TitleSearch, items_found, parse_titles
from tests.llm_baselines.conftest import log_probability

LISTED = [3, 14, 7, 28]
TITLES = [" Toy Story (1995)", " Toy Story 2 (1999)", " The Godfather (1972)", " M*A*S*H (1970)", " Alien (1979)"]


ANYTHING = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def strategy(model, prompts):
    return CausalLM(model, prompts)


def parsed(strategy, *texts, history=(1, 2)):
    """What a strategy makes of generated texts."""
    tokens = [strategy.prompts.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    return strategy._parse([Hypothesis(tuple(generated)) for generated in tokens], list(history), LISTED)


def test_the_model_that_lists_titles_ranks_by_them(strategy, prompts):
    titles = [prompts.titles[item] for item in LISTED]
    text = f" {titles[2]}\n- {titles[0]}\n- and so on\n- {titles[2]}"
    scores, recommended, counts = parsed(strategy, text)
    assert recommended.tolist() == [7, 3, 14, 28]  # what no line names follows in the retriever's order
    assert scores.tolist() == [3, 0, 4, 0]
    assert counts == (2, 2)
    scores, recommended, counts = parsed(strategy, "Sorry, I cannot help with that.")
    assert recommended.tolist() == LISTED
    assert not scores.any()
    assert counts == (0, 1)


@pytest.mark.parametrize(("n_candidates", "entries"), [(4, 4), (20, 10)])
def test_palr_has_room_for_ten_titles_and_their_marks(model, prompts, n_candidates, entries):
    listed = list(range(1, n_candidates + 1))
    titles = CausalLM(model, prompts)._limit(listed)
    assert PALR(model, prompts)._limit(listed) == entries * 2 + -(-entries * titles // n_candidates)


def test_palr_learns_the_target_which_the_parser_finds(model, prompts):
    strategy = PALR(model, prompts)
    prompt, answer = strategy.example(0, [1, 2], LISTED, 1)
    assert prompt == strategy.prompts.build([1, 2], LISTED)
    whole = f"{strategy.text([1, 2], LISTED)} {prompts.titles[14]}<|im_end|>"
    assert prompts.tokenizer.decode(prompt + answer) == whole
    assert answer[-1] in strategy.ends
    assert strategy._parse([Hypothesis(tuple(answer))], [1, 2], LISTED)[1][0] == 14


@pytest.mark.parametrize(
    ("text", "named", "invalid"),
    [
        (" Alien (1979)\n- The Godfather (1972)", [4, 2], 0),
        ("1. alien\n2) TOY STORY\n(C) the godfather!", [4, 0, 2], 0),  # no year, other case, marks
        ("Toy Story 2 (1999)\nToy Story (1995)", [1, 0], 0),
        ("Teh Godfathr (1972)", [2], 0),
        ("Alien (1979)\nAlien (1979)\n- Alien", [4], 2),  # repeats
        ("I would recommend watching something with more spaceships in it.", [], 1),
        ("Aliens of the Deep (2005)\nBlade Runner (1982)", [], 2),
        ("\n\n  \n- \n", [], 0),
        ("Alien (1979) Alien (1979) Alien (1979) Alien (1979)", [], 1),  # rambling on one line
    ],
)
def test_lines_are_matched_with_titles(text, named, invalid):
    assert parse_titles(text, TITLES) == (named, invalid)
    assert parse_titles(text, TITLES * 2) == (named, invalid)  # of equal titles the first is meant


@ANYTHING
@given(tokens=st.lists(st.integers(0, 49_151), max_size=60), data=st.data())
def test_candidates_are_ordered_whatever_is_generated(strategy, prompts, tokens, data):
    # random tokens, broken bytes and special ones among them, mixed with real titles and repeats
    for _ in range(data.draw(st.integers(0, 4))):
        index = data.draw(st.integers(0, len(tokens)))
        tokens[index:index] = prompts.encode([f" {prompts.titles[data.draw(st.sampled_from([*LISTED, 1, 2]))]}"])[0]
    scores, recommended, (valid, _) = strategy._parse([Hypothesis(tuple(tokens))], [1, 2], LISTED)
    assert sorted(recommended) == sorted(LISTED)
    assert valid == np.count_nonzero(scores) == len(set(scores) - {0})


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
    scores, found, counts = parsed(gpt4rec, "something", "Film 7\n- Film 28", "Film 14", "12", history=[12])
    assert scores[[2, 1]].min() > scores[[0, 3]].max()  # a query ends at its line
    assert {7, 14} <= set(found.tolist())
    assert 12 not in found
    assert counts == (2, 2)


@ANYTHING
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
