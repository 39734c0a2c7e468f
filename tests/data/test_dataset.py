from dataclasses import replace

import numpy as np
import pytest

from llamarec_core.data import Dataset, find_item
from llamarec_core.files import InputError
from tests.conftest import dataset_of


@pytest.fixture
def dataset():
    return Dataset(
        name="example",
        items=np.array([3, 1, 2, 4, 2, 3, 1]),
        offsets=np.array([0, 4, 7]),
        titles=["", "Alien (1979)", "Brazil (1985)", "Contact (1997)", "Dune – Wüste"],
        user_ids=["anna", "ben"],
        item_ids=["", "a", "b", "c", "d"],
        source={"origin": "folder"},
    )


def test_the_last_two_items_are_the_targets_and_what_stands_before_them_the_histories(dataset):
    assert (dataset.n_users, dataset.n_items, dataset.n_interactions) == (2, 4, 7)
    assert [dataset.train(user).tolist() for user in (0, 1)] == [[3, 1], [2]]
    assert [dataset.history(0, split).tolist() for split in ("validation", "test")] == [[3, 1], [3, 1, 2]]
    assert dataset.targets("validation").tolist() == [2, 3]
    assert dataset.targets("test").tolist() == [4, 1]
    assert dataset.sequence(1).tolist() == [2, 3, 1]
    assert np.shares_memory(dataset.train(1), dataset.items)
    assert dataset.train(1).dtype == dataset.targets("test").dtype == np.int32
    assert dataset.statistics() == {
        "dataset": "example", "users": 2, "items": 4, "interactions": 7, "mean_length": 3.5, "density": 7 / 8,
    }  # fmt: skip


def test_the_content_hash_is_the_same_on_every_machine_and_sees_every_change_but_of_name_and_origin(dataset):
    assert dataset.content_hash == "dabfab20fd003c4329d7acae145e9bf62d23060fdd499924ff31809c7fc1d1cf"
    items, offsets = dataset.items.astype(">i8"), dataset.offsets.astype(">i4")
    other = replace(dataset, name="another name", items=items, offsets=offsets)
    assert other.content_hash == dataset.content_hash
    lists = {name: [*getattr(dataset, name)[:-1], "another"] for name in ("titles", "user_ids", "item_ids")}
    for name, value in {"items": [3, 1, 4, 2, 2, 3, 1], "offsets": [0, 3, 7], **lists}.items():
        assert replace(dataset, **{name: value}).content_hash != dataset.content_hash


@pytest.mark.parametrize("file", ["items.parquet", "sequences.parquet", "dataset.json"])
def test_what_was_saved_is_loaded_and_a_missing_truncated_or_foreign_file_noticed(dataset, tmp_path, file):
    replace(dataset, items=dataset.items[::-1], titles=["", *"abcd"]).save(tmp_path / "other")
    dataset.save(tmp_path)
    loaded = Dataset.load(tmp_path)
    assert loaded.content_hash == dataset.content_hash
    assert (loaded.name, loaded.titles, loaded.source) == (dataset.name, dataset.titles, dataset.source)
    assert loaded.sequence(1).tolist() == [2, 3, 1]
    damaged = tmp_path / file
    for content in (damaged.read_bytes()[:50], (tmp_path / "other" / file).read_bytes(), None):
        damaged.unlink() if content is None else damaged.write_bytes(content)
        with pytest.raises(InputError, match="altered or only half written|dataset.json is (missing|not valid JSON)"):
            Dataset.load(tmp_path)


TITLES = ["", "Alien", "alien!", "#####", "🔥", "Soap & Water", "Soap & Water", "soap, water", "Crème brûlée",
          "Kimchi 김치", "i2", *["Gift card"] * 7]  # fmt: skip


@pytest.fixture
def shop():
    return dataset_of(range(1, len(TITLES)), titles=TITLES[1:], name="shop")


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("Alien", 1),  # exactly, though another differs only in case and punctuation
        ("#####", 3),  # symbols alone
        ("🔥", 4),
        ("soap, water", 7),
        ("crème BRÛLÉE", 8),
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
        ("Soap &amp; Water", r"2 items of shop are called 'Soap & Water': give an id, e\.g\. i5, i6\.$"),
        ("SOAP WATER!", r"3 items of shop are called 'SOAP WATER!': give an id, e\.g\. i5, i6, i7\."),
        ("gift card", r"7 items .* 'gift card': give an id, e\.g\. i11, i12, i13, i14, i15\.$"),
        ("Aliens", "No item of shop is called 'Aliens': did you mean 'Alien' or 'alien!' or"),
        ("", "No item of shop is called ''"),
        ("x" * 3_000_000, "No item of shop is called 'xxx"),
    ],
)  # fmt: skip
def test_a_title_of_several_items_or_of_none_is_answered_in_one_short_sentence(shop, name, message):
    with pytest.raises(InputError, match=message) as raised:
        find_item(shop, name)
    assert len(str(raised.value)) < 500
