import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamarec_core.ranking.strategies.parsing import parse_titles

TITLES = [" Toy Story (1995)", " Toy Story 2 (1999)", " The Godfather (1972)", " M*A*S*H (1970)", " Alien (1979)"]


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
        ("", [], 0),
        ("Alien (1979) Alien (1979) Alien (1979) Alien (1979)", [], 1),  # rambling on one line
    ],
)
def test_lines_are_matched_with_titles(text, named, invalid):
    assert parse_titles(text, TITLES) == (named, invalid)


def test_of_equal_titles_the_first_is_meant():
    assert parse_titles("Alien\nAlien", ["Alien", "Alien"]) == ([0], 1)


line = st.one_of(
    st.text(max_size=40),
    st.sampled_from([*TITLES, *(f"- {title}" for title in TITLES), "\x00", "￿", "----", "1.", "A) ", "(((((("]),
    st.lists(st.sampled_from(TITLES), max_size=5).map(" ".join),
)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(line, max_size=30), titles=st.lists(st.one_of(st.sampled_from(TITLES), st.text(max_size=9))))
def test_no_output_breaks_the_parser(lines, titles):
    text = "\n".join(lines)
    named, invalid = parse_titles(text, titles)
    assert len(set(named)) == len(named)
    assert all(0 <= place < len(titles) for place in named)
    assert 0 <= invalid <= len(text.splitlines()) - len(named)
