"""ItemKNN: items that the same users chose (Deshpande and Karypis, 2004), the baseline to beat (Dacrema et al., 2019).

C[i, j] counts the users whose training sequences hold both i and j, and n_i those that hold i. After a history whose
last item is i_0, the one before i_1, and so on, an item's score is::

    s_j = (n_j + 5)^−β  Σ_{a < 20}  δ^a  C[i_a, j] / (n_{i_a} + 5)^α,        with C[i, i] = 0.

Items that no neighbour names follow by popularity.

:func:`training_prefix_candidates` lists neighbours for the ranker's training examples. There the counts leave out the
user in question. Otherwise what that user chose next would stand out, because the choice itself was counted.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from llamarec_core.data import Dataset
from llamarec_core.files import InputError

RECENT = 20
"""So many of a history's most recent items count."""

SMOOTHING = 5.0
"""Added to an item's number of users, so that rare items do not win by chance."""

TRIED = {
    "history_exponent": (0.5, 1.0),
    "popularity_exponent": (0.0, 0.3, 0.5, 0.7),
    "decay": (0.5, 0.65, 0.8, 0.9),
}
"""Values of α, β and δ that are tried on validation."""

NOTHING = 1e-12
"""A lower score is what rounding leaves of no neighbour at all."""


class ItemKNN(nn.Module):
    """Item neighbours as a retriever.

    Its weights are α ``history_exponent``, β ``popularity_exponent`` and δ ``decay``, which validation chooses. The
    counts are made from the data set's training split at once and are not kept.
    """

    def __init__(self, dataset: Dataset):
        super().__init__()
        self.n_items = dataset.n_items
        self.together, self.counts = cooccurrences(training_matrix(dataset))
        for name, value in {"history_exponent": 0.5, "popularity_exponent": 0.3, "decay": 0.9}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64), requires_grad=False))

    def score(self, histories: list[np.ndarray]) -> Tensor:
        """Score the whole catalogue after each history: float32 (n, n_items + 1), −inf for the padding."""
        from_item = (self.counts + SMOOTHING) ** -self.history_exponent.item()
        recent = recent_items(histories, from_item, decay=self.decay.item())
        scores = (recent @ self.together).toarray()  # (n, n_items + 1)
        scores *= (self.counts + SMOOTHING) ** -self.popularity_exponent.item()
        # without a neighbour an item's popularity counts, far below any neighbour
        scores = np.where(scores > 0, scores, NOTHING * self.counts / self.counts.max())
        scores[:, 0] = -np.inf
        return torch.from_numpy(scores.astype(np.float32))


def training_prefix_candidates(
    dataset: Dataset,
    k: int = 20,
    *,
    history_exponent: float = 0.5,
    popularity_exponent: float = 0.3,
    decay: float = 0.9,
    batch_size: int = 2048,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the best items after every prefix of every training sequence, counted without the prefix's own user.

    A list is that of an ItemKNN that never saw the user. The items of the prefix are excluded.

    Args:
        dataset: its training split is counted.
        k: items a prefix.
        history_exponent: α.
        popularity_exponent: β.
        decay: δ.
        batch_size: prefixes scored at once.

    Returns:
        ``users`` int32 (n,), ``positions`` int32 (n,) and ``items`` int32 (n, k), best first. The prefix is
        ``dataset.train(user)[:position]``, and what the user chose next is ``dataset.train(user)[position]``.

    Raises:
        InputError: some prefix leaves fewer than k items.
    """
    chosen = training_matrix(dataset)
    together, counts = cooccurrences(chosen)
    prefixes = np.diff(dataset.offsets) - 3  # of each user: the first training item has nothing before it
    prefixes = np.maximum(prefixes, 0)
    users = np.repeat(np.arange(dataset.n_users, dtype=np.int32), prefixes)
    positions = np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in prefixes])
    # one user fewer chose a user's own items
    from_item = (counts - 1 + SMOOTHING) ** -history_exponent
    to_item = (counts + SMOOTHING) ** -popularity_exponent
    to_own_item = (counts - 1 + SMOOTHING) ** -popularity_exponent
    items = np.empty((len(users), k), dtype=np.int32)
    for start in range(0, len(users), batch_size):
        batch = slice(start, start + batch_size)
        histories = [dataset.train(user)[:end] for user, end in zip(users[batch], positions[batch], strict=True)]
        recent = recent_items(histories, from_item, decay=decay)
        scores = recent @ together  # sparse (batch, n_items + 1)
        entries = np.repeat(np.arange(len(histories)), np.diff(scores.indptr)), scores.indices
        own = chosen[users[batch]].toarray()  # bool (batch, n_items + 1)
        seen = incidence(histories, dataset.n_items).toarray()
        # an own item stands once beside each recent item in the user's own sequence
        values = scores.data - own[entries] * np.asarray(recent.sum(1)).ravel()[entries[0]]
        values *= np.where(own[entries], to_own_item[scores.indices], to_item[scores.indices])
        values[seen[entries]] = 0.0
        for row, history in enumerate(histories):
            part = slice(scores.indptr[row], scores.indptr[row + 1])
            found = best(scores.indices[part], values[part].astype(np.float32), k)
            if len(found) < k:
                others = by_popularity(counts - own[row])
                found = np.concatenate([found, others[~np.isin(others, np.concatenate([found, history]))]])[:k]
            if len(found) < k:
                raise InputError(f"{dataset.name} has too few items for lists of {k}: choose fewer candidates.")
            items[start + row] = found
    return users, positions, items


def training_matrix(dataset: Dataset) -> sparse.csr_matrix:
    """Return which user has which item in the training sequence: bool (n_users, n_items + 1)."""
    return incidence([dataset.train(user) for user in range(dataset.n_users)], dataset.n_items)


def incidence(histories: list[np.ndarray], n_items: int) -> sparse.csr_matrix:
    """Return which history holds which item: bool (n, n_items + 1)."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    columns = np.concatenate(histories)
    return sparse.csr_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(histories), n_items + 1))


def cooccurrences(chosen: sparse.csr_matrix) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Count users: C, sparse float64 (n_items + 1, n_items + 1), and n, int64 (n_items + 1,)."""
    counted = chosen.astype(np.float64)
    together = (counted.T @ counted).tocsr()
    counts = together.diagonal().astype(np.int64)
    together.setdiag(0)
    together.eliminate_zeros()
    return together, counts


def recent_items(histories: list[np.ndarray], weights: np.ndarray, *, decay: float) -> sparse.csr_matrix:
    """Return the weights of each history's recent items, δ^age · weights[item]: float64 (n, n_items + 1)."""
    recent = [history[-RECENT:] for history in histories]
    lengths = [len(history) for history in recent]
    columns = np.concatenate(recent)
    ages = np.concatenate([np.arange(length)[::-1] for length in lengths])
    rows = np.repeat(np.arange(len(recent)), lengths)
    return sparse.csr_matrix((decay**ages * weights[columns], (rows, columns)), shape=(len(recent), len(weights)))


def best(items: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return at most k items whose scores are above zero, best first; equal scores by ascending id."""
    worst = np.partition(scores, -k)[-k] if len(scores) > k else NOTHING
    kept = scores >= max(worst, NOTHING)
    return items[kept][np.lexsort((items[kept], -scores[kept]))][:k]


def by_popularity(counts: np.ndarray) -> np.ndarray:
    """Return all items by descending counts, int (n_items + 1,); equal ones by ascending id."""
    return np.argsort(-counts[1:], kind="stable") + 1
