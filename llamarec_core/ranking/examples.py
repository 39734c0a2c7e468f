"""Training examples: prefixes of the training sequences, with random negatives (LlamaRec, section 3.2.2).

For a prefix (i_1, …, i_t) of a user's training sequence the history is i_1 … i_{t−1}; the candidates
are the target i_t and uniformly random items outside the user's training sequence, in random order.
The published code also draws items that come later in that sequence; they are left out here,
because it makes no sense to teach that what the user chose next is wrong. Held-out items are drawn
like any others: nothing about them is given away.

A small backbone may be asked for something easier first (``repeated_targets``, this study's addition): the target of an
early example is one of the titles that its own history lists, so that the one thing to learn is to look from the
candidates back to the history.

The tuning loop in :mod:`~llamarec_core.ranking.qlora` reads the examples.
"""

from dataclasses import dataclass

import numpy as np

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.settings import RankerSettings


@dataclass(frozen=True)
class TrainingExamples:
    """The examples of one epoch, in the order in which they are seen."""

    users: np.ndarray
    """Whose prefix it is, ``(n,)``."""
    positions: np.ndarray
    """The target's place in the training sequence; the history is what comes before, ``(n,)``."""
    candidates: np.ndarray
    """Item ids in the order of their labels, int32, ``(n, n_candidates)``."""
    answers: np.ndarray
    """The target's place among the candidates, ``(n,)``."""

    def __len__(self) -> int:
        return len(self.users)


def draw_examples(dataset: Dataset, settings: RankerSettings, *, seed: int, epoch: int) -> TrainingExamples:
    """Draw the examples of an epoch; the same seed and epoch draw the same.

    Args:
        dataset: its training split is read.
        settings: ``training_examples`` (of all prefixes, without repetition), ``candidates``, ``repeated_targets`` and
            ``history_length`` are read.
        seed: of the run.
        epoch: counts from 0; each draws other prefixes, negatives and orders.

    Raises:
        InputError: no training sequence has two items, or a user leaves too few items for negatives.
    """
    generator = np.random.default_rng([seed, epoch])
    prefixes = np.maximum(np.diff(dataset.offsets) - 3, 0)  # of each user: the first training item has no history
    ends = np.cumsum(prefixes)
    if not ends[-1]:
        raise InputError(f"{dataset.name} has no user with two items to train on: use a data set of longer histories.")
    n_examples = min(settings.training_examples or ends[-1], ends[-1])
    chosen = generator.choice(ends[-1], size=n_examples, replace=False)  # (n,)
    users = np.searchsorted(ends, chosen, side="right")
    positions = chosen - (ends - prefixes)[users] + 1
    answers = generator.integers(settings.candidates, size=n_examples)
    candidates = np.empty((n_examples, settings.candidates), dtype=np.int32)
    for row, user in enumerate(users):
        sequence = dataset.train(int(user))
        negatives = _negatives(dataset, sequence, settings.candidates - 1, generator)
        target = sequence[positions[row]]
        if epoch == 0 and row < settings.repeated_targets:
            target = generator.choice(sequence[: positions[row]][-settings.history_length :])
        candidates[row] = np.insert(negatives, answers[row], target)
    return TrainingExamples(users, positions, candidates, answers)


def _negatives(dataset: Dataset, sequence: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw distinct items outside a sequence, ``(count,)``, in random order."""
    outside = np.ones(dataset.n_items + 1, dtype=bool)
    outside[0] = False
    outside[sequence] = False
    allowed = np.flatnonzero(outside)
    if len(allowed) < count:
        raise InputError(
            f"{dataset.name} has {dataset.n_items} items, of which one user leaves only {len(allowed)} to draw {count} "
            f"negatives from: set candidates to at most {len(allowed) + 1}."
        )
    return generator.choice(allowed, size=count, replace=False)
