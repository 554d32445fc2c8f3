"""Accuracy against time per picture, from the numbers that papers print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from qrepro.plots.style import MARKERS, Plot, canvas, finish, line_style, stack, vectors


def speed_accuracy(
    models: Mapping[str, tuple[Sequence[str], ArrayLike, ArrayLike]], ylabel: str = "AP (%)", about: str = ""
) -> Plot:
    """AP against milliseconds per picture, a line per model over its backbones (GFLv2, arXiv 2011.12885, figure 6).

    models: name -> names of its variants, pictures per second (N,), and AP in percent (N,).
    Points: {model, variant, ms, AP}.
    """
    frames = []
    with canvas(6.4, 4.2) as figure:
        ax = figure.subplots()
        for index, (model, (variants, pace, precision)) in enumerate(models.items()):
            fps, ap = vectors(f"speed_accuracy {model}", fps=pace, AP=precision)
            if (fps <= 0).any():
                raise ValueError(f"speed_accuracy {model}: pictures per second must be positive")
            values = {"variant": list(variants), "ms": 1000 / fps, "AP": ap}
            points = pd.DataFrame({"model": model, **values}).sort_values("ms", kind="stable", ignore_index=True)
            style = {**line_style(index), "marker": MARKERS[index % len(MARKERS)]}
            ax.plot(points["ms"], points["AP"], label=model, markersize=4.5, **style)
            frames.append(points)
        ax.set(xscale="log", xlabel="time per picture (ms), logarithmic", ylabel=ylabel)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        finish(figure)
    return Plot(figure, stack(frames), f"{about.strip()} Up and to the left is better.".strip())
