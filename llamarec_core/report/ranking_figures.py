"""The figures of the ranking pages."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from llamarec_core.files import InputError
from llamarec_core.report.ablations import METRIC
from llamarec_core.report.figures import color, described, new_figure

_TITLE_CHARACTERS = 40


def candidate_probabilities(
    titles: Sequence[str], *, before: np.ndarray, after: np.ndarray, target: int | None = None
) -> Figure:
    """Plot one user's P(candidate) before and after tuning.

    Args:
        titles: the candidates' titles, in the retriever's order.
        before: probabilities ``(candidates,)`` of the model as it came.
        after: the same of the tuned model.
        target: position of the target among the candidates, from 0; ``None`` if it was not retrieved.

    Raises:
        InputError: titles and probabilities differ in number.
    """
    if not len(titles) == len(before) == len(after):
        raise InputError(
            f"Each candidate needs a title and two probabilities, but there are {len(titles)} titles and "
            f"{len(before)} and {len(after)} probabilities."
        )
    places = np.arange(len(titles))
    figure, (axis,) = new_figure(height=0.27 * len(titles) + 1.2)
    handles = [
        axis.barh(places - 0.2, before, height=0.38, color="0.65", label="before tuning", linewidth=0),
        axis.barh(places + 0.2, after, height=0.38, color=color("llamarec"), label="after tuning", linewidth=0),
        axis.axvline(1 / len(titles), color="0.15", linestyle=":", label=f"uniform, 1/{len(titles)}"),
    ]
    axis.set(xlabel="P(candidate)", ylabel="candidates, in the retriever's order", ylim=(len(titles) - 0.4, -0.6))
    axis.set_yticks(places, [_shortened(title) for title in titles])
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.grid(visible=False, axis="y")
    text = f"P(candidate) for the {len(titles)} candidates of one user, before and after tuning."
    if target is not None:
        handles.append(
            axis.axhspan(target - 0.5, target + 0.5, color="C8", alpha=0.25, linewidth=0, zorder=0, label="target")
        )
        axis.get_yticklabels()[target].set_fontweight("bold")
        text += f" The target, {titles[target]}, goes from {before[target]:.3f} to {after[target]:.3f}."
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return described(figure, text)


def learning_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot training loss and validation NDCG@10 of several tunings against the answers learnt.

    Args:
        curves: name → ``answers``, ``training_loss``, ``ndcg@10`` and ``ndcg@10_with_retriever``, as ``training.csv``
            holds them.
    """
    figure, (upper, lower) = new_figure(rows=2, height=4.4, sharex=True)
    for name, curve in curves.items():
        losses = curve.dropna(subset="training_loss")
        upper.plot(losses["answers"], losses["training_loss"], marker="o", markersize=3, label=name)
        (line,) = lower.plot(curve["answers"], curve["ndcg@10"], marker="o", markersize=4)
        together = {"linestyle": "--", "marker": "s", "markersize": 4, "color": line.get_color()}
        lower.plot(curve["answers"], curve["ndcg@10_with_retriever"], **together)
    upper.set(ylabel="training loss (nats)")
    lower.set(xlabel="answers learnt", ylabel="validation NDCG@10")
    upper.legend()
    lower.legend(lower.lines[:2], ["by itself", "with the retriever's score"])
    parts = [
        f"{name}: {curve['ndcg@10'].iloc[0]:.4f} to {curve['ndcg@10'].max():.4f}" for name, curve in curves.items()
    ]
    return described(
        figure,
        "Training loss (upper panel) and validation NDCG@10 (lower panel; dashed: with the retriever's score added) "
        "against answers learnt, one line a tuning. "
        f"NDCG@10 before the first step and at its best: {'; '.join(parts)}.",
    )


def warmup_curves(curves: Mapping[str, pd.DataFrame], *, candidates: int) -> Figure:
    """Plot how the label-binding warm-up learns, one panel: its parts follow one another.

    Args:
        curves: part → ``answers`` and ``accuracy``, as :func:`~llamarec_core.report.warmup_parts` returns them.
        candidates: labels to choose from, for the line of chance.
    """
    figure, (axis,) = new_figure(height=2.9)
    for part, curve in curves.items():
        axis.plot(curve["answers"], curve["accuracy"], marker="o", markersize=3, label=f"asked by {part}")
    axis.axhline(1 / candidates, color="0.5", linestyle=":", label="chance")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set(xlabel="answers learnt in this part", ylabel="right label", ylim=(0, 1))
    axis.legend()
    ends = ", ".join(f"{curve['accuracy'].iloc[-1]:.0%} by {part}" for part, curve in curves.items())
    return described(figure, f"Share of right labels in the warm-up against answers learnt. In its last steps: {ends}.")


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
            color = "0.35" if place == 0 else "C0"
            if row.p_holm < 0.05:
                color = "C2" if row.difference > 0 else "C3"
            axis.plot([row.ci_low, row.ci_high], [place, place], color=color, linewidth=2.5)
            axis.plot(row.measured, place, marker="o", color=color)
        axis.axvline(rows["measured"][0], color="0.35", linestyle=":", linewidth=1)
        axis.set_yticks(range(len(rows)), rows["method"])
        axis.set(ylim=(len(rows) - 0.4, -0.6))
        axis.set_title(group, fontsize=9.5, loc="left")
    axes[-1].set(xlabel=f"{METRIC}, users whose target was retrieved")
    colors = {"reference": "0.35", "no difference beyond chance": "C0", "better": "C2", "worse": "C3"}
    handles = [Line2D([], [], color=color, marker="o", label=label) for label, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    parts = [f"{row.group}, {row.method}: {row.measured:.4f}" for row in table.itertuples()]
    return described(
        figure,
        f"{METRIC} of each variant with its 95 % interval, one panel a comparison; the dotted line is the panel's "
        f"reference. The color says whether it is better or worse than that (p < 0.05 by Holm). {'; '.join(parts)}.",
    )


def _shortened(title: str) -> str:
    """Cut a title to fit beside a bar; a dollar sign is escaped, because two of them would start a formula."""
    return textwrap.shorten(title, _TITLE_CHARACTERS, placeholder="…").replace("$", r"\$")
