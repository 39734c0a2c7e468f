import dataclasses
import errno
import gzip
import hashlib
import http.server
import io
import json
import threading
import zipfile

import pooch
import pytest

from llamarec_core.data import load_dataset
from llamarec_core.data.catalogue import KNOWN
from llamarec_core.data.download import Download, fetch
from llamarec_core.files import InputError, cache_folder


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
    downloads = tuple(
        dataclasses.replace(download, sha256=download.sha256 and hashlib.sha256(files[download.name]).hexdigest())
        for download in KNOWN[name].downloads
    )
    monkeypatch.setitem(KNOWN, name, dataclasses.replace(KNOWN[name], downloads=downloads, counts=counts))


@pytest.fixture
def movielens(mirror, monkeypatch, events):
    """A mirror of a small ml-latest-small.zip, with the line ends of the official one."""
    ratings = "userId,movieId,rating,timestamp\r\n" + "".join(f"{u[1:]},{i[1:]},4.0,{t}\r\n" for u, i, t in events)
    movies = "movieId,title,genres\r\n" + "".join(f'{i},"Film {i}, The (199{i})",Drama\r\n' for i in range(5))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ml-latest-small/ratings.csv", ratings)
        file.writestr("ml-latest-small/movies.csv", movies)
    mirror.files["ml-latest-small.zip"] = archive.getvalue()
    publish(monkeypatch, "ml-100k", mirror.files)
    return mirror


@pytest.fixture
def games(mirror, monkeypatch, events):
    """A mirror of small Video Games files; no checksum of the metadata is known."""
    mirror.files["ratings_Video_Games.csv"] = "".join(f"{u},{i},5.0,{t}\n" for u, i, t in events).encode()
    records = [{"asin": f"i{i}", "title": f"Game {i}"} for i in range(5)]
    mirror.files["meta_Video_Games.json.gz"] = gzip.compress("\n".join(map(json.dumps, records)).encode())
    publish(monkeypatch, "games", mirror.files)
    return mirror


def cached():
    return sorted(path.name for path in cache_folder("data").rglob("*"))


def test_a_download_is_read_and_kept(movielens):
    dataset = load_dataset("ml-100k")
    assert dataset.titles[1] == "The Film 0 (1990)"
    assert dataset.source["origin"] == "official download"
    assert cached() == ["ml-latest-small.zip"]
    movielens.files.clear()
    assert load_dataset("ml-100k").content_hash == dataset.content_hash
    assert movielens.requests == ["ml-latest-small.zip"]


def test_a_data_set_of_several_files_is_downloaded(games):
    assert load_dataset("games").titles[1:3] == ["Game 0", "Game 1"]
    assert cached() == ["meta_Video_Games.json.gz", "ratings_Video_Games.csv"]


def test_the_folder_goes_before_the_download(movielens, tmp_path, write):
    folder = tmp_path / "data"
    archive = zipfile.ZipFile(io.BytesIO(movielens.files["ml-latest-small.zip"]))
    for name in archive.namelist():
        write(folder / name, archive.read(name))
    assert load_dataset("ml-100k", folder=folder).source["origin"] == "folder"
    assert movielens.requests == []


def test_a_truncated_download_is_refused_and_not_kept(movielens):
    movielens.cut.add("ml-latest-small.zip")
    with pytest.raises(InputError, match=r"ml-latest-small\.zip.*run the same command again"):
        load_dataset("ml-100k")
    assert cached() == []
    movielens.cut.clear()
    assert load_dataset("ml-100k").n_users == 5


def test_an_altered_download_is_refused_and_not_kept(movielens):
    content = bytearray(movielens.files["ml-latest-small.zip"])
    content[60] ^= 1
    movielens.files["ml-latest-small.zip"] = bytes(content)
    with pytest.raises(InputError, match=r"ml-latest-small\.zip .* is not the published file .* was not kept"):
        load_dataset("ml-100k")
    assert cached() == []


def test_a_file_altered_in_the_cache_is_downloaded_again(movielens):
    load_dataset("ml-100k")
    (cache_folder("data") / "ml-latest-small.zip").write_bytes(b"altered")
    assert load_dataset("ml-100k").n_users == 5
    assert movielens.requests == ["ml-latest-small.zip"] * 2


def test_a_file_that_is_not_there_is_named_with_the_servers_answer(mirror):
    with pytest.raises(InputError, match=r"ratings_Beauty\.csv could not be downloaded .* \(HTTPError 404\)"):
        load_dataset("beauty")
    assert cached() == []


def test_without_network_the_sentence_names_the_file_and_the_folder_to_put_it():
    with pytest.raises(InputError, match=r"ml-latest-small\.zip could not .* name its folder by LLAMAREC_DATA"):
        load_dataset("ml-100k")


def test_metadata_without_checksum_are_refused_when_the_counts_differ(games, monkeypatch):
    publish(monkeypatch, "games", games.files, counts=(5, 6, 25))
    with pytest.raises(
        InputError, match=r"there are \(5, 5, 25\) users, items and interactions instead of \(5, 6, 25\)"
    ):
        load_dataset("games")
    assert cached() == []


def test_truncated_metadata_without_checksum_are_refused_and_not_kept(games):
    games.files["meta_Video_Games.json.gz"] = games.files["meta_Video_Games.json.gz"][:-10]
    with pytest.raises(InputError, match=r"meta_Video_Games\.json\.gz is truncated .* removed from the cache"):
        load_dataset("games")
    assert cached() == []


def test_a_cache_that_cannot_be_written_is_named(mirror, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LLAMAREC_CACHE", str(tmp_path / "file"))
    mirror.files["x"] = b"content"
    with pytest.raises(InputError, match="name another folder by LLAMAREC_CACHE"):
        fetch(Download("x", "http://127.0.0.1:9", None))


def test_a_full_disk_is_named(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch, "retrieve", full)
    with pytest.raises(InputError, match=r"No space left on device\): free some space and run the same command again"):
        load_dataset("ml-100k")


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "ml-100k-1998"])
def test_all_but_the_metadata_of_2018_have_a_checksum(name):
    unverified = [download.name for download in KNOWN[name].downloads if download.sha256 is None]
    assert KNOWN[name].downloads
    assert unverified == (["meta_Video_Games.json.gz"] if name == "games" else [])
