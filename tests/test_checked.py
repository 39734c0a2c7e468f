"""What a profile may say: a hostile or mistaken one is answered by one short sentence, at once."""

import pytest

from llamarec_core.checked import checked_name
from llamarec_core.files import InputError
from llamarec_core.settings import load_profile

DATASETS = "datasets: {ml-100k-1998: {}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('datasets: {"x$(touch PWNED)": {}}', "datasets.x$(touch PWNED).[key]: take letters, digits"),
        ('datasets: {"../../../../x": {}}', "take letters, digits"),
        ('datasets: {"my data": {}}', "take letters, digits"),
        ('datasets: {".hidden": {}}', "begin with a letter or a digit"),
        ('datasets: {"a\\nb": {}}', "take letters, digits"),
        ("datasets: {2018: {}}", "Input should be a valid string (given: 2018)"),
        (DATASETS + 'variants: {"../x": {}}', "take letters, digits"),
        (DATASETS + "seed: " + "9" * 4000, "seed: Input should be less than 9223372036854775808 (given: 9999"),
        (DATASETS + f"seed: {2**64}", "seed: Input should be less than 9223372036854775808"),
        (DATASETS + "seed: true", "seed: true and false are no values of this setting (given: True)"),
        (DATASETS + "retriever: {learning_rate: true}", "retriever.learning_rate: true and false are no values"),
        (DATASETS + "retriever: {dim: 1000000000000}", "retriever.dim: Input should be less than or equal to 4096"),
        (DATASETS + "retriever: {epochs: 1000000000000}", "epochs: Input should be less than or equal to 1000000"),
        (DATASETS + "retriever: {method: " + "x" * 200_000 + "}", "retriever.method: Input should be 'lrurec'"),
        (DATASETS + "x" * 1000 + ": 1", "xxx"),
    ],
)
def test_a_hostile_profile_is_answered_by_one_short_sentence(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError) as raised:
        load_profile(tmp_path / "mine.yaml")
    said = str(raised.value)
    assert message in said
    assert len(said) < 800
    assert said.isprintable()


@pytest.mark.parametrize("name", ["my shop", "", "..", "a/b", "-p", "x" * 65, "naïve"])
def test_a_name_that_cannot_stand_in_a_path_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="cannot be the name of a data set: take letters, digits"):
        checked_name(name, of="data set")
    (tmp_path / "my shop.yaml").write_text(DATASETS)
    with pytest.raises(InputError, match="name: take letters, digits"):
        load_profile(tmp_path / "my shop.yaml")


@pytest.mark.parametrize("name", ["my-shop", "2018", "ml-100k-1998", "a.b_c"])
def test_other_names_stay_as_they_are(name):
    assert checked_name(name, of="data set") == name
