import numpy as np
import pandas as pd
import pytest

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking import draw_examples
from llamarec_core.ranking.examples import NO_ANSWER
from llamarec_core.settings import RankerSettings

SETTINGS = RankerSettings(candidates=4)
DENSE = RankerSettings(candidates=6, template="candidates_first", users_per_prompt=2, targets_per_user=3)


def test_every_prefix_of_the_training_sequences_is_an_example_once(dataset):
    examples = draw_examples(dataset, SETTINGS, seed=0, epoch=0)
    drawn = sorted(zip(examples.users[:, 0].tolist(), examples.positions[:, 0].tolist(), strict=True))
    assert drawn == [(user, at) for user in range(dataset.n_users) for at in range(1, len(dataset.train(user)))]


def test_the_target_stands_where_the_answer_says_among_new_items(dataset):
    examples = draw_examples(dataset, SETTINGS, seed=0, epoch=0)
    assert examples.candidates.shape == (len(examples), 4)
    for user, position, listed, answer in zip(
        examples.users[:, 0], examples.positions[:, 0], examples.candidates, examples.answers[:, 0, 0], strict=True
    ):
        assert listed[answer] == dataset.train(user)[position]
        assert len(set(listed)) == 4
        assert set(listed) & set(dataset.train(user)) == {listed[answer]}


def test_answers_are_uniform_and_held_out_items_are_drawn_like_any_others(dataset):
    epochs = [draw_examples(dataset, SETTINGS, seed=0, epoch=epoch) for epoch in range(200)]
    answers = np.concatenate([epoch.answers[:, 0, 0] for epoch in epochs])
    assert np.bincount(answers) / len(answers) == pytest.approx([0.25] * 4, abs=0.02)
    users = np.concatenate([epoch.users[:, 0] for epoch in epochs])
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
    assert len(examples) == len(set(zip(examples.users[:, 0], examples.positions[:, 0], strict=True))) == 10


def small(length, n_items):
    items = np.arange(1, length + 1)
    names = [f"i{number}" for number in range(1, n_items + 1)]
    return Dataset("small", items, [0, length], ["", *names], ["u"], ["", *names])


def test_several_users_share_a_list_and_are_asked_after_several_titles(dataset):
    examples = draw_examples(dataset, DENSE, seed=0, epoch=0)
    assert examples.answers.shape == (len(examples), 2, 3)
    for users, positions, listed, answers in zip(*examples.parts(), examples.answers, strict=True):
        assert len(set(users)) == 2
        assert len(set(listed)) == 6
        for user, position, of_user in zip(users, positions, answers, strict=True):
            sequence = dataset.train(int(user))
            asked = of_user[of_user != NO_ANSWER]
            assert len(asked) == min(3, position)  # a title before each
            np.testing.assert_array_equal(listed[asked], sequence[position + 1 - len(asked) : position + 1])
    assert (examples.answers != NO_ANSWER).mean() > 0.7


def test_each_pass_over_the_users_takes_each_of_them_once(dataset):
    examples = draw_examples(dataset, DENSE.model_copy(update={"training_examples": 12}), seed=0, epoch=0)
    assert len(examples) == 12  # two passes over twelve users, two at a time
    assert [sorted(examples.users[start : start + 6].ravel()) for start in (0, 6)] == [list(range(12))] * 2


def test_those_who_share_a_list_may_have_chosen_what_is_recommended_to_the_first(dataset):
    generator = np.random.default_rng(2)
    others = [np.setdiff1d(np.arange(1, 31), dataset.train(user)) for user in range(dataset.n_users)]
    retrieved = pd.DataFrame({"user": range(dataset.n_users), "items": [generator.permutation(o)[:20] for o in others]})
    settings = DENSE.model_copy(
        update={"negatives": "retrieved", "users_per_prompt": 4, "targets_per_user": 1, "training_examples": 40}
    )
    examples = draw_examples(dataset, settings, seed=0, epoch=0, retrieved=retrieved)
    recommended = 0
    for users, positions in zip(examples.users, examples.positions, strict=True):
        assert len(set(users)) == 4
        targets = [dataset.train(int(user))[position] for user, position in zip(users, positions, strict=True)]
        recommended += len(set(targets[1:]) & set(retrieved["items"][users[0]]))
    assert recommended > 0.9 * 3 * len(examples)  # the rest are users left where too few chose a recommended item


@pytest.mark.parametrize("count", [3, 4, 6])
def test_nobody_stands_twice_beside_a_list_where_few_items_are_recommended(dataset, count):
    generator = np.random.default_rng(3)
    others = [np.setdiff1d(np.arange(1, 31), dataset.train(user)) for user in range(dataset.n_users)]
    items = [generator.permutation(o)[:count] for o in others]
    retrieved = pd.DataFrame({"user": range(dataset.n_users), "items": items})
    changes = {"negatives": "retrieved", "users_per_prompt": 4, "targets_per_user": 1, "candidates": 5}
    settings = DENSE.model_copy(update=changes | {"training_examples": 60})
    examples = draw_examples(dataset, settings, seed=0, epoch=0, retrieved=retrieved)
    assert all(len(set(users)) == 4 for users in examples.users.tolist())


def test_negatives_may_come_from_what_the_retriever_recommends(dataset):
    outside = [np.setdiff1d(np.arange(1, 31), dataset.train(user)) for user in range(dataset.n_users)]
    retrieved = pd.DataFrame({"user": range(dataset.n_users), "items": [items[:6] for items in outside]})
    settings = SETTINGS.model_copy(update={"negatives": "retrieved"})
    examples = draw_examples(dataset, settings, seed=0, epoch=0, retrieved=retrieved)
    for user, listed, answer in zip(examples.users[:, 0], examples.candidates, examples.answers[:, 0, 0], strict=True):
        assert set(np.delete(listed, answer)) <= set(outside[user][:6])
    with pytest.raises(InputError, match="negatives: retrieved needs what the retriever recommends"):
        draw_examples(dataset, settings, seed=0, epoch=0)


def test_histories_too_short_to_learn_from_are_refused():
    with pytest.raises(
        InputError, match="small has only 0 users with two items to train on, of which a prompt takes 1"
    ):
        draw_examples(small(3, 9), SETTINGS, seed=0, epoch=0)


def test_too_few_items_for_negatives_are_refused():
    with pytest.raises(InputError, match="leaves only 2 to draw 3 negatives from: set candidates lower"):
        draw_examples(small(6, 6), SETTINGS, seed=0, epoch=0)
