"""The boxes around one picture's objects before and after suppression, and which scores decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from qrepro.plots.style import BLACK, CYCLE, GREY, Plot, canvas, finish, stack

BOX = ["x1", "y1", "x2", "y2"]
BEST = 4


def before_and_after(
    picture: ArrayLike, truths: ArrayLike, before: pd.DataFrame, after: pd.DataFrame, about: str = ""
) -> Plot:
    """Candidates of one picture and what suppression leaves of them (GFLv2, arXiv 2011.12885, figure 7).

    picture: (H, W, 3) of 0 ... 255.   truths: (G, 4) xyxy, px.   before, after: frames of boxes with score and iou
    (that with a truth). The BEST of both by score are drawn in colour, with these numbers in the legend.
    Points: {panel, rank, x1, y1, x2, y2, score, iou}.
    """
    shown, objects = np.asarray(picture), np.asarray(truths, np.float64).reshape(-1, 4)
    if shown.ndim != 3 or shown.shape[2] != 3:
        raise ValueError(f"picture {shown.shape} must be (H, W, 3)")
    height, width = shown.shape[:2]
    tall = min(max(3.6 * height / width, 1.8), 5.0)
    frames = []
    with canvas(8.2, tall + 0.4) as figure:
        panels = figure.subplots(1, 2, squeeze=False)[0]
        for ax, (name, boxes) in zip(panels, {"before": before, "after": after}.items(), strict=True):
            ax.imshow(shown, extent=(0, width, height, 0), interpolation="nearest", alpha=0.75)
            ax.grid(False)
            for truth in objects.tolist():
                _outline(ax, truth, BLACK, 2.2, linestyle="--")
            ranked = boxes.sort_values("score", ascending=False, kind="stable", ignore_index=True)
            for row in ranked.iloc[BEST:].to_dict("records"):
                _outline(ax, [row[c] for c in BOX], GREY, 0.5)
            for rank, row in enumerate(ranked.head(BEST).to_dict("records")):
                text = f"{name} {rank + 1}: score {row['score']:.2f}, IoU {row['iou']:.2f}"
                _outline(ax, [row[c] for c in BOX], CYCLE[rank], 1.6, label=text, above=BEST - rank)
            ax.set(xlim=(0, width), ylim=(height, 0), xlabel="x (px)", ylabel="y (px)")
            ax.set_title(f"{name} suppression: {len(ranked):,}")
            columns = ranked[[*BOX, "score", "iou"]]
            frames.append(pd.DataFrame({"panel": name, "rank": range(1, len(ranked) + 1), **columns}))
        finish(figure)
    what = f"Dashed: truths. In colour: the {BEST} of the highest score; grey: the others."
    return Plot(figure, stack(frames), f"{about.strip()} {what}".strip())


def _outline(
    ax: Axes, box: Sequence[float], color: str, width: float, linestyle: str = "-", label: str = "", above: int = 0
) -> None:
    """The four sides of a box; `above`: which of those that cross it is seen."""
    x1, y1, x2, y2 = box
    style: dict[str, Any] = {"color": color, "linewidth": width, "label": label or None, "zorder": 2 + above}
    ax.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], linestyle, **style)
