"""The numbers that the paper printed (Yue et al., 2023, arXiv 2311.02089), and whether they fit together.

``folder`` is ``results/published``, which holds them. A table prints four decimals, rounded or cut off, and the paper
does not say which: two values contradict each other only where no true values behind them agree.
"""

import bisect
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from llamarec_core.evaluation.metrics import METRICS
from llamarec_core.files import InputError
from llamarec_core.provenance import commit_name, record_of

PRINTED = 0.0001  # the last decimal of Tables 1 and 3
PRINTINGS = {"rounded": (-PRINTED / 2, PRINTED / 2), "cut": (0.0, PRINTED)}
"""How a value is printed → how far the true value can be from it, down and up."""
_EITHER = -PRINTED / 2, PRINTED
LLM_BASED = ("P5", "PALR", "GPT4Rec", "RecMind", "POD")  # the methods of Table 4 beside LlamaRec


def published(folder: Path) -> pd.DataFrame:
    """Load Table 1 (``subset`` is ``all``) and Table 3 (``retrieved``: the target is among the retriever's top 20)."""
    files = {"all": "table1_all_users.csv", "retrieved": "table3_valid_retrieval_subset.csv"}
    tables = [_load(folder / name).assign(subset=subset) for subset, name in files.items()]
    return pd.concat(tables, ignore_index=True)


def published_statistics(folder: Path) -> pd.DataFrame:
    """Load Table 2 as text, because a rounded figure such as ``198K`` says less than a number."""
    return _load(folder / "table2_dataset_statistics.csv", dtype=str)


def published_llm_baselines(folder: Path) -> pd.DataFrame:
    """Load Table 4, LLM-based methods on Beauty. All but LlamaRec's own numbers are quoted from other works."""
    return _load(folder / "table4_llm_baselines_beauty.csv")


def published_cells(folder: Path) -> pd.Series:
    """Return the values of Tables 1, 3 and 4 by data set, method, metric and subset."""
    tables = [published(folder), published_llm_baselines(folder).assign(dataset="beauty", subset="all")]
    keys = ["dataset", "method", "metric", "subset"]
    return pd.concat(tables).drop_duplicates(keys).set_index(keys)["value"]


def published_inference_times(folder: Path) -> pd.DataFrame:
    """Load Figure 3. Rows whose source is ``plot`` are read off it, to about 2 s; others stand in the ``text``."""
    return _load(folder / "figure3_inference_time.csv")


def published_claims(folder: Path) -> pd.DataFrame:
    """Load the paper's statements; ``counts_as`` names the claim that a statement is one wording of."""
    return _load(folder / "claims.csv").fillna({"dataset": ""})


def measured_inference_times(bench: Path) -> pd.DataFrame | None:
    """Load our own times of whole requests answered alone, as the paper times them, or ``None`` if there are none."""
    path = bench / "inference_time.csv"
    if not path.is_file():
        return None
    times, record = _load(path).query("batch == 1 and part == 'whole'"), record_of(path)
    times = times[["mean_title_length_tokens", "method", "seconds", "backbone"]].reset_index(drop=True)
    return times.assign(commit=commit_name(record), on_gpu=bool(record["hardware"]["accelerators"]))


def _load(path: Path, **options: type) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError) as error:  # the parser's errors are such
        raise InputError(f"{path} cannot be read as CSV ({error}): restore it from the repository.") from None


def consistency_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return what the published numbers say of each other: the tables ``consistency_<name>`` by their names."""
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

    Only users whose target LRURec retrieved add to a metric of LRURec and of LlamaRec. So for these two each quotient
    is the share of such users, ``constant`` within rounding: ``consistent`` if a number of :func:`retrieved_counts`
    fits. Another method finds some other users' targets: ``consistent`` if no quotient is below LlamaRec's.
    """
    wide = tables.pivot_table("value", ["dataset", "method", "metric"], "subset", sort=False)
    shares = _quotients(wide["all"], wide["retrieved"], *PRINTINGS["rounded"])
    groups = shares.groupby(["dataset", "method"], sort=False)
    found, low, high = groups["value"].agg(smallest="min", largest="max"), groups["low"].max(), groups["high"].min()
    fits = counts.groupby(["dataset", "method"])["fits"].sum() > 0
    found["constant"] = low <= high
    found["consistent"] = [
        bool(fits[case] if case in fits.index else high[case] >= low[case[0], "LlamaRec"]) for case in found.index
    ]
    return found.reset_index()


