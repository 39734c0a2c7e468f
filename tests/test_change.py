"""The page "Change one thing": its files and commands, taken from the page and run in a copy of the study."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
LIMIT = 600  # seconds for one command: a hang ends as a failure
BLOCK = re.compile(r"^```(?:{code-block} )?(\w+)\n(?::caption: (\S+)\n\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(section):
    """Return (language, caption, text) of each code block of a section of the page."""
    text = (ROOT / "book" / "change.md").read_text()
    (found,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return BLOCK.findall(found)


@pytest.fixture
def follow(tmp_path, copy_study, environment):
    """A function that does what a section of the page says, in a copy of the study, and returns what is printed."""
    copy_study(tmp_path)

    def do(section):
        printed = ""
        for language, caption, text in blocks(section):
            if caption:
                assert text.count("# the edit") == 1
                (tmp_path / caption).write_text(text)
                continue
            command = {"bash": ["bash", "-euc", text], "python": [sys.executable, "-c", text]}[language]
            answer = subprocess.run(command, cwd=tmp_path, env=environment, timeout=LIMIT, **PIPES)
            assert answer.returncode == 0, text + answer.stdout
            printed += answer.stdout
        return printed

    return do


def settings(folder, profile, dataset):
    records = json.loads((folder / "results" / profile / "notebooks" / dataset / "provenance.json").read_text())
    return records[f"3_ranker-{dataset}-seed0"]["settings"]["ranker"]


def test_another_template(tmp_path, follow):
    printed = follow("Another template")
    assert settings(tmp_path, "other-template", "ml-100k-1998")["template"] == "alpaca"
    executed = (tmp_path / "results/other-template/notebooks/ml-100k-1998/3_ranker.ipynb").read_text()
    assert "### Instruction:" in executed
    assert re.findall(r"^(\w+) NDCG@10 of 943 users: 0\.\d{4}$", printed, re.MULTILINE) == ["lrurec", "llamarec"]


def test_another_backbone(tmp_path, follow):
    follow("Another backbone")
    assert settings(tmp_path, "other-backbone", "ml-100k-1998")["backbone"] == "runs/four-layers"
    ranks = pd.read_parquet(tmp_path / "results/other-backbone/ranks/ml-100k-1998/llamarec-seed0.parquet")
    assert len(ranks) == 943
    layers = json.loads((tmp_path / "runs/four-layers/config.json").read_text())["num_hidden_layers"]
    assert layers == 4


def test_your_own_data(follow):
    printed = follow("Your own data").splitlines()
    assert next(line for line in printed if "my-shop" in line).split()[:3] == ["my-shop", "200", "160"]
    ranked = printed[-5:]
    assert [line.split()[0] for line in ranked] == ["1", "2", "3", "4", "5"]
    assert not any("red kettle" in line or "blue kettle" in line for line in ranked)


def test_the_data_step_runs_again_when_a_raw_file_changes(tmp_path, copy_study, environment):
    copy_study(tmp_path)
    (tmp_path / "notebooks/profiles/mine.yaml").write_text("datasets: {shop: {}}\n")
    files = [tmp_path / "raw" / "shop" / name for name in ("interactions.csv", "items.csv")]
    outputs = [tmp_path / "results/mine/notebooks/shop/1_data.ipynb", tmp_path / "runs/mine/shop/dataset/dataset.json"]
    for path in (*files, *outputs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    options = {"cwd": tmp_path, "env": environment | {"LLAMAREC_DATA": "raw"}, "timeout": LIMIT, **PIPES}

    def plan():
        command = [BIN / "snakemake", "-n", outputs[0].relative_to(tmp_path), "--cores=1", "--config", "profile=mine"]
        return subprocess.run(command, check=True, **options).stdout

    assert "Nothing to be done" in plan()
    files[1].write_text("[]")
    os.utime(files[1], (later := outputs[1].stat().st_mtime + 5, later))
    assert "Updated input files" in (planned := plan())
    assert "items.csv" in planned
