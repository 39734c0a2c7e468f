"""The claims of the paper as a ledger: what each says, what the ranks say of it, and a verdict that follows by rule.

``results/published/claims.csv`` holds the claims as the paper words them, and
:mod:`llamarec_core.evaluation.quantities` what each compares: one function of a table's cells, which gives the
published value from the paper's cells, ours from the cells of our ranks, and an interval from the cells of every
bootstrap sample of the users. :data:`RULES` are the verdicts, and :func:`verdict` applies them.

:mod:`llamarec_core.evaluation.cells` says over which users and seeds a cell is a mean. Of a claim about every metric
the smallest value counts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation.cells import MeasuredCells, Ranks, cells_of_ranks, cells_of_sample
from llamarec_core.evaluation.paper import published, published_claims, published_llm_baselines
from llamarec_core.evaluation.quantities import QUANTITIES, Quantity
from llamarec_core.files import InputError

RULES = {
    "reproduced": "our whole 95 % interval is on the claimed side, and reaches the published value",
    "direction only": "our value is on the claimed side, but its interval also holds the other, or falls short",
    "not reproduced": "our value is not on the claimed side",
    "not tested": "the runs that it needs do not exist, or ran on other hardware where it is about seconds",
}
"""Verdict → when it is given. The claimed side is above 0 for a lead or a gain, above 1 for a ratio, below a bound."""


def verdict(measured: float, low: float, high: float, *, published: float, null: float = 0.0) -> tuple[str, str]:
    """Return the verdict on a lead, gain or ratio, and what decided it, by :data:`RULES`.

    Args:
        measured: ours.
        low: the lower end of its 95 % interval.
        high: the upper end.
        published: the paper's.
        null: the claimed side is above this.
    """
    if measured > null:
        if low <= null:
            return "direction only", "the interval holds the contrary too: it may be chance"
        if high < published:
            return "direction only", "beyond chance, but less than published"
        return "reproduced", "beyond chance, and the interval reaches the published value"
    if high < null:
        return "not reproduced", "the contrary, beyond chance"
    if high >= published:
        return "not reproduced", "but the interval holds the published value too: too few users to tell"
    return "not reproduced", "the interval falls short of the published value"


def claims_table(
    folder: Path,
    ranks: Ranks,
    *,
    sample: Ranks | None = None,
    trainable_share: float,
    timings: pd.DataFrame | None = None,
    timed_on_gpu: bool = False,
    timings_commit: str = "",
    scale: str,
    candidates: int = 20,
    samples: int,
    seed: int,
    commit: str,
) -> pd.DataFrame:
    """Hold every claim of the paper against our ranks and timings.

    Args:
        folder: ``results/published``.
        ranks: of all users; a method of the paper is called by its name in lower case.
        sample: as for :func:`~llamarec_core.evaluation.cells.cells_of_sample`: where a method was not run for all
            users, all methods of the claim are compared on these.
        trainable_share: trained parameters over all, at the paper's settings.
        timings: ``mean_title_length_tokens``, ``method`` and ``seconds``, as
            :func:`~llamarec_core.evaluation.paper.published_inference_times` loads the paper's.
        timed_on_gpu: whether they were, as the paper's; otherwise a claim about seconds, not a ratio, is not tested.
        timings_commit: the commit that they were measured with.
        scale: what LlamaRec was run as, e.g. its backbone.
        candidates: a user is `retrieved` if LRURec ranks the target among this many.
        samples: bootstrap samples behind each interval.
        seed: of the bootstrap.
        commit: the commit that the ranks were made with.

    Returns:
        One claim a row: ``claim``, ``dataset``, ``statement``, ``where``, ``unit``, ``stated`` (in the text; may be
        empty), ``published`` (the same from the paper's tables, or the bound), ``measured``, ``ci_low``, ``ci_high``
        (95 % bootstrap over users; empty for what has no users), ``users``, ``seeds``, ``verdict``, ``why``,
        ``scale`` (where LlamaRec was run), ``commit`` (empty for what is counted from settings).

    Raises:
        InputError: a claim has no quantity, or two ranks files of a claim hold other users or targets.
    """
    times = None if timings is None else timings.set_index(["method", "mean_title_length_tokens"])["seconds"].to_dict()
    drawing = {"samples": samples, "seed": seed}

    def from_ranks(dataset: str, quantity: Quantity) -> dict[str, Any] | str:
        found = cells_of_ranks(ranks, dataset, quantity.methods, candidates=candidates, **drawing)
        if isinstance(found, str) and sample:
            found = cells_of_sample(sample, dataset, quantity.methods, **drawing)
        return found if isinstance(found, str) else _smallest(quantity, found)

    measure = {
        "ranks": from_ranks,
        "timings": lambda _, quantity: _from_timings(times, quantity),
        "architecture": lambda _, quantity: _exactly(quantity.of(trainable_share)),
    }
    commits = {"ranks": commit, "timings": timings_commit, "architecture": ""}
    table = stated_table(folder)
    rows: list[dict[str, Any]] = []
    for row in table.itertuples():
        quantity = QUANTITIES[row.claim]
        found = measure[quantity.source](row.dataset, quantity)
        if isinstance(found, str):
            rows.append({"verdict": "not tested", "why": found, "scale": "", "commit": commits[quantity.source]})
            continue
        value, low, high = (found[column] for column in ("measured", "ci_low", "ci_high"))
        if quantity.bound:  # the claimed side is below: what is left up to the bound is above zero there
            value, low, high = row.published - value, row.published - high, row.published - low
        decided = verdict(value, low, high, published=0.0 if quantity.bound else row.published, null=quantity.null)
        found |= dict(zip(("verdict", "why"), decided, strict=True))
        if found.get("commit"):
            found["why"] += f" (a sample of {found['users']} users)"
        if quantity.source != "ranks":
            found |= {"ci_low": np.nan, "ci_high": np.nan, "why": quantity.why}
        if quantity.absolute and not timed_on_gpu:
            found |= {"verdict": "not tested", "why": "measured on a processor, where a time says nothing of a GPU's"}
        rows.append(
            {"commit": commits[quantity.source]} | found | {"scale": scale if _runs_the_ranker(quantity) else ""}
        )
    columns = ["measured", "ci_low", "ci_high", "users", "seeds", "verdict", "why", "scale", "commit"]
    found = pd.DataFrame(rows, columns=columns).astype({"users": "Int64", "seeds": "Int64"})
    return table.join(found)


def stated_table(folder: Path) -> pd.DataFrame:
    """Set what the paper's text states beside what follows from its tables.

    Returns:
        The columns of :func:`claims_table` up to ``published``.

    Raises:
        InputError: a published file is missing, or a claim has no quantity.
    """
    claims = published_claims(folder)
    for name in sorted(set(claims["claim"]) - QUANTITIES.keys()):
        raise InputError(f"{folder}/claims.csv has the claim {name!r}, which no quantity measures: add one.")
    tables = [published(folder), published_llm_baselines(folder).assign(dataset="beauty", subset="all")]
    printed = pd.concat(tables).drop_duplicates(["dataset", "method", "metric", "subset"])
    printed = printed.set_index(["method", "metric", "subset"])
    cells = {dataset: rows["value"].to_dict() for dataset, rows in printed.groupby("dataset")}
    quantities = [QUANTITIES[name] for name in claims["claim"]]
    values = [
        np.min(quantity.of(cells[row.dataset])) if quantity.source == "ranks" else row.stated
        for quantity, row in zip(quantities, claims.itertuples(), strict=True)
    ]
    units = [quantity.unit for quantity in quantities]
    return claims[["claim", "dataset", "statement", "where"]].assign(
        unit=units, stated=claims["stated"], published=values
    )


def _smallest(quantity: Quantity, found: MeasuredCells) -> dict[str, Any] | str:
    """Return a quantity of ranks with its interval, or why it has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = interval_of_smallest(np.atleast_2d(quantity.of(found.sampled)))  # (values, samples)
        value = float(np.min(quantity.of(found.cells)))
    if not np.isfinite([value, low, high]).all():
        return "too few hits among too few users to form the ratio"
    row = {"measured": value, "ci_low": low, "ci_high": high, "users": found.users, "seeds": found.seeds}
    return row | {"commit": found.commit} if found.commit else row


def _runs_the_ranker(quantity: Quantity) -> bool:
    return "LlamaRec" in quantity.methods or quantity.source == "timings"


def interval_of_smallest(sampled: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval for the smallest of several values; for one value, its percentile interval.

    The smallest is above the least of the lower ends if only its own lower end holds, so these need no correction (an
    intersection-union test; Berger, 1982). It is below the least of the upper ends if all of them hold, so these are
    widened by Bonferroni's correction: of many equal values the smallest measured is low by chance.

    Args:
        sampled: floats ``(values, samples)``, each value in each bootstrap sample.
        confidence: of the interval.
    """
    tail = (1.0 - confidence) / 2.0
    low = np.quantile(sampled, tail, axis=1).min()
    high = np.quantile(sampled, 1.0 - tail / len(sampled), axis=1).min()
    return float(low), float(high)


def _from_timings(times: Mapping[tuple[str, float], float] | None, quantity: Quantity) -> Any:
    if times is None:
        return "no times by title length were measured"
    try:
        return _exactly(quantity.of(times))
    except (KeyError, ValueError):  # no row of that method and length
        return "the times measured lack a method or title length that it needs"


def _exactly(value: float) -> dict[str, float]:
    """Return a value that has no users to resample, as its own interval."""
    return {"measured": value, "ci_low": value, "ci_high": value}
