"""What ranks with a language model, side by side: quality and cost, from the answers that `3_strategies` kept.

Strategies answer a sample of the users, half of them with a retrieved target. A mean over all users weighs each half
with what it stands for. Several seeds count as strata of their own, each with an equal part.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation.estimates import PRIMARY, Strata, corrected, difference, estimate, holm, strata_of
from llamarec_core.evaluation.metrics import METRICS, per_user
from llamarec_core.files import InputError
from llamarec_core.report.methods import RETRIEVER

Answers = Mapping[tuple[str, str, bool, int], pd.DataFrame]
"""(data set, strategy, whether it was tuned, seed) → :data:`llamarec_core.llm_baselines.comparison.COLUMNS`."""

COUNTED = ("forward_passes", "tokens_read", "tokens_generated")
"""What the cost formula predicts of a request."""


def strategies_table(answers: Answers, *, samples: int, seed: int) -> pd.DataFrame:
    """Estimate metrics and cost of every strategy in every state.

    Args:
        answers: as :func:`llamarec_core.llm_baselines.comparison.load_answers` returns them.
        samples: bootstrap samples behind each interval.
        seed: of the bootstrap.

    Returns:
        One number a row: ``dataset``, ``method`` (the strategy, or first ``retriever``: its order, which a strategy
        whose output names no item leaves as it is), ``state`` (``zero-shot`` or ``tuned``; of the retriever
        ``trained``), ``ranked`` (``candidates``, or the whole ``catalogue``; a strategy that reads no candidates has
        metrics of both), ``metric``, ``subset`` (``all``, or ``retrieved``), ``published`` (empty), ``measured``,
        ``ci_low``, ``ci_high`` (95 % bootstrap within strata), ``predicted`` and ``formula`` (the mean by the cost
        formula, and whether every request's count is ``equal``, ``bounded`` or ``exceeded``), ``users``, ``seeds``,
        ``examples`` (prompts that tuning read), ``commit``. Beside the metrics of Table 1 there are ``valid_outputs``
        (share of a request's outputs that name an item), :data:`COUNTED`, the quantiles ``seconds_p50`` and
        ``seconds_p95`` over the requests that were asked one by one with ``threads``, which kept ``processors`` busy on
        average, and of requests asked together ``requests_per_second`` and ``peak_mib``.

    Raises:
        InputError: there are no answers.
    """
    rows: list[dict[str, Any]] = []
    sampling = {"samples": samples, "seed": seed}
    for (dataset, method, state), frame in pooled_answers(answers).items():
        made = {"seeds": frame["seed"].nunique(), "examples": int(frame["examples"].max())}
        made["commit"] = "+".join(dict.fromkeys(frame["commit"]))
        if dataset not in {row["dataset"] for row in rows}:
            case = {"dataset": dataset, "method": RETRIEVER, "state": "trained", "ranked": "candidates"}
            rows += [case | found | made | {"examples": 0} for found in _qualities(frame, "retriever_rank", sampling)]
        own = "candidates" if frame["reads_candidates"].all() else "catalogue"
        case = {"dataset": dataset, "method": method, "state": state}
        for ranked, column in {own: "rank", "candidates": "reranked"}.items():
            rows += [case | {"ranked": ranked} | found | made for found in _qualities(frame, column, sampling)]
        rows += [case | {"ranked": own} | found | made for found in _costs(frame, sampling)]
    columns = ["dataset", "method", "state", "ranked", "metric", "subset", "published", "measured", "ci_low", "ci_high"]
    columns += ["predicted", "formula", "users", "seeds", "examples", "commit"]
    return pd.DataFrame(rows).reindex(columns=columns)


def pooled_answers(answers: Answers) -> dict[tuple[str, str, str], pd.DataFrame]:
    """Return (data set, strategy, state) → the answers of all seeds, which have a ``seed`` then.

    Raises:
        InputError: there are no answers.
    """
    if not answers:
        raise InputError("There are no answers of strategies: run `3_strategies` first.")
    frames: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for (dataset, method, tuned, seed), frame in answers.items():
        case = dataset, method, "tuned" if tuned else "zero-shot"
        frames.setdefault(case, []).append(frame.assign(seed=seed))
    return {case: pd.concat(of_seeds, ignore_index=True) for case, of_seeds in frames.items()}


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
        ``p_value`` (sign-flip test), ``p_holm`` (Holm's correction over all rows of a data set), ``detectable``,
        ``users``, ``commit``.

    Raises:
        InputError: not all strategies of a data set were run with the same seeds.
    """
    cases = pooled_answers(answers)
    rows = []
    for (dataset, method, state), frame in cases.items():
        references = {RETRIEVER: frame["retriever_rank"]}
        if (dataset, "verbalizer", "tuned") in cases and (method, state) != ("verbalizer", "tuned"):
            references["verbalizer"] = cases[dataset, "verbalizer", "tuned"]["reranked"]
        found = frame["stratum"] == "retrieved"
        for reference, ranks in references.items():
            _refuse_other_seeds(frame, ranks, dataset=dataset, method=method)
            ours, theirs = (per_user(of[found], PRIMARY) for of in (frame["reranked"], ranks))
            row = {"dataset": dataset, "method": method, "state": state, "reference": reference, "metric": PRIMARY}
            row |= {"subset": "retrieved"} | difference(ours, theirs, samples=samples, seed=seed)._asdict()
            rows.append(row | {"users": int(found.sum())})
    commit = "+".join(dict.fromkeys(frame["commit"].iloc[0] for frame in answers.values()))
    return corrected(pd.DataFrame(rows)).assign(commit=commit)


def claimed_pairs(answers: Answers, *, samples: int, seed: int) -> pd.DataFrame:
    """Compare the tuned strategies as the paper's claims on its Table 4 do, over all users, each by its own ranking.

    Args:
        answers: as for :func:`strategies_table`; may be empty.
        samples: bootstrap samples behind each interval, and sign flips behind each p-value.
        seed: of both.

    Returns:
        LlamaRec minus P5, PALR and GPT4Rec in NDCG@10, and in Recall@5 where the paper says that GPT4Rec leads:
        ``dataset``, ``method``, ``reference``, ``metric``, ``subset`` (``all``), ``difference``, ``ci_low``,
        ``ci_high``, ``p_value``, ``p_holm`` (over these rows of a data set), ``detectable``, ``users``, ``seeds``,
        ``commit``.

    Raises:
        InputError: not all strategies of a data set were run with the same seeds.
    """
    cases = pooled_answers(answers) if answers else {}
    rows = []
    for dataset in dict.fromkeys(name for name, _, _ in cases):
        for reference, metric in (("p5", PRIMARY), ("palr", PRIMARY), ("gpt4rec", PRIMARY), ("gpt4rec", "Recall@5")):
            own, other = (cases.get((dataset, name, "tuned")) for name in ("verbalizer", reference))
            if own is None or other is None:
                continue
            _refuse_other_seeds(own, other["rank"], dataset=dataset, method=reference)
            values = (per_user(frame["rank"], metric) for frame in (own, other))
            found = difference(*values, strata_of(own), samples=samples, seed=seed)._asdict()
            row = {"dataset": dataset, "method": "llamarec", "reference": reference, "metric": metric, "subset": "all"}
            row |= found | {"users": own["user"].nunique(), "seeds": own["seed"].nunique()}
            rows.append(row | {"commit": own["commit"].iloc[0]})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=table.groupby("dataset")["p_value"].transform(holm)) if rows else table


def table4(table: pd.DataFrame, *, published: pd.DataFrame) -> pd.DataFrame:
    """Set the LLM-based methods of the paper's Table 4, quoted there from other works, beside ours on Beauty.

    Args:
        table: from :func:`strategies_table`; of each strategy the tuned state counts, ranking as it does by itself.
        published: what :func:`llamarec_core.evaluation.published_llm_baselines` loads.

    Returns:
        The columns of :func:`~llamarec_core.report.results.results_table`; ``measured`` is empty for what was not run.
    """
    own = table[(table["dataset"] == "beauty") & (table["subset"] == "all") & (table["state"] == "tuned")]
    reads = own[own["metric"] == "forward_passes"].set_index("method")["ranked"]  # the scope of a strategy's own answer
    own = own[own["ranked"] == own["method"].map(reads)]
    own = own.assign(method=own["method"].replace("verbalizer", "llamarec")).drop(columns="published")
    quoted = published.rename(columns={"value": "published"}).assign(dataset="beauty", subset="all")
    quoted["method"] = quoted["method"].str.lower()
    columns = ["dataset", "method", "metric", "subset", "published", "measured", "ci_low", "ci_high"]
    found = quoted.merge(own, on=["dataset", "method", "metric", "subset"], how="left")
    return found[[*columns, "users", "seeds", "commit"]].astype({"users": "Int64", "seeds": "Int64"})


def differences_table(table: pd.DataFrame) -> pd.DataFrame:
    """Tell the strategies apart by what was measured: do they generate, what does it cost, do they need a retriever.

    Args:
        table: from :func:`strategies_table`; the tuned state counts where there is one.

    Returns:
        One row for each data set and strategy: ``dataset``, ``strategy``, ``state``, ``tokens_generated``,
        ``forward_passes``, ``tokens_read``, ``seconds_p50``, ``times_verbalizer`` (its time over the verbalizer's on
        the same data set), ``two_stage`` (whether it ranks retrieved candidates), ``commit``.
    """
    costs = ["tokens_generated", "forward_passes", "tokens_read", "seconds_p50"]
    keys = ["dataset", "method", "state", "ranked", "commit"]
    found = table[table["metric"].isin(costs)]
    order = found[keys].drop_duplicates()
    found = order.merge(found.pivot_table("measured", keys, "metric")[costs].reset_index(), on=keys)
    found = found.drop_duplicates(["dataset", "method"], keep="last", ignore_index=True)
    verbalizer = found[found["method"] == "verbalizer"].set_index("dataset")["seconds_p50"]
    found["times_verbalizer"] = found["seconds_p50"] / found["dataset"].map(verbalizer)
    found = found.assign(two_stage=found["ranked"] == "candidates").rename(columns={"method": "strategy"})
    return found[["dataset", "strategy", "state", *costs, "times_verbalizer", "two_stage", "commit"]]


def _qualities(frame: pd.DataFrame, column: str, sampling: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the metrics of the ranks in a column, over all users and over those whose target was retrieved."""
    for subset in ("all", "retrieved"):
        members = frame if subset == "all" else frame[frame["stratum"] == subset]
        if members["seed"].nunique() == frame["seed"].nunique():
            for metric in METRICS:
                found = _estimate(members, per_user(members[column], metric), strata_of(members), sampling)
                yield {"metric": metric, "subset": subset} | found


def _costs(frame: pd.DataFrame, sampling: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a case that do not depend on ranks."""
    strata = strata_of(frame)
    valid = frame["valid"] / (frame["valid"] + frame["invalid"]).clip(lower=1)  # 0 where nothing was put out
    found = {"metric": "valid_outputs", "subset": "all"} | _estimate(frame, valid, strata, sampling)
    yield found
    for metric in COUNTED:
        found = _estimate(frame, frame[metric], strata, sampling)
        found["predicted"] = _estimate(frame, frame[f"predicted_{metric}"], strata, sampling)["measured"]
        surplus = frame[metric] - frame[f"predicted_{metric}"]
        formula = "equal" if (surplus == 0).all() else "bounded" if (surplus <= 0).all() else "exceeded"
        yield {"metric": metric, "subset": "all", "formula": formula} | found
    seconds = frame[[f"{part}_seconds" for part in ("tokenizing", "reading", "generating", "parsing")]].sum(axis=1)
    together = frame.groupby("seed")[["batch_requests", "batch_seconds", "batch_peak_mib"]].first()
    whole = {
        **{f"seconds_p{quantile}": np.percentile(seconds, quantile) for quantile in (50, 95)},
        "requests_per_second": (together["batch_requests"] / together["batch_seconds"]).mean(),
        "peak_mib": together["batch_peak_mib"].max(),
        "threads": frame["threads"].max(),
        "processors": frame["processors"].mean(),
    }
    users = frame["user"].nunique()
    for metric, value in whole.items():
        yield {"metric": metric, "subset": "all", "measured": float(value), "users": users}


def _estimate(frame: pd.DataFrame, values: Any, strata: Strata, sampling: Mapping[str, int]) -> dict[str, Any]:
    return estimate(values, strata, **sampling)._asdict() | {"users": frame["user"].nunique()}


def _refuse_other_seeds(frame: pd.DataFrame, other: pd.Series, *, dataset: str, method: str) -> None:
    if len(frame) != len(other):
        raise InputError(
            f"{method} on {dataset} was asked other users than what it is compared with: run `3_strategies` with the "
            "same seeds for all."
        )
