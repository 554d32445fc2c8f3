"""Scatter plots of the scores and estimates of a detector against the true IoU of its boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, Unpack

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from qrepro.metrics.correlation import binned_rows, correlation_rows
from qrepro.plots.style import (
    BLUE,
    DASHED,
    GREY,
    ORANGE,
    RED,
    Plot,
    canvas,
    finish,
    fold,
    grid_shape,
    number,
    stack,
    vectors,
)

SAMPLE = 10_000  # points drawn per panel, as in fig. 4 of IoU-aware RetinaNet
PANEL = 2.55  # inches that the text above a panel may be wide


class _ScatterStyle(TypedDict, total=False):
    """Keywords of a scatter plot."""

    color: str
    marker: str
    c: NDArray[np.float64]
    cmap: str
    vmin: float
    vmax: float


def score_vs_iou(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], sample: int = SAMPLE, seed: int = 0, about: str = ""
) -> Plot:
    """Draw confidence against IoU_eval, IoU-aware RetinaNet (arXiv 1912.05992) fig. 4: one panel per detector or rule.

    Correlations and the mean line (per 0.05 of IoU) are those of all detections, not of the sample.

    Args:
        panels: title -> (iou_eval, score), aligned vectors (N,) in [0, 1], one entry per detection.
        sample: Number of points drawn per panel at most, without replacement.
        seed: Of the sample; the same seed draws the same points.
        about: Source of the detections (stage, split, rule, score threshold), put first in the caption.

    Returns:
        The figure; points {panel, iou_eval, score} of the sample.

    Raises:
        ValueError: If there is no panel, `sample` is below 1, or vectors are not equally long or not finite.
    """
    description = f"{sample:,} detections per panel at most, drawn with seed {seed}; r, ρ, n and the mean are of all."
    labels = ("IoU with own class (IoU_eval)", "confidence", "mean score")
    return _clouds(panels, ("iou_eval", "score"), labels, sample, seed, f"{about.strip()} {description}".strip())


def estimate_vs_iou(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], sample: int = SAMPLE, seed: int = 0, about: str = ""
) -> Plot:
    """Draw the true IoU against the estimate of the detector, with the mean per 0.05 of the estimate and the diagonal.

    Correlations, bias and means are those of all locations, not of the sample.

    Args:
        panels: title -> (estimate, iou), aligned vectors (N,) in [0, 1], one entry per positive location.
        sample: As for `score_vs_iou`.
        seed: As for `score_vs_iou`.
        about: Source of the locations, put first in the caption.

    Returns:
        The figure; points {panel, estimate, iou} of the sample.

    Raises:
        ValueError: As `score_vs_iou`.
    """
    description = (
        f"{sample:,} positive locations per panel at most, drawn with seed {seed}; r, ρ, bias and means are of all."
    )
    labels = ("estimated IoU", "true IoU of the decoded box", "mean IoU")
    caption = f"{about.strip()} {description}".strip()
    return _clouds(panels, ("estimate", "iou"), labels, sample, seed, caption, diagonal="estimate = IoU")


def top1_vs_iou(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], sample: int = SAMPLE, seed: int = 0, about: str = ""
) -> Plot:
    """Draw the true IoU against the flatness of the predicted distribution, GFLv2 (arXiv 2011.12885) fig. 1b.

    The mean line is per 0.05 of top1. The paper does not say which predictions it shows nor which axis is which.

    Args:
        panels: title -> (top1, iou), aligned vectors (N,) in [0, 1]. top1 is the largest probability over the bins of a
            side, averaged over the four sides, so at least 1 / (number of bins); iou that of the decoded box with its
            ground truth.
        sample: As for `score_vs_iou`.
        seed: As for `score_vs_iou`.
        about: Source of the predictions, which must be said, put first in the caption.

    Returns:
        The figure; points {panel, top1, iou} of the sample.

    Raises:
        ValueError: As `score_vs_iou`.
    """
    description = f"{sample:,} predictions per panel at most, drawn with seed {seed}; r, ρ, n and means are of all."
    labels = ("top-1 probability, mean of four sides", "true IoU of the decoded box", "mean IoU")
    return _clouds(panels, ("top1", "iou"), labels, sample, seed, f"{about.strip()} {description}".strip())


def class_vs_iou_score(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    colour: str = "object",
    threshold: float = 0.5,
    high: float = 0.9,
    sample: int = SAMPLE,
    seed: int = 0,
    about: str = "",
) -> Plot:
    """Draw predicted quality against classification score, GFL (arXiv 2006.04388) fig. 2b: one panel per detector.

    At the top left lies the failure that the figure warns of: background to which the quality branch, trained on
    positives alone, assigns a high quality. A joint representation has one number for both and lies on the diagonal:
    give it twice. The paper gives neither the number of instances nor the split nor the axes. r, ρ, n and the share are
    those of all points, not of the sample.

    Args:
        panels: title -> (class_score, quality, iou), aligned vectors (N,) in [0, 1], one entry per location or
            detection, positives and negatives mixed. quality: predicted IoU or centerness; iou: of the decoded box with
            its ground truth.
        colour: "object" for two groups, background below `threshold` of true IoU; "iou" for the true IoU itself.
        threshold: True IoU below which a point is background.
        high: The title gives the share of background whose quality is at least this, nan without background.
        sample: As for `score_vs_iou`.
        seed: As for `score_vs_iou`.
        about: Number and split of the instances, which must be said, put first in the caption.

    Returns:
        The figure; points {panel, class_score, quality, iou, background_below} of the sample.

    Raises:
        ValueError: If `colour` is unknown, and as `score_vs_iou`.
    """
    if colour not in ("object", "iou"):
        raise ValueError(f'colour must be "object" or "iou", got {colour!r}')
    drawn = []

    def draw(ax: Axes, title: str, columns: Sequence[NDArray[np.float64]]) -> None:
        cls, quality, iou = columns
        keep = _sample(len(iou), sample, seed)
        if colour == "iou":
            _scatter(ax, cls[keep], quality[keep], faintest=0.3, c=iou[keep], cmap="viridis", vmin=0, vmax=1)
        else:
            is_object = iou[keep] >= threshold
            for mask, shade, marker, name in (
                (is_object, BLUE, "o", f"object (true IoU ≥ {threshold:g})"),
                (~is_object, ORANGE, "^", f"background (true IoU < {threshold:g})"),
            ):
                _scatter(ax, cls[keep][mask], quality[keep][mask], color=shade, marker=marker)
                ax.scatter([], [], color=shade, marker=marker, s=16, label=name)  # for the legend, not faint
        ax.plot([0, 1], [0, 1], color=GREY, linestyle=DASHED, linewidth=1, label="quality = class score")
        background = quality[iou < threshold]
        share = float((background >= high).mean()) if len(background) else math.nan
        remark = f"background with quality ≥ {high:g}: {number(share, '.1%')}"
        _title(ax, title, f"{_correlation(cls, quality)}\n{remark}")
        values = {"class_score": cls[keep], "quality": quality[keep], "iou": iou[keep]}
        drawn.append(pd.DataFrame({"panel": title, **values, "background_below": threshold}))

    names, labels = ("class_score", "quality", "iou"), ("classification score", "predicted quality")
    figure = _panels(panels, names, draw, *labels, scale="true IoU" if colour == "iou" else "")
    description = f"{sample:,} points per panel at most, drawn with seed {seed}; r, ρ, n and the share are of all."
    description += f" Background: true IoU below {threshold:g}."
    return Plot(figure, stack(drawn), f"{about.strip()} {description}".strip())


def _clouds(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]],
    names: tuple[str, str],
    labels: tuple[str, str, str],
    sample: int,
    seed: int,
    caption: str,
    diagonal: str = "",
) -> Plot:
    """Scatter plots of pairs with their mean line. names: columns of the points; labels: of both axes and the line."""
    drawn = []

    def draw(ax: Axes, title: str, pair: Sequence[NDArray[np.float64]]) -> None:
        x, y = pair
        keep = _sample(len(x), sample, seed)
        _scatter(ax, x[keep], y[keep], color=BLUE)
        if diagonal:
            ax.plot([0, 1], [0, 1], color=GREY, linestyle=DASHED, linewidth=1, label=diagonal)
        means = binned_rows(x, y)  # binned by the abscissa, whatever it is called there
        mean_x, mean_y = ([float(row[column]) for row in means] for column in ("mean_estimate", "mean_iou"))
        _mean_line(ax, mean_x, mean_y, labels[2])
        _title(ax, title, _correlation(x, y, bias=bool(diagonal)))
        drawn.append(pd.DataFrame({"panel": title, names[0]: x[keep], names[1]: y[keep]}))

    return Plot(_panels(panels, names, draw, *labels[:2]), stack(drawn), caption)


def _panels(
    panels: Mapping[str, tuple[ArrayLike, ...]],
    names: Sequence[str],
    draw: Callable[[Axes, str, Sequence[NDArray[np.float64]]], None],
    xlabel: str,
    ylabel: str,
    scale: str = "",
) -> Figure:
    """Square panels over [0, 1] x [0, 1] side by side, at most three in a row, with one legend.

    scale: label of the bar that explains colours from 0 to 1; empty for no bar.
    """
    checked = {
        title: vectors(f"panel {title!r}", **dict(zip(names, arrays, strict=True))) for title, arrays in panels.items()
    }
    rows, columns = grid_shape(len(panels))
    with canvas(2.95 * columns + (1.0 if scale else 0.35), 2.95 * rows) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for ax in grid.flat[len(panels) :]:
            ax.remove()
        for ax, (title, values) in zip(grid.flat, checked.items(), strict=False):
            draw(ax, title, values)
            ax.set_xlabel(xlabel)
            ax.tick_params(labelbottom=True)
            if not len(values[0]):
                ax.text(0.5, 0.5, "no points", ha="center", color=GREY, backgroundcolor="white")
        for ax in grid[:, 0]:
            ax.set_ylabel(ylabel)
        x, y = ([values[axis] for values in checked.values()] for axis in (0, 1))
        grid[0, 0].set(xlim=_limits(x), ylim=_limits(y))  # shared by all panels
        if scale:
            shown = list(grid.flat[: len(panels)])
            figure.colorbar(ScalarMappable(cmap="viridis"), ax=shown, label=scale, fraction=0.05, aspect=30)
        finish(figure)
    return figure


def _limits(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """[0, 1] and a margin; wider where values lie outside, as the scores of other detectors may."""
    all_values = np.concatenate([[0.0, 1.0], *values])
    margin = 0.02 * float(np.ptp(all_values))
    return float(all_values.min()) - margin, float(all_values.max()) + margin


def _scatter(
    ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], faintest: float = 0.08, **style: Unpack[_ScatterStyle]
) -> None:
    """Draw points so faint and small that density shows; rasterised, or ten thousand of them make the SVG slow."""
    alpha = float(np.clip(900 / max(len(x), 1), faintest, 0.6))
    size = float(np.clip(5_000 / max(len(x), 1), 5, 20))
    ax.scatter(x, y, s=size, alpha=alpha, linewidths=0, rasterized=True, **style)


def _mean_line(ax: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """Draw a line that stands out from the cloud by a white edge."""
    ax.plot(x, y, color="white", linewidth=3.6)
    ax.plot(x, y, color=RED, linewidth=1.8, marker="o", markersize=2.5, label=label)


def _title(ax: Axes, title: str, numbers: str) -> None:
    """Set the name of a panel, folded to its width, above its numbers."""
    ax.set_title(f"{fold(title, PANEL)}\n{numbers}", linespacing=1.5)


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64], bias: bool = False) -> str:
    """Correlations of a panel in one line."""
    statistics = ("pearson", "spearman", "bias")
    (row,) = correlation_rows(first, second, [(-math.inf, math.inf)], statistics=statistics, intervals=False)
    text = f"r = {number(float(row['pearson']), '.2f')}, ρ = {number(float(row['spearman']), '.2f')}"
    if bias:
        text += f", bias {number(float(row['bias']), '+.2f')}"
    return f"{text}, n = {row['n']:,}"


def _sample(n: int, sample: int, seed: int) -> NDArray[np.int64]:
    """Up to `sample` of n row numbers, in their order; all of them when there are no more."""
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    return np.arange(n) if n <= sample else np.sort(np.random.default_rng(seed).choice(n, sample, replace=False))
