"""Random streams: every random draw of the study follows from the run's seed and from what the draw is for."""

import hashlib

import numpy as np


def rng(seed: int, *purpose: int | str) -> np.random.Generator:
    """Return the generator of one purpose, e.g. ``"batches", epoch``; other purposes get streams of their own."""
    return np.random.default_rng([seed, *map(_number, purpose)])


def torch_seed(seed: int, *purpose: int | str) -> int:
    """Return a seed for torch's global generator, which decides dropout and fresh weights."""
    return int(np.random.SeedSequence([seed, *map(_number, purpose)]).generate_state(1)[0])


def _number(part: int | str) -> int:  # of a word the same in every process
    return int.from_bytes(hashlib.sha256(part.encode()).digest()[:4], "big") if isinstance(part, str) else int(part)
