"""Painting one image of the generated `shapes` set: background, clutter, a crowd, objects with uncertain borders.

Outline gives the class, and mostly colour and texture too, so that a small detector tells classes apart after minutes
of training. How certain a border is (blur, ragged edge, shadow, contrast,
occlusion) is drawn independently of both, so that the class score of a detector says little about its box.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from qrepro.data.shapes.outlines import CLASSES, Box, Shape, area, moved, polar, random_shape, window

Plane = NDArray[np.float32]  # (H, W)
Canvas = NDArray[np.float32]  # (H, W, 3) RGB on the scale 0..255, written in place
Colour = NDArray[np.float32]  # (3,) RGB

SIDES = (128, 160)  # lowest and highest side of an image in pixels
EMPTY = 0.06  # share of images without objects
MOST_OBJECTS = 6
SCALES = ((12.0, 31.0), (32.0, 92.0), (100.0, 124.0))  # ranges of the longest side of an object in pixels
SCALE_SHARES = (0.38, 0.40, 0.22)
CROWDED = 0.06  # share of images with a crowd
CROWD_MEMBERS = (9, 17)
OWN_LOOK = 0.85  # share of objects that wear the colour and the texture of their class
TRUNCATED = 0.2  # share of objects that may reach beyond the image
LEAST_INSIDE = 0.45  # share of its box that an object has inside the image
LEAST_SIDE = 5.0  # pixels of the clipped box
MOST_COVERED = 0.7  # an object is not placed where it would leave less than the rest of another to be seen
TRIES = 8  # places tried before an object is left out


@dataclass(frozen=True)
class Thing:
    """What is annotated: box clipped to the image, index into CLASSES, crowd or single object."""

    box: Box
    label: int
    crowd: bool


def paint(rng: Generator) -> tuple[NDArray[np.uint8], list[Thing]]:
    """One image, (H, W, 3) RGB, and what is on it; everything is drawn from `rng`."""
    height, width = rng.integers(SIDES[0], SIDES[1] + 1, size=2).tolist()
    canvas = _background(rng, height, width)
    _clutter(rng, canvas)
    things: list[Thing] = []
    if rng.random() >= EMPTY:
        if rng.random() < CROWDED:
            things.append(_crowd(rng, canvas))
        things += _place_objects(rng, canvas, int(rng.integers(1, MOST_OBJECTS + 1)), things)
    return _camera(rng, canvas), things


def _place_objects(rng: Generator, canvas: Canvas, count: int, below: list[Thing]) -> list[Thing]:
    """Paint up to `count` objects over the things below and over each other, mostly larger first."""
    height, width = canvas.shape[:2]
    things: list[Thing] = []
    seen = [_filled(thing.box, height, width) for thing in below]  # what is still to be seen of each thing
    needed = [(1 - MOST_COVERED) * float(mask.sum()) for mask in seen]  # pixels that must stay to be seen of it
    for size in _sizes(rng, count):
        for _ in range(TRIES):
            shape = _put(rng, random_shape(rng, int(rng.integers(len(CLASSES))), size), height, width)
            box = shape.extent_inside(height, width)
            if box is None or area(box) < LEAST_INSIDE * area(shape.extent()) or _shortest(box) < LEAST_SIDE:
                continue
            solid = np.zeros((height, width), dtype=bool)
            rows, columns = window(box, 0, height, width)
            solid[rows, columns] = shape.coverage(rows, columns) > 0.5
            left = [old & ~solid for old in seen]
            if any(old.sum() < least for old, least in zip(left, needed, strict=True)):
                continue
            _paint_object(rng, canvas, shape, size)
            things.append(Thing(box, shape.label, crowd=False))
            seen = [*left, solid]
            needed.append((1 - MOST_COVERED) * float(solid.sum()))
            break
    return things


def _filled(box: Box, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels that a box touches, (H, W)."""
    mask = np.zeros((height, width), dtype=bool)
    mask[window(box, 0, height, width)] = True
    return mask


