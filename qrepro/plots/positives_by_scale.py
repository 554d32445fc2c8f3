"""Matched boxes against the scale of the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from qrepro.metrics.positives_by_scale import evenness_rows
from qrepro.plots.style import BLACK, DASHED, Plot, canvas, finish, fold, line_style, number, table

NAMES = {"initial": "initial boxes", "adjusted": "boxes after the first step"}
_COLUMNS = ("boxes", "n", "side", "matched", "normalised")


def matched_boxes(rows: Sequence[Mapping[str, Any]], title: str = "", about: str = "") -> Plot:
    """Boxes matched to a truth against its scale: counts at the left, normalised at the right (PASSD, figure 2).

    rows: of `matches.matched_rows`, one point each, drawn at the mean side of its bin.
    about: where the truths come from, put first in the caption.   Points: the rows.
    """
    frame = table("matched_boxes", rows, _COLUMNS)
    if frame.empty:
        raise ValueError("matched_boxes needs at least one row")
    with canvas(6.4, 2.6) as figure:
        left, right = figure.subplots(1, 2)
        for index, row in enumerate(evenness_rows(rows)):
            stage, points = row["boxes"], frame[frame["boxes"] == row["boxes"]]
            style = {
                **line_style(index),
                "linestyle": "-",
                "markersize": 3.5,
                "clip_on": False,
            }  # dashes are for averages
            label = f"{NAMES.get(stage, stage)}: {number(row['per_bin'], '.1f')} on average, "
            label += f"variation {number(row['variation'], '.2f')}"
            left.plot(points["side"], points["matched"], label=label, **style)
            left.axhline(row["per_bin"], color=style["color"], linestyle=DASHED, linewidth=1)
            right.plot(points["side"], points["normalised"], **style)
        right.axhline(1, color=BLACK, linestyle=DASHED, linewidth=1, label="average over bins")
        _label(left, "matched boxes per truth")
        _label(right, "matched boxes / average")
        if title:
            figure.suptitle(fold(title, 6.2), x=0.01, ha="left", fontsize=9)
        finish(figure)
    held = f"{frame['n'].min():,} to {frame['n'].max():,}"
    what = (
        f"Mean number of boxes that the assigner matches to a truth, in bins of scale that hold {held} truths. "
        "Dashed: mean over bins, by which the right side is divided. Variation: standard deviation over bins / mean."
    )
    return Plot(figure, frame, f"{about.strip()} {what}".strip())


def _label(ax: Axes, ylabel: str) -> None:
    """Both scales from zero."""
    ax.set(xlabel="scale of the truth, √area (px of the input)", ylabel=ylabel)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
