"""Downloads: official files, verified, into the cache.

pooch writes a download under a temporary name and moves it into the cache when it is whole and its
SHA-256 is the known one, so that the cache never holds half a file. A cached file is verified again
each time it is used.
"""

import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from llamarec_core.files import InputError, cache_folder


@dataclass(frozen=True)
class Download:
    """An official file."""

    name: str
    """Its name, at its address and in the cache."""
    folder_url: str
    """Address of the folder it lies in; the environment variable ``LLAMAREC_MIRROR`` replaces it."""
    sha256: str | None
    """SHA-256 of its bytes, where one was published; else the data set's counts are what is verified."""


def fetch(download: Download) -> Path:
    """Return the cached file, downloaded if it is not in the cache yet or was altered there.

    Raises:
        InputError: the file cannot be had, arrived truncated or altered, or the disk is full; the cache
            then holds nothing of it.
    """
    folder_url = os.environ.get("LLAMAREC_MIRROR") or download.folder_url
    url = f"{folder_url.rstrip('/')}/{download.name}"
    folder = cache_folder("data")
    pooch.get_logger().setLevel(logging.WARNING)  # the progress bar says enough
    try:
        path = pooch.retrieve(
            url,
            known_hash=download.sha256,
            fname=download.name,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=60),
        )
    except requests.RequestException as error:
        status = f" {error.response.status_code}" if error.response is not None else ""
        raise InputError(
            f"{download.name} could not be downloaded from {url} ({type(error).__name__}{status}): check the network "
            "and run the same command again, or get the file by other means (unzip a .zip) and name its folder by "
            "LLAMAREC_DATA."
        ) from error
    except OSError as error:
        remedy = "free some space" if error.errno == errno.ENOSPC else "name another folder by LLAMAREC_CACHE"
        raise InputError(
            f"{download.name} could not be written to {folder} ({error.strerror}): {remedy} and run the same command "
            "again."
        ) from error
    except ValueError as error:  # pooch's answer to a wrong checksum
        raise InputError(
            f"{download.name} from {url} is not the published file (its SHA-256 differs, it was truncated or altered "
            "on the way) and was not kept: run the same command again, or name a folder that holds the file by "
            "LLAMAREC_DATA."
        ) from error
    return Path(path)
