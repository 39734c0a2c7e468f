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
        ("Fish Called Wanda, A (1988)", "A Fish Called Wanda (1988)"),
        ("Unforgettable Summer, An (Un été inoubliable) (1994)", "An Unforgettable Summer (1994)"),
        ("Good, the Bad and the Ugly, The (Buono, Il) (1966)", "The Good, the Bad and the Ugly (1966)"),
        ("Supercop 2 (Project S) (Chao ji ji hua) (1993)", "Supercop 2 (1993)"),
        ("(500) Days of Summer (2009)", "Days of Summer (2009)"),
        ("96 Minutes (2011) ", "96 Minutes (2011)"),
        ("Angst  (1983)", "Angst (1983)"),
        ("Death Note: Desu nôto (2006–2007)", "Death Note: Desu nôto (2006–2007)"),
        ("Babylon 5", "Babylon 5"),
        ("Crow, The", "The Crow"),
        ("Paris, Texas (1984)", "Paris, Texas (1984)"),
        ("Boot, Das (Boat, The) (1981)", "Boot, Das (1981)"),
        ("(untitled) (2009)", "(untitled) (2009)"),
        ("1984 (1956)", "1984 (1956)"),
    ],
)
def test_movie_titles(title, cleaned):
    assert clean_movie_title(title) == cleaned
    assert clean_movie_title(cleaned) == cleaned


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("Head &amp; Shoulders", "Head & Shoulders"),
        ("L&#39;Or&eacute;al", "L'Oréal"),
        ("  two\n\tlines ", "two lines"),
        ("Sims 2 (PC)", "Sims 2 (PC)"),
        ("&nbsp;", ""),
    ],
)
def test_product_titles(title, cleaned):
    assert clean_product_title(title) == cleaned


def test_a_chain_of_weak_users_and_items_unravels():
    # Item 2 has one user, user 2 has only items 1 and 2: without item 2 user 2 is too weak, then item 1.
    users = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    items = np.array([0, 3, 1, 0, 3, 4, 1, 2])
    assert k_core(users, items, k=2).tolist() == [True, True, False, True, True, False, False, False]


interactions = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=120)


@given(interactions, st.integers(1, 6))
def test_every_user_and_item_of_a_core_has_enough_interactions(pairs, k):
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    kept = k_core(users, items, k=k)
    for codes in (users[kept], items[kept]):
        assert (np.unique(codes, return_counts=True)[1] >= k).all()


@given(interactions, st.integers(1, 6))
def test_the_core_of_a_core_is_itself(pairs, k):
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    kept = k_core(users, items, k=k)
    assert k_core(users[kept], items[kept], k=k).all()


@given(interactions, st.integers(1, 6))
def test_dropping_one_at_a_time_gives_the_same_core(pairs, k):
    remaining = list(enumerate(pairs))
    while True:
        counts = [[pair[side] for _, pair in remaining] for side in (0, 1)]
        weak = next((x for x in remaining if any(counts[s].count(x[1][s]) < k for s in (0, 1))), None)
        if weak is None:
            break
        remaining.remove(weak)
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    assert np.flatnonzero(k_core(users, items, k=k)).tolist() == [place for place, _ in remaining]


def frame(events):
    return pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"])


def full(users, items, time=lambda user, item: 0):
    return frame([(user, item, time(user, item)) for user in users for item in items])


TITLES = {str(item): f"Title {item}" for item in range(100)}


def test_whole_number_ids_are_sorted_as_numbers():
    dataset = build_dataset("x", full(["10", "9", "1", "100", "2"], ["30", "4", "5", "10", "9"]), TITLES)
    assert dataset.user_ids == ["1", "2", "9", "10", "100"]
    assert dataset.item_ids == ["", "4", "5", "9", "10", "30"]
    assert dataset.titles == ["", "Title 4", "Title 5", "Title 9", "Title 10", "Title 30"]


def test_other_ids_are_sorted_as_text():
    dataset = build_dataset("x", full(["10", "9", "b", "B", "é"], ["30", "4", "5", "10", "9"]), TITLES)
    assert dataset.user_ids == ["10", "9", "B", "b", "é"]


def test_sequences_are_sorted_by_time_and_ties_by_item():
    times = {"30": 1, "4": 3, "5": 2, "10": 2, "9": 2}
    dataset = build_dataset("x", full("12345", times, time=lambda user, item: times[item]), TITLES)
    for user in range(5):
        assert [dataset.item_ids[item] for item in dataset.sequence(user)] == ["30", "5", "9", "10", "4"]


def test_the_order_of_the_rows_does_not_matter():
    events = full("12345", ["30", "4", "5", "10", "9"], time=lambda user, item: int(user) * int(item) % 7)
    shuffled = events.sample(frac=1, random_state=0)
    assert build_dataset("x", shuffled, TITLES).content_hash == build_dataset("x", events, TITLES).content_hash


def test_times_may_be_fractions():
    times = {"30": 0.25, "4": 0.5, "5": -1.5, "10": 0.75, "9": 1e9}
    dataset = build_dataset("x", full("12345", times, time=lambda user, item: times[item]), TITLES)
    assert [dataset.item_ids[item] for item in dataset.sequence(0)] == ["5", "30", "4", "10", "9"]


def test_items_without_a_title_are_dropped_before_the_core():
    # A sixth item without a title, and a sixth user who only reaches five items with it.
    events = pd.concat([full("12345", "123456"), full("6", "23456")])
    dataset = build_dataset("x", events, {**TITLES, "6": ""})
    assert dataset.item_ids == ["", "1", "2", "3", "4", "5"]
    assert dataset.user_ids == ["1", "2", "3", "4", "5"]


def test_a_repeated_interaction_stays():
    events = pd.concat([full("12345", "12345"), frame([("1", "3", 9)])])
    dataset = build_dataset("x", events, TITLES)
    assert dataset.sequence(0).tolist() == [1, 2, 3, 4, 5, 3]


def test_users_with_under_five_interactions_only_are_refused():
    with pytest.raises(InputError, match="Nothing is left after the 5-core: 'mine' has 24 interactions of 6 users"):
        build_dataset("mine", full("123456", "1234"), TITLES)


def test_no_title_at_all_is_refused():
    with pytest.raises(InputError, match="check that both files use the same item ids"):
        build_dataset("mine", full("12345", "12345"), {"other": "Title"})
