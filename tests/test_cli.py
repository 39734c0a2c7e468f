import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llamarec_core.cli import app, main
from tests.conftest import ROOT

OUT_OF_RANGE = ("--weight-decay", "0", "--dropout", "1.5")  # so that nothing is trained where a refusal is missing


def test_data_says_what_a_folder_holds_and_what_was_dropped(tmp_path):
    shop = tmp_path / "shop"
    shop.mkdir()
    # twice the same event, an event of an item without a title, two of a sixth user, an item without events
    rows = [f"u{u};i{i};2024-05-0{i}" for u in range(1, 6) for i in range(1, 6)]
    rows += ["u1;i1;2024-05-01", "u1;i9;2024-05-01", "u6;i1;2024-05-01", "u6;i2;2024-05-01"]
    (shop / "interactions.csv").write_text("uid;item_id;timestamp\n" + "\n".join(rows))
    ends = ["number one", "number one", 3, 4, 5, 6]
    titles = [f"i{i},A bar of soap with lavender and thyme and mint {end}\n" for i, end in enumerate(ends, 1)]
    (shop / "items.csv").write_text("item_id,title\n" + "".join(titles))
    answer = CliRunner().invoke(app, ["data", str(shop), "--columns", "user_id=uid", "--profile", "smoke"])
    *facts, heading, row = answer.stdout.splitlines()
    assert [fact.split(maxsplit=1)[0] for fact in facts] == ["29", "1", "1", "2", "25", "1", "0.0%", "40.0%", "100.0%"]
    assert heading.split() == ["dataset", "users", "items", "interactions", "mean_length", "density"]
    assert row.split() == ["shop", "5", "5", "25", "5.0", "1.0"]
    assert answer.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        (["data", "ml-100k-1998"], ["ml-100k-1998", "943", "1349"]),
        (["recommend", "--from", "/nowhere", "Toy Story (1995)"], []),
        (["--help"], []),
    ],
)
def test_what_needs_no_model_imports_no_torch(arguments, beginning):
    script = f"import sys; from llamarec_core.cli import main; sys.argv[1:] = {arguments}\n"
    script += "try: main()\nfinally: print({'torch', 'transformers', 'scipy', 'sklearn', 'nbformat'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    *_, row, imported = ["", *answer.stdout.splitlines()]
    assert imported == "set()"
    assert row.split()[: len(beginning)] == beginning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "--dataset", "no-such-data", "Toy Story (1995)"], "needs no-such-data/interactions.csv"),
        (["recommend"], "Give either a history of titles or ids, or --user ID, or --users all."),
        (["recommend", "--users", "all"], "Say where the recommendations for all users go"),
        (["recommend", "--from", "/nowhere", "Toy Story (1995)"], "/nowhere holds no recommender"),
        (["fit", "/nowhere", "--out", "x", "-s", "ranker.title_tokens=0"], "ranker.title_tokens: Input should be"),
        (["verify", "quik"], "Unknown profile 'quik'"),
        (["train", "beauty", "lrurec", "--dropout", "0.1"], "Give --weight-decay and --dropout together"),
        (["train", "games", "lrurec", *OUT_OF_RANGE], "llamarec: dropout: Input should be less than 1 (given: 1.5)."),
        (["data", "/nowhere/shop"], "The folder /nowhere/shop does not exist"),
        (["fit", "/nowhere", "--out", "x", "--start-from", "/no"], "/no holds no adapter to start from"),
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


def test_a_flag_out_of_range_and_a_place_outside_the_study_are_refused(monkeypatch, tmp_path):
    answer = CliRunner().invoke(app, ["train", "games", "lrurec", "--seed", "-1"])
    assert answer.exit_code == 2
    assert "Invalid value for '--seed'" in answer.stderr
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["recommend", "Toy Story (1995)"])
    assert "is not inside a copy of the study" in str(answer.exception)