def _shortest(box: Box) -> float:
    """Short side in pixels."""
    return min(box[2] - box[0], box[3] - box[1])


def _sizes(rng: Generator, count: int) -> list[float]:
    """Longest sides in pixels, in the order of painting."""
    ranges = np.array(SCALES)[rng.choice(len(SCALES), size=count, p=SCALE_SHARES)]
    sizes = np.exp(rng.uniform(np.log(ranges[:, 0]), np.log(ranges[:, 1])))
    # Sorted strictly, a large object would never lie on a small one; the factor lets it happen at times.
    order = np.argsort(-sizes * rng.uniform(0.35, 1.0, size=count))
    return [float(size) for size in sizes[order]]


def _put(rng: Generator, shape: Shape, height: int, width: int) -> Shape:
    """The shape moved to a random place, inside the image unless it is one that may be truncated."""
    x1, y1, x2, y2 = shape.extent()
    half_width, half_height = ((x2 - x1) / 2, (y2 - y1) / 2) if rng.random() >= TRUNCATED else (0.0, 0.0)
    x = rng.uniform(half_width, max(half_width, width - half_width))
    y = rng.uniform(half_height, max(half_height, height - half_height))
    return moved(shape, x, y)


def _crowd(rng: Generator, canvas: Canvas) -> Thing:
    """A heap of small objects of one class, annotated as one region as COCO does where none can be told apart."""
    height, width = canvas.shape[:2]
    label = int(rng.integers(len(CLASSES)))
    reach = rng.uniform(14, 26, size=2)
    centre = rng.uniform(reach + 8, np.array([width, height]) - reach - 8)
    boxes = []
    for _ in range(int(rng.integers(*CROWD_MEMBERS))):
        size = float(rng.uniform(9, 15))
        x, y = (centre + rng.uniform(-reach, reach)).tolist()
        # Centres stay 8 pixels from the border and sizes below 16, so that no member needs clipping.
        shape = moved(random_shape(rng, label, size), x, y)
        _paint_object(rng, canvas, shape, size)
        boxes.append(shape.extent())
    (x1, y1), (x2, y2) = np.min(boxes, axis=0)[:2].tolist(), np.max(boxes, axis=0)[2:].tolist()
    return Thing((x1, y1, x2, y2), label, crowd=True)


def _paint_object(rng: Generator, canvas: Canvas, shape: Shape, size: float) -> None:
    """Paint one object: a colour that stands out more or less, a texture, a border that may be uncertain."""
    # Blur and shadow reach less than a third of the object beyond it.
    rows, columns = window(shape.extent(), size / 3 + 2, canvas.shape[0], canvas.shape[1])
    cover, below = shape.coverage(rows, columns), canvas[rows, columns]
    if rng.random() < 0.3:
        below += _shadow(rng, cover, size)[..., None]
    contrast = rng.uniform(0.3, 0.5) if rng.random() < 0.2 else rng.uniform(0.6, 1.0)
    mean = (cover.reshape(-1) @ below.reshape(-1, 3)) / cover.sum()
    look = shape.label if rng.random() < OWN_LOOK else int(rng.integers(len(TEXTURES)))
    colour = mean + contrast * (COLOURS[look] + _colour(rng, -25, 25) - mean)
    texture = TEXTURES[look]
    pattern = texture(rng, cover.shape[0], cover.shape[1], max(3.0, size * rng.uniform(0.12, 0.25)))
    surface = colour + pattern[..., None] * (rng.uniform(10, 38) * _direction(rng))
    below += _uncertain(rng, cover, size)[..., None] * (surface - below)


def _uncertain(rng: Generator, cover: Plane, size: float) -> Plane:
    """Coverage with a border that is blurred and ragged to a random degree, in proportion to the object."""
    if rng.random() < 0.35:
        return cover
    soft = _blurred(cover, size * rng.uniform(0.01, 0.07))
    ragged = _noise(rng, cover.shape[0], cover.shape[1], rng.uniform(2, 5)) * rng.uniform(0, 0.5)
    return np.clip(soft + ragged * 4 * soft * (1 - soft), 0, 1)


