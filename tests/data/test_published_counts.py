"""The counts of the real data: always of the data set that needs no download, of the others where they are at hand."""

import os
from pathlib import Path

import pytest

from llamarec_core.data import load_dataset

FOLDER = os.environ.get("LLAMAREC_DATA")
COUNTS = {
    "ml-100k": (610, 3_650, 90_274, "ml-latest-small"),
    "beauty": (22_332, 12_086, 198_215, "beauty"),
    "games": (15_264, 7_676, 147_861, "games"),
}
AT_HAND = [name for name, (*_, folder) in COUNTS.items() if FOLDER and (Path(FOLDER) / folder).is_dir()]


@pytest.mark.parametrize("name", ["ml-100k-1998", *AT_HAND])
def test_counts_after_preprocessing(name):
    dataset = load_dataset(name, folder=FOLDER)
    expected = {"ml-100k-1998": (943, 1_349, 99_287)} | {known: counts[:3] for known, counts in COUNTS.items()}
    assert (dataset.n_users, dataset.n_items, dataset.n_interactions) == expected[name]
    assert all(dataset.titles[1:])
