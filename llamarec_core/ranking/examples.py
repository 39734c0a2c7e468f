"""Training examples: prefixes of the training sequences and what to rank after them (LlamaRec, section 3.2.2).

The paper's recipe: for a prefix (i_1, …, i_t) of a user's training sequence the history is i_1 … i_{t−1}; the
candidates are the target i_t and uniformly random items outside the user's training sequence, in random order. The
published code also draws items that come later in that sequence; they are left out here, because it makes no sense to
teach that what the user chose next is wrong. Held-out items are drawn like any others: nothing about them is given
away.

One label a prompt is a slow teacher for a small backbone, so an example may ask more of one list of candidates, which
is this study's addition: ``users_per_prompt`` users share the list, each reading it by itself, and each is asked after
each of the last ``targets_per_user`` titles of a history. One user's targets are then the others' negatives. With
``negatives: retrieved`` those who stand together chose what the retriever recommends to the first of them, so that the
list is as hard as a retriever's; and as each of its items is somebody's target, none gives itself away as a mere
negative. Where a list has room for more, it is filled from the catalogue, or from what is recommended to its users.

The tuning loop in :mod:`~llamarec_core.ranking.tuning` reads the examples.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.settings import RankerSettings

NO_ANSWER = -1
"""Stands where a training sequence is too short for as many targets."""


@dataclass(frozen=True)
class TrainingExamples:
    """The examples of one epoch, in the order in which they are seen."""

    users: np.ndarray
    """Whose prefixes they are, ``(n, users)``."""
    positions: np.ndarray
    """The last target's place in the training sequence; the history is what comes before, ``(n, users)``."""
    candidates: np.ndarray
    """Item ids in the order of their labels, int32, ``(n, n_candidates)``."""
    answers: np.ndarray
    """The targets' places among the candidates, in the order of time, ``(n, users, targets)``, or :data:`NO_ANSWER`."""

    def __len__(self) -> int:
        return len(self.users)

    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``users``, ``positions`` and ``candidates``."""
        return self.users, self.positions, self.candidates


def draw_examples(
    dataset: Dataset, settings: RankerSettings, *, seed: int, epoch: int, retrieved: pd.DataFrame | None = None
) -> TrainingExamples:
    """Draw the examples of an epoch; the same seed and epoch draw the same.

    Args:
        dataset: its training split is read.
        settings: ``training_examples`` (of all prefixes, without repetition), ``candidates``, ``negatives``,
            ``users_per_prompt`` and ``targets_per_user`` are read.
        seed: of the run.
        epoch: counts from 0; each draws other prefixes, negatives and orders.
        retrieved: ``user`` and ``items``, what the retriever recommends after each training sequence; read when the
            settings draw negatives from it.

    Raises:
        InputError: no training sequence has two items, a user leaves too few items for negatives, or ``retrieved`` is
            needed and missing.
    """
    generator = np.random.default_rng([seed, epoch])
    negatives = _Negatives(dataset, settings, retrieved)
    users, positions = _prefixes(dataset, settings, generator)
    if settings.users_per_prompt > 1 and settings.negatives == "retrieved":
        users, positions = negatives.neighbours(users, positions, generator)
    shape = (len(users), settings.users_per_prompt, settings.targets_per_user)
    candidates = np.empty((len(users), settings.candidates), dtype=np.int32)
    answers = np.full(shape, NO_ANSWER)
    for row in range(len(users)):
        targets = [
            dataset.train(int(user))[max(1, position + 1 - settings.targets_per_user) : position + 1]
            for user, position in zip(users[row], positions[row], strict=True)
        ]
        asked = list(dict.fromkeys(np.concatenate(targets).tolist()))
        listed = np.array(asked + negatives.draw(users[row], settings.candidates - len(asked), generator))
        order = generator.permutation(settings.candidates)
        candidates[row] = listed[order]
        place = {item: label for label, item in enumerate(candidates[row].tolist())}
        for column, items in enumerate(targets):
            answers[row, column, shape[2] - len(items) :] = [place[item] for item in items.tolist()]
    return TrainingExamples(users, positions, candidates, answers)


def _prefixes(
    dataset: Dataset, settings: RankerSettings, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the prefixes of each example, as users and positions, ``(n, users_per_prompt)`` each."""
    prefixes = np.maximum(np.diff(dataset.offsets) - 3, 0)  # of each user: the first training item has no history
    ends = np.cumsum(prefixes)
    together = settings.users_per_prompt
    if np.count_nonzero(prefixes) < together:
        raise InputError(
            f"{dataset.name} has only {np.count_nonzero(prefixes)} users with two items to train on, of which a prompt "
            f"takes {together}: use a data set of longer histories."
        )
    n_examples = min(settings.training_examples or ends[-1], ends[-1])
    if together == 1:
        chosen = generator.choice(ends[-1], size=n_examples, replace=False)  # (n,)
        users = np.searchsorted(ends, chosen, side="right")
        return users[:, None], (chosen - (ends - prefixes)[users] + 1)[:, None]
    # distinct users stand together: each pass over them is one more random order of all
    able = np.flatnonzero(prefixes)
    per_pass = len(able) // together
    passes = [generator.permutation(able)[: per_pass * together] for _ in range(-(-n_examples // per_pass))]
    users = np.concatenate(passes).reshape(-1, together)[:n_examples]
    # so that few sequences are cut short of targets, a position is drawn from the last ones where there are enough
    first = np.minimum(settings.targets_per_user, prefixes[users])
    return users, generator.integers(first, prefixes[users] + 1)


class _Negatives:
    """Draws items that a prompt's users did not choose in training."""

    def __init__(self, dataset: Dataset, settings: RankerSettings, retrieved: pd.DataFrame | None):
        self._dataset = dataset
        self._targets = settings.targets_per_user
        self._retrieved = None
        if settings.negatives == "retrieved":
            if retrieved is None:
                raise InputError("negatives: retrieved needs what the retriever recommends: run 2_retriever first.")
            self._retrieved = dict(zip(retrieved["user"], retrieved["items"], strict=True))

    def neighbours(
        self, users: np.ndarray, positions: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace all but each example's first prefix by others whose targets are recommended to its user."""
        owners = np.repeat(np.arange(self._dataset.n_users), np.diff(self._dataset.offsets))
        places = np.arange(self._dataset.n_interactions) - self._dataset.offsets[owners]
        prefixes = np.diff(self._dataset.offsets)[owners] - 3
        able = np.flatnonzero((places >= np.minimum(self._targets, prefixes)) & (places >= 1) & (places <= prefixes))
        able = able[np.argsort(self._dataset.items[able], kind="stable")]  # of one item side by side
        items = self._dataset.items[able]
        given, users, positions = (users, positions), users.copy(), positions.copy()
        width = users.shape[1]
        for row, (user, position) in enumerate(zip(users[:, 0], positions[:, 0], strict=True)):
            together, listed = {int(user)}, {int(self._dataset.train(int(user))[position])}
            column = 1
            for item in generator.permutation(self._retrieved[int(user)]):
                first, last = np.searchsorted(items, [item, item + 1])
                if column == width or first == last or item in listed:
                    continue
                chosen = able[generator.integers(first, last)]
                if owners[chosen] not in together:
                    users[row, column], positions[row, column] = owners[chosen], places[chosen]
                    together.add(int(owners[chosen]))
                    listed.add(int(item))
                    column += 1
            # the last columns keep who stood there, or get one who was replaced where that user stands here already
            kept = [
                place for place in (*range(column, width), *range(1, column)) if given[0][row, place] not in together
            ]
            users[row, column:], positions[row, column:] = (whole[row, kept[: width - column]] for whole in given)
        return users, positions

    def draw(self, users: np.ndarray, count: int, generator: np.random.Generator) -> list[int]:
        """Draw distinct items outside the users' training sequences, in random order."""
        outside = np.ones(self._dataset.n_items + 1, dtype=bool)
        outside[0] = False
        for user in users:
            outside[self._dataset.train(int(user))] = False
        if self._retrieved is None:
            allowed = np.flatnonzero(outside)
        else:
            recommended = np.unique(np.concatenate([self._retrieved[int(user)] for user in users]))
            allowed = recommended[outside[recommended]]
        if len(allowed) < count:
            raise InputError(
                f"{self._dataset.name} has {self._dataset.n_items} items, of which a prompt leaves only {len(allowed)} "
                f"to draw {count} negatives from: set candidates lower."
            )
        return generator.choice(allowed, size=count, replace=False).tolist()
