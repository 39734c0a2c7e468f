"""What the ranker knows: variants of it on the same users, as a table.

Variants come in groups, each with one reference that the others of the group are compared with, user by user.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation import bootstrap_interval, holm, paired_difference, per_user
from llamarec_core.evaluation.cells import refuse_other_users
from llamarec_core.files import read_json
from llamarec_core.provenance import commit_name

METRIC = "NDCG@10"

_WARMUP = "label binding"
"""Begins the names of the warm-up's parts in the table of tunings."""


def ablation_table(ranks: pd.DataFrame, *, dataset: str, samples: int, seed: int, commit: str) -> pd.DataFrame:
    """Compare the variants of each group with the group's first on the same users.

    Args:
        ranks: what :meth:`llamarec_core.ranking.Ablation.ranks` returns.
        dataset: its name, for the table.
        samples: bootstrap samples behind each interval, and sign flips behind each p-value.
        seed: of both.
        commit: the commit that the ranks were made with.

    Returns:
        ``dataset``, ``group``, ``method`` (the variant), ``reference``, ``metric``, ``subset`` (``retrieved``),
        ``published`` (empty), ``measured``, ``ci_low``, ``ci_high``, ``difference`` (variant − reference), its interval
        ``difference_low`` and ``difference_high``, ``p_holm`` (sign-flip test, Holm's correction over the group),
        ``first_label`` (share of prompts answered with the first label; empty where no prompt was read), ``users``,
        ``seeds``, ``commit``. The reference's own differences are empty.

    Raises:
        InputError: two variants hold different users or targets.
    """
    rows = []
    refuse_other_users(
        {f"{variant!r} ({group})": frame for (group, variant), frame in ranks.groupby(["group", "variant"])}
    )
    for group, variants in ranks.groupby("group", sort=False):
        reference = variants["variant"].iloc[0]
        own = variants[variants["variant"] == reference]
        for variant, frame in variants.groupby("variant", sort=False):
            values = per_user(frame["rank"], METRIC)
            low, high = bootstrap_interval(values, samples=samples, seed=seed)
            row = {"dataset": dataset, "group": group, "method": variant, "reference": reference, "metric": METRIC}
            row |= {"subset": "retrieved", "published": np.nan, "measured": values.mean(), "ci_low": low}
            row |= {"ci_high": high, "difference": np.nan, "difference_low": np.nan, "difference_high": np.nan}
            row["p_value"] = np.nan
            if variant != reference:
                found = paired_difference(values, per_user(own["rank"], METRIC), samples=samples, seed=seed)
                row |= {"difference": found.mean, "difference_low": found.low, "difference_high": found.high}
                row["p_value"] = found.p_value
            row["first_label"] = (frame["answer"] == 1).mean() if frame["answer"].any() else np.nan
            rows.append(row | {"users": len(frame), "seeds": 1, "commit": commit})
    table = pd.DataFrame(rows)
    tested = table["p_value"].notna()
    adjusted = table[tested].groupby("group")["p_value"].transform(holm).reindex(table.index)
    table.insert(table.columns.get_loc("p_value"), "p_holm", adjusted)
    return table.drop(columns="p_value")


def training_table(folders: Mapping[str, Path], binding: Path) -> pd.DataFrame:
    """Say what each tuning read and how long it took.

    Args:
        folders: name → where :func:`llamarec_core.ranking.fit_ranker` left a finished tuning.
        binding: where the label-binding phase that they share was left; each part of it has a row of its own.

    Returns:
        ``tuning``, ``prompts``, ``answers`` (labels learnt), ``tokens``, ``seconds`` (with validations),
        ``tokens_per_second``, ``reached`` (the validation NDCG@10 of the adapter kept; of the warm-up, the share of
        right labels in its last steps), ``reached_with_retriever`` (with the retriever's score added),
        ``peak_memory_mib`` of the process, ``commit``.
    """
    rows = [
        _training_row(f"{_WARMUP}, {part}", curve, {"ndcg@10": curve["accuracy"].iloc[-1]}, binding)
        for part, curve in warmup_parts(binding).items()
    ]
    for name, folder in folders.items():
        curve, kept = pd.read_csv(folder / "training.csv"), read_json(folder / "ranker.json")["best"]
        rows.append(_training_row(name, curve, kept, folder))
    return pd.DataFrame(rows)


def warmup_parts(binding: Path) -> dict[str, pd.DataFrame]:
    """Return the curves of the label-binding phase's parts, ``titles`` and ``histories``, those that there are."""
    files = {"titles": binding / "binding.csv", "histories": binding / "binding_histories.csv"}
    return {part: pd.read_csv(file) for part, file in files.items() if file.is_file()}


def _training_row(name: str, curve: pd.DataFrame, kept: Mapping[str, float], folder: Path) -> dict[str, Any]:
    last, made = curve.iloc[-1], read_json(folder / "circumstances.json")
    return {
        "tuning": name,
        "prompts": int(last["examples"]),
        "answers": int(last["answers"]),
        "tokens": int(last["tokens"]),
        "seconds": last["seconds"],
        "tokens_per_second": last["tokens"] / last["seconds"],
        "reached": kept["ndcg@10"],
        "reached_with_retriever": kept.get("ndcg@10_with_retriever", np.nan),
        "peak_memory_mib": made["peak_memory_mib"],
        "commit": commit_name(made["git_commit"], dirty=made["git_dirty"]),
    }
