import dataclasses
import errno
import gzip
import hashlib
import http.server
import io
import json
import os
import sys
import threading
import zipfile
from pathlib import Path

import pooch
import pytest

from llamarec_core.data import changed_files, load_dataset
from llamarec_core.data.sources import KNOWN, raw_files
from llamarec_core.files import InputError, cache_folder

FOLDER = os.environ.get("LLAMAREC_DATA")
AT_HAND = ["ml-100k"] if FOLDER and (Path(FOLDER) / "ml-latest-small").is_dir() else []


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


@pytest.mark.parametrize("name", ["ml-100k-1998", *AT_HAND])
def test_counts_of_the_real_data_where_they_are_at_hand(name):
    dataset = load_dataset(name, folder=FOLDER)
    assert (dataset.n_users, dataset.n_items, dataset.n_interactions) == (KNOWN[name].counts or (943, 1_349, 99_287))
    assert all(dataset.titles[1:])
    assert dataset.source["preprocessing"]["duplicates"] == 0


# -- from a folder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_data_of_ones_own_is_read_from_a_folder_of_its_name_or_from_its_own(tidy, tmp_path, monkeypatch, suffix):
    tidy(tmp_path / "mine", suffix=suffix)
    dataset = load_dataset("mine", folder=tmp_path)
    assert dataset.name == "mine"
    assert dataset.titles == ["", "Soap & 0", "Soap & 1", "Soap & 2", "Soap & 3", "Soap & 4"]
    assert dataset.sequence(4).tolist() == [1, 2, 3, 4, 5]
    assert load_dataset("mine", folder=str(tmp_path / "mine")).content_hash == dataset.content_hash
    monkeypatch.setenv("LLAMAREC_DATA", str(tmp_path))
    assert load_dataset("mine").n_items == 5
    with pytest.raises(InputError, match="nowhere does not exist"):  # the parameter goes first
        load_dataset("mine", folder=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("files", "events_header", "items_header", "marks"),
    [
        (("interactions.csv", "items.csv"), "asin,uid,when", "name;asin", ",;"),
        (("mine.inter", "mine.item"), "asin:token\tuid:token\twhen:float", "name:token_seq\tasin:token", "\t\t"),
    ],
)
def test_columns_may_have_other_names(events, write, tmp_path, files, events_header, items_header, marks):
    rows = [marks[0].join((item, user, f"{time}.5")) for user, item, time in events]
    write(tmp_path / files[0], "\n".join([events_header, *rows]))
    write(tmp_path / files[1], "\n".join([items_header, *(f'A "Soap, {i}{marks[1]}i{i}' for i in range(5))]))
    mapping = {"user_id": "uid", "item_id": "asin", "timestamp": "when", "title": "name"}
    for given in ("user_id=uid, item_id = asin,timestamp=when,title=name", mapping):
        dataset = load_dataset("mine", folder=tmp_path, columns=given)
        assert (dataset.titles[1], dataset.sequence(4).tolist()) == ('A "Soap, 0', [1, 2, 3, 4, 5])


@pytest.mark.parametrize("columns", ["uid", "uid=user_id", "user_id=", "title=name,", {"rating": "stars"}])
def test_columns_that_say_nothing_of_ours_are_refused(tidy, tmp_path, columns):
    tidy(tmp_path)
    with pytest.raises(InputError, match=r"The columns name '.*': write user_id, item_id, timestamp or title"):
        load_dataset("mine", folder=tmp_path, columns=columns)


def test_a_known_data_set_may_be_in_the_tidy_form_where_the_folder_has_its_name(tidy, tmp_path, monkeypatch):
    for name in ("beauty", "ml-100k", "ml-100k-1998"):
        tidy(tmp_path / name)
        assert load_dataset(name, folder=tmp_path).n_interactions == 25
        assert load_dataset(name, folder=tmp_path / name).n_interactions == 25
    monkeypatch.setenv("LLAMAREC_DATA", str(tmp_path))
    assert load_dataset("ml-100k-1998").n_users == 943  # the embedded one, unless its folder is named outright
    tidy(tmp_path)
    with pytest.raises(InputError, match="could not be downloaded"):
        load_dataset("games", folder=tmp_path)


