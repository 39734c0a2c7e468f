"""The label-binding warm-up: what it asks, that it is learnt, and that a kill leaves no trace."""

import numpy as np
import pandas as pd
import pytest
import torch
from llamarec_core.ranking.binding_questions import HistoryQuestions, TitleQuestions
from safetensors.torch import load_file

from llamarec_core.data import Dataset
from llamarec_core.ranking import PromptBuilder, binding, fit_ranker, load_ranker
from llamarec_core.ranking.prompt import LABELS
from llamarec_core.ranking.titles import resembling, title_vectors
from llamarec_core.ranking.verbalizer import NextTokenLogits
from llamarec_core.settings import RankerSettings


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def settings(tiny):
    change = {"warmup": "label_binding", "binding_examples": 48, "binding_learning_rate": 1e-2}
    return RankerSettings(**tiny.settings.model_dump() | change)


@pytest.mark.parametrize("template", ["ranking", "alpaca"])
def test_a_sequence_lists_a_pool_and_asks_for_some_of_it(tokenizer, template):
    titles = ["", "Alien (1979)", "Brazil (1985)", "Casablanca (1942)"]
    prompts = PromptBuilder(tokenizer, titles, RankerSettings(template=template))
    tokens, before = prompts.build_binding([3, 1, 2], [2, 0])
    text = tokenizer.decode(tokens)
    assert text.endswith("\n- Brazil (1985)\nC\n- Casablanca (1942)\nA")
    assert tokenizer(text, add_special_tokens=False).input_ids == tokens
    assert [tokens[place] for place in before] == [prompts.target_ids[2], prompts.target_ids[0]]
    assert [tokenizer.decode(tokens[place]) for place in before] == ["C", "A"]
    assert all(f"{label}" in text for label in LABELS[:3])


@pytest.fixture
def games():
    titles = ["", "Zelda Ocarina", "Zelda Majora", "Halo Wars", "Halo Reach", "Tetris"]
    sequences = [[1, 2, 3, 4, 5] * 2] * 4
    return Dataset(
        name="games",
        items=np.concatenate(sequences),
        offsets=np.arange(0, 41, 10),
        titles=titles,
        user_ids=list("abcd"),
        item_ids=["", *"12345"],
    )


def test_some_titles_are_asked_for_by_others_that_share_words_with_them(tokenizer, games, monkeypatch):
    vectors = title_vectors(games)
    assert resembling(vectors, 1).tolist() == [2]
    assert resembling(vectors, 5).tolist() == []
    settings = RankerSettings(binding_resembling=1.0, candidates=2)
    questions = TitleQuestions(PromptBuilder(tokenizer, games.titles, settings), games, settings)
    for pool, asked in (([1, 3], "Zelda Majora"), ([5, 3], "Tetris")):
        monkeypatch.setattr(questions, "_pool", lambda generator, pool=pool: np.array(pool))
        batch = questions.batch(1, np.random.default_rng(1), device=torch.device("cpu"))
        text = tokenizer.decode(batch.tokens[0])
        assert asked in text.split("\n- ", 1)[1]


def test_histories_ask_after_each_title_for_what_resembles_them_so_far(tokenizer, games, monkeypatch):
    change = {"template": "candidates_first", "candidates": 3, "history_length": 2, "binding_resembling": 1.0}
    settings = RankerSettings(**change)
    questions = HistoryQuestions(PromptBuilder(tokenizer, games.titles, settings), games, settings)
    assert questions.answers == 2  # one history of two titles a pool
    monkeypatch.setattr(questions, "_pool", lambda generator: np.array([1, 3, 5]))
    titles = iter([2, 4, 5, 5, 1, 2])  # Zelda, then Halo; Tetris; the title itself, then one that resembles it
    monkeypatch.setattr(questions, "_title", lambda pool, generator: next(titles))
    batch = questions.batch(3, np.random.default_rng(0), device=torch.device("cpu"))
    assert batch.targets.shape == (3, 2, 3)
    torch.testing.assert_close(batch.targets.sum(-1), torch.ones(3, 2))
    zelda, tetris, same = batch.targets
    assert zelda[0].argmax() == 0
    assert zelda[0, 0] > 0.9
    assert zelda[1, 0] == pytest.approx(zelda[1, 1].item(), abs=0.3)
    assert zelda[1, 2] < 0.05
    assert (tetris[:, 2] > 0.99).all()
    torch.testing.assert_close(same[0], same[1])  # the best of the history counts, not the latest
    row = batch.tokens[0, : batch.lengths[0, 1]]
    assert tokenizer.decode(row).startswith("\n- Zelda Majora\n- Halo Reach\n")
    assert tokenizer.decode(batch.beginnings[0]).count("Tetris") == 1


