"""What training asks: the paper's examples, honest lists, shared lists with their prior, names and item questions."""

from dataclasses import replace

import numpy as np
import pytest

from llamarec_core.files import InputError
from llamarec_core.ranking.examples import TrainingExamples
from llamarec_core.settings import RankerSettings
from tests.conftest import dataset_of

SETTINGS = RankerSettings(candidates=4)
HONEST = RankerSettings(
    candidates=6, template="label_after", negatives="neighbours", users_per_prompt=3, history_length=4
)


def examples_of(dataset, settings, **changes):
    return TrainingExamples(dataset, settings.model_copy(update=changes), dataset.titles, seed=0)


def drawn(examples, count=None):
    return [examples.draw(number) for number in range(count or len(examples))]


def of_kind(examples, kind):
    """(example, question) of one kind, from one pass."""
    return [(example, q) for example in drawn(examples) for q in example.questions if q.kind == kind]


def test_each_pass_leads_every_prefix_once_in_another_order(dataset):
    examples = examples_of(dataset, SETTINGS)
    prefixes = list(zip(examples.users.tolist(), examples.positions.tolist(), strict=True))
    assert prefixes == [(user, at) for user in range(dataset.n_users) for at in range(1, len(dataset.train(user)))]
    orders = [[examples.draw(epoch * len(examples) + n).prefix for n in range(len(examples))] for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(prefixes)))
    assert orders[0] != orders[1]


def test_the_paper_lists_the_target_among_random_new_items_after_its_history(dataset):
    examples = examples_of(dataset, SETTINGS, history_length=2)
    for example in drawn(examples):
        (question,) = example.questions
        user, position = int(examples.users[example.prefix]), int(examples.positions[example.prefix])
        sequence = dataset.train(user)
        assert example.candidates.dtype == np.int32
        assert len(set(example.candidates)) == 4
        assert set(example.candidates) & set(sequence) == {sequence[position]}
        np.testing.assert_array_equal(question.answer, example.candidates == sequence[position])
        assert question.titles == [dataset.titles[item] for item in sequence[:position][-2:]]
        assert not question.left_out.any()
        assert not question.log_prior.any()


def test_answers_are_uniform_and_held_out_items_are_drawn_like_any_others(dataset):
    examples = examples_of(dataset, SETTINGS)
    lists = drawn(examples, 100 * len(examples))
    places = [example.questions[0].answer.argmax() for example in lists]
    assert np.bincount(places) / len(places) == pytest.approx([0.25] * 4, abs=0.03)
    of_first = [example.candidates for example in lists if examples.users[example.prefix] == 0]
    outside = dataset.n_items - len(dataset.train(0))
    assert np.mean(np.array(of_first) == dataset.targets("test")[0]) * 4 == pytest.approx(3 / outside, abs=0.05)


@pytest.mark.parametrize("recipe", ["paper", "shared"])
def test_examples_follow_from_seed_and_number_alone(shop, recipe):
    changes = {} if recipe == "paper" else {"names_per_prompt": 2, "items_per_prompt": 1}
    settings = {"paper": SETTINGS, "shared": HONEST}[recipe].model_copy(update={"meter_answers": 20} | changes)

    def draw(seed, *numbers):
        examples = TrainingExamples(shop, settings, shop.titles, seed=seed)
        found = [examples.draw(number) for number in numbers] + [examples.draw_held_out(3)]
        return [(example.candidates.tolist(), [q.titles for q in example.questions]) for example in found]

    epoch = len(TrainingExamples(shop, settings, shop.titles, seed=0))
    straight = draw(0, 0, 1, 2, epoch + 1)
    assert draw(0, epoch + 1, 2, 1, 0)[:4] == straight[3::-1]
    assert draw(0, 1)[1] == straight[4]
    assert draw(1, 0, 1, 2, epoch + 1) != straight


def test_honest_lists_are_neighbours_and_do_not_depend_on_the_user_in_question(shop):
    examples = examples_of(shop, HONEST)
    assert 0 < len(examples) < 5 * shop.n_users
    for example in drawn(examples):
        user, position = int(examples.users[example.prefix]), int(examples.positions[example.prefix])
        assert examples.targets[example.prefix] == shop.train(user)[position]
        assert examples.targets[example.prefix] in example.candidates
        assert not set(example.candidates) & set(shop.train(user)[:position])
    # what the user chose later changes nothing
    lead = examples.draw(0).prefix
    user, position = int(examples.users[lead]), int(examples.positions[lead])
    items = shop.items.copy()
    train = items[shop.offsets[user] : shop.offsets[user + 1] - 2]
    train[position + 1 :] = np.setdiff1d(np.arange(1, shop.n_items + 1), train)[: len(train) - position - 1]
    other = TrainingExamples(replace(shop, items=items), HONEST, shop.titles, seed=0)
    found = np.flatnonzero((other.users == user) & (other.positions == position))
    assert set(other._lists[found[0]]) == set(examples._lists[lead])


