"""Values with their confidence intervals: differences of two runs, and correlations per group."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qrepro.plots.style import BLACK, BLUE, SMALL, Plot, canvas, finish, fold, line_style, number, stack, table

NAME = 2.2  # inches that the name of a row may be wide
LONG = 40  # rows in one column of panels
STEP = 0.09  # inches between the marks of two runs


def difference_interval(
    rows: Sequence[Mapping[str, object]],
    name: str = "metric",
    xlabel: str = "difference",
    digits: int = 2,
    title: str = "",
    about: str = "",
) -> Plot:
    """Draw paired differences with their intervals, one below the other, beside the line of no difference.

    A filled point: the interval excludes zero.

    Args:
        rows: {<name>, difference, low, high, p_value} in the order they are drawn, at least one, all in the unit that
            `xlabel` says; such as rows of `statistics.intervals.compare_rows`. low and high may be nan (no interval);
            low may not be above high.
        name: Column with the names of the rows.
        xlabel: Of the difference, with its unit.
        digits: Number of decimals in the text at the right: difference, interval, p-value.
        title: Above the figure.
        about: What was compared and how, put first in the caption.

    Returns:
        The figure; points are the rows.

    Raises:
        ValueError: If there is no row, a column is missing or an interval is upside down.
    """
    frame = table("difference_interval", rows, [name, "difference", "low", "high", "p_value"])
    if frame.empty:
        raise ValueError("difference_interval needs at least one row")
    _check_intervals(frame, name)
    names = [fold(str(value), NAME) for value in frame[name]]
    middles, height = row_places(names)
    with canvas(6.4, 0.55 + height) as figure:
        ax = figure.subplots()
        ax.axvline(0, color=BLACK, linewidth=0.8)
        for middle, row in zip(middles, frame.to_dict("records"), strict=True):
            low, high, value = row["low"], row["high"], row["difference"]
            certain = low > 0 or high < 0
            ax.plot([low, high], [middle, middle], color=BLUE, linewidth=1.6, marker="|", markersize=6)
            ax.plot([value], [middle], "o", color=BLUE, markersize=6, markerfacecolor=BLUE if certain else "white")
            text = _in_words(row, f"+.{digits}f")
            ax.annotate(text, (1.02, middle), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)
        ax.set_yticks(middles, names)
        ax.set(ylim=(height, 0), xlabel=xlabel)
        ax.grid(False, axis="y")
        ax.margins(x=0.08)
        _title(figure, title)
        finish(figure)
    return Plot(figure, frame, f"{about.strip()} Filled: the interval excludes zero.".strip())


def correlation_by_group(
    runs: Mapping[str, Sequence[Mapping[str, object]]],
    name: str = "group",
    value: str = "pearson",
    xlabel: str = "Pearson correlation of predicted and true IoU",
    ordered: bool = False,
    title: str = "",
    about: str = "",
) -> Plot:
    """Draw the correlation per class, size or IoU band with its interval, one line per group and one mark per run.

    With one run its n stands behind the name of the group. More than 40 groups are split into columns.

    Args:
        runs: Name of the run -> rows {<name>, n, <value>, <value>_low, <value>_high} of `correlation.grouped_rows` for
            one label and one band, in any order; a group that a run lacks has no mark of it. nan: undefined (too few
            pairs), no mark either; the ends of the interval may be nan, or missing, alone.
        name: Column with the groups.
        value: Column with the correlation.
        xlabel: Of the correlation.
        ordered: Whether groups keep the order of the first run, as sizes and bands want it; otherwise they are ordered
            by its falling value, undefined ones last.
        title: Above the figure.
        about: What was correlated and how, put first in the caption.

    Returns:
        The figure; points are the rows, each with its run.

    Raises:
        ValueError: If no run has a group, a column is missing, an interval is upside down or a group occurs twice.
    """
    if not any(len(rows) for rows in runs.values()):
        raise ValueError("correlation_by_group needs at least one run with at least one group")
    low, high = f"{value}_low", f"{value}_high"
    frames = {run: table(f"run {run!r}", rows, [name, "n", value]) for run, rows in runs.items()}
    for run, frame in frames.items():
        frame[[low, high]] = frame.reindex(columns=[low, high]).astype(float)
        _check_intervals(frame, name, low, high)
        if frame[name].duplicated().any():
            raise ValueError(f"run {run!r}: {name} {frame[name][frame[name].duplicated()].iloc[0]!r} occurs twice")
    several = len(frames) > 1
    points = stack(frame.assign(run=run)[["run", *frame.columns]] for run, frame in frames.items())
    first = points[points["run"] == next(iter(frames))]
    first = first if ordered else first.sort_values(value, ascending=False, kind="stable")
    texts = {}
    for group in dict.fromkeys([*first[name], *points[name]]):
        members = points[points[name] == group]
        count = "" if several else f" ({members['n'].iloc[0]:,})"
        texts[group] = fold(f"{group}{count}" + ("" if members[value].notna().any() else ": undefined"), NAME)
    columns = math.ceil(len(texts) / LONG)
    parts = [list(part) for part in np.array_split(np.array(list(texts), object), columns)]
    spans = [row_places([texts[group] for group in part], 0.10 + STEP * len(frames)) for part in parts]
    tallest = max(height for _, height in spans)
    with canvas(4.9 * columns, 0.55 + tallest) as figure:
        axes = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
        for ax, part, (middles, _) in zip(axes, parts, spans, strict=True):
            middle_of = dict(zip(part, middles, strict=True))
            for index, (run, frame) in enumerate(frames.items()):
                shown = frame[frame[name].isin(part)]
                y = shown[name].map(middle_of).to_numpy(float) + STEP * (index - (len(frames) - 1) / 2)
                style, label = line_style(index), run if several else ""
                ax.hlines(y, shown[low], shown[high], color=style["color"], linewidth=1.4)
                ax.plot(shown[value], y, style["marker"], color=style["color"], markersize=4, label=label)
            ax.set_yticks(middles, [texts[group] for group in part], fontsize=SMALL)
            ax.set(ylim=(tallest, 0), xlabel=xlabel)
        _title(figure, title)
        finish(figure)
    return Plot(figure, points, f"{about.strip()} Marks without a line have no interval.".strip())


def _check_intervals(frame: pd.DataFrame, name: str, low: str = "low", high: str = "high") -> None:
    """Refuse an interval that is upside down."""
    wrong = frame[frame[low] > frame[high]]
    if len(wrong):
        row = wrong.iloc[0]
        raise ValueError(f"{name} {row[name]!r}: {low} {row[low]:g} is above {high} {row[high]:g}")


def row_places(texts: Sequence[str], least: float = 0.26) -> tuple[NDArray[np.float64], float]:
    """Lay out rows of text below each other, with a small margin above and below them.

    Args:
        texts: Of the rows, with line breaks.
        least: Height of a row in inches, at least.

    Returns:
        (N,) middles of the rows and their total height, in inches.
    """
    heights = np.array([max(0.14 * (text.count("\n") + 1) + 0.06, least) for text in texts])
    return 0.04 + np.cumsum(heights) - heights / 2, 0.08 + float(heights.sum())


def _title(figure: Figure, title: str) -> None:
    """Set a title over the whole figure, from its left edge: beside long names of rows the axes are narrow."""
    if title:
        figure.suptitle(fold(title, figure.get_figwidth() - 0.2), x=0.01, ha="left", fontsize=9)


def _in_words(row: Mapping[Hashable, float], spec: str) -> str:
    """A difference with its interval and p-value, as far as they are defined."""
    if math.isnan(row["difference"]):
        return "undefined"
    text = number(row["difference"], spec)
    if not math.isnan(row["low"]):
        text += f" [{number(row['low'], spec)}, {number(row['high'], spec)}]"
    if math.isnan(row["p_value"]):
        return text
    return f"{text}, p < 0.001" if row["p_value"] < 0.001 else f"{text}, p = {row['p_value']:.2g}"
