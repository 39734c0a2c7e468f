"""The recipe of each table that follows from ranks and answers: the paper's tables beside ours, comparisons, noise.

The notebooks show and write what :class:`Tables` makes, and `llamarec verify` compares it with what is committed.
Tables are tidy, one number a row, with the ends of its 95 % bootstrap interval. ``subset`` is ``all`` users, or those
whose target was ``retrieved``. A method with several seeds counts as the mean over them. ``sampling`` is the number of
``samples``, for bootstrap and sign flips, and the ``seed``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

from llamarec_core import evaluation
from llamarec_core.evaluation.metrics import METRICS, PRIMARY, corrected, difference, estimate, over_seeds, per_user
from llamarec_core.files import InputError
from llamarec_core.grid import grid_table
from llamarec_core.llm_baselines.comparison import load_answers
from llamarec_core.paths import find_profile
from llamarec_core.ranking.cost import LLAMA_2_7B, trainable_share
from llamarec_core.report import strategies
from llamarec_core.report.forms import METHOD_NAMES, QUOTED, display_name, in_order
from llamarec_core.settings import Profile, load_profile
from llamarec_core.study import load_ablations, load_ranks

Ranks = Mapping[tuple[str, str, int], pd.DataFrame]
"""(data set, method, seed) → one row a user: ``user``, ``target``, ``rank``, as a ranks file holds them."""
Runs = Mapping[tuple[str, str], pd.DataFrame]
"""(data set, method) → ranks, a row a seed and a column a user, the users of a data set in one order."""

FLOORS = (
    ("llamarec", "random-order"),
    ("llamarec", "popularity-order"),
    ("llamarec", "title-overlap"),
    ("llamarec-with-retriever", "title-overlap-with-retriever"),
)
"""A method, and an order of the candidates without a language model that it has to beat."""


@dataclass
class Tables:
    """The tables of one profile that follow from committed ranks, answers and records under ``root``.

    ``seed`` is that of the bootstrap, and of the ranker whose variants were compared; ``None`` takes the profile's.
    """

    profile: Profile
    root: Path
    seed: int | None = None

    BY_HASH = ("table2", "title_words", "ranker_", "strategies_training_", "ties", "validation_as_published")
    """How the names begin of tables that their hashes alone hold: they follow from data sets, times, or orders of ties
    that are at hand no more; ``ranker_…`` are parts of ``ranker``."""

    def names(self) -> list[str]:
        """Return the names of all tables, also of those whose runs are missing."""
        return list(self._recipes)

    def make(self, name: str) -> pd.DataFrame:
        """Compute a table by the name of its file."""
        return self._recipes[name]()

    @cached_property
    def _recipes(self) -> dict[str, Callable[[], pd.DataFrame]]:
        profile, root, seed = self.profile, self.root, self.profile.seed if self.seed is None else self.seed
        sampling = {"samples": profile.evaluation.bootstrap_samples, "seed": seed}
        folder, paper, chosen = root / "results" / profile.name, root / "results" / "published", list(profile.datasets)
        published = evaluation.published(paper)
        read = {"retriever": profile.retriever.method, "candidates": profile.ranker.candidates}
        ablations = load_ablations(folder, seed=seed, datasets=chosen)
        # each is computed once, and only if it is asked for
        answers = cache(lambda: load_answers(folder, datasets=chosen))
        ranks = cache(lambda: load_ranks(folder, datasets=chosen))
        of_grid = cache(lambda: load_ranks(folder / "grid", datasets=chosen))
        study = cache(lambda: results_table(*ranks(), published=published, **read, **sampling))
        ranking = cache(lambda: ranking_tests(*ranks(), **read, **sampling))
        pairs = cache(lambda: pairs_table(*of_grid(), **sampling))
        compared = cache(lambda: strategies.strategies_table(answers(), **sampling))

        def variants() -> pd.DataFrame:
            of_each = ablations.items()
            return pd.concat(ablation_table(*found, dataset=name, **sampling) for name, found in of_each)

        def noise() -> pd.DataFrame:
            ties = folder / "tables" / "ties.csv"
            orders = pd.read_csv(ties) if ties.is_file() else pd.DataFrame()
            return noise_table(of_grid()[0], orders, published=published, **sampling)

        def claims() -> pd.DataFrame:
            comparisons = {"sampled": strategies.claimed_pairs(answers(), **sampling)} if answers() else {}
            comparisons |= {"retrieval": pairs()} if of_grid()[0] else {}
            comparisons |= {"ranking": ranking()} if ranks()[0] else {}
            share = trainable_share(LLAMA_2_7B, load_profile(find_profile("paper", root=root)).ranker)
            times = evaluation.measured_inference_times(root / "results" / "bench")
            scale = profile.ranker.backbone
            return evaluation.claims_table(paper, comparisons, scale=scale, trainable_share=share, times=times)

        return {
            "table1": lambda: study()[study()["subset"] == "all"],
            "table3": lambda: study()[study()["subset"] == "retrieved"],
            "comparison": lambda: ranking()[ranking()["reference"] == read["retriever"]],
            "floors": lambda: ranking()[ranking()["reference"] != read["retriever"]],
            **({"ranker": variants} if ablations else {}),
            "grid": lambda: grid_table(profile, root=root),
            "table1_retrieval": lambda: retrieval_table(*of_grid(), published=published, **sampling),
            "retrieval_pairs": pairs,
            "noise": noise,
            "strategies": compared,
            "strategy_pairs": lambda: strategies.strategy_pairs(answers(), **sampling),
            "table4": lambda: strategies.table4(compared(), published=evaluation.published_llm_baselines(paper)),
            "key_differences": lambda: strategies.differences_table(compared()),
            "claims": claims,
            **{
                f"consistency_{name}": lambda table=table: table
                for name, table in evaluation.consistency_tables(paper).items()
            },
        }


def results_table(
    ranks: Ranks, commit: str, *, published: pd.DataFrame, retriever: str = "", candidates: int = 20, **sampling: int
) -> pd.DataFrame:
    """Compute every metric of every method (Tables 1 and 3), beside what the paper prints.

    A target is retrieved if the ``retriever`` ranks it among this many ``candidates``; without one, all users count.
    """
    runs, rows = by_method(ranks), []
    printed = published.set_index(["dataset", "method", "metric", "subset"])["value"]
    for dataset, method in runs:
        made = {"seeds": len(runs[dataset, method]), "commit": commit}
        for (metric, subset), values in _values(runs, dataset, method, retriever, candidates).items():
            row = {"dataset": dataset, "method": method, "metric": metric, "subset": subset}
            row["published"] = printed.get((dataset, METHOD_NAMES.get(method), metric, subset), np.nan)
            rows.append(row | estimate(values, **sampling)._asdict() | {"users": len(values)} | made)
    return pd.DataFrame(rows)


def statistics_table(
    statistics: Mapping[str, Mapping[str, float]], *, published: pd.DataFrame, commit: str
) -> pd.DataFrame:
    """Set the statistics of data sets after preprocessing beside the paper's Table 2, by ``quantity``."""
    printed = published.melt("dataset", var_name="quantity", value_name="published")
    quantities = printed["quantity"].unique()
    rows = [(name, of, float(numbers[of])) for name, numbers in statistics.items() for of in quantities]
    table = pd.DataFrame(rows, columns=["dataset", "quantity", "measured"]).merge(printed, how="left")
    return table[["dataset", "quantity", "published", "measured"]].assign(commit=commit)


