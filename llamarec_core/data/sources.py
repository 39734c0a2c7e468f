"""Sources: the data sets of the study, what their files are called, and where the files come from.

A data set's files are taken from the first of these that has them:

1. the folder the user names, by a parameter or by the environment variable ``LLAMAREC_DATA``;
2. the cache (``LLAMAREC_CACHE``, else the user's own cache folder);
3. the official address, verified by checksum and by the published counts, into the cache.

``ml-100k-1998`` needs none of them: it comes with the Python package recbole. Data of a user's own is
read from a folder in the tidy form: ``interactions.csv`` (user_id, item_id, timestamp) and ``items.csv``
(item_id, title), each plain or gzipped, or in RecBole's form, ``NAME.inter`` and ``NAME.item``.
"""

import ast
import difflib
import errno
import importlib.metadata
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pooch
import requests

from llamarec_core.checked import checked_name
from llamarec_core.data.dataset import Dataset
from llamarec_core.data.preprocess import build_dataset, clean_movie_title, clean_product_title
from llamarec_core.data.tables import SourcePath, read_metadata_titles, read_table
from llamarec_core.files import InputError, cache_folder, sha256


@dataclass(frozen=True)
class Layout:
    """Two files that make a data set, plain or gzipped, and how to read them."""

    interactions: str  #: the name of a file
    titles: str  #: the name of the other
    read_events: Callable[[SourcePath], pd.DataFrame]
    read_titles: Callable[[SourcePath], dict[str, str]]  #: gives the cleaned title of each item id
    folder: str = ""  #: inside the one that the user names, in which the files may lie
    downloads: Mapping[str, str | None] = field(default_factory=dict)  #: official address → SHA-256, where published
    counts: tuple[int, int, int] | None = None  #: users, items and interactions kept, which verify a download as well


_EVENT = {name: name for name in ("user_id", "item_id", "timestamp")}
_ITEM = {name: name for name in ("item_id", "title")}


def _titles(
    path: SourcePath,
    columns: Mapping[str, str],
    *,
    clean: Callable[[str], str] = clean_product_title,
    quoted: bool = True,
) -> dict[str, str]:
    items = read_table(path, columns, quoted=quoted, unique="item_id")
    titles = items["title"]
    if "year" in items:
        titles = titles.where(~items["year"].str.fullmatch(r"\d{4}"), titles + " (" + items["year"] + ")")
    return dict(zip(items["item_id"], map(clean, titles), strict=True))


def _amazon(category: str, parse: Callable[[str], Any], **rest: Any) -> Layout:
    ratings = partial(read_table, columns=_EVENT, header=("user_id", "item_id", "rating", "timestamp"))

    def titles(path: SourcePath) -> dict[str, str]:
        return {item: clean_product_title(title) for item, title in read_metadata_titles(path, parse).items()}

    return Layout(f"ratings_{category}.csv", f"meta_{category}.json", ratings, titles, **rest)


_MOVIES_OF_1998 = {"item_id": "item_id", "title": "movie_title", "year": "release_year"}
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_SNAP = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2/metaFiles2"

RECBOLE_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
"""SHA-256 of the files of ``ml-100k-1998``, computed from recbole 1.2.1."""

# The checksum of ml-latest-small.zip is the one that TensorFlow Datasets publishes; those of the Amazon files of 2014
# are recorded by public copies and loaders of them. None is published for the metadata of 2018: the counts decide.
KNOWN = {
    "ml-100k-1998": Layout(  # MovieLens 100K of 1998, which comes with the Python package recbole
        "ml-100k.inter",
        "ml-100k.item",
        partial(read_table, columns=_EVENT, quoted=False),
        partial(_titles, columns=_MOVIES_OF_1998, clean=clean_movie_title, quoted=False),
    ),
    "ml-100k": Layout(  # MovieLens ml-latest-small of 2018-09, which the paper calls ML-100k
        "ratings.csv",
        "movies.csv",
        partial(read_table, columns={"user_id": "userId", "item_id": "movieId", "timestamp": "timestamp"}),
        partial(_titles, columns={"item_id": "movieId", "title": "title"}, clean=clean_movie_title),
        folder="ml-latest-small",
        downloads={
            f"{_GROUPLENS}/ml-latest-small.zip": "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436"
        },
        counts=(610, 3_650, 90_274),
    ),
    "beauty": _amazon(  # Amazon Beauty of 2014, titles from its metadata
        "Beauty",
        ast.literal_eval,  # the lines of 2014 are Python literals
        folder="beauty",
        downloads={
            f"{_SNAP}/ratings_Beauty.csv": "17d5232b90444beecfe758ce1446e5300230491f3a88ac802992ca95fc4c150f",
            f"{_SNAP}/meta_Beauty.json.gz": "c7977dc0e0ead14ac7df8c1c6de74da00e4bebfad87a0f0c5763d4c5bc9b53a0",
        },
        counts=(22_332, 12_086, 198_215),
    ),
    "games": _amazon(  # Amazon Video Games of 2014, titles from the metadata of 2018
        "Video_Games",
        json.loads,  # the lines of 2018 are JSON
        folder="games",
        downloads={
            f"{_SNAP}/ratings_Video_Games.csv": "f0ca171050c2e0f208d47f5267992476b21ab68a01439c21c8be1a4432982cfa",
            f"{_UCSD}/meta_Video_Games.json.gz": None,
        },
        counts=(15_264, 7_676, 147_861),
    ),
}
"""The data sets of the study by name."""

