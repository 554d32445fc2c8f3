import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qrepro.box_coder import (
    BoxCoder,
    Delta,
    Distance,
    Distributions,
    Gaussian,
    General,
    LogDistance,
    PointSet,
)
from qrepro.boxes import clip
from qrepro.detector import Head
from qrepro.losses import distribution_focal_loss
from qrepro.priors import Points, Priors
from qrepro.quality import Statistics

LN2 = math.log(2)


def at(points, stride=1.0, scale=8.0) -> Priors:
    """Square priors of `scale` strides around points (P, 2)."""
    points = torch.as_tensor(points, dtype=torch.float32)
    stride = torch.full((len(points),), float(stride))
    half = (stride * scale / 2)[:, None]
    return Priors(torch.cat([points - half, points + half], -1), points - stride[:, None] / 2, stride)


@pytest.mark.parametrize("name, stds", [("unit", (1.0, 1, 1, 1)), ("ssd", (0.1, 0.1, 0.2, 0.2))])
def test_delta_equals_mmdetection(golden, name, stds):
    ref = golden("coders")
    anchors = ref["anchors"]
    priors = Priors(anchors, anchors[:, :2], torch.ones(len(anchors)))
    box = Delta(stds=stds)
    torch.testing.assert_close(box.encode(ref["targets"], priors), ref[f"{name}_encoded"], rtol=1e-5, atol=1e-5)
    decoded = clip(box.decode(ref[f"{name}_deltas"], priors)[None], torch.tensor([[256, 320]]))[0]
    torch.testing.assert_close(decoded, ref[f"{name}_decoded"], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(
        box.decode(box.encode(ref["targets"], priors), priors), ref["targets"], rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("activation", ["clamp", "none"])
def test_distance_equals_mmdetection(golden, activation):
    ref = golden("coders")
    decoded = Distance(activation=activation).decode(ref["distances"], at(ref["points"]))
    decoded = clip(decoded[None], torch.tensor([[256, 320]]))[0]
    torch.testing.assert_close(decoded, ref["dist_decoded"], rtol=1e-6, atol=1e-4)


def test_integral_equals_mmdetection(golden):
    """Around the origin with stride 1 a box is (-left, -top, right, bottom)."""
    ref = golden("coders")
    decoded = General(n=16).decode(ref["integral_logits"], at(torch.zeros(48, 2)))
    torch.testing.assert_close(decoded * torch.tensor([-1, -1, 1, 1]), ref["integral"], rtol=1e-5, atol=1e-5)


BOX = torch.tensor([[4.0, 8.0, 60.0, 44.0]])  # from (20, 20): 16, 12, 40, 24 px; with stride 8: 2, 1.5, 5, 3 cells
PRIORS = at([[20.0, 20.0]], stride=8)
CELLS = [2.0, 1.5, 5.0, 3.0]


def test_codes_of_one_box_by_hand():
    assert Distance().encode(BOX, PRIORS).tolist() == [CELLS]
    assert Gaussian().encode(BOX, PRIORS).tolist() == [CELLS]
    assert General(n=16).encode(BOX, PRIORS).tolist() == [CELLS]
    assert General(n=16, delta=0.5).encode(BOX, PRIORS).tolist() == [[4.0, 3.0, 10.0, 6.0]]
    assert General(n=16, delta=4.0).encode(BOX, PRIORS).tolist() == [[0.5, 0.375, 1.25, 0.75]]
    relative = LogDistance().encode(BOX, at([[20.0, 20.0]], stride=8, scale=2.0))  # side 16 px
    torch.testing.assert_close(relative, torch.tensor([[1.0, 0.75, 2.5, 1.5]]).log())


def test_channels():
    assert [part.channels for part in (Delta(), Distance(), LogDistance(), Gaussian())] == [4, 4, 4, 8]
    assert General(n=16).channels == 68 and General(n=12, delta=2.0).channels == 52


def test_boxes_of_outputs_by_hand():
    raw = torch.tensor([[2.0, 1.5, 5.0, 3.0]])
    assert Distance(activation="clamp").decode(raw, PRIORS).tolist() == BOX.tolist()
    torch.testing.assert_close(Distance(activation="exp").decode(raw.log(), PRIORS), BOX)
    assert Gaussian().decode(torch.cat([raw, torch.full((1, 4), 7.0)], -1), PRIORS).tolist() == BOX.tolist()
    halved = at([[20.0, 20.0]], stride=8, scale=2.0)
    torch.testing.assert_close(LogDistance().decode((raw / 2).log(), halved), BOX)


def test_activation_of_negative_outputs():
    raw = torch.tensor([[-1.0, -2.0, 1.0, 0.0]])
    assert Distance(activation="clamp").decode(raw, PRIORS).tolist() == [[20.0, 20.0, 28.0, 20.0]]
    assert Distance(activation="none").decode(raw, PRIORS).tolist() == [[28.0, 36.0, 28.0, 20.0]]
    assert Distance(activation="exp").decode(torch.zeros(1, 4), PRIORS).tolist() == [[12.0, 12.0, 28.0, 28.0]]


def test_distance_is_negative_outside_and_log_distance_is_cut():
    away = torch.tensor([[24.0, 20.0, 2020.0, 28.0]])  # -4, 0, 2000, 8 px
    assert Distance().encode(away, PRIORS).tolist() == [[-0.5, 0.0, 250.0, 1.0]]
    cut = LogDistance().encode(away, at([[20.0, 20.0]], stride=8, scale=2.0))
    torch.testing.assert_close(cut, torch.tensor([[-4 * LN2, -4 * LN2, 4 * LN2, -LN2]]))
    wide = LogDistance(limit=64.0).encode(away, at([[20.0, 20.0]], stride=8, scale=2.0))
    torch.testing.assert_close(wide, torch.tensor([[-6 * LN2, -6 * LN2, 6 * LN2, -LN2]]))


@pytest.mark.parametrize("n", [12, 14, 16, 18])
@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0, 4.0])
def test_general_target_ends_a_tenth_of_a_bin_below_the_last(n, delta):
    """Bins, not cells, are clamped: the longest distance is (n - 0.1) delta cells, 0 the shortest."""
    edge = (n - 0.1) * delta * 8
    boxes = torch.tensor([[20 - edge - 1, 20 - edge + 1, 20 + 2 * edge, 19.0]])
    code = General(n=n, delta=delta).encode(boxes, PRIORS)
    torch.testing.assert_close(code, torch.tensor([[n - 0.1, n - 0.1 - 1 / (8 * delta), n - 0.1, 0.0]]))


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0, 4.0])
def test_general_decodes_the_expectation(delta):
    """A quarter in bin 0 and the rest in bin 4 is 3 bins; a flat distribution is n / 2."""
    box = General(n=6, delta=delta)
    side = torch.full((7,), -100.0)
    side[[0, 4]] = torch.tensor([0.25, 0.75]).log()
    raw = torch.cat([side, torch.zeros(7), side, torch.ones(7)])[None]
    px = 3 * delta * 8
    torch.testing.assert_close(box.decode(raw, PRIORS), torch.tensor([[20 - px, 20 - px, 20 + px, 20 + px]]))
    torch.testing.assert_close(box.probabilities(raw)[0, :, 4], torch.tensor([0.75, 1 / 7, 0.75, 1 / 7]))


