"""The best k items of a large catalogue: exactly, or from an inverted file without scoring every item.

A score is an inner product: ``⟨h, e_i⟩ + b_i = ⟨[h; 1], x_i⟩`` with x_i = [e_i; b_i]. An inverted file scores the
groups whose centres are nearest, and one more coordinate turns the largest inner product into the smallest distance
(Bachrach et al., 2014, section 3.1), with M the largest norm of all x_i::

    ‖[h; 1; 0] − [x_i; sqrt(M² − ‖x_i‖²)]‖² = ‖h‖² + 1 + M² − 2 ⟨[h; 1], x_i⟩.
"""

import math

import faiss
import numpy as np
import torch

LISTS_PER_ROOT = 4  # an inverted file of n items has this times sqrt(n) groups, as faiss's guidelines advise
POINTS_PER_LIST = 64  # so many items a group are enough to find the centres by


class ItemIndex:
    """An index over a retriever's items, of which row i of ``embeddings``, float32 (n_items, dim), is item i + 1."""

    def __init__(self, embeddings: np.ndarray, bias: np.ndarray, *, exact: bool):
        self.items = np.column_stack([embeddings, bias]).astype(np.float32)  # (n_items, dim + 1)
        self.exact = exact
        dimensions = self.items.shape[1]
        if exact:
            self._index = faiss.IndexFlatIP(dimensions)
            self._index.add(self.items)
            return
        squared = (self.items**2).sum(axis=1)
        lifted = np.column_stack([self.items, np.sqrt(squared.max() - squared)])  # (n_items, dim + 2)
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimensions + 1), dimensions + 1, n_lists(len(lifted)))
        self._index.cp.min_points_per_centroid = 1  # a warning of faiss's, of no use where all items are given
        self._index.cp.max_points_per_centroid = POINTS_PER_LIST
        self._index.train(lifted)
        self._index.add(lifted)

    def search(
        self, states: torch.Tensor, histories: list[np.ndarray], *, k: int = 20, probes: int = 32
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and items, (batch, k) each, best first; ``probes`` groups of an inverted file are looked into.

        Where these hold fewer than k items outside the history, item 0 fills up, with −inf for its score.
        """
        queries = np.column_stack([states.numpy(force=True), np.ones(len(states))]).astype(np.float32)
        wanted = min(k + max(map(len, histories)), len(self.items))
        if self.exact:
            found = self._index.search(queries, wanted)[1]
        else:
            lifted = np.column_stack([queries, np.zeros(len(queries), dtype=np.float32)])
            found = self._index.search(lifted, wanted, params=faiss.SearchParametersIVF(nprobe=probes))[1]
        items = np.zeros((len(states), k), dtype=np.int64)
        for row, candidates, history in zip(items, found + 1, histories, strict=True):  # faiss fills up with −1, here 0
            kept = candidates[(candidates > 0) & ~np.isin(candidates, history)][:k]
            row[: len(kept)] = kept
        scores = np.einsum("bkd,bd->bk", self.items[items - 1], queries)
        return np.where(items > 0, scores, -np.inf), items


def n_lists(n_items: int) -> int:
    """Return how many groups an inverted file of so many items has."""
    return max(1, round(LISTS_PER_ROOT * math.sqrt(n_items)))


def index_bytes(n_items: int, dim: int, *, exact: bool) -> int:
    """Predict an index's bytes in memory: float32 vectors, and for an inverted file ids and centres."""
    if exact:
        return 4 * n_items * (dim + 1)
    return n_items * (4 * (dim + 2) + 8) + 4 * n_lists(n_items) * (dim + 2)
