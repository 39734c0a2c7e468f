import subprocess
import sys
from pathlib import Path

import pytest

from llamarec_core.cli import main

LLAMAREC = Path(sys.executable).parent / "llamarec"
ROOT = Path(__file__).parents[1]
OUT_OF_RANGE = ("--weight-decay", "0", "--dropout", "1.5")  # so that nothing is trained where a refusal is missing


def llamarec(*arguments, folder=ROOT):
    return subprocess.run([LLAMAREC, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_data_prints_the_row_of_table_2():
    answer = llamarec("data", "ml-100k-1998")
    assert answer.returncode == 0
    assert answer.stderr == ""
    heading, row = answer.stdout.splitlines()
    assert heading.split() == ["dataset", "users", "items", "interactions", "mean_length", "density"]
    assert row.split()[:3] == ["ml-100k-1998", "943", "1349"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "ml-1m"], "ml-1m"),
        (["recommend", "--profile", "quik", "Toy Story (1995)"], "Unknown profile 'quik'"),
        (["recommend", "--dataset", "no-such-data", "Toy Story (1995)"], "needs no-such-data/interactions.csv"),
        (["verify", "quik"], "Unknown profile 'quik'"),
        (["train", "beauty", "gru4rec"], "has no grid of gru4rec on 'beauty'"),
        (["train", "beauty", "lrurec", "--profile", "quick"], "Profile 'quick' has no grid of lrurec on 'beauty'"),
        (["train", "beauty", "lrurec", "--dropout", "0.1"], "Give --weight-decay and --dropout together"),
        (["train", "games", "lrurec", *OUT_OF_RANGE], "llamarec: dropout: Input should be less than 1 (given: 1.5)."),
        (["data", ".."], "Unknown data set '..'"),
    ],
)
def test_bad_input_is_answered_by_one_sentence_and_a_non_zero_exit(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["llamarec", *arguments])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as raised:
        main()
    answer = capsys.readouterr()
    assert raised.value.code == 2
    assert answer.out == ""
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_negative_seed_is_refused_without_a_traceback():
    answer = llamarec("train", "games", "lrurec", "--seed", "-1")
    assert answer.returncode == 2
    assert "Invalid value for '--seed'" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_outside_the_study_recommend_says_where_to_go(tmp_path):
    answer = llamarec("recommend", "Toy Story (1995)", folder=tmp_path)
    assert answer.returncode == 2
    assert "is not inside a copy of the study" in answer.stderr
