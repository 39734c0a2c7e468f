"""The order of the candidates by the words of their titles, which needs no language model."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from llamarec_core.data import Dataset
from llamarec_core.retrieval.candidates import Candidates


def title_overlap(dataset: Dataset, candidates: Candidates, split: str, *, history_length: int = 20) -> np.ndarray:
    """Score each candidate by the words that its title shares with the history's.

    The score is the largest cosine between the candidate's TF-IDF vector and those of the history's titles.

    Args:
        dataset: its titles make the vectors.
        candidates: of one split.
        split: where the histories end.
        history_length: most recent titles that are compared.

    Returns:
        Scores for :func:`~llamarec_core.ranking.rerank_by_scores`, between 0 and 1, ``(n, n_candidates)``.
    """
    vectors = TfidfVectorizer().fit_transform(dataset.titles)  # (n_items + 1, words)
    scores = np.empty(candidates.items.shape)
    for row, (user, items) in enumerate(zip(candidates.users, candidates.items, strict=True)):
        history = dataset.history(int(user), split)[-history_length:]
        scores[row] = (vectors[items] @ vectors[history].T).toarray().max(axis=1)
    return scores