def optimal(code: torch.Tensor, n: int) -> torch.Tensor:
    """Logits (P, 4 (n + 1)) with the mass of GFL eq. 6's minimum: a triangle of one bin around the code (P, 4)."""
    shares = (1 - (code[..., None] - torch.arange(n + 1)).abs()).clamp(min=0)
    return shares.clamp(min=1e-30).log().flatten(1)


@settings(deadline=None)
@given(st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.tuples(*[st.floats(0, 15.9)] * 4))
def test_general_target_integral_and_loss_agree(delta, bins):
    """The distribution that the loss wants decodes to the box that the target was made of, for any delta."""
    box, px = General(n=16, delta=delta), torch.tensor([bins]) * delta * 8
    truth = torch.cat([20 - px[:, :2], 20 + px[:, 2:]], -1)
    code = box.encode(truth, PRIORS)
    raw = optimal(code, 16).requires_grad_()
    torch.testing.assert_close(box.decode(raw, PRIORS), truth, rtol=1e-5, atol=1e-2)
    (slope,) = torch.autograd.grad(distribution_focal_loss(raw, code).sum(), raw)
    assert slope.abs().max() < 1e-5


@pytest.mark.parametrize(
    "box, back",
    [
        (Distance(activation="clamp"), lambda code: code),
        (Distance(activation="none"), lambda code: code),
        (Distance(activation="exp"), torch.log),
        (LogDistance(), lambda code: code),
        (Gaussian(), lambda code: torch.cat([code, torch.zeros_like(code)], -1)),
        (General(n=16), lambda code: optimal(code, 16)),
        (General(n=16, delta=2.0), lambda code: optimal(code, 16)),
        (Delta(stds=(0.1, 0.1, 0.2, 0.2)), lambda code: code),
    ],
)
def test_round_trip_over_levels(box, back):
    """Every representable box comes back, at priors of different strides and with a batch in front."""
    priors = Points(scale=2.0)([(4, 4), (2, 2)], (8, 16), torch.device("cpu"))
    sides = 1 + 99 * torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([priors.centres() - sides[:, :2], priors.centres() + sides[:, 2:]], -1)
    raw = back(box.encode(boxes, priors))
    assert raw.shape == (20, box.channels)
    for decoded in box.decode(raw.expand(2, -1, -1), priors):
        torch.testing.assert_close(decoded, boxes, rtol=1e-4, atol=1e-2)


