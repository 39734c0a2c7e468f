import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from llamarec_core.files import InputError
from llamarec_core.ranking import draw_examples, fit_ranker, load_backbone, load_ranker, retrieved_rows
from llamarec_core.ranking.adapter import add_adapter
from llamarec_core.ranking.rerank import ndcg_at_10, rerank_by_scores
from llamarec_core.ranking.strategies import P5, PALR, TUNED, CausalLM, GPT4Rec, TALLRec, answer_rows
from llamarec_core.ranking.strategies.tuning import TextTuning
from llamarec_core.ranking.tuning import make_accelerator
from llamarec_core.ranking.verbalizer import NextTokenLogits

EACH = pytest.mark.parametrize("strategy", TUNED.values(), ids=TUNED.keys())


@pytest.fixture(scope="module", params=TUNED.values(), ids=TUNED.keys())
def tuned(request, tiny, dataset, candidates, tmp_path_factory):
    """A finished tuning of each strategy and its folder."""
    folder = tmp_path_factory.mktemp(request.param.name)
    options = {"seed": 0, "folder": folder, "strategy": request.param, "progress": False}
    return fit_ranker(dataset, candidates, tiny.settings, **options), folder


@EACH
def test_the_loss_is_that_of_the_answers_tokens_alone(strategy, tiny, model, prompts, dataset, candidates):
    settings = tiny.settings.model_copy(update={"lora_dropout": 0.0})
    adapted = add_adapter(load_backbone(settings, device="cpu")[0], settings, seed=0)
    ranker = strategy(adapted, prompts)
    rows = retrieved_rows(candidates, "validation", size=4)
    loop = TextTuning(ranker, dataset, rows, settings, retrieved=None, seed=0, accelerator=make_accelerator(settings))
    batch = loop._micro_batch(0, 0)
    with torch.no_grad():
        loss = loop._loss(NextTokenLogits(adapted)(batch.tokens, batch.lengths), batch).item()
    examples = draw_examples(dataset, settings, seed=0, epoch=0)
    losses = []
    for row in range(settings.batch_size):
        history = dataset.train(int(examples.users[row, 0]))[: examples.positions[row, 0]].tolist()
        listed, place = examples.candidates[row].tolist(), int(examples.answers[row, 0, 0])
        prompt, answer = ranker.example(row, history, listed, place)
        with torch.no_grad():
            logits = adapted(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses += F.cross_entropy(logits, torch.tensor(answer), reduction="none").tolist()
    assert loss == pytest.approx(np.mean(losses), abs=1e-4)
    assert batch.targets.ge(0).sum() == len(losses)


def test_a_tuning_has_the_verbalizers_steps_and_examples(tuned, tiny, dataset, candidates):
    ranker, folder = tuned
    curve = pd.read_csv(folder / "training.csv")
    assert curve["step"].tolist() == [0, 2, 4]  # 14 examples, 2 x 2 a step, as the verbalizer's
    assert curve["examples"].tolist() == [0, 8, 16]
    assert curve["training_loss"][2] < curve["training_loss"][1]
    outcome = json.loads((folder / "ranker.json").read_text())
    assert outcome["strategy"] == ranker.name
    rows = retrieved_rows(candidates, "validation", size=4)
    scores = answer_rows(ranker, dataset, rows, "validation").scores
    assert outcome["best"]["ndcg@10"] == pytest.approx(ndcg_at_10(rerank_by_scores(rows, scores)["rank"]))


def test_the_loaded_strategy_is_the_tuned_one(tuned, tiny, dataset, requests):
    ranker, folder = tuned
    loaded = load_ranker(dataset, tiny.settings, folder, strategy=type(ranker))
    assert type(loaded) is type(ranker)
    np.testing.assert_array_equal(loaded.rank(*requests).scores, ranker.rank(*requests).scores)
    with pytest.raises(InputError, match="strategy"):
        load_ranker(dataset, tiny.settings, folder, strategy=P5 if type(ranker) is PALR else PALR)


def test_p5_learns_what_is_always_the_same(tiny, dataset, candidates, tmp_path, monkeypatch):
    monkeypatch.setattr(P5, "example", lambda self, *example: (self.prompt.build(example[1]), self._ids[17]))
    settings = tiny.settings.model_copy(update={"epochs": 6})
    options = {"seed": 0, "folder": tmp_path, "strategy": P5, "progress": False}
    ranker = fit_ranker(dataset, candidates, settings, **options)
    assert ranker.rank([[1, 2]], [[3, 17, 5, 6]]).recommended[0][0] == 17


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"warmup": "label_binding"}, "warmup"),
        ({"temperature": 4.0}, "temperature"),
        ({"users_per_prompt": 2, "template": "candidates_first"}, "users_per_prompt"),
        ({"targets_per_user": 2, "template": "candidates_first"}, "targets_per_user"),
    ],
)
def test_settings_of_labels_are_refused(tiny, dataset, candidates, tmp_path, changes, name):
    settings = tiny.settings.model_copy(update=changes)
    with pytest.raises(InputError, match=f"{name}: .* is for the verbalizer's labels, which 'gpt4rec' does not have"):
        fit_ranker(dataset, candidates, settings, seed=0, folder=tmp_path, strategy=GPT4Rec, progress=False)


def test_a_strategy_without_training_format_is_refused(tiny, dataset, candidates, tmp_path):
    with pytest.raises(InputError, match="'causal_lm' has no training format: tune palr, gpt4rec, tallrec or p5"):
        fit_ranker(dataset, candidates, tiny.settings, seed=0, folder=tmp_path, strategy=CausalLM, progress=False)
    assert TALLRec.name in TUNED
