"""Outlines of the six classes of the generated `shapes` set: where they lie, how far they reach, what they cover."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "triangle", "ring", "star", "cross")

Outline = NDArray[np.float64]  # (V, 2) corners x, y in pixels
Box = tuple[float, float, float, float]  # xyxy in pixels

SUPERSAMPLING = 4  # outlines are drawn this much larger and averaged down
ASPECTS = (0.7, 1.4)  # stretch of one axis before the outline is turned
HOLE = 0.58  # radius of the hole of a ring, its outer radius being 1
WAIST = 0.45  # radius of the inner corners of a star
ARM = 0.36  # half the width of an arm of a cross


@dataclass(frozen=True)
class Shape:
    """A placed outline: index into CLASSES, its corners, and those of the hole in it, if it has one."""

    label: int
    outline: Outline
    hole: Outline | None

    def extent(self) -> Box:
        """Tight box of the whole outline, not clipped to any image."""
        return _extent(self.outline)

    def extent_inside(self, height: int, width: int) -> Box | None:
        """Tight box of the part that lies inside an image, None where no part does."""
        outline = self.outline
        for axis, side in ((0, width), (1, height)):
            for limit, sign in ((0.0, 1.0), (float(side), -1.0)):
                outline = _cut(outline, axis, limit, sign)
                if len(outline) == 0:
                    return None
        return _extent(outline)

    def coverage(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Share of each pixel of a window of the image that the shape covers, (rows, columns) in [0, 1]."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        large = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        draw = ImageDraw.Draw(large)
        corner = np.array([columns.start, rows.start])
        for outline, fill in ((self.outline, 255), (self.hole, 0)):
            if outline is not None:
                # PIL counts from the centre of the first pixel, outlines from its corner: hence the half pixel.
                points = ((outline - corner) * SUPERSAMPLING - 0.5).tolist()
                draw.polygon([(x, y) for x, y in points], fill=fill)
        return np.asarray(large.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255)


def random_shape(rng: Generator, label: int, size: float) -> Shape:
    """A stretched and turned shape of a class, the longest side of its box `size` pixels, its box centred on 0, 0."""
    unit = _unit(CLASSES[label])
    stretch = np.array([rng.uniform(*ASPECTS), 1.0])
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = (unit * stretch) @ turn.T
    low, high = outline.min(axis=0), outline.max(axis=0)
    scale = size / (high - low).max()
    centred = (outline - (low + high) / 2) * scale
    # A disc is point-symmetric, so that the hole has the centre of the box for its own.
    return Shape(label, centred, centred * HOLE if CLASSES[label] == "ring" else None)


def moved(shape: Shape, x: float, y: float) -> Shape:
    """The shape moved by x, y pixels."""
    offset = np.array([x, y])
    return Shape(shape.label, shape.outline + offset, None if shape.hole is None else shape.hole + offset)


def window(box: Box, margin: float, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the image that a box touches when it is widened by a margin in pixels."""
    x1, y1, x2, y2 = box
    rows = slice(max(0, int(y1 - margin)), min(height, int(y2 + margin) + 1))
    return rows, slice(max(0, int(x1 - margin)), min(width, int(x2 + margin) + 1))


def area(box: Box) -> float:
    """Area in pixels^2."""
    return (box[2] - box[0]) * (box[3] - box[1])


def polar(angles: NDArray[np.float64], radii: NDArray[np.float64]) -> Outline:
    """Corners at angles (V,) in radians and radii (V,) in pixels around 0, 0."""
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def _unit(name: str) -> Outline:
    """Corners of a class around 0, 0 with radius 1."""
    if name in ("disc", "ring"):
        return _regular(64)
    if name in ("triangle", "square"):
        return _regular(3 if name == "triangle" else 4)
    if name == "star":
        return _regular(10) * np.where(np.arange(10) % 2, WAIST, 1.0)[:, None]
    quarter = np.array([(1, -ARM), (1, ARM), (ARM, ARM)])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, n) for n in range(4)])


def _regular(corners: int) -> Outline:
    """A regular polygon."""
    return polar(np.arange(corners) * 2 * np.pi / corners, np.ones(corners))


def _extent(outline: Outline) -> Box:
    """Tight box of corners."""
    (x1, y1), (x2, y2) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
    return x1, y1, x2, y2


def _cut(outline: Outline, axis: int, limit: float, sign: float) -> Outline:
    """The part of a polygon where sign * (x or y) >= sign * limit (one step of Sutherland and Hodgman's clipping)."""
    depth = sign * (outline[:, axis] - limit)
    following, depth_following = np.roll(outline, -1, axis=0), np.roll(depth, -1)
    crossing = (depth < 0) != (depth_following < 0)
    share = depth[crossing] / (depth[crossing] - depth_following[crossing])
    crossings = outline[crossing] + share[:, None] * (following[crossing] - outline[crossing])
    crossings[:, axis] = limit  # exactly, where the arithmetic above only comes close
    # A crossing comes after the corner at which its edge starts.
    order = np.concatenate([np.flatnonzero(depth >= 0), np.flatnonzero(crossing) + 0.5])
    return np.concatenate([outline[depth >= 0], crossings])[np.argsort(order)]
