import pytest

from llamarec_core.checked import checked_name
from llamarec_core.files import InputError
from llamarec_core.settings import GridSettings, Profile, load_profile
from tests.conftest import ROOT

PROFILES = {path.stem: path for path in (ROOT / "notebooks" / "profiles").glob("*.yaml")}
MINIMAL = "datasets: {ml-100k-1998: {}}\n"


def test_four_profiles_are_shipped_valid_and_commented():
    assert sorted(PROFILES) == ["paper", "quick", "small", "smoke"]
    for name, path in PROFILES.items():
        assert load_profile(path).name == name
        assert path.read_text().startswith("# ")


def test_the_paper_profile_has_the_papers_settings():
    profile = load_profile(PROFILES["paper"])
    assert set(profile.datasets) == {"ml-100k", "beauty", "games"}
    assert [profile.for_dataset(name).retriever.max_length for name in ("ml-100k", "beauty")] == [200, 50]
    ranker = profile.ranker
    assert (ranker.backbone, ranker.quantization, ranker.template) == ("llama-2-7b", "nf4", "alpaca")
    assert (ranker.lora_rank, ranker.lora_alpha, ranker.lora_dropout) == (8, 32, 0.05)
    assert (ranker.learning_rate, ranker.history_length, ranker.title_tokens) == (1e-4, 20, 32)
    points = GridSettings().points()
    assert (len(points), points[0]) == (10, {"weight_decay": 0.0, "dropout": 0.1})


def faulty(tmp_path, text, name="mine"):
    """Return what is said of a faulty profile: one short line that names its file."""
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=rf"{name}\.yaml") as raised:
        load_profile(path)
    assert len(str(raised.value)) < 800
    assert str(raised.value).isprintable()
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "sed: 0", "sed: Extra inputs are not permitted"),
        (MINIMAL + "name: other", "without `name`"),
        (MINIMAL + "retriever: {dim: 3}", "retriever.dim: Input should be a multiple of 2"),
        (MINIMAL + "ranker: {candidates: 3, users_per_prompt: 4}", "users_per_prompt: choose at most as many as cand"),
        (MINIMAL + "ranker: {names_per_prompt: 2}", "choose candidates_first or label_after"),
        (MINIMAL + "ranker: {temperature: 2.0}", "need loss: labels"),
        (MINIMAL + "ranker: {target_modules: [query]}", "ranker.target_modules.0: Input should be 'q_proj'"),
        (MINIMAL + "evaluation: {strategy_users: 1}", "evaluation.strategy_users: Input should be greater than 1"),
        (MINIMAL + "ranker: {kept_by: nats}", "kept_by: nats needs meter_answers"),
        (MINIMAL + "ranker: {learning_rate: .nan}", "ranker.learning_rate: Input should be a finite number"),
        (MINIMAL + "grid: {gru: {}}", "grid.gru"),
        (MINIMAL + "grid: {lrurec: {b: {}}}", "'b'"),
        (MINIMAL + "grid: {lrurec: {a: {dropout: [1.5]}}}", "mine.yaml: grid.lrurec.a.dropout.0: Input should be less"),
        (MINIMAL + "evaluation: {ablation_datasets: [b]}", "evaluation.ablation_datasets: 'b' is not among"),
        (MINIMAL + "variants: {b: {lora_rank: 0}}", "mine.yaml: variants.b.lora_rank: Input should be greater than 0"),
        (MINIMAL + 'variants: {"../x": {}}', "take letters, digits"),
        (MINIMAL + "1: 2", "1: Keys should be strings"),
        (MINIMAL + "seed: " + "9" * 4000, "seed: Input should be less than 9223372036854775808 (given: 9999"),
        (MINIMAL + "seed: true", "seed: true and false are no values of this setting (given: True)"),
        (MINIMAL + "retriever: {dim: 1000000000000}", "retriever.dim: Input should be less than or equal to 4096"),
        (MINIMAL + "retriever: {method: " + "x" * 200_000 + "}", "retriever.method: Input should be 'lrurec'"),
        ("datasets: {a: {retriever: {method: narm}}}", "one retriever serves all data sets"),
        ("datasets: {a: {retriever: {width: 3}}}", "a.retriever.width: Extra inputs are not permitted (given: 3)."),
        ("datasets: {a: {ranker: {candidates: 21}}}", "mine.yaml: datasets.a.ranker.candidates: Input should be less"),
        ("datasets: {a: {rnker: {}}}", "datasets.a.rnker: Extra inputs are not permitted"),
        ('datasets: {"x$(touch PWNED)": {}}', "datasets.x$(touch PWNED).[key]: take letters, digits"),
        ("datasets: {2018: {}}", "Input should be a valid string (given: 2018)"),
        ("a: [", "is not valid YAML"),
        ("quick", "must hold settings by name"),
        ("# Größe\n".encode("latin-1"), "is not text in UTF-8: save it in that encoding"),
        ("a: &a [1]\nb: *a", "write repeated parts out"),
        ("[" * 60_000, "it nests too deeply"),
        ("day: 2024-02-31", "day is out of range"),
        ("{a: 1, a: 2}", "'a' stands twice"),
        ("{[1]: 2}", "unhashable key"),
        ("a: " + "x" * 3_000_000, "is larger than 256 kB"),
        ("!!python/object/apply:os.system [id]", "could not determine a constructor"),
    ],
)
def test_a_faulty_or_hostile_profile_is_answered_by_one_short_line_that_names_the_setting(tmp_path, text, message):
    assert message in faulty(tmp_path, text)


def test_an_unknown_profile_is_answered_with_the_known_ones_and_one_needs_a_name_for_paths(tmp_path):
    assert "name: take letters, digits" in faulty(tmp_path, MINIMAL, name="my shop")
    with pytest.raises(InputError, match="Unknown profile 'quik'.*choose from paper, quick, small, smoke"):
        load_profile(PROFILES["quick"].with_name("quik.yaml"))


@pytest.mark.parametrize("name", ["my shop", "", "..", "a/b", "-p", "x" * 65, "naïve"])
def test_a_name_that_cannot_stand_in_a_path_is_refused(name):
    with pytest.raises(InputError, match="cannot be the name of a data set: take letters, digits"):
        checked_name(name, of="data set")


@pytest.mark.parametrize("name", ["my-shop", "2018", "ml-100k-1998", "a.b_c"])
def test_other_names_are_taken(name):
    assert checked_name(name, of="data set") == name


def test_a_data_sets_overrides_apply_to_it_alone_and_settings_given_as_text_win():
    profile = Profile(name="p", datasets={"shop": {"ranker": {"title_tokens": 9}}, "b": {}})
    assert [profile.for_dataset(name).ranker.title_tokens for name in ("shop", "b", "c")] == [9, 32, 32]
    profile = profile.for_dataset("shop")
    given = profile.given(["ranker.title_tokens=32", "ranker.target_modules=[q_proj]", "retriever.dropout=0.3"])
    assert (given.ranker.title_tokens, given.ranker.target_modules, given.retriever.dropout) == (32, ("q_proj",), 0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title_tokens=3", "not of the form"),
        ("ranker.x", "not of the form"),
        ("ranker.tokens=3", "ranker.tokens: Extra inputs"),
        ("ranker.epochs=[", "ranker.epochs is not valid YAML"),
    ],
)
def test_a_faulty_setting_given_as_text_is_named(text, message):
    with pytest.raises(InputError, match=message):
        Profile(name="p", datasets={"shop": {}}).given([text])
