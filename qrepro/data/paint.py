"""Painting one picture of the generated `shapes` set: background, clutter, objects with uncertain borders, crowds.

Class is given by outline and, mostly, by texture; how certain the border is (blur, border noise, contrast, occlusion) is
drawn independently of the class, so that a detector's class score says little about how good its box is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.float32]

CLASSES = ("disc", "square", "triangle", "ring", "star", "cross")

SUPERSAMPLING = 4  # outlines are drawn this much larger and averaged down
SIDES = (128, 160)  # pixels, lowest and highest, of either side of a picture
SCALES = ((8, 32, 0.44), (32, 96, 0.36), (98, 122, 0.20))  # longest box side in pixels: from, to, probability
OWN_TEXTURE = 0.7  # probability of an object to wear the texture of its class
MOST_COVERED = 0.7  # an object is not placed where it would hide more than this share of another
LEAST_INSIDE = 0.45  # share of its box that an object has inside the picture
LEAST_SIDE = 5.0  # pixels of the clipped box
TRIES = 6  # places tried before an object is left out


@dataclass(frozen=True)
class Thing:
    """An annotated object or crowd: clipped xyxy in pixels, index into CLASSES, crowd or not."""

    box: tuple[float, float, float, float]
    label: int
    crowd: bool


@dataclass(frozen=True)
class Shape:
    """A placed outline.

    Attributes:
        label: index into CLASSES.
        outlines: (V, 2) x, y in pixels of the picture each; the second, if any, is a hole in the first.
    """

    label: int
    outlines: tuple[NDArray[np.float64], ...]

    def extent(self) -> tuple[float, float, float, float]:
        """Tight xyxy of the whole outline, in pixels, not clipped."""
        low, high = self.outlines[0].min(axis=0), self.outlines[0].max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def paint(rng: Generator) -> tuple[NDArray[np.uint8], list[Thing]]:
    """One picture, (H, W, 3) RGB, and what is on it. Everything is drawn from `rng`."""
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, size=2))
    canvas = _background(rng, height, width)
    _clutter(rng, canvas)
    # Six in a hundred pictures stay without objects: detectors meet such pictures, and code must stand them.
    count = 0 if rng.random() < 0.06 else int(rng.integers(1, 7))
    things = _crowd(rng, canvas) if count and rng.random() < 0.06 else []
    things += _place(rng, canvas, count)
    return _camera(rng, canvas), things


def _place(rng: Generator, canvas: Array, count: int) -> list[Thing]:
    """Paint up to `count` objects onto the canvas, later over earlier, mostly larger first."""
    height, width = canvas.shape[:2]
    sizes = _sizes(rng, count)
    sizes = sizes[np.argsort(-sizes * rng.uniform(0.4, 1.0, size=count))]
    things: list[Thing] = []
    visible: list[NDArray[np.bool_]] = []
    whole: list[int] = []
    for size in sizes.tolist():
        for _ in range(TRIES):
            shape = _shape(rng, size, height, width)
            box = _clipped(shape, height, width)
            mask = coverage(shape.outlines, height, width)
            solid = mask > 0.5
            hidden = [(old & ~solid).sum() < (1 - MOST_COVERED) * n for old, n in zip(visible, whole, strict=True)]
            if box is None or any(hidden):
                continue
            _blend(rng, canvas, mask, _texture(rng, shape.label, height, width), size)
            visible = [old & ~solid for old in visible] + [solid]
            whole.append(max(1, int(solid.sum())))
            things.append(Thing(box, shape.label, crowd=False))
            break
    return things
