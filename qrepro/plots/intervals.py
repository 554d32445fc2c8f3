"""Values with their confidence intervals: differences of two runs, correlations per group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from qrepro.plots.style import BLACK, BLUE, SMALL, Plot, canvas, finish, fold, line_style, number, stack, table

NAME = 2.2  # inches that the name of a row may be wide
LONG = 40  # rows in one column of panels
STEP = 0.09  # inches between the marks of two runs


def difference_interval(
    rows: Sequence[Mapping[str, Any]],
    name: str = "metric",
    xlabel: str = "difference",
    digits: int = 2,
    title: str = "",
    about: str = "",
) -> Plot:
    """Paired differences with their intervals, one below the other, beside the line of no difference.

    rows: {<name>, difference, low, high, p_value} in the order they are drawn, all in the unit that `xlabel` says.
        low and high may be nan (no interval); low may not be above high.
    digits: behind the point in the text at the right: difference, interval, p-value.
    A filled point: the interval excludes zero.   about: what was compared and how, put first in the caption.
    """
    frame = table("difference_interval", rows, [name, "difference", "low", "high", "p_value"])
    if frame.empty:
        raise ValueError("difference_interval needs at least one row")
    _check_intervals(frame, name)
    names = [fold(str(value), NAME) for value in frame[name]]
    places, height = row_places(names)
    with canvas(6.4, 0.55 + height) as figure:
        ax = figure.subplots()
        ax.axvline(0, color=BLACK, linewidth=0.8)
        for place, row in zip(places, frame.to_dict("records"), strict=True):
            low, high, value = row["low"], row["high"], row["difference"]
            certain = low > 0 or high < 0
            ax.plot([low, high], [place, place], color=BLUE, linewidth=1.6, marker="|", markersize=6)
            ax.plot([value], [place], "o", color=BLUE, markersize=6, markerfacecolor=BLUE if certain else "white")
            text = _in_words(row, f"+.{digits}f")
            ax.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)
        ax.set_yticks(places, names)
        ax.set(ylim=(height, 0), xlabel=xlabel)
        ax.grid(False, axis="y")
        ax.margins(x=0.08)
        _title(figure, title)
        finish(figure)
    return Plot(figure, frame, f"{about.strip()} Filled: the interval excludes zero.".strip())


def correlation_by_group(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    name: str = "group",
    value: str = "pearson",
    xlabel: str = "Pearson correlation of predicted and true IoU",
    ordered: bool = False,
    title: str = "",
    about: str = "",
) -> Plot:
    """Correlation per class, size or IoU band with its interval, one line per group and one mark per run.

    runs: name of the run -> rows {<name>, n, <value>, <value>_low, <value>_high} of `correlation.grouped_rows`
        for one label and one band, in any order; a group that a run lacks has no mark of it. nan: undefined (too few
        pairs), no mark either; the ends of the interval may be nan, or not there, alone.
    ordered: groups in the order of the first run, as sizes and bands want it; otherwise by its falling value, undefined
        ones last. More than 40 groups are split into columns.
    With one run its n stands behind the name of the group.   about: as in `difference_interval`.
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
        mine = points[points[name] == group]
        number_of = "" if several else f" ({mine['n'].iloc[0]:,})"
        texts[group] = fold(f"{group}{number_of}" + ("" if mine[value].notna().any() else ": undefined"), NAME)
    columns = math.ceil(len(texts) / LONG)
    parts = [list(part) for part in np.array_split(np.array(list(texts), object), columns)]
    spans = [row_places([texts[group] for group in part], 0.10 + STEP * len(frames)) for part in parts]
    tallest = max(height for _, height in spans)
    with canvas(4.9 * columns, 0.55 + tallest) as figure:
        axes = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
        for ax, part, (places, _) in zip(axes, parts, spans, strict=True):
            where = dict(zip(part, places, strict=True))
            for index, (run, frame) in enumerate(frames.items()):
                mine = frame[frame[name].isin(part)]
                y = mine[name].map(where).to_numpy(float) + STEP * (index - (len(frames) - 1) / 2)
                style, label = line_style(index), run if several else ""
                ax.hlines(y, mine[low], mine[high], color=style["color"], linewidth=1.4)
                ax.plot(mine[value], y, style["marker"], color=style["color"], markersize=4, label=label)
            ax.set_yticks(places, [texts[group] for group in part], fontsize=SMALL)
            ax.set(ylim=(tallest, 0), xlabel=xlabel)
        _title(figure, title)
        finish(figure)
    return Plot(figure, points, f"{about.strip()} Marks without a line have no interval.".strip())


def _check_intervals(frame: pd.DataFrame, name: str, low: str = "low", high: str = "high") -> None:
    """ValueError for an interval that is upside down."""
    wrong = frame[frame[low] > frame[high]]
    if len(wrong):
        row = wrong.iloc[0]
        raise ValueError(f"{name} {row[name]!r}: {low} {row[low]:g} is above {high} {row[high]:g}")


def row_places(texts: Sequence[str], least: float = 0.26) -> tuple[np.ndarray, float]:
    """Middles of rows below each other and their total height, in inches: each holds its text, `least` at least.

    A small margin lies above and below them.
    """
    heights = np.array([max(0.14 * (text.count("\n") + 1) + 0.06, least) for text in texts])
    return 0.04 + np.cumsum(heights) - heights / 2, 0.08 + float(heights.sum())


def _title(figure: Figure, title: str) -> None:
    """A title over the whole figure, from its left edge: beside long names of rows the axes are narrow."""
    if title:
        figure.suptitle(fold(title, figure.get_figwidth() - 0.2), x=0.01, ha="left", fontsize=9)


def _in_words(row: Mapping[Any, Any], spec: str) -> str:
    """A difference with its interval and p-value, as far as they are defined."""
    if math.isnan(row["difference"]):
        return "undefined"
    text = number(row["difference"], spec)
    if not math.isnan(row["low"]):
        text += f" [{number(row['low'], spec)}, {number(row['high'], spec)}]"
    if math.isnan(row["p_value"]):
        return text
    return f"{text}, p < 0.001" if row["p_value"] < 0.001 else f"{text}, p = {row['p_value']:.2g}"
