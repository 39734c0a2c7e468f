from pathlib import Path

import pytest

from llamarec_core.files import InputError
from llamarec_core.settings import GridSettings, Profile, load_profile

PROFILES = sorted((Path(__file__).parents[1] / "notebooks" / "profiles").glob("*.yaml"))
MINIMAL = "datasets: {ml-100k-1998: {}}\n"


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_shipped_profile_is_valid_and_comments_its_settings(path):
    assert load_profile(path).name == path.stem
    assert path.read_text().startswith("# ")


def test_five_profiles_are_shipped():
    assert [path.stem for path in PROFILES] == ["paper", "quick", "small", "smoke"]


def test_the_paper_profile_has_the_papers_settings():
    profile = load_profile(next(path for path in PROFILES if path.stem == "paper"))
    assert set(profile.datasets) == {"ml-100k", "beauty", "games"}
    assert profile.for_dataset("ml-100k").retriever.max_length == 200
    assert profile.for_dataset("beauty").retriever.max_length == 50
    ranker = profile.ranker
    assert (ranker.backbone, ranker.quantization, ranker.template) == ("llama-2-7b", "nf4", "alpaca")
    assert (ranker.lora_rank, ranker.lora_alpha, ranker.lora_dropout) == (8, 32, 0.05)
    assert (ranker.learning_rate, ranker.history_length, ranker.title_tokens) == (1e-4, 20, 32)


def test_a_data_sets_overrides_apply_to_it_alone(tmp_path):
    profile = load_profile(write(tmp_path, "datasets: {a: {retriever: {max_length: 9}}, b: {}}"))
    assert profile.for_dataset("a").retriever.max_length == 9
    assert profile.for_dataset("b").retriever.max_length == 50


def test_the_papers_grid_has_ten_points():
    points = GridSettings().points()
    assert len(points) == 10
    assert points[0] == {"weight_decay": 0.0, "dropout": 0.1}
    assert points[-1] == {"weight_decay": 0.01, "dropout": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0", "datasets: Field required"),
        (MINIMAL + "sed: 0", "sed: Extra inputs are not permitted"),
        (MINIMAL + "name: other", "sets `name`"),
        (MINIMAL + "retriever: {dropout: 1.5}", "retriever.dropout: Input should be less than 1"),
        (MINIMAL + "retriever: {method: gru}", "retriever.method: Input should be 'lrurec'"),
        (
            MINIMAL + "ranker: {template: chat}",
            "ranker.template: Input should be 'ranking', 'alpaca', 'candidates_first' or 'label_after'",
        ),
        (MINIMAL + "ranker: {candidates: 21}", "21 is more than the 20 labels"),
        (MINIMAL + "ranker: {learning_rate: .nan}", "ranker.learning_rate: Input should be a finite number"),
        (MINIMAL + "retriever: {dim: 3}", "retriever.dim: Input should be a multiple of 2"),
        (MINIMAL + "grid: {gru: {}}", "grid.gru"),
        (MINIMAL + "grid: {lrurec: {b: {}}}", "'b'"),
        (MINIMAL + "grid: {lrurec: {a: {dropout: []}}}", "dropout: Tuple should have at least 1 item"),
        (MINIMAL + "grid: {lrurec: {a: {dropout: [1.5]}}}", "mine.yaml: grid.lrurec.a.dropout.0: Input should be less"),
        ("datasets: {a: {retriever: {method: narm}}}", "one retriever serves all data sets"),
        (
            "datasets: {a: {retriever: {width: 3}}}",
            "mine.yaml: datasets.a.retriever.width: Extra inputs are not permitted (given: 3).",
        ),
        ("datasets: {a: {ranker: {candidates: 21}}}", "mine.yaml: datasets.a.ranker: candidates: 21 is more than"),
        (MINIMAL + "variants: {b: {lora_rank: 0}}", "mine.yaml: variants.b.lora_rank: Input should be greater than 0"),
        (MINIMAL + "1: 2", "1: Keys should be strings"),
        ("datasets: {a: {rnker: {}}}", "datasets.a.rnker: Extra inputs are not permitted"),
        ("a: [", "is not valid YAML"),
        ("seed: 0\nranker: {epochs: 1}\nranker: {epochs: 2}\n", "'ranker' stands twice"),
        ("quick", "must hold settings by name"),
    ],
)
def test_a_faulty_profile_is_answered_by_one_sentence_that_names_the_setting(tmp_path, text, message):
    with pytest.raises(InputError) as raised:
        load_profile(write(tmp_path, text))
    assert message in str(raised.value)
    assert "mine.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_profile_in_another_encoding_is_named(tmp_path):
    path = write(tmp_path, "")
    path.write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"mine\.yaml is not text in UTF-8: save it in that encoding"):
        load_profile(path)


def test_an_unknown_profile_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="Unknown profile 'quik'.*choose from paper, quick, small, smoke"):
        load_profile(PROFILES[0].with_name("quik.yaml"))


def test_settings_given_as_text_win_and_are_checked():
    profile = Profile(name="p", datasets={"shop": {"ranker": {"title_tokens": 9}}}).for_dataset("shop")
    given = profile.given(["ranker.title_tokens=32", "ranker.target_modules=[q_proj]", "retriever.dropout=0.3"])
    assert given.ranker.title_tokens == 32
    assert given.ranker.target_modules == ("q_proj",)
    assert given.retriever.dropout == 0.3
    for text, message in (
        ("title_tokens=3", "not of the form"),
        ("ranker.tokens=3", "ranker.tokens"),
        ("ranker.x", "not of"),
    ):
        with pytest.raises(InputError, match=message):
            profile.given([text])
