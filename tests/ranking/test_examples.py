import numpy as np
import pytest

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking import draw_examples
from llamarec_core.settings import RankerSettings

SETTINGS = RankerSettings(candidates=4)


def test_every_prefix_of_the_training_sequences_is_an_example_once(dataset):
    examples = draw_examples(dataset, SETTINGS, seed=0, epoch=0)
    drawn = sorted(zip(examples.users.tolist(), examples.positions.tolist(), strict=True))
    assert drawn == [(user, at) for user in range(dataset.n_users) for at in range(1, len(dataset.train(user)))]


def test_the_target_stands_where_the_answer_says_among_new_items(dataset):
    examples = draw_examples(dataset, SETTINGS, seed=0, epoch=0)
    assert examples.candidates.shape == (len(examples), 4)
    for user, position, listed, answer in zip(
        examples.users, examples.positions, examples.candidates, examples.answers, strict=True
    ):
        assert listed[answer] == dataset.train(user)[position]
        assert len(set(listed)) == 4
        assert set(listed) & set(dataset.train(user)) == {listed[answer]}


def test_answers_are_uniform_and_held_out_items_are_drawn_like_any_others(dataset):
    epochs = [draw_examples(dataset, SETTINGS, seed=0, epoch=epoch) for epoch in range(200)]
    answers = np.concatenate([epoch.answers for epoch in epochs])
    assert np.bincount(answers) / len(answers) == pytest.approx([0.25] * 4, abs=0.02)
    users = np.concatenate([epoch.users for epoch in epochs])
    listed = np.concatenate([epoch.candidates for epoch in epochs])
    user = 0
    outside = dataset.n_items - len(dataset.train(user))
    held_out = (listed[users == user] == dataset.targets("test")[user]).any(axis=1).mean()
    assert held_out == pytest.approx(3 / outside, abs=0.04)


def test_examples_follow_from_seed_and_epoch(dataset):
    def draw(seed, epoch):
        examples = draw_examples(dataset, SETTINGS, seed=seed, epoch=epoch)
        return examples.candidates.tobytes()

    assert draw(0, 0) == draw(0, 0)
    assert len({draw(0, 0), draw(0, 1), draw(1, 0)}) == 3


def test_so_many_examples_are_drawn_without_repetition(dataset):
    examples = draw_examples(dataset, SETTINGS.model_copy(update={"training_examples": 10}), seed=0, epoch=0)
    assert len(examples) == len(set(zip(examples.users, examples.positions, strict=True))) == 10


def small(length, n_items):
    items = np.arange(1, length + 1)
    names = [f"i{number}" for number in range(1, n_items + 1)]
    return Dataset("small", items, [0, length], ["", *names], ["u"], ["", *names])


def test_early_examples_may_ask_for_a_title_that_their_history_repeats(dataset):
    settings = SETTINGS.model_copy(update={"repeated_targets": 5, "history_length": 2})
    examples = draw_examples(dataset, settings, seed=0, epoch=0)
    targets = examples.candidates[np.arange(len(examples)), examples.answers]
    for row, (user, position, target) in enumerate(zip(examples.users, examples.positions, targets, strict=True)):
        sequence = dataset.train(int(user))
        assert target in (sequence[max(0, position - 2) : position] if row < 5 else sequence[position : position + 1])
    later = draw_examples(dataset, settings, seed=0, epoch=1)
    first = int(later.users[0]), int(later.positions[0])
    assert later.candidates[0, later.answers[0]] == dataset.train(first[0])[first[1]]


def test_histories_too_short_to_learn_from_are_refused():
    with pytest.raises(InputError, match="small has no user with two items to train on"):
        draw_examples(small(3, 9), SETTINGS, seed=0, epoch=0)


def test_too_few_items_for_negatives_are_refused():
    with pytest.raises(InputError, match="leaves only 2 to draw 3 negatives from: set candidates to at most 3"):
        draw_examples(small(6, 6), SETTINGS, seed=0, epoch=0)
