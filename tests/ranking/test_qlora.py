import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from llamarec_core.files import InputError
from llamarec_core.ranking import (
    PromptBuilder,
    fit_ranker,
    load_backbone,
    load_ranker,
    rerank,
    retrieved_rows,
    tuning,
)
from llamarec_core.ranking.adapter import add_adapter
from llamarec_core.ranking.tuning import Tuning, best_row, make_accelerator
from llamarec_core.ranking.verbalizer import NextTokenLogits, VerbalizerRanker, pad
from llamarec_core.settings import RankerSettings


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tuned(tiny, dataset, candidates, tmp_path_factory):
    """A finished tuning and its folder."""
    folder = tmp_path_factory.mktemp("tuned")
    return fit_ranker(dataset, candidates, tiny.settings, seed=0, folder=folder, progress=False), folder


def weights(folder):
    """The adapter's exact bits by name."""
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}


def test_a_tuning_leaves_adapter_curve_and_outcome(tuned, tiny):
    folder = tuned[1]
    files = ["adapter", "circumstances.json", "ranker.json", "training.csv"]
    assert sorted(path.name for path in folder.iterdir()) == files
    curve = pd.read_csv(folder / "training.csv")
    counted = ["step", "examples", "answers", "tokens", "seconds"]
    assert list(curve.columns) == [*counted, "training_loss", "ndcg@10", "ndcg@10_with_retriever"]
    assert curve["step"].tolist() == [0, 2, 4]  # 14 examples, 2 x 2 a step
    assert curve["examples"].tolist() == curve["answers"].tolist() == [0, 8, 16]
    assert curve["training_loss"].isna().tolist() == [True, False, False]
    outcome = json.loads((folder / "ranker.json").read_text())
    assert outcome["best"]["ndcg@10"] == curve["ndcg@10"][1:].max()
    assert outcome["seed"] == 0
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-llama"
    for file in ("ranker.json", "adapter/adapter_config.json"):
        assert str(tiny.folder.parent) not in (folder / file).read_text()


def test_an_adapter_that_no_step_improved_counts_only_after_a_warmup(tiny):
    alone, together = (0.6, 0.4, 0.5, 0.5), (0.1, 0.2, 0.1, 0.3)
    curve = [
        {"step": step, "ndcg@10": value, "ndcg@10_with_retriever": other}
        for step, (value, other) in enumerate(zip(alone, together, strict=True))
    ]
    assert best_row(curve, settings=tiny.settings)["step"] == 2
    assert best_row(curve[:1], settings=tiny.settings)["step"] == 0
    warmed_up = tiny.settings.model_copy(update={"warmup": "label_binding"})
    assert best_row(curve, settings=warmed_up)["step"] == 0
    together = tiny.settings.model_copy(update={"kept_by": "with_retriever"})
    assert best_row(curve, settings=together)["step"] == 3


def test_tuning_learns_what_is_always_the_same(tiny, dataset, candidates, tmp_path, monkeypatch):
    drawn = tuning.draw_examples

    def first_is_right(*arguments, **options):
        examples = drawn(*arguments, **options)
        rows = np.arange(len(examples))
        listed, answers = examples.candidates, examples.answers[:, 0, 0]
        listed[rows, answers], listed[:, 0] = listed[:, 0].copy(), listed[rows, answers]
        answers[:] = 0
        return examples

    monkeypatch.setattr(tuning, "draw_examples", first_is_right)
    settings = tiny.settings.model_copy(update={"epochs": 5})
    ranker = fit_ranker(dataset, candidates, settings, seed=0, folder=tmp_path, progress=False)
    losses = pd.read_csv(tmp_path / "training.csv")["training_loss"]
    assert losses.iloc[-1] < losses.iloc[1] / 2
    assert ranker.probabilities([[1, 2]], [[3, 4, 5, 6]]).argmax() == 0


def test_the_backbone_stays_as_it_was(tuned, tiny):
    ranker, _ = tuned
    original, _ = load_backbone(tiny.settings, device="cpu")
    for name, parameter in ranker.model.get_base_model().named_parameters():
        if "lora" not in name:
            torch.testing.assert_close(
                parameter, original.get_parameter(name.replace(".base_layer", "")), rtol=0, atol=0
            )


