"""What the published numbers alone say: whether they fit together, and how sure they can be.

Nothing is measured here. A table prints four decimals, rounded or cut off, and the paper does not say which: two values
contradict each other only where no true values behind them agree. All functions take what
:func:`~llamarec_core.evaluation.paper.published` loads, and ``users``: data set → number of users.
"""

import bisect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from llamarec_core.evaluation.metrics import METRICS
from llamarec_core.evaluation.paper import published, published_claims, published_llm_baselines, published_statistics

PRINTED = 0.0001
"""The last decimal of the paper's Tables 1 and 3."""

PRINTINGS = {"rounded": (-PRINTED / 2, PRINTED / 2), "cut": (0.0, PRINTED)}
"""How a value is printed → how far the true value can be from it, down and up."""

_EITHER = -PRINTED / 2, PRINTED
_LLM_BASED = ("P5", "PALR", "GPT4Rec", "RecMind", "POD")
_OWN = ("LRURec", "LlamaRec")
"""The methods that find no user's target whom LRURec did not retrieve."""


def consistency_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return each table below by its name without ``consistency_``, for the paper's numbers.

    Raises:
        InputError: a file of ``results/published`` or one of its columns is missing.
    """
    tables = published(folder)
    users = published_statistics(folder).set_index("dataset")["users"].astype(int)
    counts = retrieved_counts(tables, users)
    return {
        "shares": constant_shares(tables, counts),
        "counts": counts,
        "relative_gains": relative_gains(tables),
        "recalls": recall_counts(tables, users),
        "gains": gains_in_users(tables, users),
        "stated": stated_table(folder),
    }


def constant_shares(tables: pd.DataFrame, counts: pd.DataFrame) -> pd.DataFrame:
    """Divide Table 1 by Table 3, cell by cell, and say whether the quotients are as they must be.

    For K up to 20 a user whose target LRURec did not retrieve adds nothing to a metric @K of LRURec, nor of LlamaRec,
    which reorders what LRURec retrieved. So for these two each quotient is the share of users whose target was
    retrieved: one number a data set. Another method finds some of the other users' targets, and its quotients can only
    be larger.

    Args:
        tables: as above.
        counts: from :func:`retrieved_counts`.

    Returns:
        ``dataset``, ``method``, ``smallest``, ``largest`` (over the metrics), ``constant`` (whether one share is in the
        range of every metric, given rounding) and ``consistent``: for LRURec and LlamaRec whether some number of users
        fits, for the others whether no quotient is below LlamaRec's.
    """
    wide = tables.pivot_table("value", ["dataset", "method", "metric"], "subset", sort=False)
    down, up = PRINTINGS["rounded"]
    wide["share"] = wide["all"] / wide["retrieved"]
    wide["low"] = (wide["all"] + down) / (wide["retrieved"] + up)
    wide["high"] = (wide["all"] + up) / (wide["retrieved"] + down)
    groups = wide.groupby(["dataset", "method"], sort=False)
    found = groups["share"].agg(smallest="min", largest="max").reset_index()
    low, high = groups["low"].max(), groups["high"].min()
    fits = counts.groupby(["dataset", "method"])["fits"].sum()
    found["constant"] = (low <= high).to_numpy()
    found["consistent"] = [
        bool(fits[case] > 0) if case in fits.index else bool(high[case] >= low[case[0], "LlamaRec"])
        for case in low.index
    ]
    return found


def retrieved_counts(tables: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Find every number of retrieved users that LRURec's and LlamaRec's columns of Tables 1 and 3 allow.

    A Recall is a whole number of hits over a number of users, and the same hits stand in both tables: over all users in
    Table 1, over the N retrieved ones in Table 3. N fits if such hits exist for both Recalls, and if N over all is the
    quotient of the two tables in every metric.

    Returns:
        For each data set and method of the two, and each way of printing: ``dataset``, ``method``, ``printing``
        (:data:`PRINTINGS`), ``fits`` (how many N fit), ``fewest``, ``most`` (the least and largest N that fit; empty
        where none does).
    """
    wide = tables.pivot_table("value", ["dataset", "method", "metric"], "subset")
    rows = []
    for dataset in tables["dataset"].unique():
        for method in [method for method in _OWN if method in set(tables["method"])]:
            for printing, margins in PRINTINGS.items():
                fitting = _fitting(wide.loc[(dataset, method)], int(users[dataset]), *margins)
                row = {"dataset": dataset, "method": method, "printing": printing, "fits": len(fitting)}
                rows.append(row | ({"fewest": fitting.min(), "most": fitting.max()} if len(fitting) else {}))
    columns = ["dataset", "method", "printing", "fits", "fewest", "most"]
    return pd.DataFrame(rows, columns=columns).astype({"fewest": "Int64", "most": "Int64"})


