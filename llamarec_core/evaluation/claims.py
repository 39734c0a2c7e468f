"""The claims of the paper: one row a claim and data set, with its number, ours, and a verdict by rule.

``results/published/claims.csv`` holds the statements as the paper words them. Statements that one comparison decides
count as one claim: that LlamaRec gains in each of six metrics, among all users and among the retrieved ones, is one
claim about the order of the same candidates. It is tested once, in the primary metric. Numbers of ours come from the
tables of comparisons, so that a p-value means the same here and there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llamarec_core.evaluation.estimates import ALPHA, PRIMARY
from llamarec_core.evaluation.paper import published, published_claims, published_llm_baselines

PAPER_BACKBONE = "llama-2-7b"
"""Only a run of this backbone can test a claim about the paper's ranker."""

RULES = {
    "reproduced": "beyond chance, and the 95 % interval reaches the published value",
    "direction only": "beyond chance, but less than published",
    "inconclusive": "the interval holds both no effect and the published value: too few users to tell",
    "contradicted": "the interval excludes the published value, and no effect or the contrary is left",
    "not tested": "the runs that it needs do not exist, or are not of the paper's model and hardware",
}
"""Verdict → when it is given; the first four in falling order of support. Beyond chance: p < 0.05 by Holm's method."""


class Claim(NamedTuple):
    """What decides a claim: the first method's lead over each of the others."""

    statement: str
    method: str
    references: tuple[str, ...]
    source: str
    """Which of our tables compares them: ``retrieval``, ``ranking`` or ``sampled``."""
    metric: str = PRIMARY
    subset: str = "all"
    ranker: bool = True
    """Whether the language model's scale matters."""


CLAIMS = {
    "retriever_leads": Claim(
        "LRURec retrieves better than NARM, BERT4Rec and SASRec",
        "LRURec", ("NARM", "BERT4Rec", "SASRec"), "retrieval", ranker=False,
    ),
    "ranker_gains": Claim(
        "LlamaRec orders the candidates of LRURec better than LRURec does",
        "LlamaRec", ("LRURec",), "ranking", subset="retrieved",
    ),
    "gain_over_palr": Claim("LlamaRec ranks better than PALR", "LlamaRec", ("PALR",), "sampled"),
    "gain_over_llm_based": Claim(
        "LlamaRec ranks better than every other LLM-based method",
        "LlamaRec", ("P5", "PALR", "GPT4Rec", "RecMind", "POD"), "sampled",
    ),
    "gpt4rec_lead": Claim(
        "GPT4Rec, with five queries, finds more than LlamaRec", "GPT4Rec", ("LlamaRec",), "sampled", metric="Recall@5"
    ),
}  # fmt: skip
"""The claims about methods, by their names in ``claims.csv``."""

_AT_LENGTH = 20
"""The mean title length, in tokens, for which the text states the time of generation."""


def verdict(measured: float, low: float, high: float, *, published: float, p_holm: float, null: float = 0.0) -> str:
    """Return the verdict on a lead or ratio by :data:`RULES`; noise around no effect gets one, whatever its sign.

    ``low`` and ``high`` are the ends of the 95 % interval, ``null`` is no effect, and ``published`` is above it.
    """
    reaches = high >= published
    if measured > null and p_holm < ALPHA:
        return "reproduced" if reaches else "direction only"
    # above no effect, but not after correction: the data leave it open
    return "inconclusive" if reaches or low > null else "contradicted"


def claims_table(
    folder: Path,
    comparisons: Mapping[str, pd.DataFrame | None],
    *,
    scale: str,
    trainable_share: float,
    times: pd.DataFrame | None = None,
    timed_on_gpu: bool = False,
    times_commit: str = "",
) -> pd.DataFrame:
    """Hold every claim of the paper against our comparisons and timings.

    Args:
        folder: ``results/published``.
        comparisons: tables of paired differences by :attr:`Claim.source`; ``None`` where nothing was run.
        scale: the backbone that LlamaRec was run with.
        trainable_share: trained parameters over all, at the paper's settings.
        times: what :func:`~llamarec_core.evaluation.paper.measured_inference_times` loads.
        timed_on_gpu: whether they were, as the paper's.
        times_commit: the commit that they were measured with.

    Returns:
        One claim and data set a row: ``claim``, ``dataset``, ``statement``, ``where``, ``wordings`` (statements of the
        paper that it stands for), ``unit``, ``published`` (from the paper's tables, or a bound), ``measured``,
        ``ci_low``, ``ci_high`` (95 % bootstrap over users; empty for what has no users), ``p_holm``, ``detectable``
        (the smallest difference seen with 80 % power), ``users``, ``seeds``, ``verdict``, ``observed`` (the rule
        applied to ours where that is not the paper's model; else empty), ``why``, ``scale`` (of what has one),
        ``commit``. Of a claim over several methods, the pair that supports it least counts.

    Raises:
        InputError: a published file or one of its columns is missing.
    """
    tables = [published(folder), published_llm_baselines(folder).assign(dataset="beauty", subset="all")]
    cells = pd.concat(tables).drop_duplicates(["dataset", "method", "metric", "subset"])
    cells = cells.set_index(["dataset", "method", "metric", "subset"])["value"]
    rows = []
    for (name, dataset), statements in published_claims(folder).groupby(["counts_as", "dataset"], sort=False):
        first, where = statements.iloc[0], ", ".join(dict.fromkeys(statements["where"]))
        row = {"claim": name, "dataset": dataset, "where": where, "wordings": len(statements)}
        row |= {"statement": first["statement"], "published": first["stated"]}
        if name in CLAIMS:
            claim = CLAIMS[name]
            row |= _of_methods(claim, dataset, cells, comparisons.get(claim.source), scale)
        elif name == "trainable_share":
            row |= _of_settings(trainable_share, first["stated"])
        else:
            row |= _of_times(name, first["stated"], times, on_gpu=timed_on_gpu, commit=times_commit)
        rows.append(row)
    columns = ["claim", "dataset", "statement", "where", "wordings", "unit", "published", "measured", "ci_low"]
    columns += ["ci_high", "p_holm", "detectable", "users", "seeds", "verdict", "observed", "why", "scale", "commit"]
    return pd.DataFrame(rows).reindex(columns=columns).astype({"users": "Int64", "seeds": "Int64"})


