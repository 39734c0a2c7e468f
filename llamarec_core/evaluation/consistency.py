"""What the published numbers alone say: whether they fit together, and how sure they can be.

Nothing is measured here. A table prints four decimals, so a printed value v stands for one in v ± 0.00005; two values
contradict each other only where no true values in these ranges agree.
"""

import bisect
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from llamarec_core.evaluation.claims import stated_table
from llamarec_core.evaluation.paper import published as load_published
from llamarec_core.evaluation.paper import published_statistics

PRINTED = 0.0001
"""The last decimal of the paper's Tables 1 and 3."""

_HALF = PRINTED / 2


def consistency_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return every table below for the paper's numbers.

    Args:
        folder: ``results/published``.

    Returns:
        ``shares`` (:func:`constant_shares`), ``recalls`` (:func:`recall_counts`), ``gains`` (:func:`gains_in_users`),
        and ``stated``: the numbers in the text and what the tables give
        (:func:`~llamarec_core.evaluation.claims.stated_table`), with their ``difference``.

    Raises:
        InputError: a published file or one of its columns is missing.
    """
    published = load_published(folder)
    users = published_statistics(folder).set_index("dataset")["users"].astype(int)
    stated = stated_table(folder).dropna(subset="stated")
    stated = stated[stated["dataset"] != ""]  # the others are bounds and times, which no table repeats
    return {
        "shares": constant_shares(retrieved_shares(published), users),
        "recalls": recall_counts(published, users),
        "gains": gains_in_users(published, users),
        "stated": stated.assign(difference=stated["published"] - stated["stated"]),
    }


def retrieved_shares(published: pd.DataFrame) -> pd.DataFrame:
    """Divide Table 1 by Table 3, cell by cell.

    For K up to 20 a user whose target LRURec did not retrieve adds nothing to a metric @K of LRURec or of LlamaRec,
    which reorders what LRURec retrieved. So for these two each quotient is the share of users whose target was
    retrieved: one number a data set. Another method finds some of the other users' targets, and its quotients can only
    be larger.

    Args:
        published: what :func:`~llamarec_core.evaluation.paper.published` loads.

    Returns:
        ``dataset``, ``method``, ``metric``, ``share``, and ``share_low`` and ``share_high``, its range given rounding.
    """
    keys = ["dataset", "method", "metric"]
    all_users, retrieved = (
        published[published["subset"] == subset].set_index(keys)["value"] for subset in ("all", "retrieved")
    )
    shares = pd.DataFrame(
        {
            "share": all_users / retrieved,
            "share_low": (all_users - _HALF) / (retrieved + _HALF),
            "share_high": (all_users + _HALF) / (retrieved - _HALF),
        }
    )
    return shares.reindex(all_users.index).reset_index()


def constant_shares(shares: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Say for each method and data set whether the quotients are as they must be, and how many users the share is.

    Args:
        shares: what :func:`retrieved_shares` returns.
        users: data set → number of users.

    Returns:
        ``dataset``, ``method``, ``smallest``, ``largest`` (over the metrics), ``constant`` (whether one share is in the
        range of every metric), ``retrieved_from`` and ``retrieved_to`` (the numbers of users that such a share can be;
        empty where there is none), and ``consistent``: for LRURec and LlamaRec whether there is such a number, for the
        others whether no quotient is below LlamaRec's.
    """
    rows = []
    for (dataset, method), group in shares.groupby(["dataset", "method"], sort=False):
        low, high = group["share_low"].max(), group["share_high"].min()
        fewest, most = np.ceil(low * users[dataset]), np.floor(high * users[dataset])
        row = {"dataset": dataset, "method": method, "smallest": group["share"].min(), "largest": group["share"].max()}
        row |= {"constant": low <= high}
        if fewest <= most:
            row |= {"retrieved_from": int(fewest), "retrieved_to": int(most)}
        ranker = shares[(shares["dataset"] == dataset) & (shares["method"] == "LlamaRec")]
        own = method in ("LRURec", "LlamaRec")
        rows.append(row | {"consistent": fewest <= most if own else high >= ranker["share_low"].max()})
    columns = ["dataset", "method", "smallest", "largest", "constant", "retrieved_from", "retrieved_to", "consistent"]
    return pd.DataFrame(rows, columns=columns).astype({"retrieved_from": "Int64", "retrieved_to": "Int64"})