def _shadow(rng: Generator, cover: Plane, size: float) -> Plane:
    """What to add to an image for a blurred dark or light copy of the object beside it, on the scale 0..255."""
    dx, dy = np.rint(rng.uniform(-0.12, 0.12, size=2) * size).astype(int).tolist()
    margin = max(abs(dx), abs(dy))
    padded = np.pad(cover, margin)
    height, width = cover.shape
    beside = padded[margin - dy : margin - dy + height, margin - dx : margin - dx + width]
    return _blurred(beside, size * 0.06) * float(rng.choice([-40.0, -25.0, 25.0]))


def _background(rng: Generator, height: int, width: int) -> Canvas:
    """A smooth, almost grey wash with grain of a random coarseness."""
    cells = int(rng.integers(2, 6))
    wash = rng.uniform(70, 185) + rng.uniform(-15, 15, size=3) + rng.uniform(-30, 30, size=(cells, cells, 1))
    small = Image.fromarray(np.clip(wash, 0, 255).astype(np.uint8))
    canvas = np.array(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = _noise(rng, height, width, rng.uniform(2, 9)) * rng.uniform(3, 20)
    return canvas + grain[..., None]


def _clutter(rng: Generator, canvas: Canvas) -> None:
    """Patches and strokes that are no objects, below the objects."""
    for _ in range(int(rng.integers(1, 5))):
        _patch(rng, canvas)
    height, width = canvas.shape[:2]
    cover, colours = Image.new("L", (width, height)), Image.new("RGB", (width, height))
    for _ in range(int(rng.integers(2, 9))):
        _stroke(rng, ImageDraw.Draw(cover), ImageDraw.Draw(colours))
    alpha = _blurred(_plane(cover), rng.uniform(0.4, 1.2))[..., None]
    canvas += alpha * (np.asarray(colours, dtype=np.float32) - canvas)


def _patch(rng: Generator, canvas: Canvas) -> None:
    """An irregular, textured, almost grey blob."""
    reach = 30.0
    height, width = canvas.shape[:2]
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    rows, columns = window((x, y, x, y), reach + 8, height, width)
    below = canvas[rows, columns]
    angles = np.sort(rng.uniform(0, 2 * np.pi, size=int(rng.integers(5, 10))))
    outline = polar(angles, rng.uniform(5, reach, size=len(angles)))
    outline += np.array([x - columns.start, y - rows.start])
    plane = Image.new("L", (below.shape[1], below.shape[0]))
    ImageDraw.Draw(plane).polygon([(x, y) for x, y in outline.tolist()], fill=255)
    pattern = TEXTURES[int(rng.integers(len(TEXTURES)))](rng, below.shape[0], below.shape[1], rng.uniform(3, 12))
    tint = rng.uniform(-45, 45) + _colour(rng, -10, 10) + pattern[..., None] * rng.uniform(0, 30)
    below += (_blurred(_plane(plane), rng.uniform(0.5, 4)) * rng.uniform(0.4, 1))[..., None] * tint


def _stroke(rng: Generator, cover: ImageDraw.ImageDraw, colours: ImageDraw.ImageDraw) -> None:
    """A bent line: its opacity on one image and, wider than any blur reaches, its colour on the other."""
    steps = rng.normal(0, 22, size=(3, 2))
    points = [(x, y) for x, y in (rng.uniform(0, SIDES[1], size=2) + np.cumsum(steps, axis=0)).tolist()]
    width = int(rng.integers(1, 5))
    red, green, blue = (int(rng.integers(20, 236)) + rng.integers(-20, 21, size=3)).tolist()
    colours.line(points, fill=(red, green, blue), width=width + 8, joint="curve")
    cover.line(points, fill=int(rng.integers(75, 256)), width=width, joint="curve")


def _camera(rng: Generator, canvas: Canvas) -> NDArray[np.uint8]:
    """The finished image: slightly out of focus, with sensor noise."""
    exposed = np.clip(canvas, 0, 255).astype(np.uint8)
    focused = Image.fromarray(exposed).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    noise = rng.standard_normal(size=canvas.shape, dtype=np.float32) * rng.uniform(1, 6)
    noisy = np.asarray(focused, dtype=np.float32) + noise
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _blurred(plane: Plane, sigma: float) -> Plane:
    """Gaussian blur of a plane in [0, 1], sigma in pixels."""
    return _plane(Image.fromarray((plane * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma)))


def _plane(image: Image.Image) -> Plane:
    """A grey image as a plane in [0, 1]."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _noise(rng: Generator, height: int, width: int, grain: float) -> Plane:
    """Smooth noise in [-1, 1] whose features are about `grain` pixels wide."""
    cells = rng.integers(0, 256, size=(int(height / grain) + 2, int(width / grain) + 2), dtype=np.uint8)
    large = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(large, dtype=np.float32) / np.float32(127.5) - 1


def _colour(rng: Generator, low: float, high: float) -> Colour:
    """A random colour, each channel from low to high."""
    return rng.uniform(low, high, size=3).astype(np.float32)


def _direction(rng: Generator) -> Colour:
    """A random direction in RGB, its largest component 1 in size."""
    vector = rng.standard_normal(size=3, dtype=np.float32)
    direction: Colour = vector / np.abs(vector).max()
    return direction


def _waves(rng: Generator, height: int, width: int, wavelength: float) -> tuple[Plane, Plane]:
    """Two sines across each other at a random angle, (H, W) in [-1, 1] each."""
    angle, shift, other_shift = rng.uniform(0, 2 * np.pi, size=3).tolist()
    # Python numbers, not numpy's: those would make the planes float64 and the painting half as fast.
    cos, sin = math.cos(angle) * 2 * math.pi / wavelength, math.sin(angle) * 2 * math.pi / wavelength
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    return np.sin(x * cos + (y * sin + shift)), np.sin((y * cos + other_shift) - x * sin)


def _blotches(rng: Generator, height: int, width: int, wavelength: float) -> Plane:
    """Smooth noise."""
    return _noise(rng, height, width, wavelength / 1.5)


def _checks(rng: Generator, height: int, width: int, wavelength: float) -> Plane:
    """A chequerboard."""
    one, other = _waves(rng, height, width, 1.4 * wavelength)
    checks: Plane = np.sign(one * other)
    return checks


def _stripes(rng: Generator, height: int, width: int, wavelength: float) -> Plane:
    """Parallel stripes."""
    return _waves(rng, height, width, wavelength)[0]


def _plain(rng: Generator, height: int, width: int, wavelength: float) -> Plane:
    """Almost no texture: one slow ramp."""
    return _waves(rng, height, width, 12 * wavelength)[0]


def _dots(rng: Generator, height: int, width: int, wavelength: float) -> Plane:
    """Round dots in a square pattern."""
    one, other = _waves(rng, height, width, wavelength)
    return np.where(one + other > 0.9, 1, -0.4).astype(np.float32)


def _sand(rng: Generator, height: int, width: int, wavelength: float) -> Plane:
    """Noise from pixel to pixel, whatever the wavelength."""
    del wavelength
    return rng.uniform(-1, 1, size=(height, width)).astype(np.float32)


# One for each class, in the order of CLASSES.
COLOURS: NDArray[np.float32] = np.array(
    [(215, 60, 50), (60, 110, 225), (60, 180, 75), (225, 185, 40), (170, 70, 205), (40, 190, 190)], dtype=np.float32
)
TEXTURES: tuple[Callable[[Generator, int, int, float], Plane], ...] = (
    _blotches,
    _checks,
    _stripes,
    _plain,
    _dots,
    _sand,
)
