"""The distributions that a detector predicts for the sides of a box, beside the image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from qrepro.plots.style import BLUE, RED, Plot, canvas, finish, fold, stack

SIDES = {"left": (0, -1), "top": (1, -1), "right": (0, 1), "bottom": (1, 1)}  # axis, direction from the centre


def side_distributions(
    image: ArrayLike,
    box: ArrayLike,
    centre: tuple[float, float],
    bin_size: tuple[float, float],
    sides: Mapping[str, ArrayLike],
    title: str = "",
    about: str = "",
) -> Plot:
    """Draw where a detector predicts the four sides of one box, GFL (arXiv 2006.04388) figures 3, 13 and 14.

    The probabilities of left and right stand below the image, those of top and bottom beside it, at the pixels they
    mean: flat or two-peaked where a side is ambiguous, sharp where it is clear.

    Args:
        image: (H, W, 3) of 0 ... 255.
        box: (4,) x1, y1, x2, y2, px.
        centre: x, y of the location, px.
        bin_size: px per bin along x and y.
        sides: left, top, right, bottom -> (n + 1,) probabilities of the distances 0 ... n bins from the centre.
        title: Above the image.
        about: Source of the prediction, put first in the caption.

    Returns:
        The figure; points {side, bin, position (px), probability}.

    Raises:
        ValueError: If the image or the box has another shape, or `sides` are not the four.
    """
    pixels = np.asarray(image)
    corners = np.asarray(box, np.float64)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or corners.shape != (4,):
        raise ValueError(f"image {pixels.shape} must be (H, W, 3), and box {corners.shape} (4,)")
    if set(sides) != set(SIDES):
        raise ValueError(f"sides must be {', '.join(SIDES)}, got {', '.join(sides) or 'none'}")
    frames = []
    height, width = pixels.shape[:2]
    tall = min(max(3.6 * height / width, 1.8), 5.0)
    with canvas(5.2, tall + 1.4) as figure:
        ratios = {"width_ratios": [3.6, 1.0], "height_ratios": [tall, 1.0]}
        grid = figure.subplots(2, 2, sharex="col", sharey="row", squeeze=False, gridspec_kw=ratios)
        main, beside, below = grid[0, 0], grid[0, 1], grid[1, 0]
        grid[1, 1].remove()
        main.imshow(pixels, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
        main.grid(False)
        x = corners[[0, 2, 2, 0, 0]]
        main.plot(x, corners[[1, 1, 3, 3, 1]], color="white", linewidth=3)
        main.plot(x, corners[[1, 1, 3, 3, 1]], color=RED, linewidth=1.6)
        main.plot(*centre, "+", color=RED, markersize=7)
        for name, (axis, direction) in SIDES.items():
            probability = np.asarray(sides[name], np.float64)
            position = centre[axis] + direction * bin_size[axis] * np.arange(len(probability))
            style = {"color": BLUE if direction < 0 else RED, "alpha": 0.75}
            if axis == 0:
                label = "left, top" if direction < 0 else "right, bottom"
                below.bar(position, probability, width=0.9 * bin_size[0], label=label, **style)
            else:
                beside.barh(position, probability, height=0.9 * bin_size[1], **style)
            values = {"bin": np.arange(len(probability)), "position": position, "probability": probability}
            frames.append(pd.DataFrame({"side": name, **values}))
        main.set(xlim=(0, width), ylim=(height, 0), ylabel="y (px)")
        below.set(xlabel="x (px)", ylabel="probability")
        beside.set_xlabel("probability")
        beside.tick_params(labelbottom=True)
        main.set_title(fold(title, 3.4))
        finish(figure)
    description = "Below and beside the image: probability of each position of a side; the cross is the location."
    return Plot(figure, stack(frames), f"{about.strip()} {description}".strip())
