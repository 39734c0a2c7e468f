"""Training examples: lists of candidates, and what is asked of them (LlamaRec, section 3.2.2).

The paper's recipe: for a prefix (i_1, …, i_t) of a user's training sequence the history is i_1 … i_{t−1}; the
candidates are the target i_t and random items outside the user's training sequence, in random order. (The published
code also draws items that come later in that sequence, which teaches that they are wrong.) This study adds:

*Honest lists* (``negatives: neighbours``): the item neighbours of the history, counted without its user, like the lists
that will be ranked. Prefixes whose target is not among them are left out.

*Shared lists* (``users_per_prompt``). Several users' histories follow one list, so that an answer costs a quarter of
the tokens. As popular items are the answer more often, the loss adds log q to the logits, where q, the *prior*, is a
candidate's share of all answers: only what the history tells is learnt (Menon et al., 2021, arXiv 2007.07314).

*Names* (``names_per_prompt``): titles of the list, whole or in parts, which binds labels to titles.

*Item questions* (``items_per_prompt``): which of the list was chosen together with an item, a distribution over users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.retrieval.item_knn import cooccurrences, incidence, training_prefix_candidates, training_prefixes
from llamarec_core.seeds import rng
from llamarec_core.settings import RankerSettings

SMOOTHING = 0.5  # added to each candidate's count of answers, so that none has a prior of zero
WHOLE_NAMES = 0.3  # share of the questions by name that ask for the whole title
KEPT_WORDS = 0.4  # probability with which a word of a title is kept when it is asked for in parts
HELD_OUT_USERS = 8  # who share a list when learning is measured


@dataclass(frozen=True)
class Question:
    """Titles that follow a list, after the last of which a label is asked for."""

    kind: str  # ``next``, ``name`` or ``item``
    titles: list[str]
    answer: np.ndarray  # probability of each candidate, (n_candidates,): all of it one's but for ``item``
    left_out: np.ndarray  # what else the user chose is neither the answer nor wrong: bool (n_candidates,)
    log_prior: np.ndarray  # what the list alone says of the answer: (n_candidates,)


@dataclass(frozen=True)
class Example:
    """One list of candidates and its questions."""

    candidates: np.ndarray  # item ids in the order of their labels, int32 (n_candidates,)
    questions: list[Question]
    prefix: int  # number of the prefix that leads it


class TrainingExamples:
    """Draws the examples of one data set's training split; ``titles`` are those that prompts show.

    Prefixes are ``users``, ``positions`` and ``targets`` (what was chosen next), int32 ``(n,)``. ``held_out`` are the
    numbers of some, of whole users who are never learnt from, for the meter.
    """

    def __init__(self, dataset: Dataset, settings: RankerSettings, titles: Sequence[str], *, seed: int):
        self.dataset, self.settings, self.titles, self.seed = dataset, settings, titles, seed
        self._words = [title.split() for title in titles]
        self.users, self.positions = training_prefixes(dataset)
        self.targets, self._lists = dataset.items[dataset.offsets[self.users] + self.positions], None
        if not len(self.users):
            raise InputError(f"{dataset.name} holds nothing to learn from: no user has four interactions.")
        if settings.negatives == "neighbours":
            lists = training_prefix_candidates(dataset, k=settings.candidates)
            honest = (lists == self.targets[:, None]).any(1)
            if not honest.any():
                raise InputError(
                    f"No user of {dataset.name} chose what item neighbours list: set negatives: random, or take more "
                    "data."
                )
            columns = (self.users, self.positions, self.targets, lists)
            self.users, self.positions, self.targets, self._lists = (column[honest] for column in columns)
        self.held_out, self._learnt = self._hold_out(settings.meter_answers)
        self._answers = np.bincount(self.targets[self._learnt], minlength=dataset.n_items + 1) + SMOOTHING
        self._epoch, self._order = -1, self._learnt
        by_target = (rows[np.argsort(self.targets[rows], kind="stable")] for rows in (self._learnt, self.held_out))
        self._learnt_by_target, self._held_out_by_target = by_target
        if settings.items_per_prompt:
            kept = np.setdiff1d(np.arange(dataset.n_users), self.users[self.held_out])
            chosen = incidence([dataset.train(int(user)) for user in kept], dataset.n_items)
            self._together, self._counts = cooccurrences(chosen)

    def __len__(self) -> int:
        """Return the number of prefixes to learn, each of which leads one example in an epoch."""
        return len(self._learnt)

    def draw(self, number: int) -> Example:
        """Draw an example; the same number and seed draw the same. Each pass over the prefixes is another order."""
        epoch, place = divmod(number, len(self._learnt))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, rng(self.seed, "order", epoch).permutation(self._learnt)
        lead, generator = int(self._order[place]), rng(self.seed, "example", number)
        example = self._shared(lead, self._learnt_by_target, self.settings.users_per_prompt, generator)
        questions = [self._name(example.candidates, generator) for _ in range(self.settings.names_per_prompt)]
        questions += [self._item(example.candidates, generator) for _ in range(self.settings.items_per_prompt)]
        example.questions.extend(question for question in questions if question is not None)
        return example

    def draw_held_out(self, number: int) -> Example:
        """Draw next-item questions of users who are never learnt from."""
        lead = int(self.held_out[number % len(self.held_out)])
        return self._shared(lead, self._held_out_by_target, HELD_OUT_USERS, rng(self.seed, "held out", number))

    def _hold_out(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the prefixes of enough users, in random order, and all others."""
        if not count:
            return np.empty(0, dtype=np.int64), np.arange(len(self.users))
        users = rng(self.seed, "held-out users").permutation(np.unique(self.users))
        sizes = np.bincount(self.users, minlength=self.dataset.n_users)[users]
        # a small data set keeps nine users of ten to learn from
        enough = min(np.searchsorted(np.cumsum(sizes), count) + 1, max(1, len(users) // 10))
        held = np.isin(self.users, users[:enough])
        return rng(self.seed, "held-out order").permutation(np.flatnonzero(held)), np.flatnonzero(~held)

    def _shared(self, lead: int, rows: np.ndarray, n_users: int, generator: np.random.Generator) -> Example:
        """Draw a list, and whose answers it holds: the leading prefix and, of ``rows`` by target, those of others."""
        if self._lists is None:  # of random lists any target can be a candidate
            size = min(len(rows), 8 * (n_users - 1))
            pool = generator.choice(rows, size=size, replace=False) if size else rows[:0]
        else:
            ends = (np.searchsorted(self.targets[rows], self._lists[lead], side=side) for side in ("left", "right"))
            pool = generator.permutation(np.concatenate([rows[slice(*part)] for part in zip(*ends, strict=True)]))
        pool = pool[self.users[pool] != self.users[lead]]
        firsts = np.sort(np.unique(self.users[pool], return_index=True)[1])  # each user once
        prefixes = [lead, *pool[firsts][: n_users - 1].tolist()]
        candidates = self._list(prefixes, generator)
        return Example(candidates, [self._next(candidates, prefix) for prefix in prefixes], lead)

    def _list(self, prefixes: list[int], generator: np.random.Generator) -> np.ndarray:
        """Return the candidates of an example in random order."""
        if self._lists is not None:
            return generator.permutation(self._lists[prefixes[0]])
        targets = list(dict.fromkeys(self.targets[prefixes].tolist()))
        chosen = np.concatenate([self.dataset.train(int(user)) for user in self.users[prefixes]])
        allowed = np.setdiff1d(np.arange(1, self.dataset.n_items + 1), chosen)
        count = self.settings.candidates - len(targets)
        if len(allowed) < count:
            raise InputError(
                f"{self.dataset.name} has {self.dataset.n_items} items, of which a prompt leaves only {len(allowed)} "
                f"to draw {count} negatives from: set candidates lower."
            )
        drawn = np.append(targets, generator.choice(allowed, count, replace=False))
        return generator.permutation(drawn).astype(np.int32)

    def _next(self, candidates: np.ndarray, prefix: int) -> Question:
        """Ask what a user chose next."""
        user, position = int(self.users[prefix]), int(self.positions[prefix])
        answer = candidates == self.targets[prefix]
        shared = self.settings.users_per_prompt > 1 and self.settings.list_prior and self._lists is not None
        prior = np.log(self._answers[candidates]) if shared else np.zeros(len(candidates))
        history = self.dataset.train(user)[:position][-self.settings.history_length :]
        left_out = np.isin(candidates, self.dataset.train(user)) & ~answer
        return Question("next", [self.titles[item] for item in history], answer, left_out, prior)

    def _name(self, candidates: np.ndarray, generator: np.random.Generator) -> Question:
        """Ask for a listed title by its name or by parts of it, after some other titles."""
        label = int(generator.integers(len(candidates)))
        before = [self.titles[item] for item in self._any_items(int(generator.integers(3)), generator)]
        whole = generator.random() < WHOLE_NAMES or not self.settings.name_parts
        named = self.titles[candidates[label]] if whole else self._parts(candidates[label], generator)
        answer = np.arange(len(candidates)) == label
        return Question("name", [*before, named], answer, np.zeros_like(answer), np.zeros(len(candidates)))

    def _parts(self, item: int, generator: np.random.Generator) -> str:
        """Draw some words of a title, half of the time shuffled, half of the time beside half of another title."""
        words = self._words[item] or [""]
        kept = [word for word in words if generator.random() < KEPT_WORDS] or [words[generator.integers(len(words))]]
        if generator.random() < 0.5:
            kept = [kept[place] for place in generator.permutation(len(kept))]
        if generator.random() < 0.5:
            other = self._words[self._any_items(1, generator)[0]]
            half = other[: len(other) // 2 + 1]
            kept = [*kept, *half] if generator.random() < 0.5 else [*half, *kept]
        return " ".join(kept)

    def _any_items(self, count: int, generator: np.random.Generator) -> list[int]:
        return (generator.integers(self.dataset.n_items, size=count) + 1).tolist()

    def _item(self, candidates: np.ndarray, generator: np.random.Generator) -> Question | None:
        """Ask what was chosen together with an item that is not listed; ``None`` where no such item is known."""
        for candidate in generator.permutation(candidates):
            row = slice(*self._together.indptr[candidate : candidate + 2])
            beside, counts = self._together.indices[row], self._together.data[row].copy()
            counts[np.isin(beside, candidates)] = 0
            if counts.any():
                item = int(generator.choice(beside, p=counts / counts.sum()))
                answer = self._together[item, candidates].toarray()[0]
                prior = np.log(self._counts[candidates] + SMOOTHING)
                left_out = np.zeros(len(candidates), dtype=bool)
                return Question("item", [self.titles[item]], answer / answer.sum(), left_out, prior)
        return None
