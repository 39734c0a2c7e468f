import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamarec_core.data.preprocess import build_dataset, clean_movie_title, clean_product_title, k_core
from llamarec_core.files import InputError


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("Usual Suspects, The (1995)", "The Usual Suspects (1995)"),
        ("Unforgettable Summer, An (Un été inoubliable) (1994)", "An Unforgettable Summer (1994)"),
        ("Good, the Bad and the Ugly, The (Buono, Il) (1966)", "The Good, the Bad and the Ugly (1966)"),
        ("Supercop 2 (Project S) (Chao ji ji hua) (1993)", "Supercop 2 (1993)"),
        ("(500) Days of Summer (2009)", "Days of Summer (2009)"),
        ("Angst  (1983)", "Angst (1983)"),
        ("Death Note: Desu nôto (2006–2007)", "Death Note: Desu nôto (2006–2007)"),
        ("Babylon 5", "Babylon 5"),
        ("Paris, Texas (1984)", "Paris, Texas (1984)"),
        ("Boot, Das (Boat, The) (1981)", "Boot, Das (1981)"),
        ("(untitled) (2009)", "(untitled) (2009)"),
        ("1984 (1956)", "1984 (1956)"),
    ],
)
def test_movie_titles(title, cleaned):
    assert clean_movie_title(title) == cleaned
    assert clean_movie_title(cleaned) == cleaned


def test_product_titles_lose_entities_and_runs_of_white_space():
    titles = ["Head &amp; Shoulders", "L&#39;Or&eacute;al", "  two\n\tlines ", "Sims 2 (PC)", "&nbsp;"]
    cleaned = ["Head & Shoulders", "L'Oréal", "two lines", "Sims 2 (PC)", ""]
    assert [clean_product_title(title) for title in titles] == cleaned


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=120), st.integers(1, 6))
def test_a_core_is_what_is_left_when_the_weak_are_dropped_one_at_a_time(pairs, k):
    remaining = list(enumerate(pairs))
    while True:
        counts = [[pair[side] for _, pair in remaining] for side in (0, 1)]
        weak = next((x for x in remaining if any(counts[s].count(x[1][s]) < k for s in (0, 1))), None)
        if weak is None:
            break
        remaining.remove(weak)
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    assert np.flatnonzero(k_core(users, items, k=k)).tolist() == [place for place, _ in remaining]


TITLES = {str(item): f"Title {item}" for item in range(100)}


def frame(events):
    return pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"])


def build(events, titles=TITLES, name="x"):
    return build_dataset(name, events, titles, {"origin": "here"})


def full(users, items, time=lambda user, item: 0):
    return frame([(user, item, time(user, item)) for user in users for item in items])


def test_whole_number_ids_are_sorted_as_numbers_and_others_as_text():
    items = ["30", "4", "5", "10", "9"]
    dataset = build(full(["10", "9", "1", "100", "2"], items))
    assert dataset.user_ids == ["1", "2", "9", "10", "100"]
    assert dataset.titles == ["", "Title 4", "Title 5", "Title 9", "Title 10", "Title 30"]
    assert build(full(["10", "9", "b", "B", "é"], items)).user_ids == ["10", "9", "B", "b", "é"]
    longest = "9" * 4_000
    assert build(full(["10", "9", "1", "100", longest], items)).user_ids[-1] == longest


def test_sequences_are_sorted_by_time_and_ties_by_item_whatever_the_order_of_the_rows():
    times = {"30": 0.25, "4": 1e9, "5": 0.5, "10": 0.5, "9": 0.5}
    events = full("12345", times, time=lambda user, item: times[item])
    for rows in (events, events.sample(frac=1, random_state=0)):
        dataset = build(rows)
        for user in range(5):
            assert [dataset.item_ids[item] for item in dataset.sequence(user)] == ["30", "5", "9", "10", "4"]
        assert dataset.source["preprocessing"]["tied"] == 15 / 25


def test_neither_items_without_a_title_nor_duplicates_lift_anyone_into_the_core():
    for events in ([full("12345", "123456"), full("6", "23456")], [full("12345", "12345"), *[full("6", "1234")] * 2]):
        dataset = build(pd.concat(events), {**TITLES, "6": ""})
        assert dataset.item_ids == ["", "1", "2", "3", "4", "5"]
        assert dataset.user_ids == ["1", "2", "3", "4", "5"]


def test_what_is_dropped_is_counted():
    core = full("12345", "12345", time=lambda user, item: int(item))
    # twice the same event; the same item at another time; an item without a title; a sixth user with two items
    events = pd.concat([core, frame([("1", "3", 3), ("1", "3", 3), ("1", "3", 9), ("2", "7", 1)]), full("6", "12")])
    dataset = build(events, {**TITLES, "7": ""})
    assert dataset.sequence(0).tolist() == [1, 2, 3, 4, 5, 3]
    assert dataset.source == {
        "origin": "here",
        "preprocessing": {
            "interactions": 31,
            "duplicates": 2,
            "items_without_title": 1,
            "interactions_without_title": 1,
            "titles_without_interaction": len(TITLES) - 6,
            "interactions_outside_core": 2,
            "tied": 0.0,
        },
    }


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("1234", "Nothing is left after the 5-core: 'mine' has 24 interactions of 6 users with 4 titled items"),
        ("abcde", "check that both files use the same item ids"),
    ],
)
def test_data_of_which_nothing_is_left_are_refused(items, message):
    with pytest.raises(InputError, match=message):
        build(full("123456", items), name="mine")
