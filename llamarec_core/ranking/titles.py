"""The words of titles: which titles resemble one another, and the ranking that needs no language model.

Titles are TF-IDF vectors of length 1; two titles overlap by the cosine of theirs.
"""

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from llamarec_core.data import Dataset
from llamarec_core.ranking.rerank import candidate_items

RESEMBLING = 0.3
"""Titles that overlap by at least so much resemble one another: some telling word of theirs is the same."""


def title_vectors(dataset: Dataset) -> csr_matrix:
    """Return the vectors of all titles by item id, ``(n_items + 1, words)``."""
    return TfidfVectorizer().fit_transform(dataset.titles)


def resembling(vectors: csr_matrix, item: int) -> np.ndarray:
    """Return the other items whose titles resemble an item's, in the order of their ids.

    Items whose titles have the very same words are left out.

    Args:
        vectors: from :func:`title_vectors`.
        item: its id.
    """
    overlap = (vectors @ vectors[item].T).toarray()[:, 0]  # (n_items + 1,)
    return np.flatnonzero((overlap >= RESEMBLING) & (overlap < 1 - 1e-9))


def title_overlap(dataset: Dataset, rows: pd.DataFrame, split: str, *, history_length: int) -> np.ndarray:
    """Score each candidate by the words that its title shares with the history's: what needs no language model.

    The score is the largest cosine between the candidate's TF-IDF vector and those of the history's titles.

    Args:
        dataset: its titles make the vectors.
        rows: candidates of one split.
        split: where the histories end.
        history_length: most recent titles that are compared.

    Returns:
        Scores for :func:`rerank_by_scores`, between 0 and 1, ``(n, n_candidates)``.
    """
    vectors = title_vectors(dataset)
    items = candidate_items(rows)
    scores = np.empty(items.shape)
    for row, user in enumerate(rows["user"]):
        history = dataset.history(int(user), split)[-history_length:]
        scores[row] = (vectors[items[row]] @ vectors[history].T).toarray().max(axis=1)
    return scores