def ranking_tests(ranks: Ranks, commit: str, *, retriever: str, **options: int) -> pd.DataFrame:
    """Compare every method with the retriever's order, and the pairs of :data:`FLOORS` in the primary metric."""
    runs = by_method(ranks)
    pairs = [(dataset, method, retriever) for dataset, method in runs if method != retriever]
    if not pairs:
        raise InputError(f"There is nothing to compare with {retriever}: give the ranks of another method too.")
    for dataset, floor in product(dict.fromkeys(dataset for dataset, _ in runs), FLOORS):
        pairs += [(dataset, *floor)] if {(dataset, method) for method in floor} <= runs.keys() else []
    return _compared(runs, pairs, retriever=retriever, **options).assign(commit=commit)


def retrieval_table(ranks: Ranks, commit: str, *, published: pd.DataFrame, **sampling: int) -> pd.DataFrame:
    """Set every retriever's metrics over all users beside the paper's Table 1, with the deviation over its seeds."""
    table, runs = results_table(ranks, commit, published=published, **sampling), by_method(ranks)
    return table.assign(
        difference=table["measured"] - table["published"],
        seed_sd=[_seed_sd(runs[row.dataset, row.method], row.metric) for row in table.itertuples()],
        published_in_interval=table["published"].between(table["ci_low"], table["ci_high"]),
        at_or_above=table["measured"] >= table["published"],
    )


