"""Crops and the larger canvas: images whose pixels say where they are, box by box checks, counts of fixed seeds."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qrepro.data.transforms import Crop, CropIoU, Sample, ZoomOut
from helpers.detection_cases import iou

ANY, WHOLE = -1, 0  # what CropIoU may look for, as positions in its list


def coded(height, width, boxes=()):
    """A sample whose pixel at (x, y) is (x, y, 7); sides up to 256."""
    x, y = torch.arange(width).expand(height, width), torch.arange(height)[:, None].expand(height, width)
    image = torch.stack([x, y, torch.full_like(x, 7)]).to(torch.uint8)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Sample(image, boxes, torch.arange(len(boxes)) + 10)


def window(cut, before):
    """left, top, right, bottom of a crop, read from its pixels, all of which are compared."""
    left, top = cut.image[:2, 0, 0].tolist()
    bottom, right = top + cut.image.shape[1], left + cut.image.shape[2]
    assert torch.equal(cut.image, before.image[:, top:bottom, left:right])
    return left, top, right, bottom


def cut_by_hand(boxes, left, top, right, bottom):
    """Boxes as lists, clipped to a window and counted from its corner; None for those that have no area there."""
    cut = []
    for x1, y1, x2, y2 in boxes:
        box = [max(x1, left) - left, max(y1, top) - top, min(x2, right) - left, min(y2, bottom) - top]
        cut.append(box if box[0] < box[2] and box[1] < box[3] else None)
    return cut


def looking_for(*modes):
    """Makes CropIoU look for these in turn, in place of a draw."""
    modes = iter(modes)
    return mock.patch("qrepro.data.transforms.frame.whole", lambda low, high: range(high + 1)[next(modes)])


def offered(*windows):
    """Makes CropIoU try these crops, in place of drawn ones."""
    return mock.patch.object(CropIoU, "_windows", lambda *_: torch.tensor(windows, dtype=torch.float32))


@st.composite
def scenes(draw):
    """A coded sample of 20 to 60 pixels with up to four boxes of whole coordinates, some sharing edges, and a seed."""
    height, width = draw(st.integers(20, 60)), draw(st.integers(20, 60))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        x1, x2 = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
        y1, y2 = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
        boxes.append([x1, y1, x2, y2])
    torch.manual_seed(draw(st.integers(0, 2**31)))
    return coded(height, width, boxes)


# --- zoom_out


@settings(max_examples=50, deadline=None)
@given(scenes())
def test_zoom_out_puts_picture_and_boxes_at_one_place(before):
    height, width = before.image.shape[-2:]
    frame = torch.tensor([[0.0, 0, width, height]])
    marked = Sample(before.image, torch.cat([frame, before.boxes]), torch.cat([torch.tensor([9]), before.labels]))
    after = ZoomOut(probability=1)(marked)
    left, top, right, bottom = after.boxes[0].int().tolist()
    assert torch.equal(after.boxes, marked.boxes + torch.tensor([left, top, left, top]))
    assert torch.equal(after.image[:, top:bottom, left:right], before.image)
    assert torch.equal(after.labels, marked.labels)
    tall, wide = after.image.shape[-2:]
    assert height <= tall <= 4 * height and width <= wide <= 4 * width
    assert abs(tall / height - wide / width) <= 1 / height + 1 / width  # one ratio, sides rounded down
    around = torch.ones(tall, wide, dtype=torch.bool)
    around[top:bottom, left:right] = False
    assert after.image.dtype == torch.uint8
    assert (after.image[:, around] == torch.tensor([[124], [116], [104]])).all()  # ImageNet's mean, rounded


def test_zoom_out_draws_ratio_and_place_evenly():
    torch.manual_seed(0)
    before = coded(10, 10, [[0, 0, 10, 10]])
    sides = [ZoomOut(probability=1)(before).image.shape[-1] for _ in range(500)]
    assert min(sides) == 10 and max(sides) == 39
    assert abs(sum(sides) / 500 - 24.5) < 1.5  # 10 to 39; deviation of the mean 0.39
    places = [ZoomOut(ratio=(2, 2), probability=1)(before).boxes[0, :2].int().tolist() for _ in range(1100)]
    for axis in zip(*places, strict=True):
        assert set(axis) == set(range(11))
        assert all(60 < axis.count(place) < 145 for place in range(11))  # 100 each
    assert len({tuple(place) for place in places}) > 115  # both axes for themselves: nearly all of 121 pairs


def test_zoom_out_by_one_is_the_same_picture():
    before = coded(12, 30, [[1, 2, 5, 6]])
    after = ZoomOut(ratio=(1, 1), probability=1)(before)
    assert torch.equal(after.image, before.image) and torch.equal(after.boxes, before.boxes)


def test_zoom_out_ends_boxes_where_their_picture_ends():
    torch.manual_seed(3)
    after = ZoomOut(ratio=(3, 3), fill=(1, 2, 3), probability=1)(coded(10, 10, [[-4, 2, 25, 6], [10, 0, 14, 9]]))
    x1, y1, x2, y2 = after.boxes[0].tolist()
    assert (x2 - x1, y2 - y1) == (10, 4) and after.labels.tolist() == [10]
    assert after.image[:, int(y1), int(x1)].tolist() == [0, 2, 7]
    assert after.image[:, 0, 0].tolist() == [1, 2, 3]


# --- crop_iou


@settings(max_examples=100, deadline=None)
@given(scenes(), st.integers(1, 5))
def test_crop_iou_constraint_and_rule_of_centres(before, mode):
    least = CropIoU().overlap[mode - 1]
    with looking_for(mode, WHOLE):
        after = CropIoU()(before)
    if after is before:
        return
    found, boxes = window(after, before), before.boxes.tolist()
    left, top, right, bottom = found
    assert all(iou(box, found) >= least - 1e-6 for box in boxes)
    inside = [left < (x1 + x2) / 2 < right and top < (y1 + y2) / 2 < bottom for x1, y1, x2, y2 in boxes]
    assert any(inside) or not boxes
    by_hand = cut_by_hand(boxes, *found)
    assert after.boxes.tolist() == [box for box, kept in zip(by_hand, inside, strict=True) if kept]
    assert after.labels.tolist() == [label for label, kept in zip(before.labels.tolist(), inside, strict=True) if kept]


@settings(max_examples=100, deadline=None)
@given(scenes(), st.sampled_from([(0.5, 2), (0.4, 0.8), (1.3, 2.5)]))
def test_crop_iou_sizes_and_ratios(before, aspect):
    with looking_for(ANY, WHOLE):
        after = CropIoU(aspect=aspect)(before)
    height, width = before.image.shape[-2:]
    tall, wide = after.image.shape[-2:]
    if after is not before:  # sides are whole: each end may have moved by less than a pixel
        assert tall > 0.3 * height - 1 and wide > 0.3 * width - 1
        assert (tall + 1) / (wide - 1) > aspect[0] and (tall - 1) / (wide + 1) < aspect[1]  # height / width


# Against the window 10..20 in both axes, of area 100: IoU 40 / (100 + 72 - 40), 50 / 100, 16 / (100 + 32 - 16).
THREE = [[6, 10, 15, 18], [15, 10, 20, 20], [18, 12, 22, 20]]


@pytest.mark.parametrize("least, fits", [(0.137, True), (0.139, False), (0.2, False)])
def test_crop_iou_by_hand(least, fits):
    before = coded(40, 40, THREE)
    with looking_for(1, WHOLE), offered([10, 10, 20, 20]):
        after = CropIoU(overlap=(least,))(before)
    assert (after is not before) == fits  # 16 / 116 = 0.138 is the least IoU
    if fits:  # the third box has its centre at x = 20, on the edge
        assert after.boxes.tolist() == [[0, 0, 5, 8], [5, 0, 10, 10]]
        assert after.labels.tolist() == [10, 11]
        assert window(after, before) == (10, 10, 20, 20)


@pytest.mark.parametrize(
    "box, held",
    [
        ([8, 8, 12, 13], False),  # centre (10, 10.5)
        ([8, 8, 13, 12], False),  # (10.5, 10)
        ([8, 8, 13, 13], True),
        ([18, 18, 21, 22], False),  # (19.5, 20)
        ([18, 18, 22, 21], False),
        ([18, 18, 21, 21], True),
    ],
)
def test_crop_iou_must_hold_a_centre(box, held):
    before = coded(40, 40, [box])
    with looking_for(ANY, WHOLE), offered([10, 10, 20, 20]):
        assert (CropIoU()(before) is not before) == held


def test_crop_iou_takes_the_first_crop_that_fits():
    before = coded(40, 40, THREE)
    with looking_for(2, WHOLE), offered([0, 0, 40, 40], [30, 30, 40, 40], [10, 10, 20, 20], [9, 9, 21, 21]):
        after = CropIoU(overlap=(0.9, 0.1))(before)
    assert window(after, before) == (10, 10, 20, 20)


def test_crop_iou_draws_again_what_to_look_for_when_nothing_fits():
    before = coded(60, 60, [[0, 0, 1, 1]])  # no crop has an IoU of 0.9 with it
    torch.manual_seed(0)
    with looking_for(1, 1, 1, WHOLE):
        assert CropIoU(overlap=(0.9,))(before) is before
    # Every crop of a very high image has a wrong ratio.
    narrow = coded(250, 20)
    assert all(CropIoU()(narrow) is narrow for _ in range(20))


def test_crop_iou_looks_for_each_thing_equally_often():
    torch.manual_seed(0)
    before = coded(100, 100)
    same = sum(CropIoU()(before) is before for _ in range(1400))
    assert 150 < same < 250  # one in seven
    # IoU with a box that is the whole image: the part of the area. 0.7 nearly always succeeds in 50 trials.
    filled = coded(200, 200, [[0, 0, 200, 200]])
    parts = [CropIoU(overlap=(0.7,))(filled).image[0].numel() / 200**2 for _ in range(900)]
    assert 240 < parts.count(1.0) < 360  # a third
    # Any crop, a third, is below 0.7 with probability about 0.88: sides u, v in [0.3, 1] with u v < 0.7 and the ratio.
    assert 200 < sum(part < 0.7 for part in parts) < 320


@pytest.mark.parametrize("trials, low, high", [(1, 0.06, 0.14), (10, 0.57, 0.75)])
def test_crop_iou_tries_as_often_as_it_is_told(trials, low, high):
    # u v >= 0.7 for u, v in [0.3, 1]: (0.3 + 0.7 ln 0.7) / 0.49 = 0.103 of the crops; 1 - 0.897^10 = 0.66 of ten.
    torch.manual_seed(0)
    before, found = coded(200, 200, [[0, 0, 200, 200]]), 0
    for _ in range(400):
        with looking_for(1, WHOLE):
            found += CropIoU(overlap=(0.7,), trials=trials)(before) is not before
    assert low < found / 400 < high


def test_crop_iou_draws_sides_and_places_evenly():
    torch.manual_seed(0)
    before, places, sides = coded(200, 250), [], []
    for _ in range(600):
        with looking_for(ANY, WHOLE):
            left, top, right, bottom = window(CropIoU(aspect=(0.01, 100))(before), before)
        sides.append(((right - left) / 250, (bottom - top) / 200))
        places.append(((left + 0.5) / (251 - right + left), (top + 0.5) / (201 - bottom + top)))
    for axis in (0, 1):
        drawn = [side[axis] for side in sides]
        assert 0.29 < min(drawn) < 0.33 and 0.97 < max(drawn) <= 1
        assert abs(sum(drawn) / 600 - 0.65) < 0.03  # deviation of the mean: 0.7 / sqrt(12) / sqrt(600) = 0.008
        drawn = [place[axis] for place in places]
        assert min(drawn) < 0.03 and max(drawn) > 0.97
        assert abs(sum(drawn) / 600 - 0.5) < 0.05


def test_crop_iou_of_a_picture_without_boxes():
    before = coded(100, 100)
    for mode in (1, 5, ANY):
        with looking_for(mode, WHOLE):
            after = CropIoU()(before)
        assert after is not before and window(after, before)
        assert after.boxes.shape == (0, 4) and after.labels.shape == (0,)


# --- crop


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_crop_clips_boxes_to_what_it_shows(before):
    after = Crop(probability=1)(before)
    if after is before:
        return
    found = window(after, before)
    by_hand = cut_by_hand(before.boxes.tolist(), *found)
    assert after.boxes.tolist() == [box for box in by_hand if box]
    assert after.labels.tolist() == [n for n, box in zip(before.labels.tolist(), by_hand, strict=True) if box]
    assert len(after.boxes)
    for side, old in zip(after.image.shape[1:], before.image.shape[1:], strict=True):
        assert 0.75 * old - 0.5 <= side <= old


def test_crop_without_boxes_is_not_made():
    torch.manual_seed(0)
    empty, corner = coded(100, 100), coded(100, 100, [[0, 0, 2, 2]])
    assert all(Crop(probability=1)(empty) is empty for _ in range(20))
    results = [Crop(probability=1)(corner) for _ in range(400)]
    assert all(result is corner or window(result, corner)[0] < 2 for result in results)
    assert sum(result is corner for result in results) > 200  # most crops begin further in


def test_crop_draws_sides_and_places_evenly():
    torch.manual_seed(0)
    before = coded(200, 250, [[0, 0, 250, 200]])
    found = [window(Crop(smallest=(0.5, 0.75), probability=1)(before), before) for _ in range(600)]
    for low, high, side, least in (*((0, 2, 250, 0.75),), *((1, 3, 200, 0.5),)):
        parts = [(box[high] - box[low]) / side for box in found]
        assert least <= min(parts) < least + 0.02 and max(parts) > 0.98
        assert abs(sum(parts) / 600 - (1 + least) / 2) < 0.02
        places = [(box[low] + 0.5) / (side + 1 - box[high] + box[low]) for box in found]
        assert abs(sum(places) / 600 - 0.5) < 0.05
        assert sum(box[low] == 0 for box in found) > 0 and sum(box[high] == side for box in found) > 0


def test_crop_of_everything_is_the_same_picture():
    before = coded(12, 30, [[1, 2, 5, 6]])
    after = Crop(smallest=(1, 1), probability=1)(before)
    assert torch.equal(after.image, before.image) and torch.equal(after.boxes, before.boxes)


def test_crop_of_not_even_a_pixel_is_not_made():
    torch.manual_seed(0)
    before = coded(1, 1, [[0, 0, 1, 1]])
    assert all(Crop(smallest=(0.01, 0.01), probability=1)(before).image.shape == (3, 1, 1) for _ in range(20))


@pytest.mark.parametrize("transform", [ZoomOut(ratio=(2, 2), probability=0.2), Crop(probability=0.2)])
def test_frames_change_with_their_probability(transform):
    torch.manual_seed(0)
    before = coded(40, 40, [[0, 0, 40, 40]])
    assert 150 < sum(transform(before) is not before for _ in range(1000)) < 250
