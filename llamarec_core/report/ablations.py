"""What the ranker knows: variants of it on the same users, and what each tuning read.

Variants come in groups, each with one reference that the others of the group are compared with, user by user.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llamarec_core.evaluation.estimates import PRIMARY, corrected, difference, estimate
from llamarec_core.evaluation.metrics import per_user
from llamarec_core.files import read_json
from llamarec_core.provenance import commit_name
from llamarec_core.report.results import refuse_other_users


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
        ``difference_low`` and ``difference_high``, ``p_holm`` (sign-flip test, Holm's correction over the table),
        ``detectable``, ``first_label`` (share of prompts answered with the first label; empty where no prompt was
        read), ``users``, ``seeds``, ``commit``. The reference's own differences are empty.

    Raises:
        InputError: two variants hold different users or targets.
    """
    sampling = {"samples": samples, "seed": seed}
    first = ranks.groupby(["group", "variant"], sort=False).get_group(tuple(ranks.iloc[0][["group", "variant"]]))
    rows = []
    for group, variants in ranks.groupby("group", sort=False):
        reference = variants["variant"].iloc[0]
        own = variants[variants["variant"] == reference]
        for variant, frame in variants.groupby("variant", sort=False):
            refuse_other_users(frame, first, f"ranks of {variant!r} ({group})")
            values = per_user(frame["rank"], PRIMARY)
            row = {"dataset": dataset, "group": group, "method": variant, "reference": reference, "metric": PRIMARY}
            row |= {"subset": "retrieved", "published": np.nan} | estimate(values, **sampling)._asdict()
            row |= dict.fromkeys(["difference", "difference_low", "difference_high", "p_value", "detectable"], np.nan)
            if variant != reference:
                found = difference(values, per_user(own["rank"], PRIMARY), **sampling)._asdict()
                row |= {"difference_low": found.pop("ci_low"), "difference_high": found.pop("ci_high")} | found
            row["first_label"] = (frame["answer"] == 1).mean() if frame["answer"].any() else np.nan
            rows.append(row | {"users": len(frame), "seeds": 1, "commit": commit})
    return corrected(pd.DataFrame(rows)).drop(columns="p_value")


def training_table(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Say what each tuning read and how long it took.

    Args:
        folders: name → where :func:`llamarec_core.ranking.fit_ranker` left a finished tuning.

    Returns:
        ``tuning``, ``answers`` (of next items), ``tokens``, ``seconds`` (with validations), ``tokens_per_second``,
        ``reached`` (validation NDCG@10 of the adapter kept), ``reached_with_retriever`` (with the retriever's score
        added), ``peak_memory_mib`` of the process, ``commit``.
    """
    return pd.DataFrame([_training_row(name, folder) for name, folder in folders.items()])


def _training_row(name: str, folder: Path) -> dict[str, Any]:
    last, kept = pd.read_csv(folder / "training.csv").iloc[-1], read_json(folder / "ranker.json")["best"]
    made = read_json(folder / "circumstances.json")
    return {
        "tuning": name,
        "answers": int(last["answers"]),
        "tokens": int(last["tokens"]),
        "seconds": last["seconds"],
        "tokens_per_second": last["tokens"] / last["seconds"],
        "reached": kept["ndcg@10"],
        "reached_with_retriever": kept.get("ndcg@10_with_retriever"),
        "peak_memory_mib": made["peak_memory_mib"],
        "commit": commit_name(made["git_commit"], dirty=made["git_dirty"]),
    }