def reached_table(table: pd.DataFrame) -> pd.DataFrame:
    """Count, for each method, the cells of :func:`retrieval_table` in which the published value is reached."""
    table = table[table["published"].notna()]
    table = table.assign(either=table["at_or_above"] | table["published_in_interval"], cells=1)
    columns = {"at_or_above": "at or above", "published_in_interval": "inside the interval"}
    counts = table.groupby("method")[["cells", *columns, "either"]].sum().reindex(in_order(table["method"]))
    return counts.astype(int).rename(index=display_name, columns=columns).reset_index()


def pairs_table(ranks: Ranks, commit: str, **sampling: int) -> pd.DataFrame:
    """Compare every two retrievers of a data set on all users, each with the mean over its seeds."""
    runs = by_method(ranks)
    pairs = [(one[0], other[1], one[1]) for one, other in combinations(runs, 2) if one[0] == other[0]]
    if not pairs:
        raise InputError("There are no two retrievers to compare: run `make grid` first.")
    return _compared(runs, pairs, **sampling).drop(columns="seeds").assign(commit=commit)


def noise_table(ranks: Ranks, ties: pd.DataFrame, *, published: pd.DataFrame, **sampling: int) -> pd.DataFrame:
    """Give the ``size`` of each ``source`` of noise in LRURec's metrics, and of the gaps that the paper reports.

    For *users* it is half the width of the first seed's 95 % interval; for *seeds* 1.96 standard deviations; for *ties*
    half the range over the orders of events with one timestamp, in which a model was ``trained`` and ``tested``.
    A data set without LRURec is left out.
    """
    printed = published[published["subset"] == "all"].set_index(["dataset", "method", "metric"])["value"]
    runs, rows = by_method(ranks), []
    with_lrurec = [dataset for dataset, method in runs if method == "lrurec"]
    if not with_lrurec:
        raise InputError("No ranks are of lrurec, of which noise is measured: train its grid first (`make grid`).")
    for dataset, metric in product(with_lrurec, QUOTED):
        own = _of_seeds(runs, dataset, "lrurec")
        found = estimate(per_user(own.iloc[0], metric), **sampling)
        sizes = {"users": (found.ci_high - found.ci_low) / 2, "seeds": 1.96 * _seed_sd(own, metric)}
        if len(ties):
            orders = ties[(ties["dataset"] == dataset) & (ties["metric"] == metric)]
            sizes["ties, tested"] = _half_range(orders[orders["trained"] == orders["trained"].min()])
            sizes["ties, trained and tested"] = _half_range(orders[orders["trained"] == orders["tested"]])
        for better, worse in (("LRURec", "SASRec"), ("LlamaRec", "LRURec")):
            values = [printed.get((dataset, method, metric), np.nan) for method in (better, worse)]
            sizes[f"published: {better} − {worse}"] = values[0] - values[1]
        case = {"dataset": dataset, "metric": metric}
        rows += [case | {"source": source, "size": size} for source, size in sizes.items() if pd.notna(size)]
    return pd.DataFrame(rows)


def ablation_table(ranks: pd.DataFrame, commit: str, *, dataset: str, **sampling: int) -> pd.DataFrame:
    """Compare the variants of each group (:meth:`llamarec_core.ranking.Ablation.ranks`) with the group's first.

    ``first_label`` is the share of prompts answered with the first label; it is empty where no prompt was read.
    """
    rows = []
    frames = dict(iter(ranks.groupby(["group", "variant"], sort=False)))
    references = ranks.groupby("group")["variant"].first()
    for (group, variant), frame in frames.items():
        _refuse_other_users(frame, next(iter(frames.values())), f"ranks of {variant!r} ({group})")
        values, reference = per_user(frame["rank"], PRIMARY), references[group]
        row = {"dataset": dataset, "group": group, "method": variant, "reference": reference, "metric": PRIMARY}
        row |= {"subset": "retrieved", "published": np.nan} | estimate(values, **sampling)._asdict()
        row |= dict.fromkeys(["difference", "difference_low", "difference_high", "p_value", "detectable"], np.nan)
        if variant != reference:
            found = difference(values, per_user(frames[group, reference]["rank"], PRIMARY), **sampling)._asdict()
            row |= {"difference_low": found.pop("ci_low"), "difference_high": found.pop("ci_high")} | found
        row["first_label"] = (frame["answer"] == 1).mean() if frame["answer"].any() else np.nan
        rows.append(row | {"users": len(frame), "seeds": 1, "commit": commit})
    return corrected(pd.DataFrame(rows)).drop(columns="p_value")


