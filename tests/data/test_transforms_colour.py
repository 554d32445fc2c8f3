"""Colour changes against `colorsys`, direct formulas, and counts of what a fixed seed draws."""

import colorsys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qrepro.data.transforms import Photometric, Sample
from qrepro.data.transforms.colour import recoloured
from helpers.samples import sample

STILL = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0, "probability": 1, "permute": 0}
GREYS = Sample(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256).contiguous(), torch.zeros(0, 4), torch.zeros(0))
channels = st.tuples(*[st.integers(0, 255)] * 3)


def only(**values):
    """The one step that `values` name, always made."""
    return Photometric(**{**STILL, **values})


def image(*pixels):
    """A sample whose image is a row of RGB pixels."""
    return Sample(torch.tensor(pixels, dtype=torch.uint8).T[:, None], torch.zeros(0, 4), torch.zeros(0))


def by_colorsys(pixel, factor, turn):
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in pixel))
    return [255 * channel for channel in colorsys.hsv_to_rgb((hue + turn / 360) % 1, saturation * factor, value)]


@settings(max_examples=300, deadline=None)
@given(channels, st.floats(0, 2), st.floats(-180, 180))
def test_saturation_and_hue_agree_with_colorsys(pixel, factor, turn):
    found = recoloured(torch.tensor(pixel, dtype=torch.float32)[:, None, None], factor, turn)
    assert found.flatten().tolist() == pytest.approx(by_colorsys(pixel, factor, turn), abs=0.01)


@pytest.mark.parametrize(
    "turn, expected",
    [
        (120, (40, 250, 100)),  # red to green, green to blue, blue to red
        (-120, (100, 40, 250)),
        (360, (250, 100, 40)),
        # 60 degrees: the hue (100 - 40) / 210 = 2/7 becomes 9/7: green leads, red falls by 2/7 of the chroma 210.
        (60, (190, 250, 40)),
    ],
)
@pytest.mark.parametrize("shift", [0, -300])  # dark pixels go below zero when brightness falls
def test_hue_turns_by_hand(turn, expected, shift):
    pixel = torch.tensor([250.0, 100, 40])[:, None, None] + shift
    assert recoloured(pixel, 1.0, turn).flatten().tolist() == pytest.approx([c + shift for c in expected], abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(channels, st.floats(0.5, 1.5), st.floats(0.5, 1.5), st.floats(-18, 18))
def test_saturation_and_hue_commute_with_contrast(pixel, contrast, factor, turn):
    # Why contrast needs no coin for its place. Pixels that brightness has made negative included.
    pixel = torch.tensor(pixel, dtype=torch.float64)[:, None, None] - 32
    before, after = recoloured(contrast * pixel, factor, turn), contrast * recoloured(pixel, factor, turn)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-9)


@pytest.mark.parametrize("transform", [Photometric(**STILL), Photometric(probability=0, permute=0)])
def test_neutral_values_leave_the_picture(transform):
    before = sample(40, 50, [[1, 2, 3, 4]])
    for seed in range(5):
        torch.manual_seed(seed)
        after = transform(before)
        assert torch.equal(after.image, before.image) and after.image.dtype == torch.uint8
        assert after.boxes is before.boxes and after.labels is before.labels


def test_brightness_adds_one_number_and_clips():
    torch.manual_seed(0)
    added = []
    for _ in range(300):
        after = only(brightness=20)(GREYS).image
        added.append(int(after[0, 0, 128]) - 128)
        assert torch.equal(after, (GREYS.image.int() + added[-1]).clamp(0, 255).to(torch.uint8))
    assert min(added) == -20 and max(added) == 20
    assert abs(sum(added) / 300) < 2  # deviation of the mean: 20 / sqrt(3) / sqrt(300) = 0.67
    assert 55 < sum(a > 10 for a in added) < 95  # a quarter


def test_contrast_multiplies_and_clips():
    assert only(contrast=(0.5, 0.5))(GREYS).image[0, 0, ::2].tolist() == list(range(128))
    assert only(contrast=(1.5, 1.5))(GREYS).image[2, 0, ::2].tolist() == [min(3 * i, 255) for i in range(128)]
    torch.manual_seed(0)
    factors = [int(only(contrast=(0.5, 1.5))(GREYS).image[1, 0, 160]) / 160 for _ in range(300)]
    assert 0.5 <= min(factors) < 0.52 and 1.48 < max(factors) <= 1.5
    assert abs(sum(factors) / 300 - 1) < 0.05


def test_brightness_comes_before_contrast_and_nothing_is_clipped_between():
    torch.manual_seed(0)
    lowest = []
    for _ in range(100):
        after = only(brightness=255, contrast=(0.5, 0.5))(GREYS).image[0, 0].int()
        lowest.append(int(after[0]))
        if after[0] > 0:  # (x + b) / 2 goes from b / 2 to b / 2 + 127.5; clipping to 255 between would cut it
            assert after[255] - after[0] in (127, 128)
    assert 115 < max(lowest) <= 128  # 255 / 2, not 255


def test_saturation_zero_is_grey_of_the_largest_channel():
    after = only(saturation=(0, 0))(image((10, 200, 30), (90, 20, 70), (5, 5, 5)))
    assert after.image.tolist() == [[[200, 90, 5]]] * 3


def test_hue_turns_every_pixel_by_one_angle_in_degrees():
    pixels = ((255, 0, 0), (10, 200, 30), (90, 20, 70), (128, 128, 128))
    torch.manual_seed(0)
    angles = []
    for _ in range(200):
        red, *others = only(hue=18)(image(*pixels)).image[:, 0].T.tolist()
        angles.append(60 * (red[1] - red[2]) / 255)  # red leans to green or to blue: 60 degrees are 255 steps
        for pixel, found in zip(pixels[1:], others, strict=True):
            assert found == pytest.approx(by_colorsys(pixel, 1, angles[-1]), abs=1.01)
    assert -18.2 < min(angles) < -16.5 and 16.5 < max(angles) < 18.2
    assert abs(sum(angles) / 200) < 2.5  # deviation of the mean: 18 / sqrt(3) / sqrt(200) = 0.73


def test_channels_are_permuted_into_every_order():
    torch.manual_seed(0)
    orders = [tuple(only(permute=1)(image((1, 2, 3))).image.flatten().tolist()) for _ in range(600)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert set(counts) == {(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)}
    assert all(70 < count < 130 for count in counts.values()), counts


@pytest.mark.parametrize(
    "values, share",
    [
        ({"brightness": 255, "probability": 0.3}, 0.3),
        ({"contrast": (0, 0), "probability": 0.3}, 0.3),
        ({"saturation": (0, 0), "probability": 0.3}, 0.3),
        ({"hue": 180, "probability": 0.3}, 0.3),
        ({"permute": 0.6}, 0.5),  # one of the six orders is the old one
    ],
)
def test_each_step_happens_with_its_probability(values, share):
    torch.manual_seed(0)
    before = image((200, 100, 50))
    changed = sum(not torch.equal(only(**values)(before).image, before.image) for _ in range(1000))
    assert 1000 * share - 55 < changed < 1000 * share + 55


def test_steps_happen_independently():
    torch.manual_seed(0)
    before = image((200, 100, 50))
    transform = only(contrast=(0, 0), saturation=(0, 0), probability=0.5)
    found = [tuple(transform(before).image.flatten().tolist()) for _ in range(1000)]
    assert 440 < found.count((0, 0, 0)) < 560
    assert 200 < found.count((200, 200, 200)) < 300
    assert 200 < found.count((200, 100, 50)) < 300
