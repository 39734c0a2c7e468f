"""The one recipe of each table: the notebooks show and write what :class:`Tables` makes, `llamarec verify` compares."""

from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import pandas as pd

from llamarec_core import evaluation
from llamarec_core.grid import grid_table
from llamarec_core.llm_baselines.comparison import load_answers
from llamarec_core.paths import find_profile
from llamarec_core.provenance import commit_of, made_on_gpu
from llamarec_core.ranking.cost import LLAMA_2_7B, trainable_share
from llamarec_core.report import results, strategies
from llamarec_core.settings import Profile, load_profile
from llamarec_core.study import load_ablations, load_ranks


class Tables:
    """The tables of one profile that follow from committed ranks, answers and records under ``root``.

    ``seed`` is that of the bootstrap, and of the ranker whose variants were compared; ``None`` takes the profile's.
    """

    BY_HASH = ("table2", "ranker_", "strategies_training_", "ties", "validation_as_published")
    """How the names begin of tables that their hashes alone hold. They follow from data sets, the times of a run, or
    orders of ties that are at hand no more; ``ranker_…`` are parts of ``ranker``, which follows from ranks."""

    def __init__(self, profile: Profile, root: Path, *, seed: int | None = None) -> None:
        self.profile, self.root = profile, root
        self._seed = profile.seed if seed is None else seed

    def names(self) -> list[str]:
        """Return the names of all tables; the runs that some follow from may be missing."""
        return list(self._recipes)

    def make(self, name: str) -> pd.DataFrame:
        """Compute a table by the name of its file."""
        return self._recipes[name]()

    @cached_property
    def _recipes(self) -> dict[str, Callable[[], pd.DataFrame]]:
        profile, sampling = self.profile, {"samples": self.profile.evaluation.bootstrap_samples, "seed": self._seed}
        folder, paper = self.root / "results" / profile.name, self.root / "results" / "published"
        chosen = {"datasets": list(profile.datasets)}
        published, consistency = evaluation.published(paper), evaluation.consistency_tables(paper)
        read = {"retriever": profile.retriever.method, "candidates": profile.ranker.candidates}
        ablations = load_ablations(folder, seed=self._seed, **chosen)
        answers = cache(lambda: load_answers(folder, **chosen))
        # each table is computed once, and only if it is asked for
        ranks = cache(lambda: load_ranks(folder, **chosen))
        of_grid = cache(lambda: load_ranks(folder / "grid", **chosen))
        study = cache(lambda: results.results_table(*ranks(), published=published, **read, **sampling))
        ranking = cache(lambda: results.ranking_tests(*ranks(), **read, **sampling))
        pairs = cache(lambda: results.pairs_table(*of_grid(), **sampling))
        compared = cache(lambda: strategies.strategies_table(answers(), **sampling))

        def variants() -> pd.DataFrame:
            of_each = ablations.items()
            return pd.concat(results.ablation_table(*found, dataset=name, **sampling) for name, found in of_each)

        def noise() -> pd.DataFrame:
            ties = folder / "tables" / "ties.csv"
            orders = pd.read_csv(ties) if ties.is_file() else pd.DataFrame()
            return results.noise_table(of_grid()[0], orders, published=published, **sampling)

        def claims() -> pd.DataFrame:
            comparisons = {"sampled": strategies.claimed_pairs(answers(), **sampling)} if answers() else {}
            comparisons |= {"retrieval": pairs()} if of_grid()[0] else {}
            comparisons |= {"ranking": ranking()} if ranks()[0] else {}
            times = self.root / "results" / "bench" / "inference_time.csv"
            return evaluation.claims_table(
                paper,
                comparisons,
                scale=profile.ranker.backbone,
                trainable_share=trainable_share(LLAMA_2_7B, load_profile(find_profile("paper", root=self.root)).ranker),
                times=evaluation.measured_inference_times(times.parent),
                timed_on_gpu=made_on_gpu(times),
                times_commit=commit_of(times) if times.is_file() else "",
            )

        return {
            "table1": lambda: study()[study()["subset"] == "all"],
            "table3": lambda: study()[study()["subset"] == "retrieved"],
            "comparison": lambda: ranking()[ranking()["reference"] == read["retriever"]],
            "floors": lambda: ranking()[ranking()["reference"] != read["retriever"]],
            **({"ranker": variants} if ablations else {}),
            "grid": lambda: grid_table(profile, root=self.root),
            "table1_retrieval": lambda: results.retrieval_table(*of_grid(), published=published, **sampling),
            "retrieval_pairs": pairs,
            "noise": noise,
            "strategies": compared,
            "strategy_pairs": lambda: strategies.strategy_pairs(answers(), **sampling),
            "table4": lambda: strategies.table4(compared(), published=evaluation.published_llm_baselines(paper)),
            "key_differences": lambda: strategies.differences_table(compared()),
            "claims": claims,
            **{f"consistency_{name}": lambda table=table: table for name, table in consistency.items()},
        }