def by_method(ranks: Ranks) -> Runs:
    """Gather the seeds of each method; data sets as they come, methods in the order of every table."""
    if not ranks:
        raise InputError("There are no ranks to make a table from: run the retriever and the ranker first.")
    runs = {}
    for dataset in dict.fromkeys(dataset for dataset, _, _ in ranks):
        own = {key[1:]: frame.sort_values("user") for key, frame in ranks.items() if key[0] == dataset}
        for (method, seed), frame in own.items():
            words = f"ranks of {method} on {dataset} with seed {seed}"
            if frame.empty:
                raise InputError(f"The {words} hold no user: run the step that writes them again.")
            _refuse_other_users(frame, next(iter(own.values())), words)
        table = pd.DataFrame({key: own[key]["rank"].to_numpy() for key in sorted(own)}).T  # (methods × seeds, users)
        runs |= {(dataset, method): table.loc[method] for method in in_order(method for method, _ in own)}
    return runs


def _refuse_other_users(frame: pd.DataFrame, expected: pd.DataFrame, words: str) -> None:
    if not np.array_equal(frame[["user", "target"]], expected[["user", "target"]]):
        problem = f"The {words} hold other users or targets than the others of the data set"
        raise InputError(f"{problem}: make all from the same data and split.")


def _of_seeds(runs: Runs, dataset: str, method: str, like: str = "") -> pd.DataFrame:
    """Return a method's ranks, with the seeds of another or with all of its own."""
    own = runs.get((dataset, method), pd.DataFrame())
    seeds = runs[dataset, like or method].index
    for seed in seeds.difference(own.index):
        missing = f"The ranks of {method} on {dataset} with seed {seed} are missing, which others are held against"
        raise InputError(f"{missing}: run that method with that seed first.")
    return own.loc[seeds]


def _values(
    runs: Runs, dataset: str, method: str, retriever: str = "", candidates: int = 20, *, like: str = ""
) -> dict[tuple[str, str], np.ndarray]:
    """Return one value a user by metric and subset, with a method's own seeds or those of another, ``like``."""
    own = _of_seeds(runs, dataset, method, like).to_numpy()
    subsets = {"all": np.ones_like(own, dtype=bool)}
    if retriever:
        retrieved = _of_seeds(runs, dataset, retriever, like or method).to_numpy() <= candidates
        subsets |= {"retrieved": retrieved} if retrieved.any(axis=1).all() else {}
    return {
        (metric, subset): over_seeds(per_user(own, metric), members)
        for (subset, members), metric in product(subsets.items(), METRICS)
    }


def _compared(
    runs: Runs, pairs: Iterable[tuple[str, str, str]], *, retriever: str = "", candidates: int = 20, **sampling: int
) -> pd.DataFrame:
    """Compare pairs (data set, method, reference); with a retriever, both count with the seeds of the first."""
    rows = []
    for dataset, method, reference in pairs:
        ours = _values(runs, dataset, method, retriever, candidates)
        theirs = _values(runs, dataset, reference, retriever, candidates, like=method if retriever else "")
        for (metric, subset), values in ours.items():
            if (method, reference) in FLOORS and (metric, subset) != (PRIMARY, "retrieved"):
                continue
            row = {"dataset": dataset, "method": method, "reference": reference, "metric": metric, "subset": subset}
            row |= difference(values, theirs[metric, subset], **sampling)._asdict()
            rows.append(row | {"users": len(values), "seeds": len(runs[dataset, method])})
    return corrected(pd.DataFrame(rows))


def _seed_sd(ranks: pd.DataFrame, metric: str) -> float:
    """Return the standard deviation over seeds of a metric; NaN of one seed."""
    return float(pd.Series(per_user(ranks, metric).mean(axis=1)).std())


def _half_range(orders: pd.DataFrame) -> float:
    return np.ptp(orders["measured"]) / 2 if len(orders) > 1 else np.nan
