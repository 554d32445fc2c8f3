"""Effects that papers claim: as printed, and as measured, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from qrepro.plots.intervals import NAME, row_places
from qrepro.plots.style import BLACK, GREEN, GREY, RED, SMALL, Plot, canvas, finish, fold, table

COLOURS = {"holds": GREEN, "inconclusive": GREY, "does not hold": RED}
UNITS = {"AP": "effect in AP points", "PCC": "effect in Pearson correlation"}


def claimed_effects(rows: Sequence[Mapping[str, object]], about: str = "") -> Plot:
    """Draw the printed and the measured effect of each claim, one below the other, beside the line of no effect.

    Args:
        rows: {paper, claim, column, printed_effect, effect, low, high, verdict} in the order they are drawn, at least
            one; column: AP..., mAP... (AP points) or PCC, which is drawn apart in its own unit; printed_effect may be
            nan; verdict: one of COLOURS.
        about: Data of the measurement, put first in the caption.

    Returns:
        The figure; points are the rows.

    Raises:
        ValueError: If there is no row or a column is missing.
    """
    frame = table(
        "claimed_effects", rows, ["paper", "claim", "column", "printed_effect", "effect", "low", "high", "verdict"]
    )
    if frame.empty:
        raise ValueError("claimed_effects needs at least one row")
    units = ["PCC" if column == "PCC" else "AP" for column in frame["column"]]
    panels = [(unit, part) for unit in UNITS if not (part := frame[[row_unit == unit for row_unit in units]]).empty]
    names = [
        [fold(f"{row.paper}: {row.claim} ({row.column})", NAME) for row in part.itertuples()] for _, part in panels
    ]
    spans = [row_places(labels) for labels in names]
    with canvas(6.4, 0.75 + sum(height + 0.4 for _, height in spans)) as figure:
        ratios = [height for _, height in spans]
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for ax, (unit, part), labels, (middles, height) in zip(axes, panels, names, spans, strict=True):
            _draw(ax, part, middles)
            ax.set_yticks(middles, labels)
            ax.set(ylim=(height, 0), xlabel=UNITS[unit])
            ax.grid(False, axis="y")
            ax.margins(x=0.08)
        marks = [Line2D([], [], color=COLOURS[v], marker="o", label=v) for v in COLOURS if v in set(frame["verdict"])]
        marks.append(Line2D([], [], color=BLACK, marker="D", linestyle="", markerfacecolor="white", label="printed"))
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=SMALL)
        finish(figure)
    caption = (
        f"{about.strip()} Lines: 95 % bootstrap intervals over images and seeds; diamonds: the paper's own effect."
    )
    return Plot(figure, frame, caption.strip())


def _draw(ax: Axes, effects: pd.DataFrame, middles: NDArray[np.float64]) -> None:
    """Draw the effects of one unit at the middles of their rows, in inches."""
    ax.axvline(0, color=BLACK, linewidth=0.8)
    for middle, row in zip(middles, effects.to_dict("records"), strict=True):
        colour = COLOURS[row["verdict"]]
        ax.plot([row["low"], row["high"]], [middle, middle], color=colour, linewidth=1.8)
        ax.plot([row["effect"]], [middle], "o", color=colour, markersize=6)
        if not math.isnan(row["printed_effect"]):
            ax.plot([row["printed_effect"]], [middle], "D", color=BLACK, markerfacecolor="white", markersize=5)
