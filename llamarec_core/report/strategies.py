"""What ranks with a language model, side by side: quality and cost, from the answers that `3_strategies` kept.

Strategies answer a sample of the users, half of them with a retrieved target. A mean over all users weighs each half
with what it stands for. Several seeds count as strata of their own, each with an equal part.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation.metrics import METRICS, PRIMARY, Strata, corrected, difference, estimate, holm, per_user
from llamarec_core.files import InputError, read_json
from llamarec_core.llm_baselines.comparison import named_ranks
from llamarec_core.provenance import commit_name
from llamarec_core.report.forms import RETRIEVER

Answers = Mapping[tuple[str, str, bool, int], pd.DataFrame]
"""(data set, strategy, whether it was tuned, seed) → :data:`llamarec_core.llm_baselines.comparison.COLUMNS`."""

_COLUMNS = [
    "dataset", "method", "state", "ranked", "metric", "subset", "published", "measured", "ci_low", "ci_high",
    "predicted", "formula", "users", "seeds", "examples", "commit",
]  # fmt: skip

_CLAIMED = (("p5", PRIMARY), ("palr", PRIMARY), ("gpt4rec", PRIMARY), ("gpt4rec", "Recall@5"))
"""What the paper's Table 4 compares LlamaRec with, and the metric in which it says that GPT4Rec leads."""


def pooled(answers: Answers) -> dict[tuple[str, str, str], pd.DataFrame]:
    """Return (data set, strategy, ``zero-shot`` or ``tuned``) → the answers of all seeds, with their ``seed``."""
    if not answers:
        raise InputError("There are no answers of strategies: run `3_strategies` first.")
    parts: dict[tuple[str, str, str], dict[int, pd.DataFrame]] = {}
    for (dataset, method, tuned, seed), frame in answers.items():
        parts.setdefault((dataset, method, "tuned" if tuned else "zero-shot"), {})[seed] = frame.assign(seed=seed)
    seeds = {dataset: of.keys() for (dataset, *_), of in parts.items()}
    for (dataset, method, _), of in parts.items():
        if of.keys() != seeds[dataset]:
            problem = f"{method} on {dataset} was asked with other seeds than other strategies"
            raise InputError(f"{problem}: run `3_strategies` with the same seeds for all.")
    return {case: pd.concat(of.values(), ignore_index=True) for case, of in parts.items()}


def strata_of(frame: pd.DataFrame) -> Strata:
    """Return the strata of sampled users, of whom each seed drew its own: ``seed``, ``stratum``, ``stratum_users``."""
    groups = frame.reset_index(drop=True).groupby(["seed", "stratum"])
    sizes = groups["stratum_users"].first()
    shares = sizes / sizes.groupby("seed").transform("sum") / frame["seed"].nunique()
    return [(rows.to_numpy(), shares[stratum]) for stratum, rows in groups.groups.items()]


def strategies_table(answers: Answers, **sampling: int) -> pd.DataFrame:
    """Estimate metrics and cost of every strategy in every state, one number a row.

    ``ranked`` is what a strategy ranks: the ``candidates``, the whole ``catalogue``, or the candidates that a generated
    answer has ``named``, where the others keep the retriever's order. ``predicted`` is the mean by the cost formula,
    and ``formula`` whether every request's count is ``equal`` to it, ``bounded`` by it, or has ``exceeded`` it.
    ``examples`` are the prompts that tuning read. ``valid_outputs`` is the share of a request's outputs that name an
    item, ``answered`` that of requests whose answer names a candidate; seconds are of requests asked one by one.
    """
    rows: list[dict[str, Any]] = []
    for (dataset, method, state), frame in pooled(answers).items():
        made = {"seeds": frame["seed"].nunique(), "examples": int(frame["examples"].max())}
        made["commit"] = "+".join(dict.fromkeys(frame["commit"]))
        own = "candidates" if frame["reads_candidates"].all() else "catalogue"
        orders = {own: frame["rank"], "candidates": frame["reranked"]}
        generates = own == "candidates" and (frame["tokens_generated"] > 0).any()
        orders |= {"named": named_ranks(frame)} if generates else {}
        if dataset not in {row["dataset"] for row in rows}:
            case = {"dataset": dataset, "method": RETRIEVER, "state": "trained", "ranked": "candidates"}
            case |= made | {"examples": 0}
            rows += [case | row for row in _qualities(frame, frame["retriever_rank"], sampling)]
        case = {"dataset": dataset, "method": method, "state": state} | made
        for ranked, ranks in orders.items():
            rows += [case | {"ranked": ranked} | row for row in _qualities(frame, ranks, sampling)]
        case |= {"ranked": own, "subset": "all"}
        rows += [case | row for row in _costs(frame, sampling, generates=generates)]
    return pd.DataFrame(rows).reindex(columns=_COLUMNS)


