"""The one recipe of each table: the notebooks show and write what :class:`Tables` makes, `llamarec verify` compares."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pandas as pd

from llamarec_core import evaluation
from llamarec_core.files import InputError
from llamarec_core.grid import grid_table
from llamarec_core.llm_baselines.comparison import load_answers
from llamarec_core.paths import find_profile
from llamarec_core.provenance import commit_of, made_on_gpu
from llamarec_core.ranking.cost import LLAMA_2_7B, trainable_share
from llamarec_core.report import results, retrieval, strategies
from llamarec_core.report.ablations import ablation_table
from llamarec_core.settings import Profile, load_profile
from llamarec_core.study import load_ablations, load_ranks


class Tables:
    """The tables of one profile that follow from committed ranks, answers and records.

    Args:
        profile: its settings.
        root: the study's folder.
        seed: of the bootstrap, and of the ranker whose variants were compared; ``None`` takes the profile's.
    """

    BY_HASH = ("table2", "ranker_", "strategies_training_", "ties", "validation_as_published")
    """How the names begin of tables that their hashes alone hold. They follow from data sets, from the times of a run, or
    from orders of ties that are at hand no more; ``ranker_…`` are parts of ``ranker``, which follows from ranks."""

    def __init__(self, profile: Profile, root: Path, *, seed: int | None = None) -> None:
        self.profile, self.root = profile, root
        self.seed = profile.seed if seed is None else seed
        self._results, self._paper = root / "results" / profile.name, root / "results" / "published"
        self._datasets = list(profile.datasets)
        self._sampling = {"samples": profile.evaluation.bootstrap_samples, "seed": self.seed}

    def names(self) -> list[str]:
        """Return the names of all tables; the runs that some follow from may be missing."""
        return list(self._recipes)

    def make(self, name: str) -> pd.DataFrame:
        """Compute a table by its name, which is that of its file.

        Raises:
            InputError: what it follows from is missing or does not fit together.
        """
        return self._recipes[name]()

    def committed(self, name: str) -> pd.DataFrame:
        """Load a table as it stands in the results.

        Raises:
            InputError: it does not.
        """
        path = self._results / "tables" / f"{name}.csv"
        if not path.is_file():
            raise InputError(f"{path} is missing: run the notebook that writes it.")
        return pd.read_csv(path)

    @cached_property
    def _recipes(self) -> dict[str, Callable[[], pd.DataFrame]]:
        retriever, quoted = self.profile.retriever.method, evaluation.published_llm_baselines
        variants = {f"ranker_{name}": lambda name=name: self._variants(name) for name in self._ablations}
        consistency = evaluation.consistency_tables(self._paper)
        return {
            "table1": lambda: self._study[self._study["subset"] == "all"],
            "table3": lambda: self._study[self._study["subset"] == "retrieved"],
            "comparison": lambda: self._ranking[self._ranking["reference"] == retriever],
            "floors": lambda: self._ranking[self._ranking["reference"] != retriever],
            **({"ranker": lambda: pd.concat([make() for make in variants.values()])} if variants else {}),
            **variants,
            "grid": lambda: grid_table(self.profile, root=self.root),
            "table1_retrieval": lambda: retrieval.retrieval_table(published=self._published, **self._of_grid),
            "retrieval_pairs": lambda: self._pairs,
            "noise": self._noise,
            "strategies": lambda: self._strategies,
            "strategy_pairs": lambda: strategies.strategy_pairs(self._answers, **self._sampling),
            "table4": lambda: strategies.table4(self._strategies, published=quoted(self._paper)),
            "key_differences": lambda: strategies.differences_table(self._strategies),
            "claims": self._claims,
            **{f"consistency_{name}": lambda table=table: table for name, table in consistency.items()},
        }

    @cached_property
    def _published(self) -> pd.DataFrame:
        return evaluation.published(self._paper)

    @cached_property
    def _ablations(self) -> dict[str, tuple[pd.DataFrame, str]]:
        return load_ablations(self._results, datasets=self._datasets, seed=self.seed)

    @cached_property
    def _answers(self) -> strategies.Answers:
        return load_answers(self._results, datasets=self._datasets)

    @cached_property
    def _of_ranker(self) -> dict:
        ranks, commit = load_ranks(self._results, datasets=self._datasets)
        read = {"candidates": self.profile.ranker.candidates, "retriever": self.profile.retriever.method}
        return {"ranks": ranks, "commit": commit} | self._sampling | read

    @cached_property
    def _of_grid(self) -> dict:
        ranks, commit = load_ranks(self._results / "grid", datasets=self._datasets)
        return {"ranks": ranks, "commit": commit} | self._sampling

    @cached_property
    def _study(self) -> pd.DataFrame:
        return results.results_table(published=self._published, **self._of_ranker)

    @cached_property
    def _ranking(self) -> pd.DataFrame:
        return results.ranking_tests(**self._of_ranker)

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        return retrieval.pairs_table(**self._of_grid)

    @cached_property
    def _strategies(self) -> pd.DataFrame:
        return strategies.strategies_table(self._answers, **self._sampling)

    def _variants(self, dataset: str) -> pd.DataFrame:
        ranks, commit = self._ablations[dataset]
        return ablation_table(ranks, dataset=dataset, commit=commit, **self._sampling)

    def _noise(self) -> pd.DataFrame:
        ties = self._results / "tables" / "ties.csv"
        orders = pd.read_csv(ties) if ties.is_file() else pd.DataFrame()
        ranks = self._of_grid["ranks"]
        return retrieval.noise_table(ranks, orders, published=self._published, **self._sampling)

    def _claims(self) -> pd.DataFrame:
        times = self.root / "results" / "bench" / "inference_time.csv"
        paper = load_profile(find_profile("paper", root=self.root))
        comparisons = {
            "retrieval": self._pairs if self._of_grid["ranks"] else None,
            "ranking": self._ranking if self._of_ranker["ranks"] else None,
            "sampled": strategies.claimed_pairs(self._answers, **self._sampling),
        }
        return evaluation.claims_table(
            self._paper,
            comparisons,
            scale=self.profile.ranker.backbone,
            trainable_share=trainable_share(LLAMA_2_7B, paper.ranker),
            times=evaluation.measured_inference_times(times.parent),
            timed_on_gpu=made_on_gpu(times),
            times_commit=commit_of(times) if times.is_file() else "",
        )
