"""Holes: their number, shapes, places and colour, counted in white images."""

import pytest
import torch

from qrepro.data.transforms import Cutout, Sample


def white(height, width):
    return Sample(torch.full((3, height, width), 255, dtype=torch.uint8), torch.tensor([[1.0, 2, 3, 4]]), torch.ones(1))


def hole(sample):
    """top, left, bottom, right of the only hole; everything inside it is black, everything outside white."""
    black = sample.image.amax(0) == 0
    rows, columns = black.any(1).nonzero().flatten(), black.any(0).nonzero().flatten()
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    assert int(black.sum()) == int((sample.image[1] < 255).sum()) == (bottom - top) * (right - left)
    return top, left, bottom, right


def test_holes_have_the_shapes_of_vfnet_x_equally_often():
    torch.manual_seed(0)
    sizes = []
    for _ in range(1300):
        top, left, bottom, right = hole(Cutout(holes=(1, 1), probability=1)(white(100, 100)))
        if bottom < 100 and right < 100:
            sizes.append((bottom - top, right - left))
    sides = {(4, 4), (8, 8), (16, 16), (32, 32), (48, 48)}
    pairs = {(4, 8), (8, 16), (16, 32), (32, 48)}
    assert set(sizes) == sides | pairs | {(b, a) for a, b in pairs}
    for tall, wide in set(sizes):  # 100 of each, less those that reach the border
        expected = 100 * (1 - tall / 100) * (1 - wide / 100)
        assert abs(sizes.count((tall, wide)) - expected) < 4 * expected**0.5


def test_shape_is_height_and_width():
    torch.manual_seed(0)
    top, left, bottom, right = hole(Cutout(holes=(1, 1), shapes=((3, 7),), probability=1)(white(100, 100)))
    assert (bottom - top, right - left) == (3, 7)


def test_number_of_holes_is_drawn_evenly():
    torch.manual_seed(0)
    # Holes of one pixel, counted; two of at most ten fall on one of 10 000 pixels once in 200 images.
    cutout = Cutout(shapes=((1, 1),), probability=1)
    numbers = [int((cutout(white(100, 100)).image[0] == 0).sum()) for _ in range(600)]
    assert set(numbers) == {5, 6, 7, 8, 9, 10}
    assert all(65 < numbers.count(number) < 140 for number in set(numbers))


def test_holes_begin_at_any_pixel_and_end_at_the_border():
    torch.manual_seed(0)
    found = [hole(Cutout(holes=(1, 1), shapes=((4, 3),), probability=1)(white(6, 5))) for _ in range(600)]
    corners = [(top, left) for top, left, _, _ in found]
    assert set(corners) == {(y, x) for y in range(6) for x in range(5)}
    assert all(6 < corners.count(corner) < 40 for corner in set(corners))  # 20 each
    assert all((bottom, right) == (min(top + 4, 6), min(left + 3, 5)) for top, left, bottom, right in found)


def test_fill_is_a_colour():
    after = Cutout(holes=(3, 3), shapes=((9, 9),), fill=(1, 2, 3), probability=1)(white(40, 40))
    changed = (after.image != 255).all(0)
    assert changed.any() and (after.image[:, changed] == torch.tensor([[1], [2], [3]])).all()
    assert (after.image[:, ~changed] == 255).all()


def test_boxes_and_the_picture_that_came_stay():
    before = white(60, 60)
    after = Cutout(probability=1)(before)
    assert (before.image == 255).all()  # the loader may keep it
    assert (after.image == 0).any() and after.image.dtype == torch.uint8
    assert after.boxes is before.boxes and after.labels is before.labels
    assert torch.equal(Cutout(holes=(0, 0), probability=1)(before).image, before.image)


@pytest.mark.parametrize("probability", [0, 0.2])
def test_holes_are_made_with_their_probability(probability):
    torch.manual_seed(0)
    before = white(10, 10)
    made = sum(Cutout(probability=probability)(before) is not before for _ in range(1000))
    assert 1000 * probability - 50 < made < 1000 * probability + 50 if probability else made == 0