def _fitting(cells: pd.DataFrame, users: int, down: float, up: float) -> np.ndarray:
    """Return the numbers of retrieved users that fit; ``cells`` has ``all`` and ``retrieved`` by metric."""
    down, up = down - 1e-9, up + 1e-9  # printed values are decimal, their doubles are not
    counts = np.arange(1, users + 1)
    low = ((cells["all"] + down) / (cells["retrieved"] + up)).max()
    high = ((cells["all"] + up) / (cells["retrieved"] + down)).min()
    fits = (counts / users >= low) & (counts / users <= high)
    for cell in cells[cells.index.str.startswith("Recall")].itertuples():
        fewest = np.maximum(np.ceil((cell.all + down) * users), np.ceil((cell.retrieved + down) * counts))
        fits &= fewest <= np.minimum(np.floor((cell.all + up) * users), np.floor((cell.retrieved + up) * counts))
    return counts[fits]


def relative_gains(tables: pd.DataFrame) -> pd.DataFrame:
    """Compute LlamaRec's relative gain over LRURec from Table 1 and from Table 3: the two must agree.

    Both methods have the same share of retrieved users, which cancels in the quotient.

    Returns:
        ``dataset``, ``metric`` (the six, and ``mean``), ``table1``, ``table3`` (gains; 0.1 is 10 %), ``agree`` (whether
        some true values behind the printed ones give the same gain).
    """
    wide = tables.pivot_table("value", ["dataset", "subset", "metric"], "method")
    down, up = _EITHER
    ours, theirs = wide["LlamaRec"], wide["LRURec"]
    gains = pd.DataFrame(
        {"gain": ours / theirs, "low": (ours + down) / (theirs + up), "high": (ours + up) / (theirs + down)}
    )
    rows = []
    for dataset in tables["dataset"].unique():
        of_tables = (gains.loc[(dataset, subset)].loc[list(METRICS)] - 1 for subset in ("all", "retrieved"))
        first, third = (pd.concat([of, of.mean().to_frame("mean").T]) for of in of_tables)
        agree = (first["low"] <= third["high"]) & (third["low"] <= first["high"])
        table = pd.DataFrame({"table1": first["gain"], "table3": third["gain"], "agree": agree})
        rows.append(table.rename_axis("metric").reset_index().assign(dataset=dataset))
    return pd.concat(rows, ignore_index=True)[["dataset", "metric", "table1", "table3", "agree"]]


