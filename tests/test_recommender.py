"""A recommender of a made-up shop: trained, saved, carried away, asked for one user and for all."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import LlamaConfig
from typer.testing import CliRunner

from llamarec_core.cli import app
from llamarec_core.files import InputError
from llamarec_core.fitting import doubts
from llamarec_core.ranking import write_random_backbone
from llamarec_core.recommender import Recommender
from tests.conftest import ROOT

TINY = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    tie_word_embeddings=True,
)  # fmt: skip
KINDS = ("soap", "kettle", "lamp", "chair")
COLOURS = ("red", "blue", "green", "white", "black", "brown")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop's two files: forty customers who buy mostly one kind of thing."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = []
    for user in range(40):
        favourites = [f"{KINDS[user % 4]}-{colour}" for colour in COLOURS]
        others = [f"{kind}-{colour}" for kind in KINDS for colour in COLOURS if kind != KINDS[user % 4]]
        bought = [*generator.permutation(favourites)[:5], *generator.choice(others, 2, replace=False)]
        rows += [f"u{user:02},{item},{time}" for time, item in enumerate(generator.permutation(bought))]
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    titles = [f"{kind}-{colour},{colour.title()} {kind}" for kind in KINDS for colour in COLOURS]
    (folder / "items.csv").write_text("item_id,title\n" + "\n".join(titles))
    return folder


def llamarec(*arguments):
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert answer.exit_code == 0
    return answer.stdout


@pytest.fixture(scope="module")
def fitted(shop, tmp_path_factory):
    """A folder with ``saved``, fitted by the smallest settings and a backbone of random weights, and what was said."""
    folder = tmp_path_factory.mktemp("work")
    write_random_backbone(folder / "tiny", TINY, seed=0)
    ranker = {
        "backbone": str(folder / "tiny"), "quantization": "none", "dtype": "float32", "history_length": 3,
        "candidates": 6, "training_examples": 8, "batch_size": 4, "warmup_steps": 0, "validate_every": 1,
        "validation_users": 8,
    }  # fmt: skip
    profile = {"datasets": {"shop": {}}, "retriever": {"epochs": 4, "validate_every": 1}, "ranker": ranker}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(profile))
    place = "--profile", folder / "tiny.yaml", "--out", folder / "saved"
    return folder, llamarec("fit", shop, *place, "-s", "ranker.title_tokens=8", "--minutes", 5)


@pytest.fixture
def recommender(fitted):
    return Recommender.load(fitted[0] / "saved")


def test_fit_says_what_each_order_is_worth_on_held_out_users(fitted):
    found = json.loads((fitted[0] / "saved" / "held_out.json").read_text())
    orders = [row["order"] for row in found["ndcg@10"]]
    assert orders == ["random", "popularity", "title overlap", "retriever", "ranker", "fused"]
    assert all(row["ci_low"] <= row["measured"] <= row["ci_high"] for row in found["ndcg@10"])
    assert found["users"] == 40
    said = [f"Ask it: llamarec recommend --from {fitted[0] / 'saved'} --user u00", "share their title, cut at 8 tokens"]
    said += [f"  {order} " for order in orders] + [f"Warning: {warning}" for warning in found["warnings"]]
    assert [sentence for sentence in said if sentence not in fitted[1]] == []
    stored = yaml.safe_load((fitted[0] / "saved" / "settings.yaml").read_text())
    assert (stored["ranker"]["title_tokens"], stored["ranker"]["minutes"]) == (8, 5)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("ranker.candidates=20", "One history of shop holds all but 18 of its 24 items, but the ranker reads 20"),
        ("ranker.backbone={}", "cannot be loaded"),
        ("ranker.start_from={}", "holds no adapter to start from"),
        ("evaluation.bootstrap_samples=11", "is no setting of this command"),
    ],
)
def test_what_the_ranker_cannot_use_is_said_before_the_retriever_is_trained(fitted, shop, tmp_path, setting, sentence):
    options = ["--profile", fitted[0] / "tiny.yaml", "--out", tmp_path / "out", "-s", setting.format(shop)]
    with pytest.raises(InputError, match=sentence):
        llamarec("fit", shop, *options)
    assert not (tmp_path / "out.training").exists()


def test_two_processes_elsewhere_recommend_the_bytes_of_one(fitted, recommender, tmp_path):
    """The folder is moved, and the processes find nothing of the study but the package."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    shutil.copytree(fitted[0] / "saved", elsewhere / "moved")
    shutil.copytree(ROOT / "llamarec_core", site / "llamarec_core")
    (site / "recommend.py").write_text("from llamarec_core.cli import main; main()")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)}
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    of = site / "recommend.py", "recommend", "--from", "moved", "--users", "all", "--count", "5", "--output"
    for number in ("1", "2"):
        command = [*torchrun, number, *of, f"{number}.csv"]
        options = {"cwd": elsewhere, "env": environment, "capture_output": True, "text": True, "timeout": 300}
        ran = subprocess.run(command, check=True, **options)
        assert ran.stdout.count("recommendations for 40 users are in") == 1
    assert (elsewhere / "1.csv").read_bytes() == (elsewhere / "2.csv").read_bytes()
    expected = recommender.recommend_users(recommender.dataset.user_ids, 5)
    pd.testing.assert_frame_equal(pd.read_csv(elsewhere / "1.csv"), expected, rtol=1e-4, check_dtype=False)