def test_the_loaded_ranker_is_the_tuned_one(tuned, tiny, dataset, candidates):
    ranker, folder = tuned
    loaded = load_ranker(dataset, tiny.settings, folder)
    requests = [[1, 2, 3], [4]], [[5, 6, 7, 8], [9, 10, 11, 12]]
    np.testing.assert_array_equal(loaded.probabilities(*requests), ranker.probabilities(*requests))
    zero_shot = load_ranker(dataset, tiny.settings, folder, tuned=False)
    assert np.abs(zero_shot.probabilities(*requests) - ranker.probabilities(*requests)).max() > 1e-3
    best = json.loads((folder / "ranker.json").read_text())["best"]["ndcg@10"]
    ranks = rerank(loaded, dataset, retrieved_rows(candidates, "validation", size=4), "validation")["rank"]
    assert np.mean(1 / np.log2(ranks + 1)) == pytest.approx(best)


def test_peft_loads_the_adapter_by_itself(tuned, tiny, recwarn):
    ranker, folder = tuned
    base, _ = load_backbone(tiny.settings, device="cpu")
    recwarn.clear()
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):  # PEFT's own
        loaded = PeftModel.from_pretrained(base, folder / "adapter").eval()
    requests = [[1, 2, 3]], [[5, 6, 7, 8]]
    by_peft = VerbalizerRanker(loaded, ranker.prompts, batch_size=1).probabilities(*requests)
    np.testing.assert_array_equal(by_peft, ranker.probabilities(*requests))


def test_the_adapter_is_float32_on_any_backbone_and_bfloat16_in_its_file(tuned, tiny):
    kept = load_file(tuned[1] / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    settings = tiny.settings.model_copy(update={"dtype": "bfloat16"})
    model = add_adapter(load_backbone(settings, device="cpu")[0], settings, seed=0)
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_a_finished_tuning_is_returned_at_once(tuned, tiny, dataset, candidates, monkeypatch):
    ranker, folder = tuned
    monkeypatch.setattr(tuning.Tuning, "train", lambda *_: pytest.fail("nothing is left to do"))
    again = fit_ranker(dataset, candidates, tiny.settings, seed=0, folder=folder, progress=False)
    requests = [[1, 2, 3]], [[5, 6, 7, 8]]
    np.testing.assert_array_equal(again.probabilities(*requests), ranker.probabilities(*requests))


@pytest.mark.parametrize("forward_passes", [1, 6, 9, 13, 16])
def test_killed_and_started_again_the_adapter_is_the_same(
    forward_passes, tuned, tiny, dataset, candidates, tmp_path, fit_killed
):
    options = {"seed": 0, "folder": tmp_path, "progress": False}
    fit_killed(dataset, candidates, tiny.settings, forward_passes=forward_passes, **options)
    assert not (tmp_path / "adapter").exists()
    torch.manual_seed(99)  # nothing may hang on the generator's state
    fit_ranker(dataset, candidates, tiny.settings, **options)
    assert weights(tmp_path) == weights(tuned[1])
    curve = pd.read_csv(tmp_path / "training.csv").drop(columns="seconds")
    assert curve.equals(pd.read_csv(tuned[1] / "training.csv").drop(columns="seconds"))


def test_two_processes_take_the_steps_of_one(tuned, tiny, dataset, candidates, tmp_path):
    dataset.save(tmp_path / "data")
    candidates.to_parquet(tmp_path / "candidates.parquet")
    (tmp_path / "settings.json").write_text(tiny.settings.model_dump_json())
    script = tmp_path / "tune.py"
    script.write_text(
        "import sys, pandas, torch\n"
        "from pathlib import Path\n"
        "from llamarec_core.data import Dataset\n"
        "from llamarec_core.ranking import fit_ranker\n"
        "from llamarec_core.settings import RankerSettings\n"
        "torch.set_num_threads(1)\n"
        "folder = Path(sys.argv[1])\n"
        "settings = RankerSettings.model_validate_json((folder / 'settings.json').read_text())\n"
        "candidates = pandas.read_parquet(folder / 'candidates.parquet')\n"
        "fit_ranker(Dataset.load(folder / 'data'), candidates, settings, seed=0, folder=folder, progress=False)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, tmp_path]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120)
    one, two = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (tuned[1], tmp_path))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=1e-3)
    curves = [pd.read_csv(folder / "training.csv").drop(columns="seconds") for folder in (tuned[1], tmp_path)]
    pd.testing.assert_frame_equal(*curves, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "seed", "message"),
    [
        ({"learning_rate": 0.5}, 0, "written with learning_rate = 0.01, but this run has learning_rate = 0.5"),
        ({"history_length": 2}, 0, "written with history_length = 3, but this run has history_length = 2"),
        ({}, 1, "written with seed = 0, but this run has seed = 1"),
        ({"validation_users": 3}, 0, "written with validation_users = None, but this run has validation_users = 3"),
    ],
)
def test_a_folder_of_another_run_is_refused(change, seed, message, tuned, tiny, dataset, candidates):
    before = weights(tuned[1])
    with pytest.raises(InputError, match=message):
        fit_ranker(dataset, candidates, tiny.settings.model_copy(update=change), seed=seed, folder=tuned[1])
    assert weights(tuned[1]) == before