def test_those_who_share_a_list_are_different_users_whose_answers_it_holds(shop):
    examples = examples_of(shop, HONEST)
    asked = of_kind(examples, "next")
    assert len(asked) > 2.5 * len(examples)
    for example, question in asked:
        answer = int(example.candidates[question.answer.argmax()])
        left_out = set(example.candidates[question.left_out].tolist())  # neither right nor wrong
        assert question.answer.sum() == 1
        assert answer not in left_out
        ends = [shop.titles.index(title) for title in question.titles]
        users = [user for user in range(shop.n_users) if {*ends, answer, *left_out} <= set(shop.train(user).tolist())]
        assert users
    assert any(question.left_out.any() for _, question in asked)


def test_the_prior_is_the_candidates_share_of_the_answers(shop):
    examples = examples_of(shop, HONEST)
    asked = np.bincount(examples.targets, minlength=shop.n_items + 1) + 0.5
    for example in drawn(examples, 20):
        for question in example.questions:
            np.testing.assert_allclose(question.log_prior, np.log(asked[example.candidates]), rtol=1e-6)
    for change in ({"list_prior": False}, {"users_per_prompt": 1}):
        without = examples_of(shop, HONEST, **change)
        assert not any(question.log_prior.any() for _, question in of_kind(without, "next"))


@pytest.mark.parametrize("parts", [True, False])
def test_names_ask_for_a_listed_title_or_words_of_it(shop, parts):
    examples = examples_of(shop, HONEST, names_per_prompt=2, name_parts=parts, users_per_prompt=1)
    asked = of_kind(examples, "name")
    assert len(asked) == 2 * len(examples)
    whole = 0
    for example, question in asked:
        title = shop.titles[example.candidates[question.answer.argmax()]]
        assert question.answer.sum() == 1
        assert not question.left_out.any()
        assert not question.log_prior.any()
        assert set(question.titles[-1].split()) & set(title.split())
        assert all(before in shop.titles for before in question.titles[:-1])
        whole += question.titles[-1] == title
    assert whole == len(asked) if not parts else 0.2 < whole / len(asked) < 0.7


def test_item_questions_ask_what_was_chosen_together_with_an_item_by_others_than_the_held_out(shop):
    examples = examples_of(shop, HONEST, items_per_prompt=1, meter_answers=30)
    held = set(examples.users[examples.held_out].tolist())
    baskets = [set(shop.train(user).tolist()) for user in range(shop.n_users) if user not in held]
    asked = of_kind(examples, "item")
    assert len(asked) == len(examples)
    for example, question in asked[:30]:
        item = shop.titles.index(question.titles[0])
        assert item not in example.candidates
        together = [sum({item, int(other)} <= basket for basket in baskets) for other in example.candidates]
        np.testing.assert_allclose(question.answer, np.array(together) / sum(together), rtol=1e-6)
        counts = np.array([sum(int(other) in basket for basket in baskets) for other in example.candidates])
        np.testing.assert_allclose(question.log_prior, np.log(counts + 0.5), rtol=1e-6)


def test_whoever_is_held_out_is_never_learnt_from(shop):
    examples = examples_of(shop, HONEST, meter_answers=25)
    held = set(examples.users[examples.held_out].tolist())
    assert len(examples.held_out) >= 25
    assert len(examples) + len(examples.held_out) == len(examples.users)
    assert not held & {int(examples.users[example.prefix]) for example in drawn(examples)}
    learnt = {tuple(q.titles) for _, q in of_kind(examples, "next")}
    asked = [examples.draw_held_out(number) for number in range(len(examples.held_out))]
    assert {example.prefix for example in asked} == set(examples.held_out.tolist())
    questions = [tuple(question.titles) for example in asked for question in example.questions]
    long = [titles for titles in questions if len(titles) == 4]
    assert np.mean([titles in learnt for titles in long]) < 0.1
    # a small data set keeps nine users of ten to learn from
    greedy = examples_of(shop, HONEST, meter_answers=10_000)
    assert len(set(greedy.users[greedy.held_out].tolist())) == len(set(greedy.users.tolist())) // 10


def test_what_cannot_be_learnt_from_is_refused():
    for settings, data, message in (
        (SETTINGS, dataset_of([1, 2, 3], n_items=9), "nothing to learn from: no user has four interactions"),
        (HONEST, dataset_of(range(30, 39), n_items=40), "No user of small chose what item neighbours list: set"),
    ):
        with pytest.raises(InputError, match=message):
            examples_of(data, settings)
    with pytest.raises(InputError, match="leaves only 2 to draw 3 negatives from: set candidates lower"):
        examples_of(dataset_of(range(1, 7), n_items=6), SETTINGS).draw(0)
