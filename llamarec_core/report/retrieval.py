"""The tables of retrieval: five retrievers beside the paper's, and how much of a difference is noise."""

from itertools import combinations, product

import numpy as np
import pandas as pd

from llamarec_core.evaluation.estimates import corrected, estimate
from llamarec_core.evaluation.metrics import per_user
from llamarec_core.files import InputError
from llamarec_core.report.forms import display_name, in_order
from llamarec_core.report.results import Ranks, compare, results_table, stacked

QUOTED = ("NDCG@10", "Recall@10")
"""The metrics that figures show; the tables hold all six."""


def retrieval_table(ranks: Ranks, *, published: pd.DataFrame, samples: int, seed: int, commit: str) -> pd.DataFrame:
    """Set every retriever's metrics over all users beside the paper's Table 1.

    Args:
        ranks, published, samples, seed, commit: as for :func:`~llamarec_core.report.results.results_table`.

    Returns:
        The columns of :func:`~llamarec_core.report.results.results_table`, and ``difference`` (measured − published),
        ``seed_sd`` (standard deviation over seeds, NaN with one), ``published_in_interval`` and ``at_or_above``
        (whether measured ≥ published).
    """
    table = results_table(ranks, published=published, samples=samples, seed=seed, commit=commit)
    table = table[table["subset"] == "all"].reset_index(drop=True)
    deviations = [_seed_sd(stacked(ranks, row.dataset, row.method), row.metric) for row in table.itertuples()]
    return table.assign(
        difference=table["measured"] - table["published"],
        seed_sd=deviations,
        published_in_interval=table["published"].between(table["ci_low"], table["ci_high"]),
        at_or_above=table["measured"] >= table["published"],
    )


def reached_table(table: pd.DataFrame) -> pd.DataFrame:
    """Count, for each method, in how many cells of :func:`retrieval_table` the published value is reached.

    Returns:
        ``method``, ``cells`` that the paper prints, ``at or above`` the published value, ``inside the interval``,
        ``either``.
    """
    table = table[table["published"].notna()]
    table = table.assign(either=table["at_or_above"] | table["published_in_interval"], cells=1)
    columns = {"at_or_above": "at or above", "published_in_interval": "inside the interval"}
    counts = table.groupby("method")[["cells", *columns, "either"]].sum().reindex(in_order(table["method"]))
    return counts.astype(int).rename(index=display_name, columns=columns).reset_index()


def pairs_table(ranks: Ranks, *, samples: int, seed: int, commit: str) -> pd.DataFrame:
    """Compare every two retrievers on all users, each with the mean over its seeds.

    Returns:
        The columns of :func:`~llamarec_core.report.results.compare` but ``seeds``, ``p_holm`` (over the pairs of a data
        set in the primary metric) and ``commit``.

    Raises:
        InputError: no data set has the ranks of two retrievers.
    """
    pairs = []
    for dataset in dict.fromkeys(name for name, _, _ in ranks):
        methods = in_order(method for name, method, _ in ranks if name == dataset)
        pairs += [(dataset, method, reference) for reference, method in combinations(methods, 2)]
    if not pairs:
        raise InputError("There are no two retrievers to compare: run `make grid` first.")
    table = pd.DataFrame(compare(ranks, pairs, samples=samples, seed=seed))
    return corrected(table.drop(columns="seeds")).assign(commit=commit)


def noise_table(ranks: Ranks, ties: pd.DataFrame, *, published: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Set the sources of noise in LRURec's metrics beside the gaps that the paper reports.

    Args:
        ranks, published, samples, seed: as for :func:`retrieval_table`.
        ties: what the order of events with one timestamp changes: ``dataset``, ``trained`` and ``tested`` (orders),
            ``metric``, ``measured``; may be empty.

    Returns:
        ``dataset``, ``metric``, ``source``, ``size``. For *users* the size is half the width of the 95 % interval of
        the first seed's run; for *seeds* 1.96 standard deviations over the seeds; for ties half the range over the data
        set's orders, of one model tested under each, or of a model for each order, trained and tested under it. A
        gap's size is the published difference.
    """
    printed = published[published["subset"] == "all"].set_index(["dataset", "method", "metric"])["value"]
    rows = []
    for dataset, metric in product(dict.fromkeys(name for name, _, _ in ranks), QUOTED):
        own = stacked(ranks, dataset, "lrurec")
        found = estimate(per_user(own[0], metric), samples=samples, seed=seed)
        sizes = {"users": (found.ci_high - found.ci_low) / 2, "seeds": 1.96 * _seed_sd(own, metric)}
        orders = ties[(ties["dataset"] == dataset) & (ties["metric"] == metric)] if len(ties) else ties
        if len(orders):
            sizes["ties, tested"] = _half_range(orders[orders["trained"] == orders["trained"].iloc[0]]["measured"])
            own_order = orders["trained"] == orders["tested"]
            sizes["ties, trained and tested"] = _half_range(orders.loc[own_order, "measured"])
        for better, worse in (("LRURec", "SASRec"), ("LlamaRec", "LRURec")):
            gap = printed.get((dataset, better, metric), np.nan) - printed.get((dataset, worse, metric), np.nan)
            sizes[f"published: {better} − {worse}"] = gap
        case = {"dataset": dataset, "metric": metric}
        rows += [case | {"source": source, "size": size} for source, size in sizes.items() if pd.notna(size)]
    return pd.DataFrame(rows)


def _seed_sd(ranks: np.ndarray, metric: str) -> float:
    """Return the standard deviation over seeds of a metric; NaN of one seed."""
    return float(pd.Series(per_user(ranks, metric).mean(axis=1)).std())


def _half_range(values: pd.Series) -> float:
    return (values.max() - values.min()) / 2 if len(values) > 1 else np.nan