# Points, of which the box is read off

# x 0, 0, 0, 4: mean 1, squares 12 by n - 1 = 3: deviation 2. y -1, -1, 2, 2 has mean 1/2, squares 9: sqrt(3).
SPREAD = torch.tensor([[-1.0, 0.0, -1.0, 0.0, 2.0, 0.0, 2.0, 4.0]])  # y before x
ROOT3 = math.sqrt(3)


def point_set(transform="moment", moment=(0.0, 0.0), share=0.01) -> PointSet:
    box = PointSet(points=4, transform=transform, moment_share=share)
    if transform == "moment":
        box.moment.data.copy_(torch.tensor(moment))
    return box


def test_box_of_points_by_their_moments():
    """In cells of 8 px around (20, 20). The deviation is that of a sample (RepPoints' code: torch.std)."""
    box = point_set()
    assert box.channels == 8 and PointSet().channels == 18
    expected = torch.tensor([[-1.0, 0.5 - ROOT3, 3.0, 0.5 + ROOT3]])
    torch.testing.assert_close(box.decode(SPREAD, PRIORS), 20 + 8 * expected)
    wider = point_set(moment=(LN2, math.log(3)))  # x twice as wide, y three times as high
    expected = torch.tensor([[-3.0, 0.5 - 3 * ROOT3, 5.0, 0.5 + 3 * ROOT3]])
    torch.testing.assert_close(wider.decode(SPREAD, PRIORS), 20 + 8 * expected)


def test_smallest_box_around_points():
    box = point_set("minmax")
    assert box.decode(SPREAD, PRIORS).tolist() == [[20.0, 20.0 - 8, 20.0 + 32, 20.0 + 16]]
    assert list(box.parameters()) == []


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_share_of_the_gradient_that_reaches_the_factors(share):
    """d x2 / d ln(factor) is the half width, 2 cells of 8 px times the factor 2; d y2 likewise with sqrt(3) cells."""
    box, raw = point_set(moment=(LN2, LN2), share=share), SPREAD.clone().requires_grad_()
    decoded = box.decode(raw, PRIORS)
    torch.testing.assert_close(decoded, point_set(moment=(LN2, LN2), share=1.0).decode(SPREAD, PRIORS))
    slope, of_points = torch.autograd.grad(decoded[0, 2] + 10 * decoded[0, 3], [box.moment, raw])
    torch.testing.assert_close(slope, share * torch.tensor([32.0, 10 * ROOT3 * 16]))
    # d x2 / d x_i: 1/4 of the mean, and factor 2 times (x_i - 1) / (3 * 2) of the deviation; 8 px
    x = torch.tensor([0.0, 0, 0, 4])
    torch.testing.assert_close(of_points[0, 1::2], 8 * (1 / 4 + 2 * (x - 1) / 6))  # whatever the share


