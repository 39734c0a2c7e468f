"""Paired comparisons of several methods on the same users, corrected for their number."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation import METRICS, holm, paired_difference, per_user
from llamarec_core.evaluation.cells import refuse_other_users
from llamarec_core.report.methods import display_name
from llamarec_core.report.strategies import RETRIEVER, Answers

RanksByMethod = Mapping[tuple[str, Any, int], pd.DataFrame]
"""(data set, method, seed) → ``user``, ``target`` and ``rank``, the same users for all methods of a data set."""

_RETRIEVED, _LLAMAREC = (RETRIEVER, "trained"), ("verbalizer", "tuned")
"""What strategies are compared with: (name, state)."""


def compare(
    ranks: RanksByMethod,
    dataset: str,
    pairs: Iterable[tuple[Any, Any]],
    *,
    samples: int,
    seed: int,
    metrics: Sequence[str] = METRICS,
) -> list[dict[str, Any]]:
    """Compare the second of each pair of methods with the first, each with its values averaged over its seeds.

    Args:
        ranks: of every method.
        dataset: the one whose methods are compared.
        pairs: (reference, method), as ``ranks`` names them.
        samples: bootstrap samples behind each interval, and sign flips behind each p-value.
        seed: of both.
        metrics: to compare in.

    Returns:
        One dict a pair and metric: ``dataset``, ``method``, ``reference``, ``metric``, ``difference`` (method −
        reference), ``ci_low``, ``ci_high`` (95 % bootstrap over users), ``p_value`` (sign-flip test), ``users``.

    Raises:
        InputError: two frames of the data set hold other users or targets.
    """
    refuse_other_users(
        {
            f"{_words(method)} on {dataset} with seed {number}": frame.sort_values("user")
            for (of_ranks, method, number), frame in ranks.items()
            if of_ranks == dataset
        }
    )
    rows = []
    for (reference, method), metric in product(pairs, metrics):
        values = [_mean_over_seeds(ranks, dataset, name, metric) for name in (method, reference)]
        found = paired_difference(*values, samples=samples, seed=seed)
        rows.append(
            {
                "dataset": dataset,
                "method": method,
                "reference": reference,
                "metric": metric,
                "difference": found.mean,
                "ci_low": found.low,
                "ci_high": found.high,
                "p_value": found.p_value,
                "users": len(values[0]),
            }
        )
    return rows


def corrected(rows: list[dict[str, Any]], *, commit: str, subset: str) -> pd.DataFrame:
    """Return what :func:`compare` found as a table, with ``p_holm`` over all rows of a data set, and its subset."""
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p_value") + 1, "p_holm", table.groupby("dataset")["p_value"].transform(holm))
    table.insert(table.columns.get_loc("metric") + 1, "subset", subset)
    return table.assign(commit=commit)


def strategy_pairs(answers: Answers, *, samples: int, seed: int) -> pd.DataFrame:
    """Compare how every strategy orders the same candidates with the retriever's order and with the tuned verbalizer.

    Args:
        answers: as for :func:`strategies_table`.
        samples: bootstrap samples behind each interval, and sign flips behind each p-value.
        seed: of both.

    Returns:
        One row for each data set, strategy, state and reference, over the users whose target was retrieved:
        ``dataset``, ``method``, ``state``, ``reference`` (``retriever`` or ``verbalizer``), ``metric`` (NDCG@10),
        ``subset``, ``difference`` (method − reference), ``ci_low``, ``ci_high`` (95 % bootstrap over users),
        ``p_value`` (sign-flip test), ``p_holm`` (Holm's correction over all rows of a data set), ``users``, ``commit``.

    Raises:
        InputError: not all strategies of a data set were run with the same seeds.
    """
    ranks: dict[tuple[str, tuple[str, str], int], pd.DataFrame] = {}
    for dataset, method, tuned in dict.fromkeys(key[:3] for key in answers):
        # each seed draws users of its own: all of them count, each once
        of_seeds = {key[3]: frame for key, frame in answers.items() if key[:3] == (dataset, method, tuned)}
        drawn = pd.concat(of_seeds, names=["seed", None]).reset_index("seed")
        drawn["user"] = drawn["seed"].astype(str) + "/" + drawn["user"].astype(str)
        users = drawn[drawn["stratum"] == "retrieved"]
        ranks[dataset, (method, "tuned" if tuned else "zero-shot"), 0] = users.assign(rank=users["reranked"])
        ranks[dataset, _RETRIEVED, 0] = users.assign(rank=users["retriever_rank"])
    rows = []
    for dataset in dict.fromkeys(key[0] for key in ranks):
        cases = dict.fromkeys(case for name, case, _ in ranks if name == dataset)
        references = [case for case in (_RETRIEVED, _LLAMAREC) if case in cases]
        pairs = [(other, case) for case in cases if case != _RETRIEVED for other in references if other != case]
        rows += compare(ranks, dataset, pairs, samples=samples, seed=seed, metrics=["NDCG@10"])
    for row in rows:
        row["method"], row["state"] = row["method"]
        row["reference"] = row["reference"][0]
    commit = "+".join(dict.fromkeys(frame["commit"].iloc[0] for frame in answers.values()))
    table = corrected(rows, commit=commit, subset="retrieved")
    table.insert(table.columns.get_loc("method") + 1, "state", table.pop("state"))
    return table


def strategy_pairs_display(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out :func:`strategy_pairs` for the page: a row for each strategy and state, a column for each reference."""
    rows = []
    for (dataset, method, state), group in table.groupby(["dataset", "method", "state"], sort=False):
        row = {"data set": dataset, "strategy": display_name(method), "state": state}
        for pair in group.itertuples():
            p_value = "p < 0.001" if pair.p_holm < 0.001 else f"p = {pair.p_holm:.3f}"
            found = f"{pair.difference:+.3f} [{pair.ci_low:+.3f}, {pair.ci_high:+.3f}], {p_value}"
            row[f"minus {display_name(pair.reference)}"] = found
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _words(method: str | tuple[str, str]) -> str:
    return method if isinstance(method, str) else ", ".join(method)  # a strategy and its state


def _mean_over_seeds(ranks: RanksByMethod, dataset: str, method: Any, metric: str) -> np.ndarray:
    frames = [frame.sort_values("user") for key, frame in ranks.items() if key[:2] == (dataset, method)]
    return np.mean([per_user(frame["rank"], metric) for frame in frames], axis=0)  # (users,)