def strategy_pairs(answers: Answers, **sampling: int) -> pd.DataFrame:
    """Compare how every strategy orders retrieved candidates with the retriever and with the tuned verbalizer."""
    cases, rows = pooled(answers), []
    for (dataset, method, state), frame in cases.items():
        references = {RETRIEVER: frame["retriever_rank"]}
        if (dataset, "verbalizer", "tuned") in cases and (method, state) != ("verbalizer", "tuned"):
            references["verbalizer"] = cases[dataset, "verbalizer", "tuned"]["reranked"]
        found = frame["stratum"] == "retrieved"
        for reference, ranks in references.items():
            ours, theirs = (per_user(of[found], PRIMARY) for of in (frame["reranked"], ranks))
            row = {"dataset": dataset, "method": method, "state": state, "reference": reference, "metric": PRIMARY}
            row |= {"subset": "retrieved"} | difference(ours, theirs, **sampling)._asdict()
            rows.append(row | {"users": int(found.sum())})
    commit = "+".join(dict.fromkeys(frame["commit"].iloc[0] for frame in cases.values()))
    return corrected(pd.DataFrame(rows)).assign(commit=commit)


def claimed_pairs(answers: Answers, **sampling: int) -> pd.DataFrame:
    """Compare the tuned strategies as the paper's claims on its Table 4 do, over all users, each by its own ranking.

    All rows of a data set are one family. Without the strategies that it takes, the table is empty.
    """
    cases, rows = pooled(answers), []
    for dataset, (reference, metric) in product(dict.fromkeys(dataset for dataset, *_ in cases), _CLAIMED):
        own, other = (cases.get((dataset, name, "tuned")) for name in ("verbalizer", reference))
        if own is not None and other is not None:
            ours, theirs = (per_user(frame["rank"], metric) for frame in (own, other))
            row = {"dataset": dataset, "method": "llamarec", "reference": reference, "metric": metric, "subset": "all"}
            row |= difference(ours, theirs, strata_of(own), **sampling)._asdict()
            row |= {"users": own["user"].nunique(), "seeds": own["seed"].nunique(), "commit": own["commit"].iloc[0]}
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(p_holm=table.groupby("dataset")["p_value"].transform(holm)) if rows else table


def table4(table: pd.DataFrame, *, published: pd.DataFrame) -> pd.DataFrame:
    """Set the LLM-based methods of the paper's Table 4 beside our tuned ones on Beauty, each by its own ranking."""
    own = table[(table["dataset"] == "beauty") & (table["subset"] == "all") & (table["state"] == "tuned")]
    reads = own[own["metric"] == "forward_passes"].set_index("method")["ranked"]  # the scope of a strategy's own answer
    own = own[own["ranked"] == own["method"].map(reads)].drop(columns="published").replace("verbalizer", "llamarec")
    quoted = published.rename(columns={"value": "published"}).assign(dataset="beauty", subset="all")
    quoted["method"] = quoted["method"].str.lower()
    found = quoted.merge(own, on=["dataset", "method", "metric", "subset"], how="left")
    columns = ["dataset", "method", "metric", "subset", "published", "measured", "ci_low", "ci_high"]
    return found[[*columns, "users", "seeds", "commit"]].astype({"users": "Int64", "seeds": "Int64"})


