import json

import numpy as np
import pytest

from llamarec_core.data import Dataset, find_item
from llamarec_core.files import InputError


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


def test_counts_do_not_count_the_padding(dataset):
    assert (dataset.n_users, dataset.n_items, dataset.n_interactions) == (2, 4, 7)


def test_train_is_all_but_the_last_two(dataset):
    assert dataset.train(0).tolist() == [3, 1]
    assert dataset.train(1).tolist() == [2]


def test_validation_reads_the_training_items_and_test_also_the_validation_target(dataset):
    assert dataset.history(0, "validation").tolist() == [3, 1]
    assert dataset.history(0, "test").tolist() == [3, 1, 2]


def test_targets_are_the_last_but_one_and_the_last(dataset):
    assert dataset.targets("validation").tolist() == [2, 3]
    assert dataset.targets("test").tolist() == [4, 1]


def test_history_and_target_make_up_the_sequence(dataset):
    for user in range(dataset.n_users):
        assert [*dataset.history(user, "test"), dataset.targets("test")[user]] == dataset.sequence(user).tolist()


def test_sequences_are_int32_views(dataset):
    for sequence in (dataset.sequence(1), dataset.train(1), dataset.history(1, "test")):
        assert np.shares_memory(sequence, dataset.items)
        assert sequence.dtype == np.int32
    assert dataset.targets("test").dtype == np.int32
    assert dataset.offsets.dtype == np.int64


def test_statistics_are_the_row_of_table_2(dataset):
    assert dataset.statistics() == {
        "dataset": "example",
        "users": 2,
        "items": 4,
        "interactions": 7,
        "mean_length": 3.5,
        "density": 7 / 8,
    }


def test_the_content_hash_is_the_same_on_every_machine(dataset):
    assert dataset.content_hash == "dabfab20fd003c4329d7acae145e9bf62d23060fdd499924ff31809c7fc1d1cf"


def test_the_content_hash_does_not_depend_on_byte_order_or_origin(dataset):
    other = Dataset(
        name="another name",
        items=dataset.items.astype(">i8"),
        offsets=dataset.offsets.astype(">i4"),
        titles=tuple(dataset.titles),
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
    )
    assert other.content_hash == dataset.content_hash


@pytest.mark.parametrize(
    "change",
    [
        {"items": [3, 1, 4, 2, 2, 3, 1]},
        {"offsets": [0, 3, 7]},
        {"titles": ["", "Alien (1979)", "Brazil (1985)", "Contact (1997)", "Dune"]},
        {"user_ids": ["anna", "bo"]},
        {"item_ids": ["", "a", "b", "c", "e"]},
    ],
)
def test_the_content_hash_sees_every_change(dataset, change):
    fields = {name: getattr(dataset, name) for name in ("items", "offsets", "titles", "user_ids", "item_ids")}
    assert Dataset(name="example", **fields | change).content_hash != dataset.content_hash


def test_what_was_saved_is_loaded(dataset, tmp_path):
    dataset.save(tmp_path / "saved")
    loaded = Dataset.load(tmp_path / "saved")
    assert loaded.content_hash == dataset.content_hash
    assert (loaded.name, loaded.titles, loaded.source) == (dataset.name, dataset.titles, dataset.source)
    assert loaded.sequence(1).tolist() == [2, 3, 1]
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "dataset.json",
        "items.parquet",
        "sequences.parquet",
    ]


@pytest.mark.parametrize("file", ["dataset.json", "items.parquet", "sequences.parquet"])
def test_a_missing_file_is_named(dataset, tmp_path, file):
    dataset.save(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing|half written"):
        Dataset.load(tmp_path)


def test_an_altered_hash_is_noticed(dataset, tmp_path):
    dataset.save(tmp_path)
    description = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(description | {"content_hash": "0" * 64}))
    with pytest.raises(InputError, match="altered or only half written"):
        Dataset.load(tmp_path)


def test_files_of_two_data_sets_do_not_mix(dataset, tmp_path):
    dataset.save(tmp_path / "one")
    swapped = Dataset(
        name="example",
        items=dataset.items[::-1],
        offsets=dataset.offsets,
        titles=dataset.titles,
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
    )
    swapped.save(tmp_path / "two")
    (tmp_path / "two" / "sequences.parquet").replace(tmp_path / "one" / "sequences.parquet")
    with pytest.raises(InputError, match="altered or only half written"):
        Dataset.load(tmp_path / "one")


@pytest.mark.parametrize("file", ["items.parquet", "sequences.parquet"])
def test_a_truncated_table_is_noticed(dataset, tmp_path, file):
    dataset.save(tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="altered or only half written"):
        Dataset.load(tmp_path)


TITLES = ["", "Alien", "alien!", "#####", "🔥", "Soap & Water", "Soap & Water", "soap, water", "Crème brûlée",
          "Kimchi 김치", "i2", *["Gift card"] * 7]  # fmt: skip


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
