import numpy as np
import pytest

from llamarec_core.data import Dataset, find_item
from llamarec_core.data.titles import clean_movie_title, clean_product_title
from llamarec_core.files import InputError

TITLES = ["", "Alien", "alien!", "#####", "🔥", "Soap & Water", "Soap & Water", "soap, water", "Crème brûlée",
          "Kimchi 김치", "i2", *["Gift card"] * 7]  # fmt: skip


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


@pytest.fixture
def shop():
    n_items = len(TITLES) - 1
    return Dataset(
        name="shop",
        items=np.arange(1, n_items + 1),
        offsets=np.array([0, n_items]),
        titles=TITLES,
        user_ids=["u"],
        item_ids=["", *(f"i{item}" for item in range(1, n_items + 1))],
    )


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("Alien", 1),  # exactly, though another differs only in case and punctuation
        ("alien!", 2),
        ("#####", 3),  # symbols alone
        ("🔥", 4),
        ("soap, water", 7),
        ("crème BRÛLÉE", 8),
        ("kimchi (김치)", 9),
        (" Kimchi \n김치 ", 9),
        ("i5", 5),  # an id
        ("i2", 2),  # an id, though another item has it for a title
    ],
)
def test_an_item_is_found_by_id_then_exact_title_then_title_but_for_case_and_punctuation(shop, name, item):
    assert find_item(shop, name) == item


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Soap &amp; Water", r"2 items of shop are called 'Soap & Water': give an id, i5, i6\.$"),
        ("ALIEN", r"2 items of shop are called 'ALIEN': give an id, i1, i2\."),
        ("SOAP WATER!", r"3 items of shop are called 'SOAP WATER!': give an id, i5, i6, i7\."),
        ("gift card", r"7 items .* 'gift card': give an id, i11, i12, i13, i14, i15 or one of 2 more\."),
        ("Aliens", "No item of shop is called 'Aliens': did you mean 'Alien' or 'alien!' or"),
        ("####", "No item of shop is called '####': did you mean"),
        ("", "No item of shop is called ''"),
        ("x" * 3_000_000, "No item of shop is called 'xxx"),
    ],
)  # fmt: skip
def test_a_title_of_several_items_or_of_none_is_answered_in_one_short_sentence(shop, name, message):
    with pytest.raises(InputError, match=message) as raised:
        find_item(shop, name)
    assert len(str(raised.value)) < 500
