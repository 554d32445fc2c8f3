"""Points by hand, and the layers on them against loops and torch's own convolution."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from qrepro.sampling import (
    SAMPLERS,
    Border,
    Cell,
    ConvAt,
    ExtremeAt,
    Learned,
    Predicted,
    Reader,
    Region,
    Star,
    read,
)

WIDTH = 4
BUILDERS = {**SAMPLERS, "border_1": partial(Border, number=1), "border_extreme": partial(Border, extreme=True)}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Where the points are

LEFT, TOP, RIGHT, BOTTOM = 1.0, 2.0, 3.0, 4.0  # a box of 4 x 6 cells from x = -1, y = -2 around its cell
FACTORS = {(0, 0): 1.0, (0, 2): 3.0, (1, 1): 0.5}  # boxes as many times as large in other cells of a 2 x 3 map


def boxes() -> torch.Tensor:
    """Sides (1, 4, 2, 3)."""
    sides = torch.zeros(1, 4, 2, 3)
    for (y, x), factor in FACTORS.items():
        sides[0, :, y, x] = factor * torch.tensor([LEFT, TOP, RIGHT, BOTTOM])
    return sides


TENTHS = [i / 9 for i in range(10)]
POINTS = {  # (y, x) in the order of the taps
    "cell": (Cell, [(0, 0)]),
    "star": (Star, [(-2, -1), (-2, 0), (-2, 3), (0, -1), (0, 0), (0, 3), (4, -1), (4, 0), (4, 3)]),
    "one_bin": (partial(Region, bins=1), [(1, 1)]),
    "four_bins": (partial(Region, bins=2), [(-0.5, 0), (-0.5, 2), (2.5, 0), (2.5, 2)]),
    "region": (Region, [(-2 + 6 * (i + 0.5) / 7, -1 + 4 * (j + 0.5) / 7) for i in range(7) for j in range(7)]),
    "middles": (partial(Border, number=1), [(-2, 1), (1, -1), (4, 1), (1, 3)]),
    "corners": (
        partial(Border, number=2),
        [(-2, -1), (-2, 3), (-2, -1), (4, -1), (4, -1), (4, 3), (-2, 3), (4, 3)],
    ),
    "three": (
        partial(Border, number=3),
        [(-2, -1), (-2, 1), (-2, 3), (-2, -1), (1, -1), (4, -1), (4, -1), (4, 1), (4, 3), (-2, 3), (1, 3), (4, 3)],
    ),
    "border": (
        Border,
        [(-2, -1 + 4 * t) for t in TENTHS]
        + [(-2 + 6 * t, -1) for t in TENTHS]
        + [(4, -1 + 4 * t) for t in TENTHS]
        + [(-2 + 6 * t, 3) for t in TENTHS],
    ),
}


@pytest.mark.parametrize("name", POINTS)
def test_points_that_follow_a_box_by_hand(name):
    build, expected = POINTS[name]
    sampler = build(WIDTH)
    points = sampler(torch.zeros(1, WIDTH, 2, 3), torch.zeros(1, 4, 2, 3), boxes())
    assert points.shape == (1, len(expected), 2, 2, 3)
    assert math.prod(sampler.shape) == len(expected)
    for (y, x), factor in FACTORS.items():
        torch.testing.assert_close(points[0, :, :, y, x], factor * torch.tensor(expected, dtype=torch.float32))
    assert points[0, :, :, 1, 0].abs().max() == 0  # a box without sides


def test_rows_of_a_border_are_its_sides():
    """A row of taps is a side, because of each row the strongest response counts."""
    sampler = Border(WIDTH, number=5)
    points = sampler(None, None, boxes())[0, :, :, 0, 0].unflatten(0, sampler.shape)
    assert points.shape[:2] == (4, 5)
    top, left, bottom, right = points
    for row, axis, at in ((top, 0, -TOP), (left, 1, -LEFT), (bottom, 0, BOTTOM), (right, 1, RIGHT)):
        torch.testing.assert_close(row[:, axis], torch.full((5,), at))
        assert len(set(row[:, 1 - axis].tolist())) == 5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1.0])
def test_share_of_the_gradient_that_reaches_the_box(share):
    """Of the nine points of a star, 3 have x = -l, 3 y = -t, 3 x = r, 3 y = b."""
    sides = boxes().requires_grad_()
    points = Star(WIDTH, share=share)(None, None, sides)
    torch.testing.assert_close(points, Star(WIDTH, share=1.0)(None, None, sides))
    if share == 0:
        assert not points.requires_grad or torch.autograd.grad(points.sum(), sides)[0].abs().max() == 0
        return
    (slope,) = torch.autograd.grad(points[:, :, 0].sum() + 2 * points[:, :, 1].sum(), sides)  # y once, x twice
    expected = share * torch.tensor([-6.0, -3.0, 6.0, 3.0])
    torch.testing.assert_close(slope, expected[None, :, None, None].expand_as(slope))


@pytest.mark.parametrize("build", [Star, Region, Border, Predicted])
def test_a_tenth_of_the_gradient_unless_said_otherwise(build):
    """`gradient_mul` of RepPoints and VFNet."""
    slopes = []
    for sampler in (build(WIDTH), build(WIDTH, share=1.0)):
        raw, sides = random(1, 18, 2, 3).requires_grad_(), boxes().requires_grad_()
        points = sampler(None, raw, sides)
        weights = random(*points.shape, seed=1)
        found = torch.autograd.grad((points * weights).sum(), [raw, sides], allow_unused=True)
        slopes.append(next(slope for slope in found if slope is not None))
    assert slopes[1].abs().max() > 0
    torch.testing.assert_close(slopes[0], 0.1 * slopes[1])


def test_the_cell_has_no_gradient():
    sides = boxes().requires_grad_()
    (slope,) = torch.autograd.grad(Cell(WIDTH)(None, None, sides).sum(), sides)
    assert slope.abs().max() == 0


def test_predicted_points_are_the_output_in_pairs_y_first():
    raw = random(2, 18, 2, 3)
    points = Predicted(WIDTH)(None, raw, None)
    assert points.shape == (2, 9, 2, 2, 3)
    for tap in range(9):
        torch.testing.assert_close(points[:, tap, 0], raw[:, 2 * tap])
        torch.testing.assert_close(points[:, tap, 1], raw[:, 2 * tap + 1])


GRID = torch.tensor([(y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)])[None, ..., None, None]


def test_learned_points_start_as_the_grid_and_move_by_what_a_convolution_says():
    sampler, features = Learned(WIDTH), random(2, WIDTH, 3, 4)
    assert torch.equal(sampler(features, None, None), GRID.expand(2, 9, 2, 3, 4))
    with torch.no_grad():
        sampler.offset.weight.copy_(random(18, WIDTH, 3, 3))
        sampler.offset.bias.copy_(torch.arange(18.0))
    moved = F.conv2d(F.pad(features, (1, 1, 1, 1)), sampler.offset.weight)
    points = sampler(features, None, None)
    for tap in range(9):
        for axis in range(2):
            expected = GRID[0, tap, axis] + moved[:, 2 * tap + axis] + 2 * tap + axis
            torch.testing.assert_close(points[:, tap, axis], expected, rtol=1e-4, atol=1e-4)


# What is read there


def bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """Features (C,) of (C, H, W) at a point, the four cells around it by the area opposite; nothing outside."""
    top, left = math.floor(y), math.floor(x)
    value = torch.zeros(image.shape[0], dtype=image.dtype)
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, along in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value += down * along * image[:, row, column]
    return value


def read_by_loops(features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(B, C, N, H, W) of features (B, C, H, W) at points (B, N, 2, H, W), cell by cell."""
    batch, channels, height, width = features.shape
    found = torch.zeros(batch, channels, points.shape[1], height, width, dtype=features.dtype)
    for b in range(batch):
        for n in range(points.shape[1]):
            for y in range(height):
                for x in range(width):
                    dy, dx = points[b, n, :, y, x].tolist()
                    found[b, :, n, y, x] = bilinear(features[b], y + dy, x + dx)
    return found