@pytest.mark.parametrize("subfolder", ["ml-latest-small", ""])
def test_ml_100k_in_its_official_layout_with_any_line_ends(movielens, tmp_path, subfolder):
    movielens(tmp_path / "unix" / subfolder)
    movielens(tmp_path / "windows" / subfolder, line_end="\r\n")
    unix, windows = (load_dataset("ml-100k", folder=tmp_path / name) for name in ("unix", "windows"))
    assert unix.titles[1:3] == ["The Film 0 (1990)", "The Film 1 (1991)"]
    assert unix.user_ids == ["0", "1", "2", "3", "4"]
    assert unix.content_hash == windows.content_hash
    assert unix.source["sha256"] != windows.source["sha256"]


def test_beauty_in_its_official_layout(events, write, tmp_path):
    write(tmp_path / "ratings_Beauty.csv", "".join(f"{user},{item},5.0,{time}\n" for user, item, time in events))
    records = [{"asin": f"i{i}", "title": f"Men's i{i} &amp; co"} for i in range(5)]
    write(tmp_path / "meta_Beauty.json.gz", "\n".join(map(str, records)))
    assert load_dataset("beauty", folder=tmp_path).titles[1] == "Men's i0 & co"


def test_changed_raw_files_are_noticed(tidy, tmp_path):
    tidy(tmp_path / "mine")
    dataset = load_dataset("mine", folder=tmp_path)
    items = tmp_path / "mine" / "items.csv"
    assert dataset.source["origin"] == "folder"
    assert dataset.source["sha256"]["items.csv"] == hashlib.sha256(items.read_bytes()).hexdigest()
    assert str(tmp_path) not in str(dataset.source)
    assert raw_files("mine", folder=tmp_path) == [tmp_path / "mine" / "interactions.csv", items]
    assert changed_files(dataset, folder=tmp_path) == []
    assert changed_files(dataset) == []  # not at hand
    items.write_text(items.read_text().replace("Soap", "Suds"))
    assert changed_files(dataset, folder=tmp_path) == ["items.csv"]
    items.unlink()
    tidy(tmp_path / "mine", suffix=".gz")
    assert changed_files(dataset, folder=tmp_path) == ["items.csv.gz"]


def test_an_unknown_name_is_answered_with_the_known_ones_and_the_way_to_give_ones_own():
    with pytest.raises(InputError, match=r"'beuty' \(did you mean 'beauty'\?\): choose from ml-100k-1998"):
        load_dataset("beuty")
    with pytest.raises(InputError, match=r"needs shop/interactions\.csv and shop/items\.csv in a folder named by"):
        load_dataset("shop")


@pytest.mark.parametrize("name", ["../outside", "..", "", "my data", "x$(touch y)"])
def test_a_name_cannot_lead_out_of_the_folder_or_into_a_shell(tidy, tmp_path, name):
    for folder in (tmp_path, tmp_path / "outside", tmp_path / "my data"):
        tidy(folder)
    (tmp_path / "inside").mkdir()
    for read in (load_dataset, raw_files):
        with pytest.raises(InputError, match="cannot be the name of a data set"):
            read(name, folder=tmp_path / "inside")


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("mine", "items.csv", r"mine holds interactions\.csv but no items\.csv"),
        ("beauty", "interactions.csv", r"beauty holds no interactions\.csv .* or ratings_Beauty\.csv"),
    ],
)
def test_a_missing_file_is_named(tidy, tmp_path, name, missing, message):
    tidy(tmp_path / name)
    (tmp_path / name / missing).unlink()
    with pytest.raises(InputError, match=message):
        load_dataset(name, folder=tmp_path)


# -- from the package recbole ------------------------------------------------------------------------------------------


def test_recboles_files_are_read_without_its_import_and_refused_where_altered_or_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "recbole", None)  # an import would raise ImportError
    dataset = load_dataset("ml-100k-1998")
    assert dataset.titles[dataset.item_ids.index("12")] == "The Usual Suspects (1995)"
    assert dataset.source["origin"] == "recbole 1.2.1"
    monkeypatch.setitem(KNOWN["ml-100k-1998"].downloads, "ml-100k.item", "0" * 64)
    with pytest.raises(InputError, match=r"ml-100k\.item is not the file that recbole 1\.2\.1 ships"):
        load_dataset("ml-100k-1998")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(InputError, match=r"not installed: run `pip install .*recbole==1\.2\.1"):
        load_dataset("ml-100k-1998")


# -- by download -------------------------------------------------------------------------------------------------------


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves the server's ``files``; of those in ``cut`` it sends only the first half and hangs up."""

    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.requests.append(name)
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)

    def log_message(self, *_):
        """Keep the test's output quiet."""


