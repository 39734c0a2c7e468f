"""The tuning: what it leaves, that a kill and a second process change nothing, and that its words are learnt."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llamarec_core import ranking
from llamarec_core.files import InputError, sha256
from llamarec_core.ranking import verbalizer
from llamarec_core.ranking.adapter import WEIGHTS
from llamarec_core.ranking.examples import TrainingExamples
from llamarec_core.ranking.qlora import RankerTask
from llamarec_core.ranking.verbalizer import NextTokenLogits
from llamarec_core.retrieval.candidates import write_candidates
from tests.conftest import interrupted

pytestmark = pytest.mark.usefixtures("one_thread")

REQUESTS = [[1, 2, 3], [4]], [[5, 6, 7, 8], [9, 10, 11, 12]]


@pytest.fixture(scope="module")
def tuned(tiny, dataset, candidates, tmp_path_factory, one_thread):
    """A finished tuning by the paper's recipe, and its folder."""
    folder = tmp_path_factory.mktemp("tuned")
    return ranking.fit_ranker(dataset, candidates["validation"], tiny.settings, seed=0, folder=folder), folder


def weights(folder):
    return (folder / "adapter" / WEIGHTS).read_bytes()


def curve_of(folder):
    return pd.read_csv(folder / "training.csv").drop(columns="seconds")


def test_a_tuning_leaves_adapter_curve_and_outcome(tuned, tiny, dataset, tmp_path):
    with pytest.raises(InputError, match="is missing: tune the ranker first"):
        ranking.load_ranker(dataset, tiny.settings, tmp_path)
    folder = tuned[1]
    files = ["adapter", "circumstances.json", "ranker.json", "training.csv"]
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == files
    curve = pd.read_csv(folder / "training.csv")
    measured = ["ndcg@10", "ndcg@10_with_retriever", "ndcg@10_shuffled"]
    assert list(curve.columns) == ["step", "seconds", "answers", "tokens", "training_loss", *measured]
    assert curve["step"].tolist() == [0, 2, 4]  # 14 examples, 2 x 2 a step
    assert curve["answers"].tolist() == [0, 8, 16]
    assert curve["training_loss"].isna().tolist() == [True, False, False]
    outcome = json.loads((folder / "ranker.json").read_text())
    with safe_open(folder / "adapter" / WEIGHTS, "pt") as file:
        assert outcome["best"] == json.loads(file.metadata()["llamarec"])["progress"]["best"]
    assert outcome["best"]["ndcg@10"] == curve["ndcg@10"][1:].max()  # a fresh adapter does not count
    assert outcome["seed"] == 0
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-llama"
    for file in ("ranker.json", "adapter/adapter_config.json"):
        assert str(tiny.folder.parent) not in (folder / file).read_text()


def test_the_tuned_ranker_is_what_training_reached_and_what_peft_loads_by_itself(tuned, tiny, dataset, candidates):
    ranker, folder = tuned
    rows = ranking.retrieved_candidates(candidates["validation"], size=4)
    reached = ranking.ndcg_at_10(rows, ranking.candidate_probabilities(ranker, dataset, rows, "validation"))
    # the curve's are those of the weights before they were rounded
    assert reached == pytest.approx(json.loads((folder / "ranker.json").read_text())["best"]["ndcg@10"], abs=0.1)
    zero_shot = ranking.load_ranker(dataset, tiny.settings, folder, tuned=False)
    assert np.abs(zero_shot.probabilities(*REQUESTS) - ranker.probabilities(*REQUESTS)).max() > 1e-3
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):  # PEFT's own
        loaded = PeftModel.from_pretrained(zero_shot.model, folder / "adapter").eval()
    by_peft = ranking.VerbalizerRanker(loaded, ranker.prompts, batch_size=1).probabilities(*REQUESTS)
    np.testing.assert_array_equal(by_peft, ranker.probabilities(*REQUESTS))


def test_a_finished_tuning_is_returned_at_once(tuned, tiny, dataset, candidates, monkeypatch):
    ranker, folder = tuned
    monkeypatch.setattr(RankerTask, "step", lambda *_: pytest.fail("nothing is left to do"))
    again = ranking.fit_ranker(dataset, candidates["validation"], tiny.settings, seed=0, folder=folder)
    np.testing.assert_array_equal(again.probabilities(*REQUESTS), ranker.probabilities(*REQUESTS))


@pytest.mark.parametrize("forward_passes", [1, 10, 15])
def test_killed_and_started_again_it_is_the_same(forward_passes, tuned, tiny, dataset, candidates, tmp_path):
    options = {"seed": 0, "folder": tmp_path}
    with interrupted(NextTokenLogits, "forward", after=forward_passes):
        ranking.fit_ranker(dataset, candidates["validation"], tiny.settings, **options)
    assert not (tmp_path / "adapter").exists()
    torch.manual_seed(99)  # nothing may hang on the generator's state
    ranking.fit_ranker(dataset, candidates["validation"], tiny.settings, **options)
    assert weights(tmp_path) == weights(tuned[1])
    assert curve_of(tmp_path).equals(curve_of(tuned[1]))


