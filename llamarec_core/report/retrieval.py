"""The tables of the retrieval pages: four retrievers beside the paper's, and how much of it is noise.

Like the study's other tables these are tidy and follow from ranks files and the grid's records alone.
"""

from collections.abc import Mapping
from itertools import combinations, product

import numpy as np
import pandas as pd

from llamarec_core.evaluation import bootstrap_interval, per_user
from llamarec_core.files import InputError
from llamarec_core.report.methods import AS_PUBLISHED, display_name, in_order
from llamarec_core.report.pairs import compare, corrected
from llamarec_core.report.tables import Ranks, results_table, seeds_of

QUOTED = ("NDCG@10", "Recall@10")
"""The metrics that figures show; the tables hold all six."""


def retrieval_table(ranks: Ranks, *, published: pd.DataFrame, samples: int, seed: int, commit: str) -> pd.DataFrame:
    """Set every retriever's metrics over all users beside the paper's Table 1.

    Args:
        ranks: (data set, method, seed) → ranks file; LRURec's for every seed.
        published: what :func:`llamarec_core.evaluation.published` loads.
        samples: bootstrap samples behind each interval.
        seed: of the bootstrap.
        commit: the commit that the ranks were made with.

    Returns:
        The columns of :func:`~llamarec_core.report.tables.results_table`, and ``difference`` (measured −
        published), ``seed_sd`` (standard deviation over seeds, NaN with one), ``published_in_interval`` and
        ``at_or_above`` (whether measured ≥ published).
    """
    table = results_table(ranks, published=published, samples=samples, seed=seed, commit=commit)
    table = table[table["subset"] == "all"].reset_index(drop=True)
    deviations = []
    for row in table.itertuples():
        runs = [frame["rank"] for key, frame in ranks.items() if key[:2] == (row.dataset, row.method)]
        deviations.append(pd.Series([per_user(run, row.metric).mean() for run in runs]).std())
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
    rows = []
    for method in in_order(table["method"]):
        cells = table[table["method"] == method]
        rows.append(
            {
                "method": display_name(method),
                "cells": len(cells),
                "at or above": int(cells["at_or_above"].sum()),
                "inside the interval": int(cells["published_in_interval"].sum()),
                "either": int((cells["at_or_above"] | cells["published_in_interval"]).sum()),
            }
        )
    return pd.DataFrame(rows)


def pairs_table(ranks: Ranks, *, samples: int, seed: int, commit: str) -> pd.DataFrame:
    """Compare every two retrievers on the same users, each with its values averaged over its seeds.

    Returns:
        ``dataset``, ``method``, ``reference``, ``metric``, ``subset`` (``all``), ``difference`` (method − reference),
        ``ci_low``, ``ci_high`` (95 % bootstrap over users), ``p_value`` (sign-flip permutation test), ``p_holm``
        (Holm's correction over all pairs and metrics of one data set), ``users``, ``commit``.

    Raises:
        InputError: no data set has the ranks of two retrievers.
    """
    rows = []
    for dataset in dict.fromkeys(name for name, _, _ in ranks):
        methods = in_order(method for name, method, _ in ranks if name == dataset)
        rows += compare(ranks, dataset, combinations(methods, 2), samples=samples, seed=seed)
    if not rows:
        raise InputError("There are no two retrievers to compare: run `make grid` first.")
    return corrected(rows, commit=commit)


def validation_table(ranks: Ranks, *, samples: int, seed: int, commit: str) -> pd.DataFrame:
    """Compare LRURec validated as published, with the history competing, to LRURec validated as tested.

    Returns:
        The columns of :func:`pairs_table`, Holm's correction being over the metrics of a data set; no row where
        nothing was validated as published.
    """
    rows = []
    for dataset, method, number in ranks:
        if method.endswith(AS_PUBLISHED):
            same_seed = {key: frame for key, frame in ranks.items() if key[0] == dataset and key[2] == number}
            pair = (method.removesuffix(AS_PUBLISHED), method)
            rows += compare(same_seed, dataset, [pair], samples=samples, seed=seed)
    return corrected(rows, commit=commit)


