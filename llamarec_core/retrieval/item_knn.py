"""ItemKNN: items that the same users chose (Deshpande and Karypis, 2004), the baseline to beat (Dacrema et al., 2019).

C[i, j] counts the users whose training sequences hold both i and j, and n_i those that hold i. After a history whose
last item is i_0, the one before i_1, and so on, an item's score is::

    s_j = (n_j + 5)^−β  Σ_{a < 20}  δ^a  C[i_a, j] / (n_{i_a} + 5)^α,        with C[i, i] = 0.

Items that no neighbour names follow by popularity.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from llamarec_core.data import Dataset
from llamarec_core.files import InputError

RECENT = 20  # so many of a history's most recent items count
SMOOTHING = 5.0  # added to an item's number of users, so that rare items do not win by chance
NOTHING = 1e-12  # a lower score is what rounding leaves of no neighbour at all
BATCH_SIZE = 2048  # prefixes scored at once

DEFAULTS = {"history_exponent": 0.5, "popularity_exponent": 0.3, "decay": 0.9}
"""α, β and δ where validation does not choose them."""

TRIED = {"history_exponent": (0.5, 1.0), "popularity_exponent": (0.0, 0.3, 0.5, 0.7), "decay": (0.5, 0.65, 0.8, 0.9)}
"""Values of α, β and δ that are tried on validation."""


class ItemKNN(nn.Module):
    """Item neighbours as a retriever; validation chooses α, β and δ."""

    def __init__(self, dataset: Dataset):
        super().__init__()
        self.n_items = dataset.n_items
        self.together, self.counts = cooccurrences(training_matrix(dataset))
        for name, value in DEFAULTS.items():
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


def training_prefixes(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return users and positions, int32 (n,) each, for which ``dataset.train(user)[:position]`` has a next item."""
    lengths = np.maximum(np.diff(dataset.offsets) - 3, 0)
    users = np.repeat(np.arange(dataset.n_users, dtype=np.int32), lengths)
    return users, np.concatenate([np.arange(1, length + 1, dtype=np.int32) for length in lengths])


def training_prefix_candidates(dataset: Dataset, k: int = 20) -> np.ndarray:
    """List the best items outside each of :func:`training_prefixes`, int32 (n, k), for the ranker to learn on.

    They are counted without its user: otherwise what the user chose next would stand out.
    """
    chosen = training_matrix(dataset)
    together, counts = cooccurrences(chosen)
    users, positions = training_prefixes(dataset)
    # one user fewer chose a user's own items
    from_item = (counts - 1 + SMOOTHING) ** -DEFAULTS["history_exponent"]
    to_own_item, to_item = ((counts - own + SMOOTHING) ** -DEFAULTS["popularity_exponent"] for own in (1, 0))
    items = np.empty((len(users), k), dtype=np.int32)
    for start in range(0, len(users), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        histories = [dataset.train(user)[:end] for user, end in zip(users[batch], positions[batch], strict=True)]
        recent = recent_items(histories, from_item, decay=DEFAULTS["decay"])
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
                popular = np.argsort((own[row] - counts)[1:], kind="stable") + 1  # equal ones by ascending id
                found = np.concatenate([found, popular[~np.isin(popular, np.concatenate([found, history]))]])[:k]
            if len(found) < k:
                raise InputError(f"{dataset.name} has too few items for lists of {k}: choose fewer candidates.")
            items[start + row] = found
    return items


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
    columns = np.concatenate(recent)
    ages = np.concatenate([np.arange(len(history))[::-1] for history in recent])
    rows = np.repeat(np.arange(len(recent)), [len(history) for history in recent])
    return sparse.csr_matrix((decay**ages * weights[columns], (rows, columns)), shape=(len(recent), len(weights)))


def best(items: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return at most k items whose scores are above zero, best first; equal scores by ascending id."""
    worst = np.partition(scores, -k)[-k] if len(scores) > k else NOTHING
    kept = scores >= max(worst, NOTHING)
    return items[kept][np.lexsort((items[kept], -scores[kept]))][:k]
