"""Every strategy answers the same sampled users; what is answered is kept, and asked again only if it must be."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llamarec_core.files import InputError
from llamarec_core.llm_baselines import P5, CausalLM, GPT4Rec, TALLRec, Verbalizer
from llamarec_core.llm_baselines import comparison as module
from llamarec_core.llm_baselines.base import Answers
from llamarec_core.ranking import fit_ranker


@pytest.fixture(scope="module")
def sample(candidates):
    return module.sample_users(candidates["test"], size=4, users=6, seed=0)


@pytest.fixture(scope="module")
def folder(tiny, dataset, candidates, tmp_path_factory):
    """The weights of a run, in which `3_ranker` has tuned the verbalizer."""
    folder = tmp_path_factory.mktemp("seed0")
    fit_ranker(dataset, candidates["validation"], tiny.settings, seed=0, folder=folder / "ranker")
    return folder


@pytest.fixture
def comparison(tiny, dataset, candidates, sample, folder):
    return module.Comparison(dataset, sample, candidates["validation"], tiny.settings, examples=4, seed=0, work=folder)


def test_a_sample_is_seeded_and_says_what_each_stratum_stands_for(candidates, sample):
    strata, users = sample.strata, sample.candidates.users
    assert (strata["stratum"] == "retrieved").tolist() == (sample.candidates.ranks <= 4).tolist()
    assert dict(zip(strata["stratum"], strata["stratum_users"], strict=True)) == {"retrieved": 8, "missed": 4}
    assert (np.diff(users) > 0).all()
    assert users.tolist() != module.sample_users(candidates["test"], size=4, users=6, seed=1).candidates.users.tolist()


@pytest.mark.parametrize(
    ("users", "retrieved", "missed"), [(2, 1, 1), (3, 2, 1), (6, 3, 3), (9, 5, 4), (11, 7, 4), (12, 8, 4), (None, 8, 4)]
)
def test_half_have_a_retrieved_target_unless_a_stratum_has_too_few(candidates, users, retrieved, missed):
    strata = module.sample_users(candidates["test"], size=4, users=users, seed=0).strata["stratum"]
    assert ((strata == "retrieved").sum(), (strata == "missed").sum()) == (retrieved, missed)


@pytest.mark.parametrize(
    ("strategy", "tuned"), module.CASES, ids=[f"{kind.name}-{tuned}" for kind, tuned in module.CASES]
)
def test_answers_are_kept_with_ranks_and_costs(comparison, dataset, sample, tmp_path, strategy, tuned):
    path = module.answers_file(tmp_path, "toy", strategy, tuned=tuned, seed=0)
    comparison.answer(strategy, path, tuned=tuned, commit="abc")
    kept = pd.read_parquet(path)
    assert list(kept) == list(module.COLUMNS)
    assert kept["user"].tolist() == sample.candidates.users.tolist()
    assert kept["retriever_rank"].tolist() == sample.candidates.ranks.tolist()
    missed = kept["stratum"] == "missed"
    assert kept["reranked"][missed].tolist() == sample.candidates.ranks[missed].tolist()
    assert kept["reranked"][~missed].between(1, 4).all()
    if strategy in (GPT4Rec, P5):
        assert not kept["reads_candidates"].any()
        assert kept["rank"].between(1, dataset.n_items).all()
        assert not kept["rank"].equals(kept["reranked"])
    else:
        assert kept["rank"].equals(kept["reranked"])
    for count in ("forward_passes", "tokens_read"):
        assert kept[count].between(1, kept[f"predicted_{count}"]).all()
    assert (kept[["reading_seconds", "batch_seconds"]] > 0).all(axis=None)
    examples = (16 if strategy is Verbalizer else 4) if tuned else 0
    made = {"examples": examples, "batch_requests": 6, "dtype": "float32", "commit": "abc"}
    assert kept[list(made)].drop_duplicates().to_dict("records") == [made]


def test_a_strategy_that_generates_runs_in_float32_on_a_processor(comparison):
    comparison = replace(comparison, settings=comparison.settings.model_copy(update={"dtype": "bfloat16"}))
    precisions = {kind: comparison.load(kind, tuned=False).model.dtype for kind in (CausalLM, TALLRec)}
    assert [str(dtype) for dtype in precisions.values()] == ["torch.float32", "torch.bfloat16"]


def test_what_is_kept_is_not_asked_again_unless_it_is_of_another_run(comparison, candidates, tmp_path, monkeypatch):
    path = tmp_path / "causal_lm-seed0.parquet"
    first = comparison.answer(CausalLM, path, tuned=False, commit="abc")
    asked = []
    whole = module.measured
    monkeypatch.setattr(module, "measured", lambda *given: asked.append(1) or whole(*given))
    assert comparison.answer(CausalLM, path, tuned=False, commit="def").equals(first)
    assert not asked
    comparison.sample = module.sample_users(candidates["test"], size=4, users=3, seed=0)
    again = comparison.answer(CausalLM, path, tuned=False, commit="def")
    assert len(asked) == 1
    assert set(again["commit"]) == {"def"}
    assert len(pd.read_parquet(path)) == 3


def test_ranks_of_what_an_answer_does_not_name_owe_nothing_to_the_retriever():
    answers = Answers(np.zeros((3, 2)), [np.array([3, 7]), np.array([8]), np.array([], dtype=int)], pd.DataFrame())
    assert module.catalogue_ranks(np.array([7, 8, 9]), answers, n_items=30).tolist() == [2, 1, 30]
    answers = pd.DataFrame({"reranked": [1, 2, 2, 1, 30], "valid": [1, 2, 1, 0, 3]})
    assert (module.named_ranks(answers) <= 20).tolist() == [True, True, False, False, False]


def keep(folder, name):
    path = folder / "strategies" / "toy" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({column: [0, 0] for column in module.COLUMNS}).assign(user=[3, 5]).to_parquet(path)
    return path


def test_answers_are_loaded_in_the_order_of_the_strategies(tmp_path):
    for name in ("tallrec-tuned-seed1", "verbalizer-seed0", "causal_lm-seed0", "tallrec-seed0"):
        keep(tmp_path, name)
    found = module.load_answers(tmp_path, datasets=["others", "toy"])
    assert list(found) == [
        ("toy", "verbalizer", False, 0),
        ("toy", "causal_lm", False, 0),
        ("toy", "tallrec", False, 0),
        ("toy", "tallrec", True, 1),
    ]
    assert found["toy", "causal_lm", False, 0]["user"].tolist() == [3, 5]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("verbalizer-seed0", {"user": [3, 6]}, "verbalizer-seed0.parquet holds other users than its neighbours"),
        ("p5-seed0", {"user": [3, 3]}, "p5-seed0.parquet holds a user twice: delete it"),
        ("p5-seed0", "target", "p5-seed0.parquet lacks the column 'target': delete it"),
        ("gpt5rec-tuned-seed0", {}, "gpt5rec-tuned-seed0.parquet is of no strategy of verbalizer, .*: remove it"),
    ],
)
def test_answers_of_other_users_and_broken_files_are_refused(tmp_path, name, change, message):
    keep(tmp_path, "palr-seed0")
    path = keep(tmp_path, name)
    frame = pd.read_parquet(path)
    (frame.drop(columns=change) if change == "target" else frame.assign(**change)).to_parquet(path)
    with pytest.raises(InputError, match=message):
        module.load_answers(tmp_path, datasets=["toy"])