def ties_table(ranks: Mapping[tuple[str, str, str], pd.DataFrame], *, samples: int, seed: int) -> pd.DataFrame:
    """Say what the order of events with one timestamp changes, when it is trained under and when it is tested under.

    Args:
        ranks: (data set, order trained under, order tested under) → ranks file.
        samples: bootstrap samples behind each interval.
        seed: of the bootstrap.

    Returns:
        ``dataset``, ``trained``, ``tested``, ``metric``, ``measured``, ``ci_low``, ``ci_high``, ``users``, and
        ``same_target``: the share of users whose test item is the one that the order trained under leaves.
    """
    rows = []
    for (dataset, trained, tested), frame in ranks.items():
        own = ranks.get((dataset, trained, trained), frame)
        for metric in QUOTED:
            values = per_user(frame["rank"], metric)
            low, high = bootstrap_interval(values, samples=samples, seed=seed)
            rows.append(
                {
                    "dataset": dataset,
                    "trained": trained,
                    "tested": tested,
                    "metric": metric,
                    "measured": values.mean(),
                    "ci_low": low,
                    "ci_high": high,
                    "users": len(frame),
                    "same_target": float((frame["target"].to_numpy() == own["target"].to_numpy()).mean()),
                }
            )
    return pd.DataFrame(rows)


def noise_table(ranks: Ranks, ties: pd.DataFrame, *, published: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Set the sources of noise in LRURec's metrics beside the gaps that the paper reports.

    Args:
        ranks: as for :func:`retrieval_table`.
        ties: from :func:`ties_table`; may be empty.
        published: what :func:`llamarec_core.evaluation.published` loads.
        samples: bootstrap samples behind each interval.
        seed: of the bootstrap.

    Returns:
        ``dataset``, ``metric``, ``source``, ``size``. For *users* the size is half the width of the 95 % interval of
        the first seed's run; for *seeds* 1.96 standard deviations over the seeds; for ties half the range over the data
        set's orders, of one model tested under each, or of a model for each order, trained and tested under it. A
        gap's size is the published difference.
    """
    printed = published[published["subset"] == "all"].set_index(["dataset", "method", "metric"])["value"]
    rows = []
    for dataset, metric in product(dict.fromkeys(name for name, _, _ in ranks), QUOTED):
        runs = [ranks[dataset, "lrurec", number] for number in seeds_of(ranks, dataset, "lrurec")]
        values = [per_user(run["rank"], metric) for run in runs]
        low, high = bootstrap_interval(values[0], samples=samples, seed=seed)
        sizes = {"users": (high - low) / 2, "seeds": 1.96 * pd.Series([run.mean() for run in values]).std()}
        if len(ties):
            orders = ties[(ties["dataset"] == dataset) & (ties["metric"] == metric)]
            one_model = orders[orders["trained"] == orders["trained"].iloc[0]] if len(orders) else orders
            sizes["ties, tested"] = _half_range(one_model["measured"])
            sizes["ties, trained and tested"] = _half_range(
                orders.loc[orders["trained"] == orders["tested"], "measured"]
            )
        for better, worse in (("LRURec", "SASRec"), ("LlamaRec", "LRURec")):
            gap = printed.get((dataset, better, metric), np.nan) - printed.get((dataset, worse, metric), np.nan)
            sizes[f"published: {better} − {worse}"] = gap
        rows += [
            {"dataset": dataset, "metric": metric, "source": source, "size": size}
            for source, size in sizes.items()
            if pd.notna(size)
        ]
    return pd.DataFrame(rows)


def retrieval_sentences(table: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return what the opening page says of stage 1: what SASRec reaches here, and what of LRURec's lead over it.

    Args:
        table: from :func:`retrieval_table`.
        pairs: from :func:`pairs_table`.
    """
    reached = reached_table(table).set_index("method").reindex(["LRURec", "SASRec"]).dropna()
    counts = [f"{row['at or above']:.0f} of {method}'s {row['cells']:.0f}" for method, row in reached.iterrows()]
    leads = pairs[(pairs["method"] == "lrurec") & (pairs["reference"] == "sasrec") & (pairs["metric"] == QUOTED[0])]
    verdicts = {
        "beyond chance": leads[(leads["p_holm"] < 0.05) & (leads["difference"] > 0)],
        "within chance": leads[leads["p_holm"] >= 0.05],
        "reversed": leads[(leads["p_holm"] < 0.05) & (leads["difference"] < 0)],
    }
    found = [f"{verdict} on {' and '.join(rows['dataset'])}" for verdict, rows in verdicts.items() if len(rows)]
    text = f"**Stage 1 alone.** Trained here by one loop, {' and '.join(counts)} cells reach the value of Table 1."
    if found:
        text += f" LRURec's lead over SASRec in {QUOTED[0]} is {', '.join(found)}."
    return f"{text}\n"


def _half_range(values: pd.Series) -> float:
    return (values.max() - values.min()) / 2 if len(values) > 1 else np.nan