def test_the_shared_recipe_goes_on_from_an_adapter_and_after_a_kill(tiny, shop, shop_candidates, tmp_path):
    first, killed = tmp_path / "first", tmp_path / "killed"
    validation, options = shop_candidates["validation"], {"seed": 0}
    ranking.fit_ranker(shop, validation, tiny.shared, folder=first, **options)
    curve = curve_of(first)
    assert curve["nats"].notna().all()
    assert (curve["nats_se"] > 0).all()
    assert curve["answers"].iloc[-1] > 14  # several answers an example
    settings = tiny.shared.model_copy(update={"start_from": str(first / "adapter"), "kept_by": "nats"})
    undisturbed = ranking.fit_ranker(shop, validation, settings, folder=tmp_path / "undisturbed", **options)
    with interrupted(NextTokenLogits, "forward", after=13):
        ranking.fit_ranker(shop, validation, settings, folder=killed, **options)
    ranking.fit_ranker(shop, validation, settings, folder=killed, **options)
    assert weights(killed) == weights(tmp_path / "undisturbed")
    stored = json.loads((killed / "ranker.json").read_text())
    assert stored["started_from_sha256"] == sha256(first / "adapter" / WEIGHTS)
    assert "start_from" not in stored  # folders are called otherwise elsewhere
    # it starts from what the first one kept, and may end there
    kept = json.loads((first / "ranker.json").read_text())["best"]["nats"]
    assert curve_of(killed)["nats"][0] == pytest.approx(kept, abs=0.05)
    assert stored["best"]["nats"] == curve_of(killed)["nats"].max()
    again = ranking.load_ranker(shop, tiny.shared.model_copy(update={"kept_by": "nats"}), killed)  # wherever it began
    np.testing.assert_array_equal(again.probabilities(*REQUESTS), undisturbed.probabilities(*REQUESTS))
    for other, sentence in (
        ({"start_from": str(killed / "adapter")}, "started_from_sha256"),
        ({"start_from": None}, "started_from_sha256"),
        ({"minutes": 3.0}, "was tuned for None minutes, but this run has 3.0"),
    ):
        with pytest.raises(InputError, match=sentence):
            ranking.fit_ranker(shop, validation, settings.model_copy(update=other), folder=killed, **options)


