"""Sources: which data sets there are, and where their files come from.

A data set's files are taken from the first of these that has them:

1. the folder the user names, by a parameter or by the environment variable ``LLAMAREC_DATA``;
2. the cache (``LLAMAREC_CACHE``, else the user's own cache folder);
3. the official address, verified by checksum and by the published counts, into the cache.

``ml-100k-1998`` needs none of them: it comes with the Python package recbole. Data of a user's own is
read from a folder in the tidy form: ``interactions.csv`` (user_id, item_id, timestamp) and ``items.csv``
(item_id, title), each plain or gzipped.
"""

import difflib
import importlib.metadata
import os
import zipfile
from dataclasses import replace
from pathlib import Path

from llamarec_core.data.catalogue import KNOWN, POSITIONS, RECBOLE_SHA256, TIDY, Layout
from llamarec_core.data.dataset import Dataset
from llamarec_core.data.download import fetch
from llamarec_core.data.preprocess import build_dataset
from llamarec_core.data.tables import SourcePath, file_sha256, find_file, read_table
from llamarec_core.files import InputError, cache_folder


def load_dataset(name: str, *, folder: Path | str | None = None, order: str | None = None) -> Dataset:
    """Read a data set from the first place that has it, and preprocess it.

    Args:
        name: One of :data:`DATASETS`, or a data set of your own.
        folder: Folder that holds the raw files, or holds them in a folder of the data set's name; if not
            given, the one that the environment variable ``LLAMAREC_DATA`` names.
        order: The same events in another order, that of the file ``<order>.csv`` (user_id, item_id, position)
            beside the interactions of a data set in the tidy form.

    Returns:
        The data set, reduced to the 5-core of titled items.

    Raises:
        InputError: the name is unknown, a file is missing, broken or not the published one, or nothing is
            left after the 5-core.
    """
    named = folder or os.environ.get("LLAMAREC_DATA")
    if Path(name).name != name or name in ("", ".."):  # a name cannot lead out of the folder
        raise _unknown(name, named)
    if order is not None:
        return _in_order(name, order, named)
    if name == "ml-100k-1998":
        return _from_recbole()
    if named:
        dataset = _from_folder(name, Path(named))
        if dataset is not None:
            return dataset
    if name not in KNOWN:
        raise _unknown(name, named)
    return _from_downloads(name)


def _from_recbole() -> Dataset:
    """Read the files that the installed recbole package ships, without importing it."""
    try:
        distribution = importlib.metadata.distribution("recbole")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "The data set ml-100k-1998 comes with the package recbole, which is not installed: "
            "install it with `pip install --no-deps recbole==1.2.1`."
        ) from None
    folder = Path(distribution.locate_file("recbole/dataset_example/ml-100k"))
    for file, checksum in RECBOLE_SHA256.items():
        if not (folder / file).is_file() or file_sha256(folder / file) != checksum:
            raise InputError(
                f"{folder / file} is not the file that recbole 1.2.1 ships: reinstall it with "
                "`pip install --force-reinstall --no-deps recbole==1.2.1`."
            )
    return _read("ml-100k-1998", KNOWN["ml-100k-1998"].layout, folder, origin=f"recbole {distribution.version}")


def _from_folder(name: str, root: Path) -> Dataset | None:
    """Read a data set from a folder the user names; none if that folder has no place for it."""
    if not root.is_dir():
        raise InputError(f"The folder {root} does not exist: name the folder that holds the raw data.")
    candidates = [(TIDY, root / name)]
    if name in KNOWN:
        layout = KNOWN[name].layout
        candidates += [(layout, root / layout.folder), (layout, root)]
    if name not in KNOWN or root.name == name:  # files in the tidy form do not say whose they are
        candidates.append((TIDY, root))
    for layout, place in candidates:
        if find_file(place, layout.interactions):
            return _read(name, layout, place, origin="folder")
    for _, place in candidates:
        if place != root and place.is_dir():
            expected = dict.fromkeys(layout.interactions for layout, other in candidates if other == place)
            raise InputError(f"{place} holds no {' or '.join(expected)}: put the file of interactions there.")
    return None


def _in_order(name: str, order: str, folder: Path | str | None) -> Dataset:
    """Read a data set in the tidy form whose events stand in the order of a file of its own."""
    place = Path(folder or "") / name
    layout = replace(TIDY, interactions=f"{order}.csv", interactions_format=POSITIONS)
    if not folder or not find_file(place, layout.interactions):
        raise InputError(
            f"There is no {name}/{layout.interactions} (or .gz): name the folder that holds it by LLAMAREC_DATA."
        )
    return _read(name, layout, place, origin=f"folder, {order}")


def _from_downloads(name: str) -> Dataset:
    """Read the official files from the cache, downloaded if need be; forget them if they cannot be right."""
    known = KNOWN[name]
    paths = [fetch(download) for download in known.downloads]
    place: SourcePath = cache_folder("data")
    if paths[0].suffix == ".zip":  # read in place: nothing is extracted
        place = zipfile.Path(paths[0], f"{known.layout.folder}/")
    try:
        dataset = _read(name, known.layout, place, origin="official download")
        counts = (dataset.n_users, dataset.n_items, dataset.n_interactions)
        if counts != known.counts:
            raise InputError(
                f"after preprocessing there are {counts} users, items and interactions instead of {known.counts}"
            )
    except InputError as error:
        for path in paths:
            path.unlink(missing_ok=True)
        raise InputError(
            f"The downloaded {' and '.join(path.name for path in paths)} are not the published data of {name!r} "
            f"({str(error).rstrip('.')}); they were removed from the cache: run the same command again, or name a "
            "folder that holds the files by LLAMAREC_DATA."
        ) from error
    return dataset


def _read(name: str, layout: Layout, place: SourcePath, *, origin: str) -> Dataset:
    """Read and preprocess the two files of a layout; the interactions are there, the titles may be missing."""
    interactions, titles = find_file(place, layout.interactions), find_file(place, layout.titles)
    if titles is None:
        raise InputError(
            f"{place} holds {interactions.name} but no {layout.titles} (or {layout.titles}.gz): put the titles there."
        )
    events = read_table(interactions, layout.interactions_format)
    source = {"origin": origin, "sha256": {path.name: file_sha256(path) for path in (interactions, titles)}}
    return build_dataset(name, events, layout.read_titles(titles), source=source)


def _unknown(name: str, folder: Path | str | None) -> InputError:
    close = difflib.get_close_matches(name, KNOWN, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    place = folder or "a folder named by LLAMAREC_DATA"
    return InputError(
        f"Unknown data set {name!r}{guess}: choose from {', '.join(KNOWN)}; data of your own needs "
        f"{name}/interactions.csv and {name}/items.csv in {place}."
    )
