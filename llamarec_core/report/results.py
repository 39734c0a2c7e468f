"""The tables that follow from ranks: the paper's Tables 1 to 3 beside ours, paired comparisons, noise, variants.

Tables are tidy, one number a row: ``dataset``, ``method``, ``metric``, ``subset`` (``all`` users, or those whose target
the retriever ``retrieved``), the number with the ends of its 95 % bootstrap interval, ``users``, ``seeds`` (how many),
and the ``commit`` that measured it. A method with several seeds counts as the mean over its seeds. ``sampling`` is the
number of bootstrap ``samples``, which is that of sign flips too, and the ``seed`` of both.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation.metrics import METRICS, PRIMARY, corrected, difference, estimate, over_seeds, per_user
from llamarec_core.files import InputError, read_json
from llamarec_core.provenance import commit_name
from llamarec_core.report.forms import METHOD_NAMES, QUOTED, display_name, in_order

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


def results_table(
    ranks: Ranks, commit: str, *, published: pd.DataFrame, retriever: str = "", candidates: int = 20, **sampling: int
) -> pd.DataFrame:
    """Compute every metric of every method (Tables 1 and 3), beside what the paper prints.

    A target is retrieved if the ``retriever`` ranks it among this many ``candidates``; without one, all users count. A
    subset without users has no rows.
    """
    runs, rows = by_method(ranks), []
    printed = published.set_index(["dataset", "method", "metric", "subset"])["value"]
    for dataset, method in runs:
        own = _stacked(runs, dataset, method)
        for (subset, members), metric in product(_subsets(runs, dataset, method, retriever, candidates), METRICS):
            case = {"dataset": dataset, "method": method, "metric": metric, "subset": subset}
            case["published"] = printed.get((dataset, METHOD_NAMES.get(method), metric, subset), np.nan)
            values = over_seeds(per_user(own, metric), members)
            found = estimate(values, **sampling)._asdict()
            rows.append(case | found | {"users": len(values), "seeds": len(own), "commit": commit})
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
    """Compare every method with the retriever's order, and the pairs of :data:`FLOORS` in the primary metric.

    The primary tests of a data set, among users whose target was retrieved, are one family for ``p_holm``.
    """
    runs = by_method(ranks)
    pairs = [(dataset, method, retriever) for dataset, method in runs if method != retriever]
    if not pairs:
        raise InputError(f"There is nothing to compare with {retriever}: give the ranks of another method too.")
    floors = [(dataset, *pair) for dataset, pair in product(_datasets(ranks), FLOORS)]
    floors = [pair for pair in floors if {pair[:2], pair[::2]} <= runs.keys()]
    rows = list(_compare(runs, pairs, retriever=retriever, **options))
    found = _compare(runs, floors, retriever=retriever, **options)
    rows += [row for row in found if row["subset"] == "retrieved"]
    return corrected(pd.DataFrame(rows)).assign(commit=commit)


def retrieval_table(ranks: Ranks, commit: str, *, published: pd.DataFrame, **sampling: int) -> pd.DataFrame:
    """Set every retriever's metrics over all users beside the paper's Table 1.

    ``seed_sd`` is the standard deviation over seeds, NaN with one; ``at_or_above`` says whether measured ≥ published.
    """
    table, runs = results_table(ranks, commit, published=published, **sampling), by_method(ranks)
    return table.assign(
        difference=table["measured"] - table["published"],
        seed_sd=[_seed_sd(_stacked(runs, row.dataset, row.method), row.metric) for row in table.itertuples()],
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
    table = pd.DataFrame(_compare(runs, pairs, **sampling))
    return corrected(table.drop(columns="seeds")).assign(commit=commit)


def noise_table(ranks: Ranks, ties: pd.DataFrame, *, published: pd.DataFrame, **sampling: int) -> pd.DataFrame:
    """Give the ``size`` of each ``source`` of noise in LRURec's metrics, and of the gaps that the paper reports.

    For *users* the size is half the width of the 95 % interval of the first seed's run; for *seeds* 1.96 standard
    deviations over the seeds; for ties half the range over the data set's orders, of one model tested under each, or of
    a model for each order, trained and tested under it. A gap's size is the published difference.

    ``ties`` says what the order of events with one timestamp changes: ``dataset``, ``trained`` and ``tested`` (orders),
    ``metric``, ``measured``; it may be empty.
    """
    printed = published[published["subset"] == "all"].set_index(["dataset", "method", "metric"])["value"]
    runs, rows = by_method(ranks), []
    for dataset, metric in product(_datasets(ranks), QUOTED):
        own = _stacked(runs, dataset, "lrurec")
        found = estimate(per_user(own[0], metric), **sampling)
        sizes = {"users": (found.ci_high - found.ci_low) / 2, "seeds": 1.96 * _seed_sd(own, metric)}
        if len(ties):
            orders = ties[(ties["dataset"] == dataset) & (ties["metric"] == metric)]
            sizes["ties, tested"] = _half_range(orders[orders["trained"] == orders["trained"].min()])
            sizes["ties, trained and tested"] = _half_range(orders[orders["trained"] == orders["tested"]])
        for better, worse in (("LRURec", "SASRec"), ("LlamaRec", "LRURec")):
            of_both = printed.reindex([(dataset, better, metric), (dataset, worse, metric)])
            sizes[f"published: {better} − {worse}"] = of_both.iloc[0] - of_both.iloc[1]
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


def training_table(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Say what each tuning read, how long it took and what it reached: its name → where ``fit_ranker`` left it.

    ``answers`` counts next items, ``seconds`` include validations; ``reached`` is the validation NDCG@10 of the adapter
    kept, with the retriever's score added in ``reached_with_retriever``.
    """
    rows = []
    for name, folder in folders.items():
        last, kept = pd.read_csv(folder / "training.csv").iloc[-1], read_json(folder / "ranker.json")["best"]
        made = read_json(folder / "circumstances.json")
        row = {"tuning": name, "answers": int(last["answers"]), "tokens": int(last["tokens"])}
        row |= {"seconds": last["seconds"], "tokens_per_second": last["tokens"] / last["seconds"]}
        row |= {"reached": kept["ndcg@10"], "reached_with_retriever": kept.get("ndcg@10_with_retriever")}
        row |= {"peak_memory_mib": made["peak_memory_mib"]}
        rows.append(row | {"commit": commit_name(made)})
    return pd.DataFrame(rows)


