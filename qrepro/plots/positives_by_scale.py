"""Matched boxes against the scale of the ground-truth object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from qrepro.metrics.positives_by_scale import evenness_rows
from qrepro.plots.style import BLACK, DASHED, LineStyle, Plot, canvas, finish, fold, line_style, number, table

NAMES = {"initial": "initial boxes", "adjusted": "boxes after the first step"}
_COLUMNS = ("boxes", "n", "side", "matched", "normalised")


def matched_boxes(rows: Sequence[Mapping[str, float | int | str]], title: str = "", about: str = "") -> Plot:
    """Draw the number of boxes matched to an object against its scale, PASSD (arXiv 1907.12736) fig. 2.

    Counts are at the left, normalised counts at the right.

    Args:
        rows: Of `positives_by_scale.matched_rows`, at least one; one point each, drawn at the mean side of its bin.
        title: Above the figure.
        about: Source of the objects, put first in the caption.

    Returns:
        The figure; points are the rows.

    Raises:
        ValueError: If there is no row or a column is missing.
    """
    frame = table("matched_boxes", rows, _COLUMNS)
    if frame.empty:
        raise ValueError("matched_boxes needs at least one row")
    with canvas(6.4, 2.6) as figure:
        left, right = figure.subplots(1, 2)
        for index, row in enumerate(evenness_rows(rows)):
            stage, points = str(row["boxes"]), frame[frame["boxes"] == row["boxes"]]
            # dashes are for averages
            style: LineStyle = {**line_style(index), "linestyle": "-", "markersize": 3.5, "clip_on": False}
            per_bin, variation = float(row["per_bin"]), float(row["variation"])
            label = f"{NAMES.get(stage, stage)}: {number(per_bin, '.1f')} on average, "
            label += f"variation {number(variation, '.2f')}"
            left.plot(points["side"], points["matched"], label=label, **style)
            left.axhline(per_bin, color=style["color"], linestyle=DASHED, linewidth=1)
            right.plot(points["side"], points["normalised"], **style)
        right.axhline(1, color=BLACK, linestyle=DASHED, linewidth=1, label="average over bins")
        _label(left, "matched boxes per object")
        _label(right, "matched boxes / average")
        if title:
            figure.suptitle(fold(title, 6.2), x=0.01, ha="left", fontsize=9)
        finish(figure)
    filled = f"{frame['n'].min():,} to {frame['n'].max():,}"
    description = (
        f"Mean number of boxes that the assigner matches to a ground truth, in bins of scale that hold {filled} "
        "ground truths. Dashed: mean over bins, by which the right side is divided. "
        "Variation: standard deviation over bins / mean."
    )
    return Plot(figure, frame, f"{about.strip()} {description}".strip())


def _label(ax: Axes, ylabel: str) -> None:
    """Label the axes and start both scales at zero."""
    ax.set(xlabel="scale of the object, √area (px of the input)", ylabel=ylabel)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
