"""Accuracy against time per image, from the numbers that papers print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from qrepro.plots.style import MARKERS, LineStyle, Plot, canvas, finish, line_style, stack, vectors


def speed_accuracy(
    models: Mapping[str, tuple[Sequence[str], ArrayLike, ArrayLike]], ylabel: str = "AP (%)", about: str = ""
) -> Plot:
    """Draw AP against milliseconds per image, a line per model over its backbones (GFLv2, arXiv 2011.12885, figure 6).

    Args:
        models: name -> names of its variants, images per second (N,), and AP in percent (N,).
        ylabel: Of the accuracy.
        about: Source of the numbers, put first in the caption.

    Returns:
        The figure; points {model, variant, ms, AP}.

    Raises:
        ValueError: If speeds are not positive, or numbers are not finite or not equally many.
    """
    frames = []
    with canvas(6.4, 4.2) as figure:
        ax = figure.subplots()
        for index, (model, (variants, speed, precision)) in enumerate(models.items()):
            fps, ap = vectors(f"speed_accuracy {model}", fps=speed, AP=precision)
            if (fps <= 0).any():
                raise ValueError(f"speed_accuracy {model}: images per second must be positive")
            values = {"variant": list(variants), "ms": 1000 / fps, "AP": ap}
            points = pd.DataFrame({"model": model, **values}).sort_values("ms", kind="stable", ignore_index=True)
            style: LineStyle = {**line_style(index), "marker": MARKERS[index % len(MARKERS)]}
            ax.plot(points["ms"], points["AP"], label=model, markersize=4.5, **style)
            frames.append(points)
        ax.set(xscale="log", xlabel="time per image (ms), logarithmic", ylabel=ylabel)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        finish(figure)
    return Plot(figure, stack(frames), f"{about.strip()} Up and to the left is better.".strip())