def by_method(ranks: Ranks) -> Runs:
    """Gather the seeds of each method; data sets as they come, methods in the order of every table."""
    if not ranks:
        raise InputError("There are no ranks to make a table from: run the retriever and the ranker first.")
    runs = {}
    for dataset in _datasets(ranks):
        own = {key[1:]: frame.sort_values("user") for key, frame in ranks.items() if key[0] == dataset}
        for (method, seed), frame in own.items():
            words = f"ranks of {method} on {dataset} with seed {seed}"
            if frame.empty:
                raise InputError(f"The {words} hold no user: run the step that writes them again.")
            _refuse_other_users(frame, next(iter(own.values())), words)
        table = pd.DataFrame({key: own[key]["rank"].to_numpy() for key in sorted(own)}).T  # (methods × seeds, users)
        runs |= {(dataset, method): table.loc[method] for method in in_order(method for method, _ in own)}
    return runs


def _datasets(ranks: Ranks) -> list[str]:
    return list(dict.fromkeys(dataset for dataset, _, _ in ranks))


def _refuse_other_users(frame: pd.DataFrame, expected: pd.DataFrame, words: str) -> None:
    if not np.array_equal(frame[["user", "target"]], expected[["user", "target"]]):
        raise InputError(
            f"The {words} hold other users or targets than the others of the data set: make all from the same data "
            "and split."
        )


def _stacked(runs: Runs, dataset: str, method: str, like: str = "") -> np.ndarray:
    """Return a method's ranks ``(seeds, users)``, with the seeds of another or with all of its own."""
    own = runs.get((dataset, method), pd.DataFrame())
    seeds = runs[dataset, like or method].index
    for seed in seeds.difference(own.index):
        raise InputError(
            f"The ranks of {method} on {dataset} with seed {seed} are missing, which others are held against: run "
            "that method with that seed first."
        )
    return own.loc[seeds].to_numpy()


def _subsets(
    runs: Runs, dataset: str, method: str, retriever: str, candidates: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the subsets that have users with every seed of a method, each as bool ``(seeds, users)``."""
    retrieved = _stacked(runs, dataset, retriever or method, like=method) <= candidates
    yield "all", np.ones_like(retrieved)
    if retriever and retrieved.any(axis=1).all():
        yield "retrieved", retrieved


def _compare(
    runs: Runs, pairs: Iterable[tuple[str, str, str]], *, retriever: str = "", candidates: int = 20, **sampling: int
) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of pairs (data set, method, reference) on the same users.

    With a retriever, both methods count with the seeds of the first. Without one, each counts with its own.
    """
    for dataset, method, reference in pairs:
        own = _stacked(runs, dataset, method)
        other = _stacked(runs, dataset, reference, like=method if retriever else "")
        metrics = [PRIMARY] if (method, reference) in FLOORS else METRICS
        for (subset, members), metric in product(_subsets(runs, dataset, method, retriever, candidates), metrics):
            values = over_seeds(per_user(own, metric), members)
            of_other = members if retriever else np.ones(other.shape, dtype=bool)
            found = difference(values, over_seeds(per_user(other, metric), of_other), **sampling)._asdict()
            row = {"dataset": dataset, "method": method, "reference": reference, "metric": metric, "subset": subset}
            yield row | found | {"users": len(values), "seeds": len(own)}


def _seed_sd(ranks: np.ndarray, metric: str) -> float:
    """Return the standard deviation over seeds of a metric; NaN of one seed."""
    return float(pd.Series(per_user(ranks, metric).mean(axis=1)).std())


def _half_range(orders: pd.DataFrame) -> float:
    return np.ptp(orders["measured"]) / 2 if len(orders) > 1 else np.nan
