"""Transforms against hand values, torchvision's own box functionals, and invariants."""

from helpers.samples import sample
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from qrepro.data.transforms import TRANSFORMS, Compose, Flip, Normalise, Resize, ResizeExact, Sample




# height, width, short, long -> height, width; by hand: min(short / short side, long / long side), rounded half up.
@pytest.mark.parametrize(
    "height, width, short, long, expected",
    [
        (480, 640, 800, 1333, (800, 1067)),  # 800 / 480 = 1.667; 640 x 1.667 = 1066.67
        (640, 480, 800, 1333, (1067, 800)),
        (400, 1000, 800, 1333, (533, 1333)),  # 1.333 is less than 2; 400 x 1.333 = 533.2
        (480, 640, 240, 320, (240, 320)),
        (3, 4, 2, 100, (2, 3)),  # 4 x 2 / 3 = 2.67
        (2, 5, 1, 100, (1, 3)),  # 2.5 becomes 3
        (1, 1000, 10, 100, (1, 100)),  # 0.1 becomes one pixel, not none
    ],
)
def test_resize_keeps_the_ratio(height, width, short, long, expected):
    assert Resize(short=short, long=long).size(height, width, short, long) == expected
    assert Resize(short=short, long=long)(sample(height, width, [])).image.shape == (3, *expected)


def test_resize_scales_boxes_by_the_ratio_of_each_axis():
    found = Resize(short=2, long=100)(sample(3, 4, [[1, 1, 4, 3]]))
    # 3 x 4 becomes 2 x 3: x by 3/4, y by 2/3, although the nominal scale of both is 2/3.
    torch.testing.assert_close(found.boxes, torch.tensor([[0.75, 2 / 3, 3.0, 2.0]]))
    assert found.labels.tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(4, 40),
    st.integers(4, 40),
    st.integers(4, 60),
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_resize_agrees_with_torchvision(height, width, short, fractions):
    x1, x2 = sorted(fraction * width for fraction in fractions[:2])
    y1, y2 = sorted(fraction * height for fraction in fractions[2:])
    before = sample(height, width, [[x1, y1, x2, y2]])
    after = Resize(short=short, long=80)(before)
    size = list(after.image.shape[-2:])
    boxes = tv_tensors.BoundingBoxes(before.boxes, format="XYXY", canvas_size=(height, width))
    expected = F.resize(boxes, size)
    if len(after.boxes):
        torch.testing.assert_close(after.boxes, torch.as_tensor(expected.data), rtol=1e-5, atol=1e-4)
    else:
        assert min(x2 - x1, y2 - y1) * max(size) / min(height, width) < 0.1
    assert torch.equal(after.image, F.resize(tv_tensors.Image(before.image), size, antialias=True).data)


def test_resize_range_draws_every_short_side_and_no_other():
    torch.manual_seed(0)
    resize = Resize(short=[5, 8], long=100)
    drawn = [resize(sample(10, 20, [])).image.shape[-2] for _ in range(400)]
    counts = {side: drawn.count(side) for side in sorted(set(drawn))}
    assert list(counts) == [5, 6, 7, 8]
    assert all(60 < count < 140 for count in counts.values()), counts


def test_random_draws_repeat_with_the_global_seed_and_only_then():
    pipeline = Compose(transforms=(Resize(short=(5, 300), long=900), Flip()))
    before = sample(30, 40, [[1, 2, 20, 25]])

    def run(seed):
        torch.manual_seed(seed)
        return pipeline(before)

    assert torch.equal(run(1).boxes, run(1).boxes) and torch.equal(run(1).image, run(1).image)
    assert len({tuple(run(seed).image.shape) for seed in range(8)}) > 4


def test_a_fixed_pipeline_draws_nothing():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    Compose(transforms=(Resize(short=8, long=16), ResizeExact(height=4, width=4), Normalise()))(sample(9, 9, []))
    assert torch.equal(torch.get_rng_state(), state)


def test_resize_exact_ignores_the_ratio():
    found = ResizeExact(height=30, width=10)(sample(10, 20, [[2, 1, 20, 10]]))
    assert found.image.shape == (3, 30, 10)
    assert found.boxes.tolist() == [[1, 3, 10, 30]]