def test_points_of_several_levels_and_images():
    """Each prior's own stride and centre; the factors are shared."""
    priors = Points(scale=4.0)([(2, 2), (1, 1)], (8, 16), torch.device("cpu"))
    raw = torch.randn(3, 5, 18, generator=torch.Generator().manual_seed(0))
    for transform in ("moment", "minmax"):
        decoded = PointSet(transform=transform).decode(raw, priors)
        assert decoded.shape == (3, 5, 4)
        for b in range(3):
            for r in range(5):
                centre, stride = priors.centres()[r], priors.stride[r]
                y, x = (raw[b, r, axis::2] * stride + centre[1 - axis] for axis in (0, 1))
                if transform == "moment":
                    expected = [x.mean() - x.std(), y.mean() - y.std(), x.mean() + x.std(), y.mean() + y.std()]
                else:
                    expected = [x.min(), y.min(), x.max(), y.max()]
                torch.testing.assert_close(decoded[b, r], torch.stack(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("transform", ["moment", "minmax"])
def test_points_in_one_place_are_a_box_without_sides_and_with_finite_gradients(transform):
    """The square root of a variance of 0 has no slope."""
    raw = torch.full((1, 8), 0.5, requires_grad=True)
    decoded = point_set(transform).decode(raw, PRIORS)
    assert decoded.tolist() == [[24.0] * 4]
    decoded.square().sum().backward()
    assert raw.grad.isfinite().all()


def test_points_have_no_code():
    with pytest.raises(ValueError, match=r"loss\.code"):
        PointSet().encode(BOX, PRIORS)


def test_clipped_delta_by_hand():
    """At stride 8 and a side of 64 px: tanh(ln 2) = 3/5, so 0.6 * 8 / 2 = 2.4 px, a code of 2.4 / 64 / 0.1."""
    box, raw = Delta(stds=(0.1, 0.1, 0.2, 0.2), clip=True), torch.tensor([[LN2, -LN2, 5 * LN2, 0.0]])
    torch.testing.assert_close(box.code(raw, PRIORS), torch.tensor([[0.375, -0.375, 5 * LN2, 0.0]]))
    torch.testing.assert_close(box.decode(raw, PRIORS), torch.tensor([[22.4 - 64, 17.6 - 32, 22.4 + 64, 17.6 + 32]]))
    torch.testing.assert_close(Delta().code(raw, PRIORS), raw)
    moved = Delta(means=(0.5, 0, 0, 0), clip=True)  # what is clipped is the shift, whatever codes are centred on
    torch.testing.assert_close(moved.code(raw, PRIORS)[0, 0], torch.tensor(0.0375 - 0.5))
    torch.testing.assert_close(moved.decode(raw, PRIORS)[0, 0] + moved.decode(raw, PRIORS)[0, 2], torch.tensor(44.8))


def test_distances_in_pixels_by_hand():
    """FCOS as first published: its outputs are logs of pixels, whatever the stride."""
    box = Distance(activation="exp", unit="pixel")
    assert box.encode(BOX, PRIORS).tolist() == [[16, 12, 40, 24]]
    raw = torch.tensor([[16.0, 12, 40, 24]]).log()
    torch.testing.assert_close(box.decode(raw, PRIORS), BOX)
    torch.testing.assert_close(Distance(activation="exp").decode(raw - math.log(8), PRIORS), BOX)


class EndsOfTheRange(BoxCoder):
    """A coder of a user's own, which shares no code with `General`: distances of 0 or 3 cells, nothing between."""

    channels, bins = 8, 2

    def decode(self, raw, priors):
        far = raw.float().reshape(*raw.shape[:-1], 4, 2).softmax(-1)[..., 1] * 3 * priors.stride[:, None]
        return torch.cat([priors.centres() - far[..., :2], priors.centres() + far[..., 2:]], -1)

    def distributions(self, raw):
        return Distributions(raw.float().reshape(*raw.shape[:-1], 4, 2).softmax(-1), 3.0)


def test_distributions_of_a_coder_of_ones_own_reach_the_statistics():
    """With k = 1 and no mean the statistics are the larger probability of each side: 1/2, 3/4, 4/5 and 3/4 here."""
    box = EndsOfTheRange()
    head = Head(1, 2, 1, box, partial(Statistics, k=1, mean=False, hidden=4), levels=1, convs=0)
    odds = torch.tensor([1.0, 3.0, 1 / 4, 1 / 3])
    with torch.no_grad():
        head.box_out.weight.zero_()
        head.box_out.bias.copy_(torch.stack([torch.zeros(4), odds.log()], -1).flatten())
        head.quality.inner.weight.copy_(torch.eye(4)[..., None, None])
        head.quality.outer.weight.copy_(torch.tensor([1.0, 10.0, 100.0, 1000.0])[None, :, None, None])
        prediction = head([torch.ones(1, 1, 2, 2)], Points(scale=1.0)([(2, 2)], [8], torch.device("cpu")))
    expected = 1 / 2 + 10 * 3 / 4 + 100 * 4 / 5 + 1000 * 3 / 4
    torch.testing.assert_close(prediction.quality, torch.full((1, 4), expected))
    distributions = prediction.box.distributions(prediction.raw)
    torch.testing.assert_close(distributions.probability[0, 0, :, 1], torch.tensor([1 / 2, 3 / 4, 1 / 5, 1 / 4]))
    torch.testing.assert_close(prediction.decode()[0, 0], torch.tensor([4 - 12, 4 - 18, 4 + 4.8, 4 + 6]))


@pytest.mark.parametrize("box", [Distance(), Gaussian(), PointSet(), LogDistance(), Delta()])
def test_coders_without_bins_have_no_distributions(box):
    assert box.bins == 0 and box.distributions(torch.zeros(3, box.channels)) is None


def test_distributions_of_a_general_box():
    distributions = General(n=3, delta=0.5).distributions(torch.zeros(2, 16))
    torch.testing.assert_close(distributions.probability, torch.full((2, 4, 4), 0.25))
    assert distributions.spacing == 0.5
