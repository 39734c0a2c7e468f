"""Every table of a profile that follows from committed ranks and records, computed again.

The notebooks make these tables and write them; ``llamarec verify`` makes them a second time and compares.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from llamarec_core import evaluation, report
from llamarec_core.grid import grid_table
from llamarec_core.llm_baselines.comparison import load_answers, tuned_ranks
from llamarec_core.paths import find_profile
from llamarec_core.provenance import commit_of, made_on_gpu, record_of
from llamarec_core.ranking import answers_learnt
from llamarec_core.ranking.cost import LLAMA_2_7B, trainable_share
from llamarec_core.report.methods import AS_PUBLISHED
from llamarec_core.settings import Profile, load_profile
from llamarec_core.study import load_ablations, load_ranks

NOT_FROM_RANKS = (
    "table2", "ranker_training_", "strategies_training_", "ties", "validation_as_published"
)  # fmt: skip
"""Tables, or how their names begin, that follow from data sets or from a run's times; their hashes alone hold them."""


class Recomputation:
    """The tables of one profile.

    Args:
        profile: its settings.
        root: the study's folder.
    """

    def __init__(self, profile: Profile, root: Path) -> None:
        self.profile, self.root = profile, root
        self.results = root / "results" / profile.name
        self.published = evaluation.published(root / "results" / "published")
        self.datasets = list(profile.datasets)
        self.sampling = {"samples": profile.evaluation.bootstrap_samples, "seed": profile.seed}

    def tables(self) -> dict[str, Callable[[], pd.DataFrame]]:
        """Return how each table is computed, by its file's name without suffix."""
        consistency = evaluation.consistency_tables(self.root / "results" / "published")
        return {
            "table1": lambda: self.study[self.study["subset"] == "all"],
            "table3": lambda: self.study[self.study["subset"] == "retrieved"],
            "comparison": lambda: self.comparison,
            "floors": lambda: self.floors,
            "ranker": lambda: pd.concat([self._variants(name) for name in self.ablations]),
            **{f"ranker_{name}": lambda name=name: self._variants(name) for name in self.ablations},
            "grid": lambda: grid_table(self.profile, root=self.root),
            "table1_retrieval": lambda: self.retrieval,
            "retrieval_pairs": lambda: self.pairs,
            "noise": self._noise,
            "strategies": lambda: self.strategies,
            "strategy_pairs": lambda: report.strategy_pairs(
                load_answers(self.results, datasets=self.datasets), **self.sampling
            ),
            "table4": self._table4,
            "key_differences": lambda: report.differences_table(self.strategies),
            "claims": self._claims,
            **{f"consistency_{name}": lambda frame=frame: frame for name, frame in consistency.items()},
        }

    def opening(self) -> str:
        """Return the opening page's summary."""
        ranker, retriever = self.profile.ranker, self.profile.retriever.method
        paths = [path for name in self.datasets for path in (self.results / "ranks" / name).glob("*.parquet")]
        options = {"ranker": ranker, "retriever": retriever, "kept": self._kept, "floors": self.floors}
        options["records"] = [record_of(path) for path in paths]
        return report.opening(self.study, self.comparison, published=self.published, **options)

    def retrieval_sentences(self) -> str:
        """Return the opening page's sentences on stage 1."""
        return report.retrieval_sentences(self.retrieval, self.pairs)

    def verdicts(self) -> str:
        """Return the opening page's sentence on the claims."""
        return report.verdicts_sentence(self._claims())

    @cached_property
    def study(self) -> pd.DataFrame:
        """Tables 1 and 3."""
        return report.results_table(self._ranks[0], published=self.published, **self._of_study)

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """Every method against the retriever's order."""
        return report.comparison_table(self._ranks[0], **self._of_study)

    @cached_property
    def floors(self) -> pd.DataFrame:
        """The ranker against orders without a language model."""
        return report.floors_table(self._ranks[0], **self._of_study)

    @cached_property
    def retrieval(self) -> pd.DataFrame:
        """The retrieval columns of Table 1."""
        return report.retrieval_table(self._tested, published=self.published, **self._of_grid)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every two retrievers."""
        return report.pairs_table(self._tested, **self._of_grid)

    @cached_property
    def ties(self) -> pd.DataFrame:
        """The orders of ties, as they were measured once."""
        file = self.results / "tables" / "ties.csv"
        return pd.read_csv(file) if file.is_file() else report.ties_table({}, **self.sampling)

    @cached_property
    def ablations(self) -> dict[str, tuple[pd.DataFrame, str]]:
        """Data set → the ranks of the ranker's variants, and their commit."""
        return load_ablations(self.results, datasets=self.datasets, seed=self.profile.seed)

    @cached_property
    def strategies(self) -> pd.DataFrame:
        """The strategies' metrics and costs."""
        return report.strategies_table(load_answers(self.results, datasets=self.datasets), **self.sampling)

    @property
    def _kept(self) -> dict[str, int | None]:
        weights = self.results / "weights"
        return {name: answers_learnt(weights / f"{name}-seed{self.profile.seed}" / "adapter") for name in self.datasets}

    @cached_property
    def _ranks(self) -> tuple[dict[tuple[str, str, int], pd.DataFrame], str]:
        return load_ranks(self.results, datasets=self.datasets)

    @cached_property
    def _grid(self) -> tuple[dict[tuple[str, str, int], pd.DataFrame], str]:
        return load_ranks(self.results / "grid", datasets=self.datasets)

    @property
    def _tested(self) -> dict[tuple[str, str, int], pd.DataFrame]:
        return {key: frame for key, frame in self._grid[0].items() if not key[1].endswith(AS_PUBLISHED)}

    @property
    def _of_study(self) -> dict[str, Any]:
        candidates, retriever = self.profile.ranker.candidates, self.profile.retriever.method
        return {**self.sampling, "commit": self._ranks[1], "candidates": candidates, "retriever": retriever}

    @property
    def _of_grid(self) -> dict[str, Any]:
        return {**self.sampling, "commit": self._grid[1]}

    def _noise(self) -> pd.DataFrame:
        return report.noise_table(self._grid[0], self.ties, published=self.published, **self.sampling)

    def _table4(self) -> pd.DataFrame:
        printed = evaluation.published_llm_baselines(self.root / "results" / "published")
        return report.table4(self.strategies, published=printed)

    def _variants(self, dataset: str) -> pd.DataFrame:
        ranks, commit = self.ablations[dataset]
        return report.ablation_table(ranks, dataset=dataset, commit=commit, **self.sampling)

    def _claims(self) -> pd.DataFrame:
        ranks, commit = load_ranks(self.results / "grid", self.results, datasets=self.datasets)
        paper = load_profile(find_profile("paper", root=self.root))
        bench = self.root / "results" / "bench"
        times = bench / "inference_time.csv"
        return evaluation.claims_table(
            self.root / "results" / "published",
            ranks,
            sample=tuned_ranks(load_answers(self.results, datasets=self.datasets)),
            trainable_share=trainable_share(LLAMA_2_7B, paper.ranker),
            timings=evaluation.measured_inference_times(bench),
            timed_on_gpu=made_on_gpu(times),
            timings_commit=commit_of(times) if times.is_file() else "",
            scale=self.profile.ranker.backbone,
            candidates=self.profile.ranker.candidates,
            commit=commit,
            **self.sampling,
        )