def verdict_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts of :func:`claims_table`, each beside its rule: ``verdict``, ``claims``, ``when``."""
    counts = table["verdict"].value_counts().reindex(list(RULES), fill_value=0)
    return pd.DataFrame({"verdict": list(RULES), "claims": counts.to_numpy(), "when": list(RULES.values())})


def _of_methods(claim: Claim, dataset: str, cells: pd.Series, table: pd.DataFrame | None, scale: str) -> dict[str, Any]:
    """Return what decides a claim about methods."""
    printed = cells.reindex([(dataset, name, claim.metric, claim.subset) for name in (claim.method, *claim.references)])
    leads = dict(zip(claim.references, printed.iloc[0] - printed.iloc[1:], strict=True))
    row = {"statement": claim.statement, "unit": "difference", "published": np.nanmin(list(leads.values()))}
    pairs = {other: _pair(table, claim, dataset, other) for other in claim.references}
    missing = [other for other, pair in pairs.items() if pair is None]
    if missing:
        if len(missing) == len(pairs) == 1:
            missing.insert(0, claim.method)
        return row | {"verdict": "not tested", "why": f"{', '.join(missing)}: not run on {dataset}"}
    judged = [_judged(pair, leads[other]) for other, pair in pairs.items()]
    row |= min(judged, key=lambda found: (-list(RULES).index(found["verdict"]), found["measured"]))
    if not claim.ranker:
        return row
    if scale != PAPER_BACKBONE:
        row |= {"verdict": "not tested", "observed": row["verdict"]}
        row["why"] = f"the paper's ranker is Llama-2-7B, ours is {scale}"
    return row | {"scale": scale}


def _pair(table: pd.DataFrame | None, claim: Claim, dataset: str, other: str) -> dict[str, Any] | None:
    """Return the comparison of a claim's method with another, which may stand the other way round in our table."""
    if table is None or table.empty:
        return None
    found = table[(table["dataset"] == dataset) & (table["metric"] == claim.metric)]
    found = found[found["subset"] == claim.subset].set_index(["method", "reference"])
    ours, theirs = claim.method.lower(), other.lower()
    for pair, sign in (((ours, theirs), 1), ((theirs, ours), -1)):
        if pair in found.index:
            row = found.loc[pair].to_dict()
            low, high = sorted(sign * row[end] for end in ("ci_low", "ci_high"))
            return row | {"measured": sign * row["difference"], "ci_low": low, "ci_high": high}
    return None


def _judged(pair: Mapping[str, Any], lead: float) -> dict[str, Any]:
    """Return the columns that a comparison gives a claim; where the paper prints no value, the direction decides."""
    kept = ("measured", "ci_low", "ci_high", "p_holm", "detectable", "users", "seeds", "commit")
    row = {name: pair.get(name) for name in kept}
    known = not np.isnan(lead)
    decided = verdict(*list(row.values())[:3], published=lead if known else 0.0, p_holm=row["p_holm"])
    return row | {"verdict": decided, "why": RULES[decided]} | ({"published": lead} if known else {})


def _of_settings(share: float, bound: float) -> dict[str, Any]:
    """Return what decides the claim about trained parameters: the paper's settings."""
    decided = "reproduced" if share < bound else "contradicted"
    counted = "counted from the paper's settings; no model of that size was run"
    return {"unit": "share", "measured": share, "verdict": decided, "why": counted}


def _of_times(name: str, stated: float, times: pd.DataFrame | None, *, on_gpu: bool, commit: str) -> dict[str, Any]:
    """Return what decides a claim about time, which only the paper's model on a GPU can test."""
    row = {"unit": "seconds" if name == "ranking_seconds" else "ratio", "verdict": "not tested"}
    seconds = {} if times is None else times.set_index(["method", "mean_title_length_tokens"])["seconds"].to_dict()
    if not {("LlamaRec", _AT_LENGTH), ("Llama CausalLM", _AT_LENGTH)} <= seconds.keys():
        return row | {"why": f"no times were measured at {_AT_LENGTH} tokens a title"}
    if name == "ranking_seconds":
        measured = max(value for (method, _), value in seconds.items() if method == "LlamaRec")
        decided = "reproduced" if measured < stated else "contradicted"
    else:
        measured = seconds["Llama CausalLM", _AT_LENGTH] / seconds["LlamaRec", _AT_LENGTH]
        decided = verdict(measured, measured, measured, published=stated, p_holm=0.0, null=1.0)
    scale = "+".join(dict.fromkeys(times["backbone"]))
    row |= {"measured": measured, "scale": scale, "commit": commit}
    if scale == PAPER_BACKBONE and on_gpu:
        return row | {"verdict": decided, "why": "one value, without users to resample"}
    why = f"the paper times Llama-2-7B on a GPU, we {scale} on a {'GPU' if on_gpu else 'processor'}"
    return row | {"observed": decided, "why": why}