def recall_counts(published: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Turn each Recall of Table 1 into a number of users: it is a multiple of 1 / users.

    Args:
        published: what :func:`~llamarec_core.evaluation.paper.published` loads.
        users: data set → number of users.

    Returns:
        ``dataset``, ``method``, ``metric``, ``value``, ``users``, ``hits`` (the nearest number of users),
        ``nearest`` (the Recall of that many), ``multiple`` (whether it is printed as ``value``, rounded or cut off;
        empty where multiples are closer than the last decimal, so that every value fits), ``ci_low`` and ``ci_high``
        (95 % binomial interval by Wilson's method, 1927, over users).
    """
    table = published[(published["subset"] == "all") & published["metric"].str.startswith("Recall")]
    rows = []
    for row in table.itertuples():
        n_users = int(users[row.dataset])
        # a value that was cut off, not rounded, stands for up to one more in its last decimal
        candidates = np.array([np.floor(row.value * n_users), np.ceil(row.value * n_users)])
        hits = int(candidates[np.abs(candidates / n_users - row.value).argmin()])
        error = hits / n_users - row.value
        low, high = binomtest(hits, n_users).proportion_ci(method="wilson")
        rows.append(
            {
                "dataset": row.dataset,
                "method": row.method,
                "metric": row.metric,
                "value": row.value,
                "users": n_users,
                "hits": hits,
                "nearest": hits / n_users,
                "multiple": -_HALF <= error < PRINTED if 1 / n_users > PRINTED else None,
                "ci_low": low,
                "ci_high": high,
            }
        )
    return pd.DataFrame(rows).astype({"multiple": "boolean"})


def gains_in_users(published: pd.DataFrame, users: pd.Series) -> pd.DataFrame:
    """Say how many users a published gain in Recall is, and what it would take for it to be more than chance.

    A paired gain of g users is g + l users won and l lost; how many were lost is not published. McNemar's exact test of
    the g + 2 l users that changed grows weaker with l.

    Args:
        published: what :func:`~llamarec_core.evaluation.paper.published` loads.
        users: data set → number of users.

    Returns:
        ``dataset``, ``metric``, ``method``, ``reference``, ``gain`` (difference of the printed values), ``gain_users``,
        ``least_p`` (two-sided, if no user was lost), ``most_lost``: the most users that may have been lost for
        p < 0.05; empty where even none is too many.
    """
    values = published[published["subset"] == "all"].set_index(["dataset", "metric", "method"])["value"]
    rows = []
    for dataset in values.index.unique("dataset"):
        for metric in ("Recall@5", "Recall@10"):
            for method, reference in (("LlamaRec", "LRURec"), ("LRURec", "SASRec")):
                gain = values[dataset, metric, method] - values[dataset, metric, reference]
                won = round(gain * int(users[dataset]))
                lost = most_lost(won)
                row = {"dataset": dataset, "metric": metric, "method": method, "reference": reference, "gain": gain}
                row |= {"gain_users": won, "least_p": binomtest(won, won).pvalue if won > 0 else 1.0}
                rows.append(row | {"most_lost": lost})
    return pd.DataFrame(rows).astype({"most_lost": "Int64"})


def most_lost(gain: int) -> int | None:
    """Return the most users lost with which a net gain is significant (p < 0.05) by McNemar's exact test.

    Args:
        gain: users won − users lost.

    Returns:
        ``None`` where the gain is not significant even if no user was lost.
    """

    def chance(lost: int) -> bool:
        return gain <= 0 or binomtest(lost, gain + 2 * lost).pvalue >= 0.05

    fewest = bisect.bisect_left(range(gain**2 + 1), True, key=chance)  # with gain² users lost it is chance
    return fewest - 1 if fewest else None