def recall_counts(tables: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Turn each Recall of Table 1 into a number of users: it is a multiple of 1 / users.

    Returns:
        ``dataset``, ``method``, ``metric``, ``value``, ``users``, ``hits`` (the nearest number of users),
        ``nearest`` (the Recall of that many), ``multiple`` (whether it is printed as ``value``, rounded or cut;
        empty where multiples are closer than the last decimal, so that every value fits), ``ci_low`` and ``ci_high``
        (95 % binomial interval by Wilson's method, 1927, over users).
    """
    table = tables[(tables["subset"] == "all") & tables["metric"].str.startswith("Recall")]
    rows = []
    for row in table[["dataset", "method", "metric", "value"]].to_dict("records"):
        n_users = int(users[row["dataset"]])
        hits = round(row["value"] * n_users)
        fits = _EITHER[0] <= hits / n_users - row["value"] < _EITHER[1] if 1 / n_users > PRINTED else None
        low, high = binomtest(hits, n_users).proportion_ci(method="wilson")
        row |= {"users": n_users, "hits": hits, "nearest": hits / n_users, "multiple": fits}
        rows.append(row | {"ci_low": low, "ci_high": high})
    return pd.DataFrame(rows).astype({"multiple": "boolean"})


def gains_in_users(tables: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Say how many users a published gain in Recall is, and what it would take for it to be more than chance.

    A paired gain of g users is g + l users won and l lost; how many were lost is not published. McNemar's exact test of
    the g + 2 l users that changed grows weaker with l.

    Returns:
        ``dataset``, ``metric``, ``method``, ``reference``, ``gain`` (difference of the printed values), ``gain_users``,
        ``least_p`` (two-sided, if no user was lost), ``most_lost``: the most users that may have been lost for
        p < 0.05; empty where even none is too many.
    """
    values = tables[tables["subset"] == "all"].set_index(["dataset", "metric", "method"])["value"]
    rows = []
    for dataset in values.index.unique("dataset"):
        for metric in ("Recall@5", "Recall@10"):
            for method, reference in (("LlamaRec", "LRURec"), ("LRURec", "SASRec")):
                gain = values[dataset, metric, method] - values[dataset, metric, reference]
                won = round(gain * int(users[dataset]))
                row = {"dataset": dataset, "metric": metric, "method": method, "reference": reference, "gain": gain}
                row |= {"gain_users": won, "least_p": binomtest(won, won).pvalue if won > 0 else 1.0}
                rows.append(row | {"most_lost": most_lost(won)})
    return pd.DataFrame(rows).astype({"most_lost": "Int64"})


def most_lost(gain: int) -> int | None:
    """Return the most users lost with which a net gain of users is significant (p < 0.05); ``None`` if none may be."""

    def chance(lost: int) -> bool:
        return gain <= 0 or binomtest(lost, gain + 2 * lost).pvalue >= 0.05

    fewest = bisect.bisect_left(range(gain**2 + 1), True, key=chance)  # with gain² users lost it is chance
    return fewest - 1 if fewest else None


def stated_table(folder: Path) -> pd.DataFrame:
    """Set the numbers that the paper's text states beside what follows from its tables.

    Returns:
        ``claim``, ``dataset``, ``statement``, ``where``, ``unit`` (``gain`` is relative: 0.1 is 10 %), ``stated``,
        ``published`` (from the tables), ``difference``.
    """
    tables = [published(folder), published_llm_baselines(folder).assign(dataset="beauty", subset="all")]
    cells = pd.concat(tables).drop_duplicates(["dataset", "method", "metric", "subset"])
    cells = cells.set_index(["dataset", "method", "metric", "subset"])["value"]
    table = published_claims(folder).dropna(subset="stated")
    table = table[table["claim"].isin(_FROM_TABLES)]  # the others are bounds and times, which no table repeats
    units, numbers = zip(*(_FROM_TABLES[name] for name in table["claim"]), strict=True)
    values = [number(cells[dataset]) for number, dataset in zip(numbers, table["dataset"], strict=True)]
    table = table.assign(unit=units, published=values, difference=values - table["stated"])
    return table[["claim", "dataset", "statement", "where", "unit", "stated", "published", "difference"]]


def _gain(metrics: tuple[str, ...], *others: str) -> tuple[str, Callable[[pd.Series], float]]:
    """LlamaRec's mean gain over the best of others, in those metrics of which the paper prints a value for one."""

    def mean_gain(cells: pd.Series) -> float:
        best = cells.loc[list(others), :, "all"].groupby("metric").max()
        return float((cells["LlamaRec", :, "all"] / best - 1).reindex(metrics).mean())

    return "gain", mean_gain


def _lead(ours: str, theirs: str, metric: str, subset: str = "all") -> tuple[str, Callable[[pd.Series], float]]:
    return "difference", lambda cells: cells[ours, metric, subset] - cells[theirs, metric, subset]


_FROM_TABLES = {
    "gain_mrr5": _gain(("MRR@5",), "LRURec"),
    "gain_ndcg5": _gain(("NDCG@5",), "LRURec"),
    "gain_recall5": _gain(("Recall@5",), "LRURec"),
    "mean_gain": _gain(METRICS, "LRURec"),
    "gain_over_palr": _gain(("NDCG@10",), "PALR"),
    "gain_over_llm_based": _gain(("NDCG@5", "Recall@5", "NDCG@10", "Recall@10"), *_LLM_BASED),
    "recall10_gain_of_all": _lead("LlamaRec", "LRURec", "Recall@10"),
    "recall10_gain_of_retrieved": _lead("LlamaRec", "LRURec", "Recall@10", "retrieved"),
    "gpt4rec_lead": _lead("GPT4Rec", "LlamaRec", "Recall@5"),
}
"""Name of a statement in ``claims.csv`` → its unit, and its number from the cells of its data set."""