def scattered(taps: int, batch: int = 2, height: int = 3, width: int = 4) -> torch.Tensor:
    """Points up to some cells beyond the map, one exactly on a cell, one exactly on the border of the map."""
    points = 2 * random(batch, taps, 2, height, width, seed=taps)
    points[0, 0] = torch.tensor([1.0, -1.0])[:, None, None]
    points[-1, -1] = torch.tensor([-0.5, 0.5])[:, None, None]
    return points


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (3, 3), (4, 10), (7, 7)])
def test_conv_at_points_equals_plain_loops(shape):
    """The weight is numbered as the points are, row by row."""
    taps = math.prod(shape)
    features, points = random(2, 2, 3, 4), scattered(taps)
    layer = ConvAt(2, 3, shape)
    with torch.no_grad():
        layer.weight.copy_(random(3, 2, *shape, seed=1))
    expected = torch.einsum("ocn,bcnhw->bohw", layer.weight.detach().flatten(2), read_by_loops(features, points))
    found = layer(features, points)
    assert found.shape == (2, 3, 3, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 10)])
def test_reading_first_equals_a_deformable_convolution(shape):
    """Outputs and gradients, also of points outside."""
    layer, given = ConvAt(2, 3, shape), random(2, 3, 3, 4, seed=2)
    layer.weight.data.copy_(random(3, 2, *shape, seed=1))
    slopes = []
    for way in (layer.gathered, layer.deformed):
        features, points = random(2, 2, 3, 4).requires_grad_(), scattered(math.prod(shape)).add(0.01).requires_grad_()
        found = way(features, points)
        slopes.append([found, *torch.autograd.grad(found, [features, points, layer.weight], given)])
    for mine, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_conv_on_the_regular_grid_is_an_ordinary_convolution():
    features, weight = random(2, 5, 6, 7).requires_grad_(), random(3, 5, 3, 3, seed=1).requires_grad_()
    layer = ConvAt(5, 3, (3, 3))
    layer.weight.data.copy_(weight)
    found, expected = layer(features, GRID.expand(2, 9, 2, 6, 7)), F.conv2d(features, weight, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    given = random(*found.shape, seed=2)
    mine = torch.autograd.grad(found, [features, layer.weight], given)
    theirs = torch.autograd.grad(expected, [features, weight], given)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_conv_on_the_cell_is_a_1x1_convolution():
    layer, features = ConvAt(5, 3, (1, 1)), random(2, 5, 6, 7)
    torch.testing.assert_close(layer(features, torch.zeros(2, 1, 2, 6, 7)), F.conv2d(features, layer.weight))


@pytest.mark.parametrize("layer", [ConvAt(1, 1, (1, 1)), ExtremeAt(1, 1, (1, 1))])
def test_gradient_by_a_point_is_the_slope_of_the_features(layer):
    """On features 3 y + 5 x a step down gives 3 more and a step right 5 more, times the weight."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(2.0)
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    points = torch.full((1, 1, 2, 4, 5), 0.25, requires_grad=True)
    found = layer((3 * y + 5 * x)[None, None], points)
    torch.testing.assert_close(found[0, 0, :-1, :-1], 2 * (3 * (y + 0.25) + 5 * (x + 0.25))[:-1, :-1])
    (slope,) = torch.autograd.grad(found[..., :-1, :-1].sum(), points)  # the last row and column reach outside
    torch.testing.assert_close(slope[0, 0, 0, :-1, :-1], torch.full((3, 4), 6.0))
    torch.testing.assert_close(slope[0, 0, 1, :-1, :-1], torch.full((3, 4), 10.0))


def test_read_equals_plain_loops():
    features, points = random(2, 3, 3, 4), scattered(6)
    torch.testing.assert_close(read(features, points), read_by_loops(features, points), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (4, 5)])
def test_extreme_at_points_equals_plain_loops(shape):
    """Read first and weigh then, which is the same; of each row, each channel's largest, added up over the rows."""
    features, points = random(2, 3, 3, 4), scattered(math.prod(shape))
    layer = ExtremeAt(3, 2, shape)
    with torch.no_grad():
        for number, row in enumerate(layer.rows):
            row.weight.copy_(random(2, 3, 1, 1, seed=number))
    found = read_by_loops(features, points)
    expected = torch.zeros(2, 2, 3, 4)
    for b in range(2):
        for channel in range(2):
            for y in range(3):
                for x in range(4):
                    for row in range(shape[0]):
                        weight = layer.rows[row].weight[channel, :, 0, 0].detach()
                        at = range(row * shape[1], (row + 1) * shape[1])
                        expected[b, channel, y, x] += max((weight * found[b, :, n, y, x]).sum() for n in at)
    torch.testing.assert_close(layer(features, points), expected, rtol=1e-4, atol=1e-4)


def test_extreme_response_of_a_side_by_hand():
    """A single bright cell at the top right corner of the box: the top and the right side find it, the others 0."""
    sampler = Border(1, number=3, extreme=True)
    reader = Reader(lambda _: sampler, 1, 1)
    with torch.no_grad():
        for row, weight in zip(reader.layer.rows, (1.0, 10.0, 100.0, 1000.0), strict=True):
            row.weight.fill_(weight)
        reader.bias.fill_(0.5)
    features = torch.zeros(1, 1, 9, 9)
    features[0, 0, 4 - 2, 4 + 3] = 7.0
    sides = torch.tensor([LEFT, TOP, RIGHT, BOTTOM])[None, :, None, None].expand(1, 4, 9, 9)
    assert reader(features, None, sides)[0, 0, 4, 4].item() == pytest.approx(7 * 1001 + 0.5)


def test_a_reader_of_the_cell_is_a_1x1_convolution_with_bias():
    reader, features = Reader(Cell, WIDTH, 3), random(2, WIDTH, 2, 3)
    assert reader.bias.tolist() == [0.0] * 3
    with torch.no_grad():
        reader.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
        reader.layer.weight.copy_(random(3, WIDTH, 1, 1, seed=1))
    found = reader(features, None, boxes().expand(2, -1, -1, -1))
    torch.testing.assert_close(found, F.conv2d(features, reader.layer.weight, reader.bias))


def test_a_reader_of_learned_points_starts_as_a_3x3_convolution():
    reader, features = Reader(Learned, WIDTH, 3), random(2, WIDTH, 5, 6)
    torch.testing.assert_close(reader(features, None, None), F.conv2d(features, reader.layer.weight, padding=1))


# Mixed precision


def varied(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, points as a raw output, and sides up to 60 cells, as a coarse object has on the finest level."""
    uniform = torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(seed))
    return random(1, WIDTH, 5, 6, seed=seed), 3 * random(1, 18, 5, 6, seed=seed + 1), 60 * uniform


@pytest.mark.parametrize("name", BUILDERS)
def test_readers_work_in_mixed_precision(name):
    """As the head calls them: features and raw output in bfloat16, sides of decoded boxes in float32."""
    features, raw, sides = varied()
    features, raw = features.bfloat16().requires_grad_(), raw.bfloat16().requires_grad_()
    sides = (sides / 20).requires_grad_()
    reader = Reader(BUILDERS[name], WIDTH, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = reader(features, raw, sides)
    assert found.shape == (1, 3, 5, 6)
    found.float().square().sum().backward()
    for tensor in (found, features.grad, *(p.grad for p in reader.parameters())):
        assert tensor.isfinite().all()
    assert features.grad.abs().max() > 0


@pytest.mark.parametrize("build", [Star, Region, Border])
def test_points_keep_their_precision_in_mixed_precision(build):
    """In bfloat16 a point 60 cells away would have steps of a quarter of a cell."""
    _, raw, sides = varied()
    sampler = build(WIDTH)
    expected = sampler(None, raw, sides)
    with torch.autocast("cpu", torch.bfloat16):
        points = sampler(None, raw, sides)
    torch.testing.assert_close(points.float(), expected, rtol=1e-6, atol=1e-5)


def test_learned_points_keep_their_precision_in_mixed_precision():
    features, _, _ = varied()
    sampler = Learned(WIDTH)
    with torch.no_grad():
        sampler.offset.weight.copy_(random(18, WIDTH, 3, 3))
    expected = sampler(features, None, None)
    with torch.autocast("cpu", torch.bfloat16):
        points = sampler(features, None, None)
    torch.testing.assert_close(points, expected, rtol=1e-4, atol=1e-4)