def test_flip_mirrors_picture_and_boxes():
    before = sample(2, 10, [[1, 0, 4, 2], [0, 0, 10, 1]])
    after = Flip(probability=1.0)(before)
    assert after.boxes.tolist() == [[6, 0, 9, 2], [0, 0, 10, 1]]
    assert after.image[0, 0].tolist() == before.image[0, 0].tolist()[::-1]
    assert after.labels.tolist() == [0, 1]


def test_flip_marks_the_same_pixels():
    before = sample(6, 9, [[2, 1, 5, 4]])
    before.image[:] = 0
    before.image[:, 1:4, 2:5] = 255
    after = Flip(probability=1.0)(before)
    x1, y1, x2, y2 = after.boxes[0].int().tolist()
    assert (after.image[:, y1:y2, x1:x2] == 255).all() and int((after.image == 255).sum()) == 3 * 9


def test_flip_happens_with_its_probability():
    torch.manual_seed(0)
    before = sample(2, 10, [[1, 0, 4, 2]])
    flipped = sum(Flip(probability=0.2)(before).boxes[0, 0].item() == 6 for _ in range(1000))
    assert 150 < flipped < 250
    assert all(Flip(probability=0.0)(before) is before for _ in range(20))


def test_boxes_are_clipped_and_vanished_ones_go_with_their_labels():
    before = sample(10, 10, [[-5, 2, 3, 20], [10, 1, 12, 3], [4, 4, 4.00005, 8], [1, 1, 2, 2]], [7, 8, 9, 5])
    after = ResizeExact(height=10, width=10)(before)
    assert after.boxes.tolist() == [[0, 2, 3, 10], [1, 1, 2, 2]]
    assert after.labels.tolist() == [7, 5]


@pytest.mark.parametrize("transform", [Resize(short=6, long=20), ResizeExact(height=5, width=6), Flip(probability=1.0)])
def test_pictures_without_objects_pass(transform):
    after = transform(sample(8, 9, []))
    assert after.boxes.shape == (0, 4) and after.labels.shape == (0,)
    assert after.image.dtype == torch.uint8


def test_normalise_by_hand():
    before = sample(1, 1, [[0, 0, 1, 1]])
    before.image[:, 0, 0] = torch.tensor([0, 100, 255], dtype=torch.uint8)
    after = Normalise(mean=(10, 100, 5), std=(2, 4, 50))(before)
    assert after.image.dtype == torch.float32
    assert after.image[:, 0, 0].tolist() == [-5, 0, 5]
    assert torch.equal(after.boxes, before.boxes)


def test_normalise_default_is_that_of_imagenet():
    # torchvision publishes the same numbers on the scale 0..1.
    before = sample(4, 5, [])
    expected = F.normalize(before.image / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(Normalise()(before).image, expected, rtol=1e-5, atol=1e-5)


def test_compose_goes_from_first_to_last():
    after = Compose(transforms=[ResizeExact(height=4, width=20), Resize(short=8, long=16)])(sample(10, 10, []))
    assert after.image.shape == (3, 3, 16)


def test_recipes_build_transforms_by_kind():
    recipe = [{"kind": "resize", "short": [4, 5], "long": 9}, {"kind": "resize_exact", "height": 3, "width": 2}]
    built = [TRANSFORMS[step.pop("kind")](**step) for step in recipe]
    assert built == [Resize(short=[4, 5], long=9), ResizeExact(height=3, width=2)]
    assert TRANSFORMS["flip"](probability=0.1) == Flip(probability=0.1)


@pytest.mark.parametrize(
    "kind, values, message",
    [
        (Resize, {"short": 0, "long": 9}, "resize short 0, long 9"),
        (Resize, {"short": (8, 4), "long": 9}, r"resize short \(8, 4\)"),
        (Resize, {"short": (4, 6, 8), "long": 9}, "resize short"),
        (Resize, {"short": (4, 8), "long": 7}, "`long` not below it"),
        (ResizeExact, {"height": 0, "width": 9}, "resize_exact to 0 x 9"),
        (Flip, {"probability": 1.5}, r"flip probability 1\.5"),
        (Flip, {"probability": float("nan")}, "flip probability nan"),
        (Normalise, {"std": (1, 0, 1)}, "std positive"),
        (Normalise, {"mean": (1, 2)}, "three numbers each"),
    ],
)
def test_values_out_of_range_are_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)