def retrieved_counts(tables: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Count the numbers N of retrieved users that LRURec's and LlamaRec's columns of Tables 1 and 3 allow.

    A Recall is a whole number of hits, the same in both tables, over all users in Table 1 and over N in Table 3. N
    ``fits`` if such hits exist for both Recalls, and N over all users is the quotient of the tables in every metric.
    """
    tables = tables[tables["method"].isin(["LRURec", "LlamaRec"])]
    wide = tables.pivot_table("value", ["dataset", "method", "metric"], "subset", sort=False)
    rows = []
    for ((dataset, method), cells), printing in product(wide.groupby(["dataset", "method"], sort=False), PRINTINGS):
        fitting = pd.Series(_fitting(cells.loc[dataset, method], users[dataset], *PRINTINGS[printing]))
        row = {"dataset": dataset, "method": method, "printing": printing, "fits": len(fitting)}
        rows.append(row | {"fewest": fitting.min(), "most": fitting.max()})
    return pd.DataFrame(rows).astype({"fewest": "Int64", "most": "Int64"})


def _fitting(cells: pd.DataFrame, users: int, down: float, up: float) -> np.ndarray:
    """Return the numbers of retrieved users that fit; ``cells`` has ``all`` and ``retrieved`` by metric."""
    down, up = down - 1e-9, up + 1e-9  # printed values are decimal, their doubles are not
    counts = np.arange(1, users + 1)
    shares = _quotients(cells["all"], cells["retrieved"], down, up)
    fits = (counts / users >= shares["low"].max()) & (counts / users <= shares["high"].min())
    for cell in cells.filter(like="Recall", axis=0).itertuples():
        fewest = np.maximum(np.ceil((cell.all + down) * users), np.ceil((cell.retrieved + down) * counts))
        fits &= fewest <= np.minimum(np.floor((cell.all + up) * users), np.floor((cell.retrieved + up) * counts))
    return counts[fits]


def _quotients(over: pd.Series, under: pd.Series, down: float, up: float) -> pd.DataFrame:
    """Divide printed values, and find the ``low`` and ``high`` end of what the true values' quotients can be."""
    low, high = (over + down) / (under + up), (over + up) / (under + down)
    return pd.DataFrame({"value": over / under, "low": low, "high": high})


def relative_gains(tables: pd.DataFrame) -> pd.DataFrame:
    """Compute LlamaRec's relative gain over LRURec from Table 1 and from Table 3.

    The share of retrieved users cancels, so that both must ``agree`` for some true values behind the printed ones.
    """
    wide = tables.pivot_table("value", ["dataset", "metric"], ["subset", "method"])
    cases = list(product(tables["dataset"].unique(), (*METRICS, "mean")))
    found = []
    for subset in ("all", "retrieved"):
        gains = _quotients(wide[subset, "LlamaRec"], wide[subset, "LRURec"], *_EITHER) - 1
        means = gains.groupby("dataset").mean().assign(metric="mean").set_index("metric", append=True)
        found.append(pd.concat([gains, means]).loc[cases])
    first, third = found
    agree = (first["low"] <= third["high"]) & (third["low"] <= first["high"])
    return pd.DataFrame({"table1": first["value"], "table3": third["value"], "agree": agree}).reset_index()


def recall_counts(tables: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Turn each Recall of Table 1 into a number of users, with the 95 % binomial interval of Wilson (1927).

    ``nearest`` is the Recall of the nearest number, ``multiple`` whether it is printed as ``value``, rounded or cut;
    empty where multiples are closer than the last decimal.
    """
    table = tables[(tables["subset"] == "all") & tables["metric"].str.startswith("Recall")]
    table = table[["dataset", "method", "metric", "value"]].assign(users=table["dataset"].map(users))
    table["hits"] = (table["value"] * table["users"]).round().astype(int)
    table["nearest"] = table["hits"] / table["users"]
    multiple = (table["nearest"] - table["value"]).between(*_EITHER, inclusive="left")
    table["multiple"] = multiple.astype("boolean").where(1 / table["users"] > PRINTED)
    of_cells = map(binomtest, table["hits"], table["users"])
    table[["ci_low", "ci_high"]] = [cell.proportion_ci(method="wilson") for cell in of_cells]
    return table


def gains_in_users(tables: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Say how many users a published gain in Recall is, and what it would take for it to be more than chance.

    A gain of g users is g + l users won and l lost, of which l is not published. McNemar's exact test of these g + 2 l
    grows weaker with l: ``least_p`` is its two-sided p-value if none was lost.
    """
    values = tables[tables["subset"] == "all"].set_index(["dataset", "metric", "method"])["value"]
    rows = []
    pairs = (("LlamaRec", "LRURec"), ("LRURec", "SASRec"))
    for dataset, metric, (method, reference) in product(users.index, ("Recall@5", "Recall@10"), pairs):
        gain = values[dataset, metric, method] - values[dataset, metric, reference]
        won = round(gain * users[dataset])
        row = {"dataset": dataset, "metric": metric, "method": method, "reference": reference, "gain": gain}
        least_p = binomtest(won, won).pvalue if won > 0 else 1.0
        rows.append(row | {"gain_users": won, "least_p": least_p, "most_lost": most_lost(won)})
    return pd.DataFrame(rows).astype({"most_lost": "Int64"})


def most_lost(gain: int) -> int | None:
    """Return the most users lost with which a net gain of users is significant (p < 0.05); ``None`` if none may be."""
    if gain <= 0:
        return None
    lost = range(gain**2 + 1)  # with gain² users lost it is chance
    fewest = bisect.bisect_left(lost, 0.05, key=lambda lost: binomtest(lost, gain + 2 * lost).pvalue)
    return fewest - 1 if fewest else None


def stated_table(folder: Path) -> pd.DataFrame:
    """Set the numbers that the paper's text states beside what follows from its tables; a gain is relative."""
    cells, statements = published_cells(folder), published_claims(folder)
    rows = []
    for row in statements[statements["claim"].isin(_STATED)].to_dict("records"):
        unit, method, others, metrics, subset = _STATED[row["claim"]]
        ours = cells[row["dataset"], method, :, subset]
        best = cells.loc[row["dataset"], list(others), :, subset].groupby("metric").max()
        value = (ours / best - 1 if unit == "gain" else ours - best).reindex(metrics).mean()
        rows.append(row | {"unit": unit, "published": value, "difference": value - row["stated"]})
    columns = ["claim", "dataset", "statement", "where", "unit", "stated", "published", "difference"]
    return pd.DataFrame(rows)[columns]


_OF_FOUR = ("NDCG@5", "Recall@5", "NDCG@10", "Recall@10")
_STATED = {
    "gain_mrr5": ("gain", "LlamaRec", ("LRURec",), ("MRR@5",), "all"),
    "gain_ndcg5": ("gain", "LlamaRec", ("LRURec",), ("NDCG@5",), "all"),
    "gain_recall5": ("gain", "LlamaRec", ("LRURec",), ("Recall@5",), "all"),
    "mean_gain": ("gain", "LlamaRec", ("LRURec",), METRICS, "all"),
    "gain_over_palr": ("gain", "LlamaRec", ("PALR",), ("NDCG@10",), "all"),
    "gain_over_llm_based": ("gain", "LlamaRec", LLM_BASED, _OF_FOUR, "all"),
    "recall10_gain_of_all": ("difference", "LlamaRec", ("LRURec",), ("Recall@10",), "all"),
    "recall10_gain_of_retrieved": ("difference", "LlamaRec", ("LRURec",), ("Recall@10",), "retrieved"),
    "gpt4rec_lead": ("difference", "GPT4Rec", ("LlamaRec",), ("Recall@5",), "all"),
}
"""Name of a statement in ``claims.csv`` → its unit, and whose mean over metrics is held against the best of others."""