def test_logits_at_several_places_are_those_of_each_beginning(tiny, smollm2):
    model = smollm2[0]
    tokens = torch.randint(1000, 2000, (2, 12))
    lengths = torch.tensor([[3, 7, 12], [1, 5, 9]])
    with torch.inference_mode():
        several = NextTokenLogits(model)(tokens, lengths)
        for row, column in ((0, 1), (1, 0), (1, 2)):
            alone = NextTokenLogits(model)(tokens[row : row + 1, : lengths[row, column]], lengths[row, column, None])
            torch.testing.assert_close(several[row, column], alone[0], atol=1e-3, rtol=1e-3)


def test_the_phase_leaves_its_curve_and_the_ranker_starts_from_it(settings, dataset, candidates, tmp_path):
    fit_ranker(dataset, candidates, settings, seed=0, folder=tmp_path, progress=False)
    curve = pd.read_csv(tmp_path / "binding.csv")
    assert list(curve.columns) == ["step", "examples", "answers", "tokens", "seconds", "training_loss", "accuracy"]
    assert curve["step"].tolist() == [10, 12]  # 48 sequences, four a step
    assert curve["examples"].tolist() == [40, 48]
    bound = load_file(tmp_path / "binding.safetensors")
    tuned = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    shared = tuned.keys() & bound.keys()
    assert shared == tuned.keys()
    assert any(not torch.equal(bound[name], tuned[name]) for name in shared)


def test_the_loss_is_that_of_the_labels_at_their_places(settings, dataset, candidates, tmp_path, monkeypatch):
    monkeypatch.setattr(binding, "INTERVAL", 1)
    settings = settings.model_copy(update={"lora_dropout": 0.0, "binding_examples": 4, "gradient_accumulation": 1})
    seen = []
    built = PromptBuilder.build_binding
    monkeypatch.setattr(PromptBuilder, "build_binding", lambda *given: seen.append(built(*given)) or seen[-1])
    fit_ranker(dataset, candidates, settings, seed=0, folder=tmp_path, progress=False)
    ranker = load_ranker(dataset, settings, tmp_path, tuned=False)  # as before the first step
    labels = ranker.prompts.target_ids[:4]
    losses = []
    for tokens, before in seen[:2]:
        logits = ranker.model(torch.tensor([tokens])).logits[0].detach()
        for length in before:
            probability = logits[length - 1, labels].softmax(0)[labels.index(tokens[length])]
            losses.append(-probability.log().item())
    assert pd.read_csv(tmp_path / "binding.csv")["training_loss"][0] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize(("forward_passes", "histories"), [(3, 0), (21, 0), (23, 0), (35, 40)])
def test_killed_and_started_again_the_adapter_is_the_same(
    forward_passes, histories, settings, dataset, candidates, tmp_path, fit_killed
):
    if histories:
        settings = RankerSettings(
            **settings.model_dump() | {"binding_histories": histories, "template": "candidates_first"}
        )
    options = {"seed": 0, "progress": False}
    fit_ranker(dataset, candidates, settings, folder=tmp_path / "undisturbed", **options)
    options["folder"] = tmp_path / "killed"
    fit_killed(dataset, candidates, settings, forward_passes=forward_passes, **options)
    fit_ranker(dataset, candidates, settings, **options)
    files = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("undisturbed", "killed")]
    first, second = map(load_file, files)
    assert all(torch.equal(first[name], second[name]) for name in first)
