"""Boxes of one image before and after suppression, and the scores that decided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from qrepro.plots.style import BLACK, CYCLE, GREY, Plot, canvas, finish, stack

BOX = ["x1", "y1", "x2", "y2"]
BEST = 4


def before_and_after(
    image: ArrayLike, ground_truth: ArrayLike, before: pd.DataFrame, after: pd.DataFrame, about: str = ""
) -> Plot:
    """Draw the candidates of one image and those that suppression keeps (GFLv2, arXiv 2011.12885, figure 7).

    The BEST boxes of both by score are drawn in colour, with score and IoU in the legend.

    Args:
        image: (H, W, 3) of 0 ... 255.
        ground_truth: (G, 4) boxes `xyxy`, px.
        before: Frame of candidates with x1, y1, x2, y2 (px), score and iou (that with the ground truth).
        after: Frame of the boxes that suppression keeps, with the same columns.
        about: Source of the boxes, put first in the caption.

    Returns:
        The figure; points {panel, rank, x1, y1, x2, y2, score, iou}.

    Raises:
        ValueError: If the image has another shape.
    """
    pixels, objects = np.asarray(image), np.asarray(ground_truth, np.float64).reshape(-1, 4)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"image {pixels.shape} must be (H, W, 3)")
    height, width = pixels.shape[:2]
    tall = min(max(3.6 * height / width, 1.8), 5.0)
    frames = []
    with canvas(8.2, tall + 0.4) as figure:
        panels = figure.subplots(1, 2, squeeze=False)[0]
        for ax, (name, boxes) in zip(panels, {"before": before, "after": after}.items(), strict=True):
            ax.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", alpha=0.75)
            ax.grid(False)
            for gt_box in objects.tolist():
                _outline(ax, gt_box, BLACK, 2.2, linestyle="--")
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
    description = f"Dashed: ground truths. In colour: the {BEST} of the highest score; grey: the others."
    return Plot(figure, stack(frames), f"{about.strip()} {description}".strip())


def _outline(
    ax: Axes, box: Sequence[float], color: str, width: float, linestyle: str = "-", label: str = "", above: int = 0
) -> None:
    """Draw the four sides of a box; a higher `above` draws it over the boxes that it crosses."""
    x1, y1, x2, y2 = box
    ax.plot(
        [x1, x2, x2, x1, x1],
        [y1, y1, y2, y2, y1],
        linestyle,
        color=color,
        linewidth=width,
        label=label or None,
        zorder=2 + above,
    )