def test_the_command_recommends(fitted, tmp_path):
    of = "recommend", "--from", fitted[0] / "saved"
    answer = llamarec(*of, "--user", "u00", "--json", "--count", 2, "--order", "retriever")
    assert [(row["user"], row["rank"]) for row in json.loads(answer)] == [("u00", 1), ("u00", 2)]
    llamarec(*of, "--users", "all", "--output", tmp_path / "all.parquet", "--count", 5, "--exclude", "Red lamp")
    everyone = pd.read_parquet(tmp_path / "all.parquet")
    assert everyone.groupby("user").size().to_dict() == {f"u{user:02}": 5 for user in range(40)}
    assert "lamp-red" not in set(everyone["item_id"])


def test_fused_is_the_sum_by_hand(recommender):
    history, weight = ["Red soap", "Blue soap"], recommender.stages.retriever_weight
    fused = recommender.recommend(history, 6).set_index("item_id")
    past = np.array([recommender.dataset.item_ids.index(item) for item in ("soap-red", "soap-blue")])
    scores = recommender.retriever.score([past])[0]
    scores[past] = -torch.inf
    best = scores.sort(descending=True, stable=True).indices[:6]
    log_p_ranker = np.log(recommender.ranker.probabilities([past], [best.numpy()])[0])
    expected = pd.Series(log_p_ranker + weight * scores[best].double().log_softmax(0).numpy(), index=best.numpy())
    expected = expected.sort_values(ascending=False, kind="stable")
    assert [recommender.dataset.item_ids[item] for item in expected.index] == fused.index.tolist()
    np.testing.assert_allclose(fused["score"], expected, rtol=1e-4)
    np.testing.assert_allclose(fused["score"], fused["log_p_ranker"] + weight * fused["log_p_retriever"])
    for order in ("ranker", "retriever"):
        alone = recommender.recommend(history, 6, order=order)
        np.testing.assert_allclose(alone["score"], alone[f"log_p_{order}"])
        assert alone["score"].is_monotonic_decreasing
        assert set(alone["item_id"]) == set(fused.index)
    assert "log_p_ranker" not in recommender.recommend(history, order="retriever")


def test_many_are_answered_as_one_by_one(recommender):
    user = recommender.dataset.user_ids[3]
    sequence = [recommender.dataset.item_ids[item] for item in recommender.dataset.sequence(3)]
    together = recommender.recommend_users([user, ["soap-red"], sequence], 4)
    for key, history in ((user, sequence), (1, ["soap-red"]), (2, sequence)):
        rows = together[together["user"] == key].drop(columns="user").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, recommender.recommend(history, 4), rtol=1e-4)
    assert not set(together[together["user"] == user]["item_id"]) & set(sequence)


def test_items_are_left_out_and_chosen_from(recommender):
    lamps = [f"lamp-{colour}" for colour in COLOURS]
    found = recommender.recommend(["soap-red"], 6, only=lamps, exclude=["Red lamp"])
    assert set(found["item_id"]) == set(lamps) - {"lamp-red"}
    assert recommender.recommend(["soap-red"], 20, order="retriever")["item_id"].nunique() == 20
    few = recommender.recommend_users([["soap-red"], ["lamp-red"]], 6, only=["lamp-red", "lamp-blue"])
    assert few.groupby("user")["item_id"].apply(set).to_dict() == {0: {"lamp-red", "lamp-blue"}, 1: {"lamp-blue"}}
    with pytest.raises(InputError, match="Nothing is left"):
        recommender.recommend(["lamp-red"], 6, only=["lamp-red"])
    one = recommender.recommend_users([["lamp-red"], ["soap-red"]], only=["lamp-red"])  # nothing is left for the first
    assert one[["user", "item_id"]].to_numpy().tolist() == [[1, "lamp-red"]]
    assert len(recommender.recommend(["soap-red"])) == 6  # as many as the ranker reads


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"history": []}, "The history is empty"),
        ({"history": ["Red sope"]}, "did you mean 'Red soap'"),
        ({"history": ["soap-red"], "count": 7}, "choose from 1 to 6"),
        ({"history": ["soap-red"], "order": "best"}, "Unknown order 'best'"),
    ],
)
def test_a_faulty_question_is_answered_by_a_sentence_before_a_model_is_loaded(recommender, asked, sentence):
    with pytest.raises(InputError, match=sentence):
        recommender.recommend(**{"count": 6} | asked)
    assert not {"retriever", "ranker"} & vars(recommender).keys()


