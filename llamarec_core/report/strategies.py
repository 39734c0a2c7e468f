"""The strategies side by side: what they reach and what they cost, from the answers that `5_strategies` kept.

A mean over all test users is estimated from the sample by weighing each stratum with its share of them. Several seeds
count as strata of their own, each with an equal part.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation import METRICS, per_user, stratified_mean
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
        metrics of both),
        ``metric``, ``subset`` (``all``, or ``retrieved``), ``published`` (empty), ``measured``, ``ci_low``, ``ci_high``
        (95 % bootstrap within strata), ``predicted`` and ``formula`` (the mean by the cost formula, and whether every
        request's count is ``equal``, ``bounded`` or ``exceeded``), ``users``, ``seeds``, ``examples`` (prompts that
        tuning read), ``commit``. Beside the metrics of Table 1 there are ``valid_outputs`` (share of a request's
        outputs that name an item), :data:`COUNTED`, the quantiles ``seconds_p50`` and ``seconds_p95`` over the
        requests that were asked one by one, and of requests asked together ``requests_per_second`` and ``peak_mib``.

    Raises:
        InputError: there are no answers.
    """
    if not answers:
        raise InputError("There are no answers of strategies: run `5_strategies` first.")
    sampling = {"samples": samples, "seed": seed}
    rows: list[dict[str, Any]] = []
    for dataset, method, tuned, frames in _by_case(answers):
        pooled = pd.concat(frames)
        made = {"seeds": len(frames), "examples": int(pooled["examples"].max())}
        made["commit"] = "+".join(dict.fromkeys(pooled["commit"]))
        if dataset not in {row["dataset"] for row in rows}:
            case = {"dataset": dataset, "method": RETRIEVER, "state": "trained", "ranked": "candidates"}
            rows += [case | found | made | {"examples": 0} for found in _qualities(frames, "retriever_rank", sampling)]
        own = "candidates" if pooled["reads_candidates"].all() else "catalogue"
        case = {"dataset": dataset, "method": method, "state": "tuned" if tuned else "zero-shot"}
        for ranked, column in {own: "rank", "candidates": "reranked"}.items():
            rows += [case | {"ranked": ranked} | found | made for found in _qualities(frames, column, sampling)]
        rows += [case | {"ranked": own} | found | made for found in _costs(frames, sampling)]
    columns = ["dataset", "method", "state", "ranked", "metric", "subset", "published", "measured", "ci_low", "ci_high"]
    columns += ["predicted", "formula", "users", "seeds", "examples", "commit"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _qualities(frames: list[pd.DataFrame], column: str, sampling: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the metrics of the ranks in a column, over all users and over those whose target was retrieved."""
    for subset in ("all", "retrieved"):
        members = [frame if subset == "all" else frame[frame["stratum"] == subset] for frame in frames]
        if not any(frame.empty for frame in members):
            for metric in METRICS:
                found = _estimate(members, lambda frame, m=metric: per_user(frame[column], m), **sampling)
                yield {"metric": metric, "subset": subset} | found


def _costs(frames: list[pd.DataFrame], sampling: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a case that do not depend on ranks."""
    subset = {"subset": "all"}
    yield subset | {"metric": "valid_outputs"} | _estimate(frames, _valid_share, **sampling)
    pooled = pd.concat(frames)
    for metric in COUNTED:
        found = _estimate(frames, lambda frame, m=metric: frame[m], **sampling)
        predicted = _estimate(frames, lambda frame, m=metric: frame[f"predicted_{m}"], **sampling)["measured"]
        surplus = pooled[metric] - pooled[f"predicted_{metric}"]
        formula = "equal" if (surplus == 0).all() else "bounded" if (surplus <= 0).all() else "exceeded"
        yield subset | {"metric": metric, "predicted": predicted, "formula": formula} | found
    seconds = pooled[[f"{part}_seconds" for part in ("tokenizing", "reading", "generating", "parsing")]].sum(axis=1)
    whole = {
        **{f"seconds_p{quantile}": np.percentile(seconds, quantile) for quantile in (50, 95)},
        "requests_per_second": np.mean([(f["batch_requests"] / f["batch_seconds"]).iloc[0] for f in frames]),
        "peak_mib": np.max([frame["batch_peak_mib"].iloc[0] for frame in frames]),
    }
    users = pooled["user"].nunique()
    yield from (
        subset | {"metric": metric, "measured": float(value), "users": users} for metric, value in whole.items()
    )


def _estimate(
    frames: list[pd.DataFrame], values: Callable[[pd.DataFrame], Any], *, samples: int, seed: int
) -> dict[str, Any]:
    strata, weights = [], []
    for frame in frames:  # one a seed
        members = [rows for _, rows in frame.groupby("stratum")]
        sizes = np.array([rows["stratum_users"].iloc[0] for rows in members], dtype=float)
        strata += [np.asarray(values(rows), dtype=float) for rows in members]
        weights += (sizes / sizes.sum() / len(frames)).tolist()
    found = stratified_mean(strata, weights, samples=samples, seed=seed)
    users = pd.concat(frames)["user"].nunique()
    return {"measured": found.mean, "ci_low": found.low, "ci_high": found.high, "users": users}


def _valid_share(frame: pd.DataFrame) -> np.ndarray:
    """Return each request's share of valid outputs; 0 where nothing was put out."""
    return (frame["valid"] / (frame["valid"] + frame["invalid"]).clip(lower=1)).to_numpy()


def _by_case(answers: Answers) -> Iterator[tuple[str, str, bool, list[pd.DataFrame]]]:
    for case in dict.fromkeys(key[:3] for key in answers):
        yield *case, [frame for key, frame in answers.items() if key[:3] == case]


def timing_conditions(answers: Answers) -> str:
    """Say in a sentence with how many threads the requests were timed, and how much of the processors these had."""
    frames = answers.values()
    threads = ", ".join(map(str, sorted({count for frame in frames for count in frame["threads"]})))
    had = [frame["processors"].iloc[0] for frame in frames]
    return f"Timed with {threads} thread(s), which kept {min(had):.2f} to {max(had):.2f} processors busy."


def table4(table: pd.DataFrame, *, published: pd.DataFrame) -> pd.DataFrame:
    """Set the LLM-based methods of the paper's Table 4, quoted there from other works, beside ours on Beauty.

    Args:
        table: from :func:`strategies_table`; of each strategy the tuned state counts, ranking as it does by itself.
        published: what :func:`llamarec_core.evaluation.published_llm_baselines` loads.

    Returns:
        The columns of :func:`~llamarec_core.report.results_table`; ``measured`` is empty for what was not run.
    """
    own = table[(table["dataset"] == "beauty") & (table["subset"] == "all") & (table["state"] == "tuned")]
    reads = own[own["metric"] == "forward_passes"].set_index("method")["ranked"]  # the scope of a strategy's own answer
    own = own[own["ranked"] == own["method"].map(reads)].set_index(["method", "metric"])
    rows = []
    for quoted in published.itertuples():
        method = quoted.method.lower()
        row = {"dataset": "beauty", "method": method, "metric": quoted.metric}
        row |= {"subset": "all", "published": quoted.value}
        ours = (method.replace("llamarec", "verbalizer"), quoted.metric)
        if ours in own.index:  # RecMind and POD were not run
            columns = ["measured", "ci_low", "ci_high", "users", "seeds", "commit"]
            row |= own.loc[ours, columns].to_dict()
        rows.append(row)
    columns = ["dataset", "method", "metric", "subset", "published", "measured", "ci_low", "ci_high"]
    frame = pd.DataFrame(rows).reindex(columns=[*columns, "users", "seeds", "commit"])
    return frame.astype({"measured": float, "users": "Int64", "seeds": "Int64"})


def differences_table(table: pd.DataFrame) -> pd.DataFrame:
    """Tell the strategies apart by what was measured: do they generate, what does it cost, do they need a retriever.

    Args:
        table: from :func:`strategies_table`; the tuned state counts where there is one.

    Returns:
        One row for each data set and strategy: ``dataset``, ``strategy``, ``state``, ``tokens_generated``,
        ``forward_passes``, ``tokens_read``, ``seconds_p50``, ``times_verbalizer`` (its time over the verbalizer's on
        the same data set), ``two_stage`` (whether it ranks retrieved candidates), ``commit``.
    """
    names = ["tokens_generated", "forward_passes", "tokens_read", "seconds_p50"]
    costs = table[table["metric"].isin(names)]
    keys = ["dataset", "method", "state"]
    rows = []
    for (dataset, method, state), group in costs.groupby(keys, sort=False):
        measured = group.set_index("metric")["measured"]
        first = group.iloc[0]
        row = {"dataset": dataset, "strategy": method, "state": state} | measured[names].to_dict()
        rows.append(row | {"two_stage": first["ranked"] == "candidates", "commit": first["commit"]})
    found = pd.DataFrame(rows).drop_duplicates(["dataset", "strategy"], keep="last", ignore_index=True)
    verbalizer = found[found["strategy"] == "verbalizer"].set_index("dataset")["seconds_p50"]
    ratios = found["seconds_p50"] / found["dataset"].map(verbalizer)
    found.insert(found.columns.get_loc("two_stage"), "times_verbalizer", ratios)
    return found