def differences_table(table: pd.DataFrame) -> pd.DataFrame:
    """Tell the strategies of :func:`strategies_table` apart by their cost, the tuned state where there is one."""
    costs = ["tokens_generated", "forward_passes", "tokens_read", "seconds_p50"]
    keys = ["dataset", "method", "state", "ranked", "commit"]
    found = table[table["metric"].isin(costs)].pivot_table("measured", keys, "metric", sort=False)[costs].reset_index()
    found = found.drop_duplicates(["dataset", "method"], keep="last", ignore_index=True).rename_axis(columns=None)
    verbalizer = found[found["method"] == "verbalizer"].set_index("dataset")["seconds_p50"]
    found["times_verbalizer"] = found["seconds_p50"] / found["dataset"].map(verbalizer)
    found = found.assign(two_stage=found["ranked"] == "candidates").rename(columns={"method": "strategy"})
    return found[["dataset", "strategy", "state", *costs, "times_verbalizer", "two_stage", "commit"]]


def training_table(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Say what each tuning read, how long it took and what it reached: its name → where ``fit_ranker`` left it.

    ``answers`` counts next items; ``reached`` is the validation NDCG@10 of the adapter kept.
    """
    rows = []
    for name, folder in folders.items():
        last, kept = pd.read_csv(folder / "training.csv").iloc[-1], read_json(folder / "ranker.json")["best"]
        made = read_json(folder / "circumstances.json")
        row = {"tuning": name, "answers": int(last["answers"]), "tokens": int(last["tokens"])}
        row |= {"seconds": last["seconds"], "tokens_per_second": last["tokens"] / last["seconds"]}
        row |= {"reached": kept["ndcg@10"], "reached_with_retriever": kept.get("ndcg@10_with_retriever")}
        rows.append(row | {"peak_memory_mib": made["peak_memory_mib"], "commit": commit_name(made)})
    return pd.DataFrame(rows)


def _qualities(frame: pd.DataFrame, ranks: pd.Series, sampling: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the metrics of ranks, over all users and over those whose target was retrieved."""
    for subset, members in (("all", frame), ("retrieved", frame[frame["stratum"] == "retrieved"])):
        if members["seed"].nunique() == frame["seed"].nunique():
            mean = _estimator(members, sampling)
            for metric in METRICS:
                yield {"metric": metric, "subset": subset} | mean(per_user(ranks[members.index], metric))


def _costs(frame: pd.DataFrame, sampling: Mapping[str, int], *, generates: bool) -> Iterator[dict[str, Any]]:
    """Yield what does not depend on ranks."""
    mean = _estimator(frame, sampling)
    valid = frame["valid"] / (frame["valid"] + frame["invalid"]).clip(lower=1)  # 0 where nothing was put out
    yield {"metric": "valid_outputs"} | mean(valid)
    if generates:
        yield {"metric": "answered"} | mean(frame["valid"] > 0)
    for metric in ("forward_passes", "tokens_read", "tokens_generated"):
        counted, predicted = frame[metric], frame[f"predicted_{metric}"]
        at_most = "bounded" if (counted <= predicted).all() else "exceeded"
        formula = "equal" if (counted == predicted).all() else at_most
        found = {"metric": metric, "formula": formula, "predicted": mean(predicted)["measured"]}
        yield found | mean(counted)
    seconds = frame[[f"{part}_seconds" for part in ("tokenizing", "reading", "generating", "parsing")]].sum(axis=1)
    together = frame.groupby("seed")[["batch_requests", "batch_seconds", "batch_peak_mib"]].first()
    whole = {
        "seconds_p50": np.percentile(seconds, 50),
        "seconds_p95": np.percentile(seconds, 95),
        "requests_per_second": (together["batch_requests"] / together["batch_seconds"]).mean(),
        "peak_mib": together["batch_peak_mib"].max(),
        "threads": frame["threads"].max(),
        "processors": frame["processors"].mean(),
    }
    users = frame["user"].nunique()
    yield from ({"metric": metric, "measured": float(value), "users": users} for metric, value in whole.items())


def _estimator(frame: pd.DataFrame, sampling: Mapping[str, int]) -> Callable[[pd.Series], dict[str, Any]]:
    strata, users = strata_of(frame), frame["user"].nunique()
    return lambda values: estimate(values, strata, **sampling)._asdict() | {"users": users}
