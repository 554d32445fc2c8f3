"""What the training augmentations have in common: recipe values, refusals, repeatable draws, boxes inside images."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qrepro.data.transforms import (
    TRANSFORMS,
    Compose,
    Crop,
    CropIoU,
    Cutout,
    Flip,
    Photometric,
    ResizeExact,
    Sample,
    ZoomOut,
)
from qrepro.recipe.parts import Part
from helpers.samples import sample

ALL = [Photometric(), ZoomOut(), CropIoU(), Crop(), Cutout()]
SSD = Compose(transforms=[Photometric(), ZoomOut(), CropIoU(), ResizeExact(height=64, width=64), Flip()])
VFNET_X = Compose(transforms=[Crop(), ResizeExact(height=90, width=64), Cutout(), Flip()])
SHAPES = [[4, 4], [4, 8], [8, 4], [8, 8], [16, 8], [8, 16], [16, 16], [16, 32], [32, 16], [32, 32], [32, 48], [48, 32]]

# What the papers' released settings say, in the JSON form that a recipe is kept in.
PAPERS = {
    "photometric": {
        "brightness": 32,
        "contrast": [0.5, 1.5],
        "saturation": [0.5, 1.5],
        "hue": 18,
        "probability": 0.5,
        "permute": 0.5,
    },
    "zoom_out": {"ratio": [1, 4], "fill": [123.675, 116.28, 103.53], "probability": 0.5},
    "crop_iou": {"overlap": [0.1, 0.3, 0.5, 0.7, 0.9], "smallest": 0.3, "aspect": [0.5, 2], "trials": 50},
    "crop": {"smallest": [0.75, 0.75], "probability": 0.5},
    "cutout": {"holes": [5, 10], "shapes": [*SHAPES, [48, 48]], "fill": [0, 0, 0], "probability": 0.5},
}


@pytest.mark.parametrize("kind", PAPERS)
def test_recipes_fill_in_the_papers_values_and_build_them(kind):
    filled, given = Part(kind=kind), Part(kind=kind, **PAPERS[kind])
    for part in (filled, given):
        part.check(TRANSFORMS)
    assert filled.options == given.options == PAPERS[kind]
    assert given.distinct == filled.distinct == {"kind": kind}
    assert filled.build(TRANSFORMS) == TRANSFORMS[kind]()


def test_recipes_refuse_values_of_another_form():
    with pytest.raises(ValueError, match="contrast"):
        Part(kind="photometric", contrast=[0.5, 1, 1.5]).check(TRANSFORMS)
    with pytest.raises(ValueError, match="smallest"):
        Part(kind="crop", smallest=0.75).check(TRANSFORMS)


@pytest.mark.parametrize(
    "kind, values, message",
    [
        (Photometric, {"brightness": -1}, r"photometric brightness -1, hue 18\.0: allowed are"),
        (Photometric, {"brightness": 256}, "photometric brightness 256"),
        (Photometric, {"hue": 181}, "hue 181"),
        (Photometric, {"contrast": (1.5, 0.5)}, r"photometric contrast \(1\.5, 0\.5\)"),
        (Photometric, {"contrast": (0.5, 1, 1.5)}, "photometric contrast"),
        (Photometric, {"saturation": (-0.1, 1)}, r"saturation \(-0\.1, 1\): allowed are ranges"),
        (Photometric, {"saturation": (1, math.inf)}, "saturation"),
        (Photometric, {"probability": 1.1}, r"photometric probability 1\.1"),
        (Photometric, {"permute": -0.1}, r"permute probability -0\.1: a number in \[0, 1\]"),
        (ZoomOut, {"ratio": (0.9, 4)}, r"zoom_out ratio \(0\.9, 4\): a range"),
        (ZoomOut, {"ratio": (4, 1)}, "zoom_out ratio"),
        (ZoomOut, {"fill": (1, 2)}, r"zoom_out fill \(1, 2\): three numbers"),
        (ZoomOut, {"fill": (1, 2, 256)}, "zoom_out fill"),
        (ZoomOut, {"probability": math.nan}, "zoom_out probability nan"),
        (CropIoU, {"overlap": (0.5, 1.2)}, r"crop_iou overlap \(0\.5, 1\.2\): numbers in \[0, 1\]"),
        (CropIoU, {"smallest": 0}, "crop_iou smallest 0"),
        (CropIoU, {"smallest": 1.1}, r"crop_iou smallest 1\.1"),
        (CropIoU, {"aspect": (0, 2)}, r"crop_iou aspect \(0, 2\): a range"),
        (CropIoU, {"aspect": (2, 0.5)}, "crop_iou aspect"),
        (CropIoU, {"trials": 0}, "crop_iou trials 0"),
        (Crop, {"smallest": (0.75,)}, r"crop smallest \(0\.75,\): two numbers"),
        (Crop, {"smallest": (0, 1)}, r"crop smallest \(0, 1\)"),
        (Crop, {"probability": -1}, "crop probability -1"),
        (Cutout, {"holes": (10, 5)}, r"cutout holes \(10, 5\): a range"),
        (Cutout, {"holes": (-1, 5)}, "cutout holes"),
        (Cutout, {"shapes": ()}, r"cutout shapes \(\): one or more"),
        (Cutout, {"shapes": ((4, 0),)}, "cutout shapes"),
        (Cutout, {"shapes": ((4, 4, 4),)}, "cutout shapes"),
        (Cutout, {"fill": (0, 0, 300)}, r"cutout fill \(0, 0, 300\)"),
        (Cutout, {"probability": 2}, "cutout probability 2"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(kind, values, message):
    with pytest.raises(ValueError, match=message) as refused:
        kind(**values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_the_global_seed_decides_and_nothing_else(transform):
    before = sample(60, 70, [[5, 5, 60, 50], [30, 20, 40, 30]])

    def run(seed):
        torch.manual_seed(seed)
        return transform(before)

    for seed in range(10):
        random.seed(seed)
        np.random.seed(seed)
        states = random.getstate(), np.random.get_state()[1].copy()
        first, second = run(seed), run(seed)
        assert torch.equal(first.image, second.image) and torch.equal(first.boxes, second.boxes)
        assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()
    results = [run(seed) for seed in range(20)]
    assert len({(tuple(r.image.shape), int(r.image.int().sum())) for r in results}) > 6


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_pictures_without_objects_pass_and_what_came_stays(transform):
    before = sample(30, 40, [])
    pixels = before.image.clone()
    for seed in range(20):
        torch.manual_seed(seed)
        after = transform(before)
        assert after.boxes.shape == (0, 4) and after.labels.shape == (0,)
        assert after.image.dtype == torch.uint8 and after.image.shape[0] == 3
        assert torch.equal(before.image, pixels)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([SSD, VFNET_X]), st.integers(1, 5), st.integers(20, 90))
def test_training_pipelines_keep_some_box_and_all_inside(seed, pipeline, count, side):
    torch.manual_seed(seed)
    corner, size = torch.rand(count, 2) * side * 0.8, torch.rand(count, 2) * side * 0.15 + 1
    boxes = torch.cat([corner.floor(), corner.floor() + size.floor()], 1)
    image = torch.randint(256, (3, side, side + 10), dtype=torch.uint8)
    after = pipeline(Sample(image, boxes, torch.arange(count)))
    limit = after.image.shape[2], after.image.shape[1]
    assert (after.boxes >= 0).all() and (after.boxes <= torch.tensor(limit * 2)).all()
    assert (after.boxes[:, 2:] > after.boxes[:, :2]).all()
    assert len(after.boxes) == len(after.labels) > 0


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**31), st.lists(st.tuples(*[st.integers(0, 18)] * 2, st.integers(1, 18)), min_size=1, max_size=4)
)
def test_boxes_move_with_what_they_hold(seed, objects):
    # One object in each stretch of 20 columns, of a colour that is its label.
    boxes = [[20 * i + x, y, 20 * (i + 1), y + height] for i, (x, y, height) in enumerate(objects)]
    image = torch.zeros(3, 40, 90, dtype=torch.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[:, y1:y2, x1:x2] = i + 1
    torch.manual_seed(seed)
    before = Sample(image, torch.tensor(boxes, dtype=torch.float32), torch.arange(len(boxes)) + 1)
    steps = [ZoomOut(fill=(0, 0, 0), probability=1), CropIoU(), Crop(probability=1), Flip()]
    after = Compose(transforms=steps)(before)
    assert len(after.boxes)
    for (x1, y1, x2, y2), label in zip(after.boxes.int().tolist(), after.labels.tolist(), strict=True):
        here = after.image[0] == label
        assert here[y1:y2, x1:x2].all() and int(here.sum()) == (y2 - y1) * (x2 - x1)
