import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from llamarec_core.files import InputError
from llamarec_core.llm_baselines import P5, PALR, TUNED
from llamarec_core.llm_baselines.base import answer_rows
from llamarec_core.llm_baselines.tuning import IGNORED, TextTask, fit_strategy, load_strategy
from llamarec_core.ranking import draw_examples, load_backbone, retrieved_rows
from llamarec_core.ranking.adapter import add_adapter
from llamarec_core.ranking.rerank import ndcg_at_10, rerank_by_scores


@pytest.fixture(scope="module", params=TUNED.values(), ids=TUNED.keys())
def tuned(request, tiny, dataset, candidates, tmp_path_factory):
    """A finished tuning of each strategy and its folder."""
    folder = tmp_path_factory.mktemp(request.param.name)
    options = {"seed": 0, "folder": folder, "progress": False}
    return fit_strategy(request.param, dataset, candidates, tiny.settings, **options), folder


@pytest.mark.parametrize("kind", TUNED.values(), ids=TUNED.keys())
def test_the_loss_is_that_of_the_answers_tokens_alone(kind, tiny, prompts, dataset, candidates):
    settings = tiny.settings.model_copy(update={"lora_dropout": 0.0})
    model = add_adapter(load_backbone(settings, device="cpu")[0], settings, seed=0)
    strategy, rows = kind(model, prompts), retrieved_rows(candidates, "validation", size=4)
    task = TextTask(strategy, dataset, rows, settings, seed=0)
    tokens, ends, targets, _ = task.batch(1, 0)
    with torch.no_grad():
        loss = task.loss(tokens, ends, targets).item()
    examples = draw_examples(dataset, settings, seed=0, epoch=0)
    losses = []
    for row in (4, 5):  # the second step's, of two passes with two examples each
        history = dataset.train(int(examples.users[row, 0]))[: examples.positions[row, 0]].tolist()
        listed, answer = examples.candidates[row].tolist(), int(examples.answers[row, 0, 0])
        prompt, answer = strategy.example(row, history, listed, answer)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses += F.cross_entropy(logits, torch.tensor(answer), reduction="none").tolist()
    assert loss == pytest.approx(np.mean(losses), abs=1e-4)
    assert (targets != IGNORED).sum() == len(losses)


def test_a_tuning_lowers_the_loss_and_leaves_its_curve_and_outcome(tuned, dataset, candidates):
    strategy, folder = tuned
    curve = pd.read_csv(folder / "training.csv")
    assert curve["step"].tolist() == [2, 4]  # 14 examples, 2 x 2 a step
    assert curve["examples"].tolist() == [8, 16]
    assert curve["training_loss"][1] < curve["training_loss"][0]
    outcome = json.loads((folder / "ranker.json").read_text())
    assert (outcome["strategy"], outcome["best"]["step"], outcome["best"]["examples"]) == (strategy.name, 4, 16)
    rows = retrieved_rows(candidates, "validation", size=4)
    ranks = rerank_by_scores(rows, answer_rows(strategy, dataset, rows, "validation").scores)["rank"]
    assert ndcg_at_10(ranks) == pytest.approx(outcome["best"]["ndcg@10"], abs=0.1)  # the adapter was rounded since


def test_the_loaded_strategy_is_the_tuned_one(tuned, tiny, dataset, requests):
    strategy, folder = tuned
    loaded = load_strategy(type(strategy), dataset, tiny.settings, folder, tuned=True)
    np.testing.assert_array_equal(loaded.rank(*requests).scores, strategy.rank(*requests).scores)
    with pytest.raises(InputError, match="strategy"):
        load_strategy(P5 if type(strategy) is PALR else PALR, dataset, tiny.settings, folder, tuned=True)


def test_a_killed_tuning_ends_with_the_same_adapter(tiny, dataset, candidates, tmp_path, monkeypatch):
    options = {"seed": 0, "progress": False}
    fit_strategy(P5, dataset, candidates, tiny.settings, folder=tmp_path / "whole", **options)
    whole, left = TextTask.step, iter(range(3))

    def killed(task, number):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(task, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TextTask, "step", killed)
        fit_strategy(P5, dataset, candidates, tiny.settings, folder=tmp_path / "killed", **options)
    assert (tmp_path / "killed" / "checkpoint.safetensors").is_file()
    fit_strategy(P5, dataset, candidates, tiny.settings, folder=tmp_path / "killed", **options)
    first, second = (tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()


def test_p5_learns_what_is_always_the_same(tiny, dataset, candidates, tmp_path, monkeypatch):
    answer = [f" {17:02}"]
    example = lambda self, *given: (self.prompts.build(given[1], ()), self.prompts.tokenize(answer)[0])  # noqa: E731
    monkeypatch.setattr(P5, "example", example)
    settings = tiny.settings.model_copy(update={"epochs": 6})
    strategy = fit_strategy(P5, dataset, candidates, settings, seed=0, folder=tmp_path, progress=False)
    assert strategy.rank([[1, 2]], [[3, 17, 5, 6]]).recommended[0][0] == 17
