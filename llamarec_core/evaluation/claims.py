"""The claims of the paper: one row a claim and data set, with its number, ours, and a verdict by rule.

``results/published/claims.csv`` holds the statements as the paper words them. Statements that one comparison decides
count as one claim, and are tested once, in the primary metric: LlamaRec's gains in six metrics, among all users and
among the retrieved ones, are one claim about the order of the same candidates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llamarec_core.evaluation.metrics import ALPHA, PRIMARY
from llamarec_core.evaluation.paper import LLM_BASED, published_cells, published_claims

PAPER_BACKBONE = "llama-2-7b"  # only its run can test a claim about the paper's ranker

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
    source: str  # which of our tables compares them: retrieval, ranking or sampled
    metric: str = PRIMARY
    subset: str = "all"
    ranker: bool = True  # whether the language model's scale matters


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
        "LlamaRec ranks better than every other LLM-based method", "LlamaRec", LLM_BASED, "sampled"
    ),
    "gpt4rec_lead": Claim(
        "GPT4Rec, with five queries, finds more than LlamaRec", "GPT4Rec", ("LlamaRec",), "sampled", metric="Recall@5"
    ),
}  # fmt: skip
"""The claims about methods, by their names in ``claims.csv``."""

_AT_LENGTH = 20  # tokens a title, for which the text states the time of generation
_COLUMNS = [
    "claim", "dataset", "statement", "where", "wordings", "unit", "published", "measured", "ci_low", "ci_high",
    "p_holm", "detectable", "users", "seeds", "verdict", "observed", "why", "scale", "commit",
]  # fmt: skip


def verdict(measured: float, low: float, high: float, *, published: float, p_holm: float, null: float = 0.0) -> str:
    """Return the verdict on a lead or ratio by :data:`RULES`; noise around ``null``, no effect, gets one."""
    reaches = high >= published
    if measured > null and p_holm < ALPHA:
        return "reproduced" if reaches else "direction only"
    # above no effect, but not after correction: the data leave it open
    return "inconclusive" if reaches or low > null else "contradicted"


def claims_table(
    folder: Path,
    comparisons: Mapping[str, pd.DataFrame],
    *,
    scale: str,
    trainable_share: float,
    times: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Hold every claim of the paper (``folder`` is ``results/published``) against our comparisons and timings.

    ``comparisons`` are tables of paired differences by :attr:`Claim.source`, ``scale`` is LlamaRec's backbone.
    ``wordings`` counts the statements that a claim stands for. ``observed`` is the rule applied to ours where that is
    not the paper's model. Of a claim over several methods, the pair that supports it least counts.
    """
    cells, rows = published_cells(folder), []
    tables = {source: _both_ways(table) for source, table in comparisons.items() if len(table)}
    for (name, dataset), statements in published_claims(folder).groupby(["counts_as", "dataset"], sort=False):
        first, where = statements.iloc[0], ", ".join(statements["where"].unique())
        row = {"claim": name, "dataset": dataset, "where": where, "wordings": len(statements)}
        row |= {"statement": first["statement"], "published": first["stated"]}
        if name in CLAIMS:
            row |= _of_methods(CLAIMS[name], dataset, cells, tables.get(CLAIMS[name].source, pd.DataFrame()), scale)
        elif name == "trainable_share":
            holds = "reproduced" if trainable_share < first["stated"] else "contradicted"
            row |= {"unit": "share", "measured": trainable_share, "verdict": holds}
            row |= {"why": "counted from the paper's settings; no model of that size was run"}
        else:
            row |= _of_times(name, first["stated"], times)
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=_COLUMNS).astype({"users": "Int64", "seeds": "Int64"})


def verdict_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts of :func:`claims_table`, each beside its rule."""
    rows = [(name, (table["verdict"] == name).sum(), rule) for name, rule in RULES.items()]
    return pd.DataFrame(rows, columns=["verdict", "claims", "when"])


def _both_ways(table: pd.DataFrame) -> pd.DataFrame:
    """Return each comparison and its reverse, by what is compared."""
    reverse = {"method": table["reference"], "reference": table["method"], "difference": -table["difference"]}
    reverse |= {"ci_low": -table["ci_high"], "ci_high": -table["ci_low"]}
    both = pd.concat([table, table.assign(**reverse)]).rename(columns={"difference": "measured"})
    return both.set_index(["dataset", "metric", "subset", "method", "reference"])


def _of_methods(claim: Claim, dataset: str, cells: pd.Series, table: pd.DataFrame, scale: str) -> dict[str, Any]:
    """Return what decides a claim about methods; ``table`` holds comparisons :func:`_both_ways`."""
    lead = cells.get((dataset, claim.method, claim.metric, claim.subset), np.nan)
    leads = {name: lead - cells.get((dataset, name, claim.metric, claim.subset), np.nan) for name in claim.references}
    row = {"statement": claim.statement, "unit": "difference", "published": np.nanmin([*leads.values()])}
    cases = {name: (dataset, claim.metric, claim.subset, claim.method.lower(), name.lower()) for name in leads}
    if missing := [name for name, case in cases.items() if case not in table.index]:
        missing = missing if len(cases) > 1 else [claim.method, *missing]
        return row | {"verdict": "not tested", "why": f"{', '.join(missing)}: not run on {dataset}"}
    judged = []
    for name, case in cases.items():
        ours = table.loc[case].to_dict()
        known = {} if np.isnan(leads[name]) else {"published": leads[name]}
        # where the paper prints no value, the direction decides
        bound = {"published": 0.0} | known | {"p_holm": ours["p_holm"]}
        decided = verdict(ours["measured"], ours["ci_low"], ours["ci_high"], **bound)
        judged.append(ours | known | {"verdict": decided, "why": RULES[decided]})
    row |= min(judged, key=lambda found: (-list(RULES).index(found["verdict"]), found["measured"]))
    if not claim.ranker:
        return row
    if scale != PAPER_BACKBONE:
        row |= {"observed": row["verdict"], "verdict": "not tested"}
        row |= {"why": f"the paper's ranker is Llama-2-7B, ours is {scale}"}
    return row | {"scale": scale}


def _of_times(name: str, stated: float, times: pd.DataFrame | None) -> dict[str, Any]:
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
    scale, made = "+".join(dict.fromkeys(times["backbone"])), times.iloc[0]
    row |= {"measured": measured, "scale": scale, "commit": made["commit"]}
    if scale == PAPER_BACKBONE and made["on_gpu"]:
        return row | {"verdict": decided, "why": "one value, without users to resample"}
    why = f"the paper times Llama-2-7B on a GPU, we {scale} on a {'GPU' if made['on_gpu'] else 'processor'}"
    return row | {"observed": decided, "why": why}
