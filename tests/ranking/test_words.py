"""What words tell: the order by title overlap, and the nats that it is worth."""

import numpy as np
import pytest

from llamarec_core.data import Dataset
from llamarec_core.ranking import shared_word_nats, title_overlap
from llamarec_core.retrieval.candidates import Candidates


def test_overlap_is_one_for_a_title_of_the_history_and_zero_for_other_words():
    titles = ["", "red fox", "blue whale", "red fox two", "grey owl"]
    animals = Dataset("animals", np.array([1, 2, 3, 4]), [0, 4], titles, ["u"], ["", "i1", "i2", "i3", "i4"])
    listed = Candidates(*(np.array(part) for part in ([0], [3], [2], [[1, 3, 4, 2]], [[4, 3, 2, 1]])))
    scores = title_overlap(animals, listed, "validation", history_length=2)[0]  # history: 1, 2
    assert scores[[0, 3]] == pytest.approx([1, 1])
    assert scores[2] == 0
    assert 0 < scores[1] < 1
    assert title_overlap(animals, listed, "validation", history_length=1)[0] == pytest.approx([0, 0, 0, 1])


def test_words_tell_the_next_item_where_it_shares_one_with_the_last(tiny, shop):
    table = shared_word_nats(shop, tiny.shared, lengths=[1, 8], answers=100, seed=0).set_index("title_tokens")
    assert (table["answers"] == 100).all()
    assert (table["nats"] > 4 * table["nats_se"]).all()
    assert table["alike"].tolist() == [pytest.approx(1, abs=0.2), 0]  # "Red soap", "Red brush" and "Red cream"


@pytest.mark.parametrize("first", [1000, 0x1F600])
def test_words_tell_nothing_where_titles_have_none_in_common(tiny, shop, first):
    of_each = [str(number) if first == 1000 else chr(number) for number in range(first, first + shop.n_items)]
    other = Dataset("other", shop.items, shop.offsets, ["", *of_each], shop.user_ids, shop.item_ids)
    (nats,) = shared_word_nats(other, tiny.shared, lengths=[8], answers=100, seed=0)["nats"]
    assert nats == pytest.approx(0, abs=1e-6)