def test_candidates_of_ones_own_are_ranked_in_one_pass_where_one_suffices(recommender):
    history, own = ["soap-red"], ["Blue soap", "Red lamp", "chair-brown", "kettle-green"]
    once = recommender.rank(history, own)
    pd.testing.assert_frame_equal(once, recommender.rank(history, own, window=4, step=1))
    past, listed = recommender._items(history), recommender._items(own)
    read = recommender.ranker.probabilities([past], [listed])[0]
    np.testing.assert_allclose(np.sort(np.exp(once["log_p_ranker"])), np.sort(read), rtol=1e-4)
    assert len(recommender.rank(history, own[:2], order="ranker")) == 2
    with pytest.raises(InputError, match="at least two, each once"):
        recommender.rank(history, ["soap-blue", "Blue soap"])
    with pytest.raises(InputError, match="choose a window of 2 to 20"):
        recommender.rank(history, own, window=21)


def test_a_sliding_window_brings_the_best_to_the_front(recommender):
    """By the retriever, whose scores do not depend on the window, all places that a window keeps are exact."""
    everyone = [item for item in recommender.dataset.item_ids[1:] if item != "soap-red"]
    whole = recommender.recommend(["soap-red"], len(everyone), order="retriever")["item_id"]
    ranked = recommender.rank(["soap-red"], whole[::-1], window=10, step=5, order="retriever")["item_id"]
    assert ranked[:5].tolist() == whole[:5].tolist()
    assert sorted(ranked) == sorted(everyone)
    assert sorted(recommender.rank(["soap-red"], everyone, window=6, step=3)["item_id"]) == sorted(everyone)


def test_a_changed_data_set_or_backbone_and_half_a_folder_are_refused(fitted, shop, recommender, tmp_path, monkeypatch):
    saved = fitted[0] / "saved"
    shutil.copytree(shop, tmp_path / "data" / "shop")
    monkeypatch.setenv("LLAMAREC_DATA", str(tmp_path / "data"))
    Recommender.load(saved)
    with open(tmp_path / "data" / "shop" / "items.csv", "a") as file:
        file.write("\nvase,Vase")
    with pytest.raises(InputError, match=r"The data set shop changed since .* \(items.csv\)"):
        Recommender.load(saved)
    monkeypatch.delenv("LLAMAREC_DATA")
    write_random_backbone(tmp_path / "tiny", TINY, seed=1)
    with pytest.raises(InputError, match="backbone_sha256"):
        Recommender.load(saved, settings=[f"ranker.backbone={tmp_path / 'tiny'}"]).recommend(["soap-red"], 6)
    for trained in ("retriever.dim=8", "ranker.epochs=2"):
        with pytest.raises(InputError, match="belongs to training"):
            Recommender.load(saved, settings=[trained])
    with pytest.raises(InputError, match="which alone may be replaced"):
        recommender.save(shop)
    (tmp_path / "settings.yaml").write_text("retriever_weight: 1")
    with pytest.raises(InputError, match=r"settings.yaml: \w+: Field required"):
        Recommender.load(tmp_path)


def test_what_the_ranker_did_not_learn_is_said():
    generator = np.random.default_rng(0)
    low, high = generator.random(500) / 2, 0.4 + generator.random(500) / 2
    drawn = {"samples": 200, "seed": 0}
    useless = {"random": low, "ranker": low[::-1], "retriever": high, "fused": high}
    assert "no better than random" in doubts(useless, 0.0, **drawn)[0]
    echo = useless | {"ranker": high}
    assert "only repeats" in doubts(echo, 0.97, **drawn)[0]
    assert "adds nothing" in doubts(echo, 0.2, **drawn)[0]
    assert doubts(echo | {"fused": high + 0.1}, 0.2, **drawn) == []


def test_the_service_of_the_page_answers(fitted, monkeypatch):
    """With a stand-in for FastAPI, which is no dependency."""
    page = (ROOT / "book" / "own_data.md").read_text()
    (service,) = re.findall(r"^:caption: service.py\n\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    fastapi = ModuleType("fastapi")
    fastapi.FastAPI = lambda: SimpleNamespace(get=lambda path: lambda function: function)
    fastapi.HTTPException, fastapi.Query = type("HTTPException", (Exception,), {}), lambda: None
    monkeypatch.setitem(sys.modules, "fastapi", fastapi)
    (fitted[0] / "shop-recommender").symlink_to(fitted[0] / "saved")
    monkeypatch.chdir(fitted[0])
    names = {}
    exec(compile(service, "service.py", "exec"), names)  # noqa: S102
    histories = [["soap-red"] * number for number in range(1, 9)]
    with ThreadPoolExecutor(8) as requests:  # as FastAPI answers them
        answers = list(requests.map(names["recommend"], histories))
    assert answers == [names["recommend"](history) for history in histories]
    assert [row["rank"] for row in answers[0]] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(fastapi.HTTPException, match="No item of shop is called 'sope'"):
        names["recommend"](["sope"], count=3)
