"""What words tell: the order by title overlap, and the nats that it is worth."""

from dataclasses import replace

import numpy as np
import pytest

from llamarec_core.ranking import shared_word_nats, title_overlap
from llamarec_core.retrieval.candidates import Candidates
from tests.conftest import dataset_of


def test_overlap_is_one_for_a_title_of_the_history_and_zero_for_other_words():
    animals = dataset_of([1, 2, 3, 4], titles=["red fox", "blue whale", "red fox two", "grey owl"])
    listed = Candidates(*(np.array(part) for part in ([0], [3], [2], [[1, 3, 4, 2]], [[4, 3, 2, 1]])))
    scores = title_overlap(animals, listed, "validation", history_length=2)[0]  # history: 1, 2
    assert scores[[0, 3]] == pytest.approx([1, 1])
    assert scores[2] == 0
    assert 0 < scores[1] < 1
    assert title_overlap(animals, listed, "validation", history_length=1)[0] == pytest.approx([0, 0, 0, 1])


def test_words_tell_the_next_item_where_it_shares_one_with_the_last_and_nothing_where_none_do(tiny, shop):
    table = shared_word_nats(shop, tiny.shared, lengths=[1, 8], answers=100, seed=0).set_index("title_tokens")
    assert (table["answers"] == 100).all()
    assert (table["nats"] > 4 * table["nats_se"]).all()
    assert table["alike"].tolist() == [pytest.approx(1, abs=0.2), 0]  # "Red soap", "Red brush" and "Red cream"
    for names in (map(str, range(1000, 1000 + shop.n_items)), map(chr, range(0x1F600, 0x1F600 + shop.n_items))):
        other = replace(shop, titles=["", *names])
        (nats,) = shared_word_nats(other, tiny.shared, lengths=[8], answers=100, seed=0)["nats"]
        assert nats == pytest.approx(0, abs=1e-6)
