"""What the ranker knows: variants of it on the same users, as a table and a figure.

Variants come in groups, each with one reference that the others of the group are compared with, user by user.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llamarec_core.evaluation import bootstrap_interval, holm, paired_difference, per_user
from llamarec_core.files import InputError, read_json
from llamarec_core.provenance import commit_name
from llamarec_core.report.figures import described, new_figure

METRIC = "NDCG@10"


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
    first = None
    rows = []
    for group, variants in ranks.groupby("group", sort=False):
        reference = variants["variant"].iloc[0]
        own = variants[variants["variant"] == reference]
        for variant, frame in variants.groupby("variant", sort=False):
            users = frame[["user", "target"]].reset_index(drop=True)
            first = users if first is None else first
            if not users.equals(first):
                raise InputError(f"The ranks of {variant!r} ({group}) hold other users or targets than the first's.")
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
        binding: where the label-binding phase that they share was left; a row of its own if there was one.

    Returns:
        ``tuning``, ``prompts``, ``answers`` (labels learnt), ``tokens``, ``seconds`` (with validations),
        ``tokens_per_second``, ``reached`` (the validation NDCG@10 of the adapter kept; of the warm-up, the share of
        right labels in its last steps), ``peak_memory_mib`` of the process, ``commit``.
    """
    rows = []
    if (binding / "binding.csv").is_file():
        curve = pd.read_csv(binding / "binding.csv")
        rows.append(_training_row("label binding", curve, curve["accuracy"].iloc[-1], binding))
    for name, folder in folders.items():
        curve, kept = pd.read_csv(folder / "training.csv"), read_json(folder / "ranker.json")["best"]
        rows.append(_training_row(name, curve, kept["ndcg@10"], folder))
    return pd.DataFrame(rows)


def _training_row(name: str, curve: pd.DataFrame, reached: float, folder: Path) -> dict[str, Any]:
    last, made = curve.iloc[-1], read_json(folder / "circumstances.json")
    return {
        "tuning": name,
        "prompts": int(last["examples"]),
        "answers": int(last["answers"]),
        "tokens": int(last["tokens"]),
        "seconds": last["seconds"],
        "tokens_per_second": last["tokens"] / last["seconds"],
        "reached": reached,
        "peak_memory_mib": made["peak_memory_mib"],
        "commit": commit_name(made["git_commit"], dirty=made["git_dirty"]),
    }


def learning_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot training loss and validation NDCG@10 of several tunings against the answers learnt.

    Args:
        curves: name → ``answers``, ``training_loss`` and ``ndcg@10``, as ``training.csv`` holds them.
    """
    figure, (upper, lower) = new_figure(rows=2, height=4.4, sharex=True)
    for name, curve in curves.items():
        losses = curve.dropna(subset="training_loss")
        upper.plot(losses["answers"], losses["training_loss"], marker="o", markersize=3, label=name)
        lower.plot(curve["answers"], curve["ndcg@10"], marker="o", markersize=4, label=name)
    upper.set(ylabel="training loss (nats)")
    lower.set(xlabel="answers learnt", ylabel="validation NDCG@10")
    upper.legend()
    parts = [
        f"{name}: {curve['ndcg@10'].iloc[0]:.4f} to {curve['ndcg@10'].max():.4f}" for name, curve in curves.items()
    ]
    return described(
        figure,
        "Training loss (upper panel) and validation NDCG@10 (lower panel) against answers learnt, one line a tuning. "
        f"NDCG@10 before the first step and at its best: {'; '.join(parts)}.",
    )


def ablation_display(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out :func:`ablation_table` for the page: one row a variant, the groups one after another."""
    return pd.DataFrame(
        {
            "compared": table["group"].where(~table["group"].duplicated(), ""),
            "variant": table["method"],
            METRIC: [f"{row.measured:.4f} [{row.ci_low:.3f}, {row.ci_high:.3f}]" for row in table.itertuples()],
            "minus the group's first": [
                f"{row.difference:+.4f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]".replace("-", "−")
                if pd.notna(row.difference)
                else ""
                for row in table.itertuples()
            ],
            "first label": ["" if pd.isna(share) else f"{share:.0%}" for share in table["first_label"]],
            "p (Holm)": [
                "" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}" for value in table["p_holm"]
            ],
        }
    )


def ablation_forest(table: pd.DataFrame) -> Figure:
    """Plot each variant's NDCG@10 with its interval, one panel a group.

    Args:
        table: from :func:`ablation_table`, of one data set.
    """
    groups = list(table["group"].unique())
    sizes = [int((table["group"] == group).sum()) for group in groups]
    figure, axes = new_figure(
        rows=len(groups), height=0.32 * sum(sizes) + 0.62 * len(groups), sharex=True, height_ratios=sizes
    )
    for axis, group in zip(axes, groups, strict=True):
        rows = table[table["group"] == group].reset_index(drop=True)
        for place, row in enumerate(rows.itertuples()):
            color = (
                "0.35" if place == 0 else "C2" if row.difference_low > 0 else "C3" if row.difference_high < 0 else "C0"
            )
            axis.plot([row.ci_low, row.ci_high], [place, place], color=color, linewidth=2.5)
            axis.plot(row.measured, place, marker="o", color=color)
        axis.axvline(rows["measured"][0], color="0.35", linestyle=":", linewidth=1)
        axis.set_yticks(range(len(rows)), rows["method"])
        axis.set(ylim=(len(rows) - 0.4, -0.6))
        axis.set_title(group, fontsize=9.5, loc="left")
    axes[-1].set(xlabel=f"{METRIC}, users whose target was retrieved")
    parts = [f"{row.group}, {row.method}: {row.measured:.4f}" for row in table.itertuples()]
    return described(
        figure,
        f"{METRIC} of each variant with its 95 % interval, one panel a comparison; the dotted line is the panel's "
        f"reference. Green: better than the reference, red: worse, by the paired interval. {'; '.join(parts)}.",
    )
