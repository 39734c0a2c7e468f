"""The catalogue: the data sets of the study, what their files are called and how they are read.

Here and nowhere else stand file names, columns, official addresses and checksums. Checksums: of recbole's
files, computed from recbole 1.2.1; of ml-latest-small.zip, as TensorFlow Datasets publishes it; of the
Amazon files of 2014, as public copies and loaders of them record it. None is published for the metadata of
2018: there the counts after preprocessing decide alone.
"""

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass

from llamarec_core.data.download import Download
from llamarec_core.data.preprocess import clean_movie_title, clean_product_title
from llamarec_core.data.tables import SourcePath, TableFormat, read_metadata_titles, read_table


@dataclass(frozen=True)
class Layout:
    """Two files that make a data set, and how to read them."""

    interactions: str
    """Name of the file of interactions; ``.gz`` may follow."""
    titles: str
    """Name of the file of titles; ``.gz`` may follow."""
    interactions_format: TableFormat
    """How the interactions are written."""
    read_titles: Callable[[SourcePath], dict[str, str]]
    """Reads the cleaned title of each item id."""
    folder: str = ""
    """Folder, inside the one the user names, in which the files may lie."""


@dataclass(frozen=True)
class KnownDataset:
    """A data set of the study."""

    description: str
    """One line about it."""
    counts: tuple[int, int, int]
    """Users, items and interactions after preprocessing, which verify a download beside its checksum."""
    layout: Layout
    """The source's own form."""
    downloads: tuple[Download, ...] = ()
    """The official files, where they can be downloaded."""


def _movie_titles(path: SourcePath) -> dict[str, str]:
    movies = read_table(path, TableFormat({"item_id": "movieId", "title": "title"}, unique="item_id"))
    return dict(zip(movies["item_id"], map(clean_movie_title, movies["title"]), strict=True))


def _movie_titles_of_1998(path: SourcePath) -> dict[str, str]:
    columns = {"item_id": "item_id:token", "title": "movie_title:token_seq", "year": "release_year:token"}
    movies = read_table(path, TableFormat(columns, delimiter="\t", quoted=False, unique="item_id"))
    dated = movies["year"].str.fullmatch(r"\d{4}")
    titles = movies["title"].where(~dated, movies["title"] + " (" + movies["year"] + ")")
    return dict(zip(movies["item_id"], map(clean_movie_title, titles), strict=True))


def _product_titles(parse: Callable[[str], object]) -> Callable[[SourcePath], dict[str, str]]:
    return lambda path: {item: clean_product_title(title) for item, title in read_metadata_titles(path, parse).items()}


def _tidy_titles(path: SourcePath) -> dict[str, str]:
    items = read_table(path, TableFormat({"item_id": "item_id", "title": "title"}, unique="item_id"))
    return dict(zip(items["item_id"], map(clean_product_title, items["title"]), strict=True))


_EVENT = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"}
_AMAZON_RATINGS = TableFormat(_EVENT, header=("user_id", "item_id", "rating", "timestamp"))
_SNAP = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"

TIDY = Layout("interactions.csv", "items.csv", TableFormat(_EVENT), read_titles=_tidy_titles)
"""The form any data set can take."""

POSITIONS = TableFormat({"user_id": "user_id", "item_id": "item_id", "timestamp": "position"})
"""Another order of the events of a data set in the tidy form."""

RECBOLE_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
"""SHA-256 of the files of ``ml-100k-1998``."""

KNOWN = {
    "ml-100k-1998": KnownDataset(
        "MovieLens 100K of 1998, which comes with the Python package recbole: needs no download",
        counts=(943, 1_349, 99_287),
        layout=Layout(
            "ml-100k.inter",
            "ml-100k.item",
            TableFormat(
                {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"},
                delimiter="\t",
                quoted=False,
            ),
            read_titles=_movie_titles_of_1998,
        ),
    ),
    "ml-100k": KnownDataset(
        "MovieLens ml-latest-small of 2018-09, which the paper calls ML-100k",
        counts=(610, 3_650, 90_274),
        layout=Layout(
            "ratings.csv",
            "movies.csv",
            TableFormat({"user_id": "userId", "item_id": "movieId", "timestamp": "timestamp"}),
            read_titles=_movie_titles,
            folder="ml-latest-small",
        ),
        downloads=(
            Download(
                "ml-latest-small.zip",
                "https://files.grouplens.org/datasets/movielens",
                "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
            ),
        ),
    ),
    "beauty": KnownDataset(
        "Amazon Beauty of 2014, titles from its metadata",
        counts=(22_332, 12_086, 198_215),
        layout=Layout(
            "ratings_Beauty.csv",
            "meta_Beauty.json",
            _AMAZON_RATINGS,
            read_titles=_product_titles(ast.literal_eval),  # the lines of 2014 are Python literals
            folder="beauty",
        ),
        downloads=(
            Download("ratings_Beauty.csv", _SNAP, "17d5232b90444beecfe758ce1446e5300230491f3a88ac802992ca95fc4c150f"),
            Download("meta_Beauty.json.gz", _SNAP, "c7977dc0e0ead14ac7df8c1c6de74da00e4bebfad87a0f0c5763d4c5bc9b53a0"),
        ),
    ),
    "games": KnownDataset(
        "Amazon Video Games of 2014, titles from the metadata of 2018",
        counts=(15_264, 7_676, 147_861),
        layout=Layout(
            "ratings_Video_Games.csv",
            "meta_Video_Games.json",
            _AMAZON_RATINGS,
            read_titles=_product_titles(json.loads),  # the lines of 2018 are JSON
            folder="games",
        ),
        downloads=(
            Download(
                "ratings_Video_Games.csv", _SNAP, "f0ca171050c2e0f208d47f5267992476b21ab68a01439c21c8be1a4432982cfa"
            ),
            Download(
                "meta_Video_Games.json.gz",
                "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2/metaFiles2",
                None,
            ),
        ),
    ),
}
"""The data sets of the study by name."""

DATASETS = {name: known.description for name, known in KNOWN.items()}
"""The data sets of the study, each with a line about it."""
