"""Histograms of the training targets."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from qrepro.plots.style import BLACK, GREY, SMALL, Plot, canvas, finish, fold, line_style, number, stack, vectors


def label_histograms(
    labels: Mapping[str, ArrayLike], bins: int = 20, below: float = 0.4, title: str = "", about: str = ""
) -> Plot:
    """Draw distributions of quality labels over the positives, GFL (arXiv 2006.04388) fig. 12: IoU, centerness.

    Args:
        labels: name -> (N,) labels in [0, 1], one per positive location: the IoU of the decoded box with its
            ground truth, or the centerness sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of the location in
            its ground truth.
        bins: Number of bins of equal width over [0, 1]; a label of exactly 1 belongs to the last.
        below: The legend gives the share of labels under it; the paper says that most labels of IoU are above 0.4.
        title: Above the panel.
        about: Source of the positives (detector, assigner, split), put first in the caption.

    Returns:
        The figure; points one row per bin, {label, low, high, n, share}; share of all labels of that name, nan for
        none.

    Raises:
        ValueError: If there are no labels, `bins` is below 1, or labels are not finite or lie outside [0, 1].
    """
    if not labels:
        raise ValueError("a figure needs at least one kind of label")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    frames = []
    with canvas(4.6, 2.85) as figure:
        ax = figure.subplots()
        for index, (name, given) in enumerate(labels.items()):
            (values,) = vectors("label_histograms", **{name: given})
            if len(values) and (values.min() < 0 or values.max() > 1):
                raise ValueError(f"labels {name!r} must lie in [0, 1], got {values.min():g} to {values.max():g}")
            counts = np.histogram(values, edges)[0]
            share = counts / len(values) if len(values) else np.full(bins, math.nan)
            under = float((values < below).mean()) if len(values) else math.nan
            _steps(
                ax, edges, share, index, f"{name}: {number(under, '.1%')} below {below:g} ({len(values):,} positives)"
            )
            frames.append(_frame(name, edges, counts, share))
        ax.axvline(below, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.set(xlim=(0, 1), xlabel="label", ylabel="share of positives", title=fold(title, 4.0))
        _percent(ax)
        finish(figure)
    description = f"Share of positives per {1 / bins:.3g} of the label."
    return Plot(figure, stack(frames), f"{about.strip()} {description}".strip())


def target_histogram(
    targets: Mapping[str, ArrayLike],
    n: int | None = 16,
    width: float = 0.5,
    upper: float = 20.0,
    title: str = "",
    about: str = "",
) -> Plot:
    """Draw the distribution of the regression targets, GFL (arXiv 2006.04388) fig. 5c, to choose its range n.

    Args:
        targets: name -> (N,) distances in cells (pixels over the stride of the level) from positive locations to the
            four sides of their ground truth, pooled. The paper does not print the unit; only cells fit its n of 12 to
            18.
        n: End of the range that a distribution over 0 ... n cells represents: marked, with the share of targets beyond;
            None marks nothing.
        width: Of a bin, in cells.
        upper: End of the axis in cells; targets outside [0, upper] are counted in outer bins.
        title: Above the panel.
        about: Source of the positives (detector, assigner, split), put first in the caption.

    Returns:
        The figure; points one row per bin, {label, low, high, n, share}; the outer bins end at -inf and inf. A target
        on an edge belongs to the bin above.

    Raises:
        ValueError: If there are no targets, `width` is not in (0, upper], or targets are not finite.
    """
    if not targets:
        raise ValueError("a figure needs at least one kind of target")
    if not 0 < width <= upper:
        raise ValueError(f"width must be above 0 and at most upper = {upper:g}, got {width:g}")
    edges = np.r_[-np.inf, np.arange(0, math.ceil(upper / width) + 1) * width, np.inf]
    frames = []
    with canvas(4.6, 2.85) as figure:
        ax = figure.subplots()
        for index, (name, given) in enumerate(targets.items()):
            (values,) = vectors("target_histogram", **{name: given})
            counts = np.bincount(np.searchsorted(edges, values, side="right") - 1, minlength=len(edges) - 1)
            share = counts / len(values) if len(values) else np.full(len(counts), math.nan)
            beyond = float((values > n).mean()) if n is not None and len(values) else math.nan
            label = name if n is None else f"{name}: {number(beyond, '.2%')} above {n}"
            _steps(ax, edges[1:-1], share[1:-1], index, f"{label} ({len(values):,} targets)")
            frames.append(_frame(name, edges, counts, share))
        if n is not None:
            ax.axvline(n, color=BLACK, linewidth=0.9, linestyle=(0, (1, 2)))
            ax.annotate(f" n = {n}", (n, 0.99), xycoords=("data", "axes fraction"), va="top", fontsize=SMALL)
        ax.set(
            xlim=(0, edges[-2]), xlabel="distance to a side (cells)", ylabel="share of targets", title=fold(title, 4.0)
        )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _percent(ax)
        finish(figure)
    description = f"Share of regression targets per {width:g} cells."
    return Plot(figure, stack(frames), f"{about.strip()} {description}".strip())


def _steps(ax: Axes, edges: NDArray[np.float64], share: NDArray[np.float64], index: int, label: str) -> None:
    """Draw one of several histograms in one panel: an outline, the first one filled."""
    style = line_style(index)
    ax.stairs(share, edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.6, label=label)
    if index == 0:
        ax.stairs(share, edges, color=style["color"], alpha=0.25, fill=True)


def _frame(
    name: str, edges: NDArray[np.float64], counts: NDArray[np.int64], share: NDArray[np.float64]
) -> pd.DataFrame:
    """The bins of one histogram as rows."""
    return pd.DataFrame({"label": name, "low": edges[:-1], "high": edges[1:], "n": counts, "share": share})


def _percent(ax: Axes) -> None:
    """Show shares from zero, in percent."""
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