def test_two_processes_take_the_steps_of_one(tiny, shop, shop_candidates, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    ranking.fit_ranker(shop, shop_candidates["validation"], tiny.shared, seed=0, folder=one)
    shop.save(tmp_path / "data")
    write_candidates(shop_candidates, tmp_path / "candidates.parquet")
    (tmp_path / "settings.json").write_text(tiny.shared.model_dump_json())
    (tmp_path / "tune.py").write_text(
        "from pathlib import Path\n"
        "from llamarec_core.data import Dataset\n"
        "from llamarec_core.ranking import fit_ranker\n"
        "from llamarec_core.retrieval.candidates import load_candidates\n"
        "from llamarec_core.settings import RankerSettings\n"
        "folder = Path(__file__).parent\n"
        "settings = RankerSettings.model_validate_json((folder / 'settings.json').read_text())\n"
        "candidates = load_candidates(folder / 'candidates.parquet', 'validation')\n"
        "fit_ranker(Dataset.load(folder / 'data'), candidates, settings, seed=0, folder=folder / 'two')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, tmp_path / "tune.py"], check=True, capture_output=True, env=environment, timeout=300)
    of_one, of_two = (load_file(folder / "adapter" / WEIGHTS) for folder in (one, two))
    assert of_one.keys() == of_two.keys()
    for name in of_one:
        torch.testing.assert_close(of_two[name], of_one[name], atol=1e-3, rtol=1e-2)
    pd.testing.assert_frame_equal(curve_of(one), curve_of(two), rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "seed", "users", "message"),
    [
        ({"history_length": 2}, 0, 12, "written with history_length = 3, but this run has history_length = 2"),
        ({"validation_users": 3}, 0, 12, "written with validation_users = None, but this run has validation_users = 3"),
        ({}, 1, 12, "written with seed = 0, but this run has seed = 1"),
        ({}, 0, 11, "written with validation = "),
    ],
)
def test_a_folder_of_another_run_is_refused(change, seed, users, message, tuned, tiny, dataset, candidates):
    before, validation = weights(tuned[1]), candidates["validation"].take(np.arange(12)[-users:])
    with pytest.raises(InputError, match=message):
        ranking.fit_ranker(dataset, validation, tiny.settings.model_copy(update=change), seed=seed, folder=tuned[1])
    assert weights(tuned[1]) == before


@pytest.mark.parametrize("recipe", ["settings", "shared"])
def test_the_loss_is_that_of_each_question_by_itself(recipe, tiny, shop):
    settings = getattr(tiny, recipe)
    model, tokenizer = ranking.load_backbone(settings, device="cpu")
    prompts = ranking.PromptBuilder(tokenizer, shop.titles, settings)
    examples = [TrainingExamples(shop, settings, prompts.titles, seed=0).draw(number) for number in range(6)]
    batch = verbalizer.make_batch(prompts, examples, device="cpu")
    labels = torch.tensor(prompts.target_ids[: settings.candidates])
    losses, priors, kinds = [], [], []
    for example in examples:
        for question in example.questions:
            text = prompts.template.render(question.titles, [shop.titles[item] for item in example.candidates])
            (tokens,) = prompts.encode([text])
            logits = NextTokenLogits(model)(torch.tensor([tokens]), torch.tensor([len(tokens)]))[0]
            kept = ~torch.from_numpy(question.left_out)
            answer = torch.from_numpy(question.answer).float()
            if settings.loss == "vocabulary":
                logits[labels[~kept]] = -torch.inf
                losses.append(-logits.log_softmax(0)[labels[answer.argmax()]].item())
                continue
            scaled = logits[labels] / (1.0 if question.kind == "name" else settings.temperature)
            prior = torch.from_numpy(question.log_prior).float()
            losses.append(-(answer[kept] * (scaled + prior)[kept].log_softmax(0)).sum().item())
            priors.append((answer[kept] * prior[kept].log_softmax(0)).sum().item())
            kinds.append(question.kind)
    if recipe == "settings":
        found = verbalizer.vocabulary_loss(NextTokenLogits(model)(**batch.prompts), batch, labels)
    else:
        assert set(kinds) == {"next", "name", "item"}
        logits = NextTokenLogits(model)(**batch.prompts, token_ids=labels)
        of_labels, of_prior = verbalizer.label_log_probabilities(logits, batch, temperature=settings.temperature)
        found = -verbalizer.expected(batch.answers, of_labels)
        np.testing.assert_allclose(verbalizer.expected(batch.answers, of_prior), priors, rtol=1e-5)
    np.testing.assert_allclose(found.detach(), losses, rtol=1e-3)


def with_first(tensors, change):
    first = min(tensors)
    return tensors | {first: change(tensors[first])}


def swapped(tensors):
    """Each layer has the other's weights."""
    layers = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
    return {name.replace(one, two): tensors[name] for name in tensors for one, two in layers.items() if one in name}


FAULTS = {
    "missing": lambda tensors: dict(sorted(tensors.items())[1:]),
    "extra": lambda tensors: tensors | {"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 64).bfloat16()},
    "of other projections": lambda tensors: {name.replace("v_proj", "k_proj"): of for name, of in tensors.items()},
    "transposed": lambda tensors: {name: tensor.T.contiguous() for name, tensor in tensors.items()},
    "of another dtype": lambda tensors: {name: tensor.to(torch.int8) for name, tensor in tensors.items()},
    "no numbers": lambda tensors: with_first(tensors, lambda tensor: tensor / 0),
    "swapped": swapped,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("age", ["dated", "older"])
def test_an_adapter_of_other_weights_is_refused(fault, age, tuned, tiny, dataset, candidates, tmp_path):
    path = tuned[1] / "adapter" / WEIGHTS
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["llamarec"])
    if age == "older":  # files once had no digest
        del header["progress"]["weights_sha256"], header["settings"]["backbone_sha256"]
    (tmp_path / "adapter").mkdir()
    save_file(FAULTS[fault](load_file(path)), tmp_path / "adapter" / WEIGHTS, {"llamarec": json.dumps(header)})
    if (fault, age) == ("swapped", "older"):
        ranking.load_ranker(dataset, tiny.settings, tmp_path)
        return
    with pytest.raises(InputError, match="adapter's weight"):
        ranking.load_ranker(dataset, tiny.settings, tmp_path)
    if fault == "transposed":
        settings = tiny.settings.model_copy(update={"start_from": str(tmp_path / "adapter")})
        with pytest.raises(InputError, match="adapter's weight"):
            ranking.fit_ranker(dataset, candidates["validation"], settings, seed=0, folder=tmp_path / "next")


def test_a_backbone_is_known_by_its_weights_not_by_its_folders_name(tuned, tiny, dataset, candidates, tmp_path):
    same, another = tmp_path / "renamed", tmp_path / "elsewhere" / tiny.folder.name
    for folder in (same, another):
        shutil.copytree(tiny.folder, folder)
    others = with_first(load_file(another / "model.safetensors"), lambda tensor: tensor * 1.01)
    save_file(others, another / "model.safetensors", metadata={"format": "pt"})
    renamed = ranking.load_ranker(dataset, tiny.settings.model_copy(update={"backbone": str(same)}), tuned[1])
    np.testing.assert_array_equal(renamed.probabilities(*REQUESTS), tuned[0].probabilities(*REQUESTS))
    settings = tiny.settings.model_copy(update={"backbone": str(another)})
    with pytest.raises(InputError, match="written with backbone_sha256"):
        ranking.load_ranker(dataset, settings, tuned[1])
    settings = settings.model_copy(update={"start_from": str(tuned[1] / "adapter")})
    with pytest.raises(InputError, match="written with backbone_sha256"):
        ranking.fit_ranker(dataset, candidates["validation"], settings, seed=0, folder=tmp_path / "next")