@pytest.fixture
def mirror(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.files, server.cut, server.requests = {}, set(), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("LLAMAREC_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def publish(monkeypatch, name, files, counts=(5, 5, 25)):
    """Let made-up files be the official ones of a known data set."""
    downloads = {
        address: checksum and hashlib.sha256(files[Path(address).name]).hexdigest()
        for address, checksum in KNOWN[name].downloads.items()
    }
    monkeypatch.setitem(KNOWN, name, dataclasses.replace(KNOWN[name], downloads=downloads, counts=counts))


@pytest.fixture
def published_movielens(mirror, monkeypatch, movielens, tmp_path):
    """A mirror of a small ml-latest-small.zip, with the line ends of the official one."""
    movielens(tmp_path / "published", line_end="\r\n")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in (tmp_path / "published").iterdir():
            file.write(path, f"ml-latest-small/{path.name}")
    mirror.files["ml-latest-small.zip"] = archive.getvalue()
    publish(monkeypatch, "ml-100k", mirror.files)
    return mirror


def cached():
    return sorted(path.name for path in cache_folder("data").rglob("*"))


def test_a_download_is_read_kept_and_after_a_folder_asked_for(published_movielens, tmp_path):
    dataset = load_dataset("ml-100k")
    assert dataset.titles[1] == "The Film 0 (1990)"
    assert dataset.source["origin"] == "official download"
    assert cached() == ["ml-latest-small.zip"]
    published_movielens.files.clear()
    assert load_dataset("ml-100k").content_hash == dataset.content_hash
    assert load_dataset("ml-100k", folder=tmp_path / "published").source["origin"] == "folder"
    assert published_movielens.requests == ["ml-latest-small.zip"]


def test_a_truncated_or_altered_download_is_refused_and_not_kept(published_movielens):
    files, name = published_movielens.files, "ml-latest-small.zip"
    whole = files[name]
    published_movielens.cut.add(name)
    with pytest.raises(InputError, match=r"ml-latest-small\.zip.*run the same command again"):
        load_dataset("ml-100k")
    published_movielens.cut.clear()
    files[name] = whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]
    with pytest.raises(InputError, match=r"ml-latest-small\.zip.*is not the published file and was not kept"):
        load_dataset("ml-100k")
    assert cached() == []
    files[name] = whole
    for _ in range(2):
        assert load_dataset("ml-100k").n_users == 5
        (cache_folder("data") / name).write_bytes(b"altered")  # which is downloaded again
    assert published_movielens.requests == [name] * 4


def test_what_cannot_be_downloaded_is_named_with_the_reason_and_the_folder_to_put_it(mirror, monkeypatch):
    with pytest.raises(InputError, match=r"ratings_Beauty\.csv could not be downloaded .* \(HTTPError 404\)"):
        load_dataset("beauty")
    monkeypatch.setenv("LLAMAREC_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"\(ConnectionError\).* name a folder that holds .* LLAMAREC_DATA"):
        load_dataset("ml-100k")
    assert cached() == []


def test_several_files_are_downloaded_and_refused_when_truncated_or_of_other_counts(mirror, monkeypatch, events):
    """No checksum of the metadata is known."""
    ratings, metadata = "ratings_Video_Games.csv", "meta_Video_Games.json.gz"
    mirror.files[ratings] = "".join(f"{u},{i},5.0,{t}\n" for u, i, t in events).encode()
    records = [{"asin": f"i{i}", "title": f"Game {i}"} for i in range(5)]
    mirror.files[metadata] = gzip.compress("\n".join(map(json.dumps, records)).encode())
    publish(monkeypatch, "games", mirror.files)
    assert load_dataset("games").titles[1:3] == ["Game 0", "Game 1"]
    assert cached() == [metadata, ratings]
    publish(monkeypatch, "games", mirror.files, counts=(5, 6, 25))
    with pytest.raises(InputError, match=r"users, items and interactions are \(5, 5, 25\) instead of \(5, 6, 25\)"):
        load_dataset("games")
    mirror.files[metadata] = mirror.files[metadata][:-10]
    with pytest.raises(InputError, match=r"meta_Video_Games\.json\.gz is truncated .* removed from the cache"):
        load_dataset("games")
    assert cached() == []


def test_a_cache_that_cannot_be_written_and_a_full_disk_are_named(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch, "retrieve", full)
    with pytest.raises(InputError, match=r"The disk is full while writing .*ml-latest-small\.zip: free some space"):
        load_dataset("ml-100k")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LLAMAREC_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"ml-latest-small\.zip cannot be written"):
        load_dataset("ml-100k")
