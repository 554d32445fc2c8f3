"""Reliability diagrams: observed precision or IoU against confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from qrepro.plots.style import BLUE, DASHED, GREY, RED, Plot, canvas, finish, fold, grid_shape, stack, table

COLUMNS = ("low", "high", "n", "mean_confidence", "observed", "gap")


def reliability(
    panels: Mapping[str, Sequence[Mapping[str, object]]],
    xlabel: str = "confidence",
    ylabel: str = "observed precision",
    about: str = "",
) -> Plot:
    """Draw observed precision or IoU per bin of confidence, with the diagonal, above the detections per bin.

    The hatched piece of a bin lies between observed and mean_confidence: above the bar the detector is overconfident.

    Args:
        panels: title -> rows of `calibration.reliability_rows` of one metric and class: {low, high, n, mean_confidence,
            observed, gap}, the last three shares in [0, 1]; bins with n = 0 may be left out. Values of metrics belong
            into the title, behind a line break.
        xlabel: Of the confidence.
        ylabel: Meaning of `observed`: precision for D-ECE, precision times mean IoU for LaECE.
        about: What was binned (split, tau, score threshold, pooling), put first in the caption.

    Returns:
        The figure; points are the rows, each with its panel.

    Raises:
        ValueError: If there is no panel, a column is missing, or rows of several diagrams are mixed.
    """
    tables = {title: _checked(title, bins) for title, bins in panels.items()}
    rows, columns = grid_shape(len(panels))
    most = max([1, *(int(frame["n"].max()) for frame in tables.values() if len(frame))])
    with canvas(2.85 * columns + 0.65, 3.75 * rows) as figure:
        grid = figure.subplots(2 * rows, columns, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1] * rows)
        for index, (title, frame) in enumerate(tables.items()):
            line, column = divmod(index, columns)
            upper, lower = grid[2 * line : 2 * line + 2, column]
            _diagram(upper, frame[frame["n"] > 0])
            upper.set_title(fold(title, 2.4), linespacing=1.5)
            _counts(lower, frame[frame["n"] > 0], most)
            if not frame["n"].any():
                upper.text(0.5, 0.5, "no detections", ha="center", color=GREY, backgroundcolor="white")
            lower.set_xlabel(xlabel)
            lower.tick_params(labelbottom=True)
            if column == 0:
                upper.set_ylabel(ylabel)
                lower.set_ylabel("number")
        for index in range(len(panels), rows * columns):
            for ax in grid[2 * (index // columns) : 2 * (index // columns) + 2, index % columns]:
                ax.remove()
        figure.align_ylabels(grid[:, 0])
        finish(figure)
    description = (
        "Per bin: bar, what was observed; hatched, up to the mean confidence; below, the number of detections."
    )
    points = stack(frame.assign(panel=title)[["panel", *frame.columns]] for title, frame in tables.items())
    return Plot(figure, points, f"{about.strip()} {description}".strip())


def _checked(title: str, bins: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """The bins of one panel, refused where they belong to several diagrams."""
    frame = table(f"panel {title!r}", bins, COLUMNS)
    twice = frame["low"][frame["low"].duplicated()]
    if len(twice):
        raise ValueError(f"panel {title!r}: two bins start at {twice.iloc[0]:g}; give rows of one metric and class")
    return frame


class _BarStyle(TypedDict):
    """Keywords of the bars of a diagram."""

    align: Literal["center", "edge"]
    width: pd.Series[float]


def _diagram(ax: Axes, bins: pd.DataFrame) -> None:
    """Bars of the bins that hold detections, their gaps, and the diagonal."""
    width = bins["high"] - bins["low"]
    style: _BarStyle = {"align": "edge", "width": width}
    ax.bar(bins["low"], bins["observed"], color=BLUE, alpha=0.45, edgecolor="white", label="observed", **style)
    gap = bins["mean_confidence"] - bins["observed"]
    ax.bar(
        bins["low"], gap, bottom=bins["observed"], facecolor="none", edgecolor=RED, hatch="////", linewidth=0.8,
        label="gap to the mean confidence", **style,
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=DASHED, linewidth=1, label="calibrated")
    ax.set(xlim=(0, 1), ylim=(0, 1))


def _counts(ax: Axes, bins: pd.DataFrame, most: int) -> None:
    """Number of detections per bin over a log axis, whose foot is at one half: a single one still shows.

    most: the largest number of all panels, which share the axis.
    """
    ax.bar(bins["low"], bins["n"], width=bins["high"] - bins["low"], align="edge", color=GREY, edgecolor="white")
    ax.set_yscale("log")
    ax.set_ylim(0.5, 3 * most)
    exponents = np.arange(int(np.log10(most)) + 1)
    ax.set_yticks(10.0 ** exponents[:: max(len(exponents) // 3, 1)])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.minorticks_off()
