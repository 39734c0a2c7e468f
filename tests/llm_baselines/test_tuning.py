import json

import pandas as pd
import pytest
import torch

from llamarec_core.files import InputError
from llamarec_core.llm_baselines import P5, PALR, TUNED, TALLRec
from llamarec_core.llm_baselines.base import answer_candidates
from llamarec_core.llm_baselines.tuning import TextTask, fit_strategy, load_strategy, text_settings
from llamarec_core.ranking import ndcg_at_10, retrieved_candidates
from llamarec_core.settings import RankerSettings
from tests.conftest import interrupted
from tests.llm_baselines.conftest import log_probability

EACH = pytest.mark.parametrize("kind", TUNED.values(), ids=TUNED.keys())


@EACH
def test_the_loss_is_that_of_the_answers_tokens_alone(kind, tiny, dataset, candidates):
    settings = tiny.settings.model_copy(update={"lora_dropout": 0.0})
    task = TextTask(kind, dataset, candidates["validation"], settings, seed=0)
    examples = [task.example(number) for number in range(3)]
    total = sum(log_probability(task.model, *example) for example in examples)
    expected = -total / sum(len(answer) for _, answer in examples)
    with torch.no_grad():
        assert task.cross_entropy(examples).item() == pytest.approx(expected, abs=1e-4)


def test_examples_are_prefixes_with_their_next_item(tiny, dataset, candidates, monkeypatch):
    monkeypatch.setattr(PALR, "example", lambda self, *example: example)
    task = TextTask(PALR, dataset, candidates["validation"], tiny.settings, seed=0)
    sequences = [dataset.train(user).tolist() for user in range(dataset.n_users)]
    for number in range(20):
        same, history, listed, answer = task.example(number)
        assert same == number
        assert [*history, listed[answer]] in [sequence[: len(history) + 1] for sequence in sequences]
        assert len(set(listed)) == 4


@pytest.mark.parametrize("kind", [TALLRec, PALR])
def test_what_a_user_chose_at_another_time_is_no_negative(kind, tiny, dataset, candidates, monkeypatch):
    monkeypatch.setattr(kind, "example", lambda self, *example: example)
    settings = tiny.settings.model_copy(update={"negatives": "neighbours", "candidates": 12})
    task, dropped = TextTask(kind, dataset, candidates["validation"], settings, seed=0), 0
    for number in range(len(task.examples)):
        drawn, (_, _, listed, answer) = task.examples.draw(number), task.example(number)
        chosen = set(dataset.train(int(task.examples.users[drawn.prefix])).tolist())
        assert listed[answer] == task.examples.targets[drawn.prefix]
        if kind is TALLRec:
            assert chosen & set(listed) == {listed[answer]}
        else:
            assert listed == drawn.candidates.tolist()
        dropped += len(chosen & set(drawn.candidates.tolist())) - 1
    assert dropped


@EACH
def test_a_tuning_lowers_the_loss_and_leaves_its_curve_and_outcome(kind, tiny, dataset, candidates, tmp_path):
    strategy = fit_strategy(kind, dataset, candidates["validation"], tiny.settings, seed=0, folder=tmp_path)
    curve = pd.read_csv(tmp_path / "training.csv")
    assert curve["step"].tolist() == [2, 4]  # 14 examples, 2 x 2 a step
    assert curve["answers"].tolist() == [8, 16]
    assert curve["training_loss"][1] < curve["training_loss"][0]
    outcome = json.loads((tmp_path / "ranker.json").read_text())
    assert (outcome["strategy"], outcome["best"]["step"], outcome["best"]["answers"]) == (strategy.name, 4, 16)
    rows = retrieved_candidates(candidates["validation"], size=4)
    reached = ndcg_at_10(rows, answer_candidates(strategy, dataset, rows, "validation").scores)
    assert reached == pytest.approx(outcome["best"]["ndcg@10"], abs=0.1)  # the adapter was rounded since
    with pytest.raises(InputError, match="strategy"):
        load_strategy(P5 if kind is PALR else PALR, dataset, tiny.settings, tmp_path, tuned=True)


def test_a_killed_tuning_ends_with_the_same_adapter(tiny, dataset, candidates, tmp_path):
    def fit(name):
        fit_strategy(P5, dataset, candidates["validation"], tiny.settings, seed=0, folder=tmp_path / name)

    fit("whole")
    with interrupted(TextTask, "step", after=3):
        fit("killed")
    assert (tmp_path / "killed" / "checkpoint.safetensors").is_file()
    fit("killed")
    first, second = (tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()


def test_text_strategies_are_tuned_as_the_ranker_but_for_what_labels_need():
    ranker = RankerSettings(
        template="label_after", users_per_prompt=6, names_per_prompt=3, items_per_prompt=6, loss="labels",
        temperature=4.0, meter_answers=400, kept_by="nats", learning_rate=6e-4, epochs=4, validation_users=100,
        batch_size=2, negatives="neighbours",
    )  # fmt: skip
    settings = text_settings(ranker, examples=80)
    RankerSettings(**settings.model_dump())  # nothing contradicts anything else
    assert (settings.training_examples, settings.epochs, settings.validation_users) == (80, 1, 10)
    assert (settings.learning_rate, settings.batch_size, settings.negatives) == (6e-4, 2, "neighbours")
    assert text_settings(ranker, examples=None).epochs == 4