def test_other_candidates_are_refused(tuned, tiny, dataset, candidates):
    fewer = candidates[candidates["user"] > 0]
    with pytest.raises(InputError, match="written with validation = "):
        fit_ranker(dataset, fewer, tiny.settings, seed=0, folder=tuned[1])


def test_a_ranker_that_was_not_tuned_cannot_be_loaded(tiny, dataset, tmp_path):
    with pytest.raises(InputError, match="is missing: tune the ranker first"):
        load_ranker(dataset, tiny.settings, tmp_path)


def test_users_to_rank_are_those_whose_target_was_retrieved(candidates):
    rows = retrieved_rows(candidates, "validation", size=4)
    assert rows["user"].tolist() == [user for user in range(12) if user % 6 < 4]
    assert retrieved_rows(candidates, "validation", size=2)["user"].tolist() == [0, 1, 6, 7]
    drawn = retrieved_rows(candidates, "validation", size=4, users=3, seed=1)
    assert len(drawn) == 3
    assert drawn["user"].is_monotonic_increasing
    assert set(drawn["user"]) <= set(rows["user"])


def test_no_retrieved_target_is_refused(candidates):
    missed = candidates[candidates["user"] % 6 >= 4]
    with pytest.raises(InputError, match="No user's validation target is among the candidates"):
        retrieved_rows(missed, "validation", size=4)


