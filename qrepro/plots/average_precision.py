"""Average precision: over alpha, over IoU thresholds, and the precision-recall curves beneath it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qrepro.metrics.coco_ap import APResult
from qrepro.plots.style import (
    BLUE,
    DASHED,
    GREY,
    NBSP,
    RED,
    LineStyle,
    Plot,
    canvas,
    finish,
    fold,
    line_style,
    number,
    shades,
    stack,
)


class _ErrorBarStyle(TypedDict):
    """Keywords of a line with error bars."""

    color: str
    marker: str
    markersize: float
    capsize: float


def ap_vs_alpha(sweeps: Sequence[Sequence[Mapping[str, object]]], metric: str = "AP", title: str = "") -> Plot:
    """Draw AP against alpha of p^alpha u^(1-alpha): with the estimate, with the true IoU, and by class score alone.

    Lines are means over seeds, bars the lowest and the highest seed. The product p u stands at alpha = 0.5, whose
    ranking it shares.

    Args:
        sweeps: Per seed the rows of `oracle.alpha_rows`, of which rule, kind ("class", "product" or "power"), alpha,
            oracle and the metric are read.
        metric: Column of the metric, in percent.
        title: Above the panel.

    Returns:
        The figure; points {sweep, rule, kind, alpha, oracle, <metric>}, sweep the index of the seed.
    """
    columns = ["seed", "rule", "kind", "alpha", "oracle", metric]
    records = [{**row, "seed": seed} for seed, rows in enumerate(sweeps) for row in rows]
    points = pd.DataFrame(records, columns=columns).rename(columns={"seed": "sweep"})
    with canvas(5.4, 2.75) as figure:
        ax = figure.subplots()
        baseline = points.loc[points["kind"] == "class", metric].mean()
        if not math.isnan(baseline):
            ax.axhline(baseline, color=GREY, linestyle=DASHED, label=f"class score alone: {baseline:.1f}")
        for oracle, colour, marker, name in (
            (False, BLUE, "o", "estimated IoU"),
            (True, RED, "s", "true IoU (oracle)"),
        ):
            group = points[points["oracle"].astype(bool) == oracle]
            power = group[group["kind"] == "power"].groupby("alpha")[metric].agg(["mean", "min", "max"])
            style: _ErrorBarStyle = {"color": colour, "marker": marker, "markersize": 4, "capsize": 2}
            if len(power):
                label = f"{name}: best {power['mean'].max():.1f} at α = {power['mean'].idxmax():g}"
                spread = np.array([power["mean"] - power["min"], power["max"] - power["mean"]])
                ax.errorbar(power.index, power["mean"], spread, label=label, **style)
            product = group.loc[group["kind"] == "product", metric].mean()
            if not math.isnan(product):
                diamond: LineStyle = {"color": colour, "marker": "D", "markersize": 7, "linestyle": ""}
                ax.plot([0.5], [product], label=f"{name}, product: {product:.1f}", fillstyle="none", **diamond)
        ax.set(xlim=(-0.03, 1.03), xlabel="α  (0: quality alone … 1: class score alone)", ylabel=f"{metric} (%)")
        ax.set_title(fold(title, 4.8))
        ax.margins(y=0.12)
        finish(figure)
    seeds = f"mean of {len(sweeps)} seeds, bars from lowest to highest" if len(sweeps) > 1 else "one seed"
    return Plot(figure, points, f"{metric} of one network pass ranked by p^α u^(1-α); {seeds}.")


def ap_by_threshold(thresholds: ArrayLike, lines: Mapping[str, ArrayLike], title: str = "", about: str = "") -> Plot:
    """Draw AP at each IoU threshold, one line per run or rule; the legend gives its mean over the thresholds.

    Args:
        thresholds: (T,) IoU thresholds, increasing.
        lines: name -> (T,) AP in percent; nan where it is undefined.
        title: Above the panel.
        about: Source of the numbers (split, rule, seeds), put first in the caption.

    Returns:
        The figure; points {line, iou_threshold, AP}.

    Raises:
        ValueError: If the thresholds do not increase, there is no line, or a line has another number of values.
    """
    thresholds = np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or (np.diff(thresholds) <= 0).any():
        raise ValueError(f"thresholds must be increasing numbers, at least one, got {thresholds.tolist()}")
    if not lines:
        raise ValueError("a figure needs at least one line")
    frames = []
    with canvas(5.4, 2.85) as figure:
        ax = figure.subplots()
        for index, (name, values) in enumerate(lines.items()):
            ap = np.asarray(values, np.float64)
            if ap.shape != thresholds.shape:
                raise ValueError(f"line {name!r}: {ap.shape} values for {len(thresholds)} thresholds")
            label = f"{name}: mean{NBSP}{number(_mean(ap), '.1f')}"
            ax.plot(thresholds, ap, label=label, markersize=4, **line_style(index))
            frames.append(pd.DataFrame({"line": name, "iou_threshold": thresholds, "AP": ap}))
        ax.set(xlabel="IoU threshold", ylabel="AP (%)")
        if 11 * np.diff(thresholds).min(initial=1) >= np.ptp(thresholds):  # there is room for every number
            ax.set_xticks(thresholds)
        ax.set_ylim(bottom=0)
        ax.set_title(fold(title, 4.8))
        finish(figure)
    description = "AP at single IoU thresholds; the legend gives the mean over those drawn that are defined."
    return Plot(figure, stack(frames), f"{about.strip()} {description}".strip())


def precision_recall(
    recall: ArrayLike, lines: Mapping[str, ArrayLike], graded: bool = False, title: str = "", about: str = ""
) -> Plot:
    """Draw interpolated precision against recall, one line per IoU threshold or run; the legend gives the area, AP.

    AP is the mean of precision over the recalls (COCO's definition), in percent.

    Args:
        recall: (R,) in [0, 1], those of the precision array; COCO's are 101 from 0 to 1.
        lines: name -> (R,) or (R, K) precision in [0, 1], K categories; -1 (COCO's sign) or nan where a category has no
            ground truth. The line is the mean over the categories that have; a line without any is not drawn and has no
            AP. For a `coco_ap.APResult`: {f"IoU {t:g}": result.precision[i, :, :, 0, -1] for i, t in
            enumerate(result.thresholds)}.
        graded: Whether lines are ordered, as thresholds are: colours from dark to light in place of contrasting ones.
        title: Above the panel.
        about: Source of the numbers (split, rule, seeds), put first in the caption.

    Returns:
        The figure; points {line, recall, precision, n_classes}, n_classes the number of categories in the mean.

    Raises:
        ValueError: If the recalls do not lie in [0, 1], there is no line, or a line has another number of recalls.
    """
    recall = np.asarray(recall, np.float64)
    if recall.ndim != 1 or not len(recall) or recall.min() < 0 or recall.max() > 1:
        raise ValueError(f"recall must be a vector of numbers in [0, 1], at least one, got shape {recall.shape}")
    if not lines:
        raise ValueError("a figure needs at least one line")
    frames = []
    colours = shades(len(lines))
    with canvas(4.6, 3.25) as figure:
        ax = figure.subplots()
        for index, (name, values) in enumerate(lines.items()):
            precision, classes = _mean_precision(name, values, len(recall))
            style: LineStyle = {"color": colours[index]} if graded else {**line_style(index), "marker": ""}
            ap = 100 * precision.mean()
            ax.plot(recall, precision, label=f"{name}: AP{NBSP}{number(float(ap), '.1f')}", **style)
            curve = {"recall": recall, "precision": precision, "n_classes": classes}
            frames.append(pd.DataFrame({"line": name, **curve}))
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", ylabel="precision")
        ax.set_title(fold(title, 4.0))
        finish(figure)
    description = "Mean precision of the classes that have ground truth; AP is its mean over the recalls, in percent."
    return Plot(figure, stack(frames), f"{about.strip()} {description}".strip())


def _mean_precision(name: str, values: ArrayLike, recalls: int) -> tuple[NDArray[np.float64], int]:
    """Mean (R,) over the categories with ground truth of (R,) or (R, K) precision, nan for none, and their number."""
    precision = np.asarray(values, np.float64)
    if precision.ndim not in (1, 2) or len(precision) != recalls:
        raise ValueError(f"line {name!r}: precision {precision.shape} for {recalls} recalls")
    precision = precision.reshape(recalls, -1)
    defined = precision[:, (precision >= 0).all(axis=0)]
    mean: NDArray[np.float64] = defined.mean(axis=1) if defined.shape[1] else np.full(recalls, math.nan)
    return mean, defined.shape[1]


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are defined; nan for none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def result_curves(result: APResult, title: str = "") -> Plot:
    """Precision against recall of an AP evaluation, a line per IoU threshold."""
    lines = {f"IoU {t:g}": result.precision[i, :, :, 0, -1] for i, t in enumerate(result.thresholds)}
    return precision_recall(result.recalls, lines, graded=True, title=title)
