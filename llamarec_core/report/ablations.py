"""What the ranker knows: variants of it on the same users, as a table and a figure.

Variants come in groups, each with one reference that the others of the group are compared with, user by user.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llamarec_core.evaluation import bootstrap_interval, holm, paired_difference, per_user
from llamarec_core.files import InputError
from llamarec_core.report.figures import described, new_figure

Variants = Mapping[tuple[str, str], pd.DataFrame]
"""(group, variant) → ranks, as a ranks file holds them; the first variant of a group is its reference."""

METRIC = "NDCG@10"


def ablation_table(variants: Variants, *, dataset: str, samples: int, seed: int, commit: str) -> pd.DataFrame:
    """Compare the variants of each group with the group's reference on the same users.

    Args:
        variants: their ranks; all hold the same users and targets.
        dataset: its name, for the table.
        samples: bootstrap samples behind each interval, and sign flips behind each p-value.
        seed: of both.
        commit: the commit that the ranks were made with.

    Returns:
        ``dataset``, ``group``, ``method`` (the variant), ``reference``, ``metric``, ``subset`` (``retrieved``),
        ``published`` (empty), ``measured``, ``ci_low``, ``ci_high``, ``difference`` (variant − reference), its interval
        ``difference_low`` and ``difference_high``, ``p_holm`` (paired sign-flip test, Holm's correction over the group)
        ``users``, ``seeds``, ``commit``. The reference's own differences are empty.

    Raises:
        InputError: there are no variants, or two hold different users or targets.
    """
    if not variants:
        raise InputError("There are no variants of the ranker to compare: run 3_ablations first.")
    first = next(iter(variants.values()))[["user", "target"]].reset_index(drop=True)
    references: dict[str, str] = {}
    rows = []
    for (group, variant), frame in variants.items():
        if not frame[["user", "target"]].reset_index(drop=True).equals(first):
            raise InputError(
                f"The ranks of {variant!r} ({group}) hold other users or targets than the first variant's."
            )
        reference = references.setdefault(group, variant)
        values = per_user(frame["rank"], METRIC)
        low, high = bootstrap_interval(values, samples=samples, seed=seed)
        row = {"dataset": dataset, "group": group, "method": variant, "reference": reference, "metric": METRIC}
        row |= {"subset": "retrieved", "published": np.nan, "measured": values.mean(), "ci_low": low, "ci_high": high}
        row |= {"difference": np.nan, "difference_low": np.nan, "difference_high": np.nan, "p_value": np.nan}
        if variant != reference:
            found = paired_difference(
                values, per_user(variants[group, reference]["rank"], METRIC), samples=samples, seed=seed
            )
            row |= {"difference": found.mean, "difference_low": found.low, "difference_high": found.high}
            row |= {"p_value": found.p_value}
        rows.append(row | {"users": len(frame), "seeds": 1, "commit": commit})
    table = pd.DataFrame(rows)
    tested = table["p_value"].notna()
    adjusted = table[tested].groupby("group")["p_value"].transform(holm)
    table.insert(table.columns.get_loc("p_value"), "p_holm", adjusted.reindex(table.index))
    return table.drop(columns="p_value")


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