def test_unknown_target_modules_are_refused(tiny, dataset, candidates, tmp_path):
    settings = tiny.settings.model_copy(update={"target_modules": ("q_proj", "query")})
    with pytest.raises(InputError, match="target_modules: query is no linear layer of a Llama: choose from q_proj"):
        fit_ranker(dataset, candidates, settings, seed=0, folder=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_shared_lists_are_read_as_each_users_own_prompt(tiny, dataset):
    settings = RankerSettings(
        **tiny.settings.model_dump()
        | {"template": "candidates_first", "users_per_prompt": 2, "targets_per_user": 2, "lora_dropout": 0.0}
    )
    model, tokenizer = load_backbone(settings, device="cpu")
    titles = [*dataset.titles[:9], "Z", *dataset.titles[10:]]
    prompts = PromptBuilder(tokenizer, titles, settings)
    histories, lists = [[1, 2, 3], [4, 5], [6], [2, 5]], [[6, 7, 8, 9], [1, 12, 3, 10]]
    shared = [prompts.build_shared(histories[:2], lists[0]), prompts.build_shared(histories[2:], lists[1])]
    assert len(shared[0].beginning) != len(shared[1].beginning)  # one of them is padded
    network = NextTokenLogits(model)
    beginnings, beginning_lengths = pad([prompt.beginning for prompt in shared], device="cpu")
    tokens, _ = pad([tokens for prompt in shared for tokens in prompt.histories], device="cpu")
    ends = [ends for prompt in shared for ends in prompt.ends]
    lengths = torch.tensor([[of_user[0], of_user[-1]] for of_user in ends])
    together = network(tokens, lengths, beginnings=beginnings, beginning_lengths=beginning_lengths)
    for row, history in enumerate(histories):
        for column, titles in enumerate((1, len(history))):
            alone = prompts.build(history[:titles], lists[row // 2])
            logits = network(torch.tensor([alone]), torch.tensor([len(alone)]))[0]
            torch.testing.assert_close(together[row, column], logits, atol=1e-4, rtol=1e-4)


def taught(histories):
    """Scores that depend on the whole history."""
    return np.stack([np.cos(np.arange(31) * (1 + np.sum(history))) for history in histories])


@pytest.mark.parametrize(("temperature", "soft"), [(None, 0.0), (3.0, 0.0), (3.0, 0.7)])
def test_the_loss_over_shared_lists_leaves_out_what_else_the_user_chose(temperature, soft, tiny, dataset, candidates):
    change = {"template": "candidates_first", "users_per_prompt": 2, "targets_per_user": 2, "lora_dropout": 0.0}
    change |= {"temperature": temperature, "soft_targets": soft}
    settings = RankerSettings(**tiny.settings.model_dump() | change)
    model, tokenizer = load_backbone(settings, device="cpu")
    ranker = VerbalizerRanker(model, PromptBuilder(tokenizer, dataset.titles, settings), batch_size=2)
    model.requires_grad_(True)
    options = {"retrieved": None, "teacher": taught, "seed": 0, "accelerator": make_accelerator(settings)}
    loop = Tuning(ranker, dataset, candidates, settings, **options)
    batch = loop._micro_batch(0, 0)
    shared = {"beginnings": batch.beginnings, "beginning_lengths": batch.beginning_lengths}
    logits = NextTokenLogits(model)(batch.tokens, batch.lengths, **shared)
    losses, examples = [], loop._examples
    labels = torch.tensor(ranker.prompts.target_ids[:4])
    for row in range(settings.batch_size):
        for column, user in enumerate(examples.users[row]):
            sequence, position = dataset.train(int(user)), examples.positions[row, column]
            listed = examples.candidates[row]
            for target in range(max(1, position - 1), position + 1):
                shown = sequence[max(0, position - settings.history_length) : target]
                prompt = ranker.prompts.build(shown, listed)
                alone = NextTokenLogits(model)(torch.tensor([prompt]), torch.tensor([len(prompt)]))[0]
                answer = int(np.flatnonzero(listed == sequence[target])[0])
                others = [label for label in range(4) if listed[label] in sequence and label != answer]
                alone[labels[others]] = -torch.inf
                if temperature is None:
                    losses.append(-alone.log_softmax(0)[labels[answer]].item())
                    continue
                scaled = (alone[labels] / temperature).log_softmax(0)
                kept = [label for label in range(4) if label not in others]
                of_teacher = torch.from_numpy(taught([sequence[:target]])[0, listed[kept]]).softmax(0)
                asked = (of_teacher * scaled[kept]).sum()
                losses.append(-(soft * asked + (1 - soft) * scaled[answer]).item())
    assert loop._loss(logits, batch).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_loss_that_is_no_number_stops_the_tuning(tiny, dataset, candidates, tmp_path, monkeypatch):
    whole = NextTokenLogits.forward

    def broken(self, *arguments, **options):
        return whole(self, *arguments, **options) * (float("nan") if self.training else 1.0)

    monkeypatch.setattr(NextTokenLogits, "forward", broken)
    with pytest.raises(InputError, match="no longer a number at step 1: choose a smaller learning_rate"):
        fit_ranker(dataset, candidates, tiny.settings, seed=0, folder=tmp_path, progress=False)


@pytest.mark.parametrize("whose", ["own, in the first micro-batch", "another process's"])
def test_any_loss_that_is_no_number_stops_all_processes(tiny, dataset, candidates, tmp_path, monkeypatch, whose):
    whole, losses = Tuning._loss, iter([float("nan"), 1.0])
    if whose == "another process's":
        monkeypatch.setattr(tuning, "gather_object", lambda mine: [*mine, *(False for own in mine if own is True)])
    else:
        monkeypatch.setattr(Tuning, "_loss", lambda self, *given: whole(self, *given) * next(losses))
    with pytest.raises(InputError, match="no longer a number at step 1: choose a smaller learning_rate"):
        fit_ranker(dataset, candidates, tiny.settings, seed=0, folder=tmp_path, progress=False)
