"""Clouds of points: what a detector believes of its boxes against how well they lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

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


def score_vs_iou(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], sample: int = SAMPLE, seed: int = 0, about: str = ""
) -> Plot:
    """Confidence against IoU_eval, IoU-aware RetinaNet (arXiv 1912.05992) fig. 4: one panel per detector or rule.

    panels: title -> (iou_eval, score), aligned vectors (N,) in [0, 1], one entry per detection.
    sample: points drawn per panel, without replacement; the same `seed` draws the same ones.
    about: where the detections come from (stage, split, rule, score floor), put first in the caption.
    Correlations and the mean line (per 0.05 of IoU) are those of all detections, not of the sample.
    """
    what = f"{sample:,} detections per panel at most, drawn with seed {seed}; r, ρ, n and the mean are of all."
    labels = ("IoU with own class (IoU_eval)", "confidence", "mean score")
    return _clouds(panels, ("iou_eval", "score"), labels, sample, seed, f"{about.strip()} {what}".strip())


def estimate_vs_iou(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], sample: int = SAMPLE, seed: int = 0, about: str = ""
) -> Plot:
    """True IoU against the estimate of the detector, with the mean of each 0.05 of the estimate and the diagonal.

    panels: title -> (estimate, iou), aligned vectors (N,) in [0, 1], one entry per positive location.
    sample, seed, about: as in `score_vs_iou`.
    """
    what = f"{sample:,} positive locations per panel at most, drawn with seed {seed}; r, ρ, bias and means are of all."
    labels = ("estimated IoU", "true IoU of the decoded box", "mean IoU")
    caption = f"{about.strip()} {what}".strip()
    return _clouds(panels, ("estimate", "iou"), labels, sample, seed, caption, diagonal="estimate = IoU")


def top1_vs_iou(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], sample: int = SAMPLE, seed: int = 0, about: str = ""
) -> Plot:
    """True IoU against the flatness of the predicted distribution, GFLv2 (arXiv 2011.12885) fig. 1b.

    panels: title -> (top1, iou), aligned vectors (N,) in [0, 1]. top1 is the largest probability over the bins of a
        side, averaged over the four sides, so at least 1 / (number of bins); iou that of the decoded box with its
        truth. The paper does not say which predictions it shows nor which axis is which; `about` must say the former.
    sample, seed, about: as in `score_vs_iou`. The mean line is per 0.05 of top1.
    """
    what = f"{sample:,} predictions per panel at most, drawn with seed {seed}; r, ρ, n and means are of all."
    labels = ("top-1 probability, mean of four sides", "true IoU of the decoded box", "mean IoU")
    return _clouds(panels, ("top1", "iou"), labels, sample, seed, f"{about.strip()} {what}".strip())


def class_vs_iou_score(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    colour: str = "object",
    threshold: float = 0.5,
    high: float = 0.9,
    sample: int = SAMPLE,
    seed: int = 0,
    about: str = "",
) -> Plot:
    """Predicted quality against classification score, GFL (arXiv 2006.04388) fig. 2b: one panel per detector.

    Top left lies what the figure warns of: background that the quality branch, trained on positives alone, believes
    to be well placed. A joint representation has one number for both and lies on the diagonal: give it twice.

    panels: title -> (class_score, quality, iou), aligned vectors (N,) in [0, 1], one entry per location or detection,
        positives and negatives mixed. quality: predicted IoU or centerness; iou: of the decoded box with its truth.
        The paper gives neither the number of instances nor the split nor the axes; `about` must say the first two.
    colour: "object" for two groups, background below `threshold` of true IoU; "iou" for the true IoU itself.
    high: the title counts the share of background whose quality is at least this, nan without background.
    sample, seed, about: as in `score_vs_iou`. r, ρ, n and the share are those of all.
    """
    if colour not in ("object", "iou"):
        raise ValueError(f'colour must be "object" or "iou", got {colour!r}')
    drawn = []

    def draw(ax: Axes, title: str, columns: Sequence[np.ndarray]) -> None:
        cls, quality, iou = columns
        keep = _sample(len(iou), sample, seed)
        if colour == "iou":
            _scatter(ax, cls[keep], quality[keep], faintest=0.3, c=iou[keep], cmap="viridis", vmin=0, vmax=1)
        else:
            found = iou[keep] >= threshold
            for mask, shade, marker, name in (
                (found, BLUE, "o", f"object (true IoU ≥ {threshold:g})"),
                (~found, ORANGE, "^", f"background (true IoU < {threshold:g})"),
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
    what = f"{sample:,} points per panel at most, drawn with seed {seed}; r, ρ, n and the share are of all."
    what += f" Background: true IoU below {threshold:g}."
    return Plot(figure, stack(drawn), f"{about.strip()} {what}".strip())


def _clouds(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]],
    names: tuple[str, str],
    labels: tuple[str, str, str],
    sample: int,
    seed: int,
    caption: str,
    diagonal: str = "",
) -> Plot:
    """Clouds of pairs with their mean line. names: columns of the points; labels: of both axes and the mean line."""
    drawn = []

    def draw(ax: Axes, title: str, pair: Sequence[np.ndarray]) -> None:
        x, y = pair
        keep = _sample(len(x), sample, seed)
        _scatter(ax, x[keep], y[keep], color=BLUE)
        if diagonal:
            ax.plot([0, 1], [0, 1], color=GREY, linestyle=DASHED, linewidth=1, label=diagonal)
        means = binned_rows(x, y)  # binned by the abscissa, whatever it is called there
        _mean_line(ax, [row["mean_estimate"] for row in means], [row["mean_iou"] for row in means], labels[2])
        _title(ax, title, _correlation(x, y, bias=bool(diagonal)))
        drawn.append(pd.DataFrame({"panel": title, names[0]: x[keep], names[1]: y[keep]}))

    return Plot(_panels(panels, names, draw, *labels[:2]), stack(drawn), caption)


def _panels(
    panels: Mapping[str, tuple[ArrayLike, ...]],
    names: Sequence[str],
    draw: Callable[[Axes, str, Sequence[np.ndarray]], None],
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


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """[0, 1] and a margin; wider where values lie outside, as the scores of other detectors may."""
    seen = np.concatenate([[0.0, 1.0], *values])
    margin = 0.02 * float(np.ptp(seen))
    return float(seen.min()) - margin, float(seen.max()) + margin


def _scatter(ax: Axes, x: np.ndarray, y: np.ndarray, faintest: float = 0.08, **style: Any) -> None:
    """Points so faint and small that density shows; rasterised, or ten thousand of them make the SVG slow."""
    alpha = float(np.clip(900 / max(len(x), 1), faintest, 0.6))
    size = float(np.clip(5_000 / max(len(x), 1), 5, 20))
    ax.scatter(x, y, s=size, alpha=alpha, linewidths=0, rasterized=True, **style)


def _mean_line(ax: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """A line that stands out from the cloud by a white edge."""
    ax.plot(x, y, color="white", linewidth=3.6)
    ax.plot(x, y, color=RED, linewidth=1.8, marker="o", markersize=2.5, label=label)


def _title(ax: Axes, title: str, numbers: str) -> None:
    """The name of a panel, folded to its width, above its numbers."""
    ax.set_title(f"{fold(title, PANEL)}\n{numbers}", linespacing=1.5)


def _correlation(first: np.ndarray, second: np.ndarray, bias: bool = False) -> str:
    """Correlations of a panel in one line."""
    wanted = ("pearson", "spearman", "bias")
    (row,) = correlation_rows(first, second, [(-math.inf, math.inf)], statistics=wanted, intervals=False)
    text = f"r = {number(row['pearson'], '.2f')}, ρ = {number(row['spearman'], '.2f')}"
    if bias:
        text += f", bias {number(row['bias'], '+.2f')}"
    return f"{text}, n = {row['n']:,}"


def _sample(n: int, sample: int, seed: int) -> np.ndarray:
    """Up to `sample` of n row numbers, in their order; all of them when there are no more."""
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    return np.arange(n) if n <= sample else np.sort(np.random.default_rng(seed).choice(n, sample, replace=False))