_AGAIN = "run the same command again, or name a folder that holds the files (unzipped) by LLAMAREC_DATA"


def load_dataset(
    name: str, *, folder: Path | str | None = None, columns: Mapping[str, str] | str | None = None
) -> Dataset:
    """Read a data set from the first place that has it, and preprocess it.

    Args:
        name: One of :data:`KNOWN`, or a data set of your own.
        folder: Holds the raw files, or holds them in a folder of the data set's name; ``LLAMAREC_DATA`` if not given.
        columns: For data of your own, our names of columns → those in the files, where they differ; also as text,
            ``user_id=uid,title=name``.

    Raises:
        InputError: the name is unknown, a file is missing, broken or not the published one, or nothing is
            left after the 5-core.
    """
    found = _find(name, folder, columns)
    if found:
        return _read(name, *found, origin="folder")
    if name == "ml-100k-1998":
        return _from_recbole(name)
    if name in KNOWN:
        return _from_downloads(name)
    close = difflib.get_close_matches(name, KNOWN, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    place = folder or os.environ.get("LLAMAREC_DATA") or "a folder named by LLAMAREC_DATA"
    raise InputError(
        f"Unknown data set {name!r}{guess}: choose from {', '.join(KNOWN)}; data of your own needs "
        f"{name}/interactions.csv and {name}/items.csv in {place}."
    )


def raw_files(name: str, *, folder: Path | str | None = None) -> list[Path]:
    """Return the raw files of a data set in the folder that the user names; none where it is read from elsewhere."""
    found = _find(name, folder)
    return found[1] if found else []


def changed_files(dataset: Dataset, *, folder: Path | str | None = None) -> list[str]:
    """Return the names of the raw files that are not, or no longer, those that a data set was read from."""
    recorded = dataset.source.get("sha256", {})
    return [path.name for path in raw_files(dataset.name, folder=folder) if recorded.get(path.name) != sha256(path)]


def _own_layouts(name: str, columns: Mapping[str, str] | str | None) -> list[Layout]:
    """Return the two forms that any data set can take: the tidy one and RecBole's."""
    if isinstance(columns, str):
        columns = dict(pair.partition("=")[::2] for pair in columns.split(","))
    columns = columns or {}
    wrong = [ours for ours, theirs in columns.items() if ours not in _EVENT | _ITEM or not theirs]
    if wrong:
        raise InputError(
            f"The columns name {wrong[0]!r}: write user_id, item_id, timestamp or title, an equals sign, and what your "
            "files call it, e.g. `user_id=uid,title=name`."
        )
    event, item = ({ours: columns.get(ours, ours) for ours in form} for form in (_EVENT, _ITEM))
    return [
        Layout(*files, partial(read_table, columns=event, quoted=quoted), partial(_titles, columns=item, quoted=quoted))
        for *files, quoted in (("interactions.csv", "items.csv", True), (f"{name}.inter", f"{name}.item", False))
    ]


def _find(
    name: str, folder: Path | str | None, columns: Mapping[str, str] | str | None = None
) -> tuple[Layout, list[Path]] | None:
    """Find a data set in the folder the user names; none if no folder is named or it has no place for it."""
    named = folder or os.environ.get("LLAMAREC_DATA")
    own, root = _own_layouts(checked_name(name, of="data set"), columns), Path(named or "")
    if not named or name == "ml-100k-1998":
        return None
    if not root.is_dir():
        raise InputError(f"The folder {root} does not exist: name the folder that holds the raw data.")
    candidates = [(layout, root / name) for layout in own]
    if name in KNOWN:
        candidates += [(KNOWN[name], root / KNOWN[name].folder), (KNOWN[name], root)]
    if name not in KNOWN or root.name == name:  # files in the tidy form do not say whose they are
        candidates += [(layout, root) for layout in own]
    for layout, place in candidates:
        files = _files(layout, place)
        if files:
            return layout, files
    for _, place in candidates:
        if place != root and place.is_dir():
            expected = dict.fromkeys(layout.interactions for layout, other in candidates if other == place)
            raise InputError(f"{place} holds no {' or '.join(expected)}: put the file of interactions there.")
    return None


def _files(layout: Layout, place: SourcePath) -> list[SourcePath]:
    """Return the files of interactions and of titles; none where there are no interactions."""
    interactions, titles = (
        next((path for path in (place / file, place / f"{file}.gz") if path.is_file()), None)
        for file in (layout.interactions, layout.titles)
    )
    if interactions and not titles:
        raise InputError(
            f"{place} holds {interactions.name} but no {layout.titles} (or {layout.titles}.gz): put the titles there."
        )
    return [interactions, titles] if interactions else []


def _read(name: str, layout: Layout, files: list[SourcePath], *, origin: str) -> Dataset:
    source = {"origin": origin, "sha256": {path.name: sha256(path) for path in files}}
    return build_dataset(name, layout.read_events(files[0]), layout.read_titles(files[1]), source)


def _from_recbole(name: str) -> Dataset:
    """Read the files that the installed recbole package ships, without importing it."""
    remedy = "run `pip install --force-reinstall --no-deps recbole==1.2.1`"
    try:
        distribution = importlib.metadata.distribution("recbole")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{name} comes with the package recbole, which is not installed: {remedy}.") from None
    folder = Path(distribution.locate_file("recbole/dataset_example/ml-100k"))
    for file, checksum in RECBOLE_SHA256.items():
        if not (folder / file).is_file() or sha256(folder / file) != checksum:
            raise InputError(f"{folder / file} is not the file that recbole 1.2.1 ships: {remedy}.")
    return _read(name, KNOWN[name], _files(KNOWN[name], folder), origin=f"recbole {distribution.version}")


def _from_downloads(name: str) -> Dataset:
    """Read the official files from the cache, downloaded if need be; forget them if they cannot be right."""
    known = KNOWN[name]
    paths = [fetch(address, checksum) for address, checksum in known.downloads.items()]
    # an archive is read in place: nothing is extracted
    place = zipfile.Path(paths[0], f"{known.folder}/") if paths[0].suffix == ".zip" else paths[0].parent
    try:
        dataset = _read(name, known, _files(known, place), origin="official download")
        counts = (dataset.n_users, dataset.n_items, dataset.n_interactions)
        if counts != known.counts:
            raise InputError(f"the users, items and interactions are {counts} instead of {known.counts}")
        return dataset
    except InputError as error:
        for path in paths:
            path.unlink(missing_ok=True)
        raise InputError(
            f"The downloaded {' and '.join(path.name for path in paths)} are not the published data of {name!r} "
            f"({str(error).rstrip('.')}) and were removed from the cache: {_AGAIN}."
        ) from error


def fetch(address: str, checksum: str | None) -> Path:
    """Return the cached copy of a file, downloaded if it is not in the cache yet or was altered there.

    The environment variable ``LLAMAREC_MIRROR`` replaces the folder of the address.

    Raises:
        InputError: the file cannot be had, arrived truncated or altered, or the disk is full; nothing of it is kept.
    """
    parent, _, name = address.rpartition("/")
    url = f"{(os.environ.get('LLAMAREC_MIRROR') or parent).rstrip('/')}/{name}"
    folder = cache_folder("data")
    pooch.get_logger().setLevel(logging.WARNING)  # the progress bar says enough
    download = pooch.HTTPDownloader(progressbar=True, timeout=60)
    try:
        return Path(pooch.retrieve(url, known_hash=checksum, fname=name, path=folder, downloader=download))
    except requests.RequestException as error:
        status = f" {error.response.status_code}" if error.response is not None else ""
        problem = f"could not be downloaded from {url} ({type(error).__name__}{status}): {_AGAIN}"
        raise InputError(f"{name} {problem}.") from error
    except OSError as error:
        remedy = "free some space" if error.errno == errno.ENOSPC else "name another folder by LLAMAREC_CACHE"
        raise InputError(f"{name} could not be written to {folder} ({error.strerror}): {remedy}.") from error
    except ValueError as error:  # pooch's answer to a wrong checksum
        raise InputError(f"{name} from {url} is not the published file and was not kept: {_AGAIN}.") from error
