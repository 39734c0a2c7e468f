"""Llama CausalLM and PALR: lists of titles, and what is found in them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec_core.llm_baselines import PALR, CausalLM
from llamarec_core.llm_baselines.generation import Hypothesis
from llamarec_core.llm_baselines.text_strategies import parse_titles

LISTED = [3, 14, 7, 28]
TITLES = [" Toy Story (1995)", " Toy Story 2 (1999)", " The Godfather (1972)", " M*A*S*H (1970)", " Alien (1979)"]


@pytest.fixture(scope="module")
def strategy(model, prompts):
    return CausalLM(model, prompts)


def parsed(strategy, text):
    """What a strategy makes of a generated text."""
    tokens = strategy.prompts.tokenizer(text, add_special_tokens=False).input_ids
    return strategy._parse([Hypothesis(tuple(tokens))], [1, 2], LISTED)


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.lists(st.integers(0, 49_151), max_size=60), data=st.data())
def test_candidates_are_ordered_whatever_is_generated(strategy, prompts, tokens, data):
    # random tokens, broken bytes and special ones among them, mixed with real titles and repeats
    for _ in range(data.draw(st.integers(0, 4))):
        index = data.draw(st.integers(0, len(tokens)))
        tokens[index:index] = prompts.encode([f" {prompts.titles[data.draw(st.sampled_from([*LISTED, 1, 2]))]}"])[0]
    scores, recommended, (valid, _) = strategy._parse([Hypothesis(tuple(tokens))], [1, 2], LISTED)
    assert sorted(recommended) == sorted(LISTED)
    assert valid == np.count_nonzero(scores) == len(set(scores) - {0})
