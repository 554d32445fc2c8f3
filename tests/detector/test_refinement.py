"""Heads that refine their boxes at sampled points, against VFNet's and RepPoints' heads written down as functions."""

import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import box_iou, deform_conv2d, generalized_box_iou_loss, sigmoid_focal_loss

from helpers.supervision import Supervision, supervision
from qrepro.assign import ATSS, BACKGROUND, IGNORED, MaxIoU, NearestPoint
from qrepro.box_coder import Delta, Distance, Gaussian, General, LogDistance, PointSet
from qrepro.detector import Head, InitialStage, Prediction, ReadAt
from qrepro.ground_truth import GroundTruthBatch
from qrepro.losses import focal_loss, giou_loss, quality_focal_loss, smooth_l1_loss, varifocal_loss
from qrepro.objective import Term, total
from qrepro.priors import Anchors, Points, Priors
from qrepro.quality import Composed, ConvQuality, Describe, EstimatorContext, NoQuality, Sampled, Statistics
from qrepro.sampling import Predicted, Reader, Star
from qrepro.target import hard, soft

CPU = torch.device("cpu")
SHAPES, STRIDES = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)], (8, 16, 32, 64, 128)  # of 128 x 160 px
SIZES = torch.tensor([[128, 160], [96, 112]])
WIDTH, GROUPS, CLASSES = 16, 4, 3
GRID = torch.tensor([(y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)]).flatten()[:, None, None]


@pytest.fixture(autouse=True)
def one_thread():
    """Maps this small take many times as long on two threads as soon as something else runs beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wild(head: Head) -> Head:
    """The head with weights that keep the size of features, so that points move and boxes differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            value = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 4:
                slow = 0.3 if name.startswith("box_out") else 0.6 if name.startswith("refine_out") else 1.4
                parameter.copy_(slow * value / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(0.1 * value)
    return head


def ground_truth_of_two_images() -> GroundTruthBatch:
    """Sizes from 14 to 100 px, of which the first is in both; the second image has half of them and padding."""
    boxes = torch.tensor(
        [[10.0, 12, 41, 40], [50, 20, 130, 110], [8, 60, 30, 74], [100, 5, 118, 50], [60, 50, 96, 80], [5, 5, 104, 90]]
    )
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    valid = torch.tensor([[True] * 6, [True, False, True, False, True, False]])
    return GroundTruthBatch(boxes.repeat(2, 1, 1) + torch.tensor([0.0, 3.3])[:, None, None], labels.repeat(2, 1), valid)


# The two heads as functions of their parameters p, for one level


def conv(x, p, name):
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight, p.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def tower(x, p, name, convs):
    for i in range(convs):
        x = F.group_norm(
            conv(x, p, f"{name}.{3 * i}"), GROUPS, p[f"{name}.{3 * i + 1}.weight"], p[f"{name}.{3 * i + 1}.bias"]
        )
        x = x.relu()
    return x


def a_tenth(x):
    """x, with a tenth of its gradient."""
    return 0.9 * x.detach() + 0.1 * x


def vfnet(x, p, level, stride):
    """Class logits, initial and refined distances in px: the official head, `bbox_norm_type = reg_denom`."""
    cls, box = tower(x, p, "cls_tower", 3), tower(x, p, "box_tower", 3)
    initial = (p[f"scales.{level}"] * conv(tower(box, p, "box_last", 1), p, "box_out")).exp() * 8 * stride
    left, top, right, bottom = (a_tenth(initial) / stride).unbind(1)
    none = torch.zeros_like(left)
    star = [
        *(-top, -left, -top, none, -top, right),
        *(none, -left, none, none, none, right),
        *(bottom, -left, bottom, none, bottom, right),
    ]
    offset = torch.stack(star, 1) - GRID
    cls = deform_conv2d(cls, offset, p["cls_at.weight"], padding=1).relu()
    box = deform_conv2d(box, offset, p["refine_at.weight"], padding=1).relu()
    factor = (p[f"refine_scales.{level}"] * conv(box, p, "refine_out")).exp()
    return conv(cls, p, "cls_out"), initial, factor * initial.detach()


def reppoints(x, p, level, stride):
    """Class logits, initial and refined points in cells, y first."""
    cls, box = tower(x, p, "cls_tower", 3), tower(x, p, "box_tower", 3)
    initial = conv(conv(box, p, "box_last.0").relu(), p, "box_out")
    offset = a_tenth(initial) - GRID
    cls = deform_conv2d(cls, offset, p["cls_at.weight"], padding=1).relu()
    box = deform_conv2d(box, offset, p["refine_at.weight"], padding=1).relu()
    return conv(cls, p, "cls_out"), initial, conv(box, p, "refine_out") + initial.detach()


def grid_of(shape, stride):
    """(H * W, 2) x, y of the cells' corners, row by row."""
    return torch.tensor(
        [[x * stride, y * stride] for y in range(shape[0]) for x in range(shape[1])], dtype=torch.float32
    )


def rows(maps):
    """(B, H * W, K) of (B, K, H, W)."""
    return maps.flatten(2).transpose(1, 2)


def box_of_distances(distances, stride, p):
    centre = grid_of(distances.shape[-2:], stride)
    left, top, right, bottom = rows(distances).unbind(-1)
    x, y = centre.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], -1)


def box_of_points(points, stride, p):
    """`points2bbox` of the official code with moments, of whose gradient the factors get a hundredth."""
    y, x = rows(points)[..., 0::2], rows(points)[..., 1::2]
    factor = 0.01 * p["box.moment"] + 0.99 * p["box.moment"].detach()
    half_x = torch.std(x - x.mean(-1, keepdim=True), dim=-1) * factor[0].exp()
    half_y = torch.std(y - y.mean(-1, keepdim=True), dim=-1) * factor[1].exp()
    box = torch.stack([x.mean(-1) - half_x, y.mean(-1) - half_y, x.mean(-1) + half_x, y.mean(-1) + half_y], -1)
    return box * stride + grid_of(points.shape[-2:], stride).repeat(1, 2)


# and their losses


def usable_locations():
    """(2, R) the corners of the cells that lie in the image, whose sizes are filled up to multiples of 32 px."""
    corners = torch.cat([grid_of(shape, stride) for shape, stride in zip(SHAPES, STRIDES, strict=True)])
    return torch.stack(
        [(corners[:, 0] < width) & (corners[:, 1] < height) for height, width in ((128, 160), (96, 128))]
    )


def iou_of_pairs(a, b):
    return box_iou(a, b).diagonal()


def vfnet_loss(cls, first, final, p, ground_truth, priors):
    """VFL by the positives of the batch; both GIoU terms weighted by their own IoU, by the sum of these."""
    matches = ATSS()(priors, ground_truth, usable_locations())
    image, at = (matches >= 0).nonzero(as_tuple=True)
    truth, label = ground_truth.boxes[image, matches[image, at]], ground_truth.labels[image, matches[image, at]]
    terms = {}
    for name, boxes, weight in (("initial_box", first, 1.5), ("box", final, 2.0)):
        iou = iou_of_pairs(boxes[image, at], truth).detach()
        giou = generalized_box_iou_loss(boxes[image, at], truth)
        terms[name] = weight * (iou * giou).sum() / max(iou.sum().item(), 1.0)
    quality = torch.zeros_like(cls)
    quality[image, at, label] = iou.clamp(min=1e-6)
    hit, miss = F.logsigmoid(cls), F.logsigmoid(-cls)
    positive = -quality * (quality * hit + (1 - quality) * miss)
    negative = -0.75 * cls.sigmoid() ** 2 * miss
    terms["class"] = torch.where(quality > 0, positive, negative).sum() / max(len(at), 1)
    return terms


def max_iou_matches(boxes, ground_truth, usable):
    """RetinaNet's rule for one image, location by location, on its own boxes."""
    iou = box_iou(ground_truth, boxes) * usable
    match = [BACKGROUND] * len(boxes)
    for r in range(len(boxes)):
        if iou[:, r].max() >= 0.4:
            match[r] = iou[:, r].argmax().item() if iou[:, r].max() >= 0.5 else IGNORED
    for g in range(len(ground_truth)):
        for r in range(len(boxes)):
            if iou[g, r] == iou[g].max() > 0:
                match[r] = g
    return [m if use else IGNORED for m, use in zip(match, usable.tolist(), strict=True)]


def nearest_matches(ground_truth, usable):
    """RepPoints' first matching for one image: the nearest point of the level of 4 x stride <= size."""
    match = [BACKGROUND if use else IGNORED for use in usable.tolist()]
    points = torch.cat([grid_of(shape, stride) for shape, stride in zip(SHAPES, STRIDES, strict=True)])
    stride_of = torch.cat([torch.full((h * w,), float(s)) for (h, w), s in zip(SHAPES, STRIDES, strict=True)])
    recorded = [math.inf] * len(points)
    for g, box in enumerate(ground_truth):
        size, centre = box[2:] - box[:2], (box[:2] + box[2:]) / 2
        stride = max([s for s in STRIDES if 4 * s <= size.prod().sqrt()], default=8)
        away = ((points - centre) / size).norm(dim=1)
        away[(stride_of != stride) | ~usable] = math.inf
        r = away.argmin().item()
        if away[r] < recorded[r]:
            recorded[r], match[r] = away[r].item(), g
    return match


def reppoints_loss(cls, first, final, p, ground_truth, priors):
    """Focal loss and smooth L1 of the final boxes, matched on the first ones; and of the first boxes by points."""
    usable = usable_locations()
    by_points, by_boxes = torch.full(usable.shape, IGNORED), torch.full(usable.shape, IGNORED)
    for b in range(2):
        kept = ground_truth.valid[b].nonzero()[:, 0]
        for matches, found in (
            (by_points, nearest_matches(ground_truth.boxes[b, kept], usable[b])),
            (by_boxes, max_iou_matches(first[b].detach(), ground_truth.boxes[b, kept], usable[b])),
        ):
            matches[b] = torch.tensor([kept[m].item() if m >= 0 else m for m in found])
    terms, side = {}, 4 * torch.cat([torch.full((h * w,), s) for (h, w), s in zip(SHAPES, STRIDES, strict=True)])
    for name, boxes, matches, weight in (("initial_box", first, by_points, 0.5), ("box", final, by_boxes, 1.0)):
        image, at = (matches >= 0).nonzero(as_tuple=True)
        away = (boxes[image, at] - ground_truth.boxes[image, matches[image, at]]).abs() / side[at][:, None]
        value = torch.where(away < 0.11, away**2 / 0.22, away - 0.055).sum()
        terms[name] = weight * value / (matches >= 0).sum(1).clamp(min=1).sum()
    target = torch.zeros_like(cls)
    target[image, at, ground_truth.labels[image, matches[image, at]]] = 1
    counts = (matches != IGNORED)[..., None]
    focal = sigmoid_focal_loss(cls, target, alpha=0.25, gamma=2) * counts
    terms["class"] = focal.sum() / (matches >= 0).sum(1).clamp(min=1).sum()
    return terms


@dataclass(frozen=True)
class Model:
    """A head with its objective, and the same as functions."""

    head: Head
    prior: object
    objective: Supervision
    level: object
    box: object
    loss: object


COMMON = {"convs": 4, "width": WIDTH, "norm": "group", "groups": GROUPS}
AT_STAR = ReadAt(towers=Star)
PRIORS = {"vfnet": Anchors(scale=8, octaves=1, ratios=(1.0,), centre=0.0), "reppoints": Points(scale=4, centre=0.0)}


def model(name: str) -> Model:
    if name == "vfnet":
        box = LogDistance()
        head = Head(12, CLASSES, 1, box, NoQuality, 5, AT_STAR, InitialStage("encoding", box), scales=True, **COMMON)
        terms = {
            "class": Term(varifocal_loss),
            "box": Term(giou_loss, 2.0, weight_by="iou"),
        }
        first = supervision(None, hard, {"box": Term(giou_loss, 1.5, weight_by="iou")}, count="batch")
        objective = supervision(
            ATSS(), partial(soft, minimum=1e-6), terms, count="batch", padding="negative", initial=first
        )
        return Model(head, PRIORS[name], objective, vfnet, box_of_distances, vfnet_loss)
    box, at = PointSet(), ReadAt(towers=Predicted)
    head = Head(
        12, CLASSES, 1, box, NoQuality, 5, at, InitialStage("encoding", box), kernel=1, last_norm=False, **COMMON
    )
    smooth = partial(smooth_l1_loss, beta=0.11)
    terms = {
        "class": Term(focal_loss),
        "box": Term(smooth, normalize_by_prior=True),
    }
    first = supervision(NearestPoint(), hard, {"box": Term(smooth, 0.5, normalize_by_prior=True)})
    objective = supervision(MaxIoU(), hard, terms, initial=first, reassign=True)
    return Model(head, PRIORS[name], objective, reppoints, box_of_points, reppoints_loss)


def pyramid(batch=2, channels=12):
    return [seeded(batch, channels, *shape, seed=i).requires_grad_() for i, shape in enumerate(SHAPES)]


@dataclass
class Both:
    """What our head and the functions make of the same features and weights."""

    model: Model
    features: list[torch.Tensor]
    prediction: Prediction
    copies: list[torch.Tensor]
    p: dict[str, torch.Tensor]
    cls: torch.Tensor
    first: torch.Tensor
    final: torch.Tensor


@pytest.fixture(params=["vfnet", "reppoints"])
def both(request) -> Both:
    ours, features = model(request.param), pyramid()
    wild(ours.head)
    with torch.no_grad():  # boxes of about the size of their prior
        if request.param == "vfnet":
            ours.head.box_out.bias.sub_(0.8)
        else:
            ours.head.box_out.bias.add_(2 * GRID.flatten())
    prediction = ours.head(features, ours.prior(SHAPES, STRIDES, CPU))
    copies = [f.detach().clone().requires_grad_() for f in features]
    p = {k: v.detach().clone().requires_grad_() for k, v in ours.head.named_parameters()}
    levels = [ours.level(x, p, i, stride) for i, (x, stride) in enumerate(zip(copies, STRIDES, strict=True))]
    cls, first, final = zip(*levels, strict=True)
    boxes = [
        torch.cat([ours.box(maps, s, p) for maps, s in zip(each, STRIDES, strict=True)], 1) for each in (first, final)
    ]
    return Both(ours, features, prediction, copies, p, torch.cat([rows(c) for c in cls], 1), *boxes)


def assert_near(mine, theirs, what="", relative=1e-5):
    """By the norm: single entries near 0 have no digits left in float32."""
    distance, size = (mine - theirs).norm().item(), theirs.norm().item()
    assert distance <= relative * size + 1e-9, f"{what}: {distance:g} off at a norm of {size:g}"


def test_outputs_equal_the_functions(both):
    assert both.prediction.quality is None
    assert_near(both.prediction.cls, both.cls, "cls")
    assert_near(both.prediction.initial.decode(), both.first, "first boxes")
    assert_near(both.prediction.decode(), both.final, "final boxes")
    assert (both.first - both.final).abs().mean() > 1  # px: the test would see a head that does not refine


def test_losses_and_gradients_equal_the_functions(both):
    ground_truth, priors = ground_truth_of_two_images(), both.prediction.priors
    mine = both.model.objective(both.prediction, ground_truth, SIZES)
    theirs = both.model.loss(both.cls, both.first, both.final, both.p, ground_truth, priors)
    assert set(mine) == {"class", "box", "initial_box"}
    for name, value in theirs.items():
        assert value > 0
        torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=0)
    total(mine).backward()
    sum(theirs.values()).backward()
    assert {k for k, v in both.p.items() if v.grad is None} == set()
    for name, parameter in both.model.head.named_parameters():
        assert_near(parameter.grad, both.p[name].grad, name)
    for level, (a, b) in enumerate(zip(both.features, both.copies, strict=True)):
        assert b.grad.norm() > 0
        assert_near(a.grad, b.grad, f"features {level}")


@pytest.mark.parametrize("name", ["vfnet", "reppoints"])
def test_an_optimiser_step_lowers_the_loss(name):
    torch.manual_seed(0)
    ours, features, ground_truth = model(name), pyramid(), ground_truth_of_two_images()
    priors = ours.prior(SHAPES, STRIDES, CPU)
    optimiser = torch.optim.SGD(ours.head.parameters(), lr=0.01)
    before = total(ours.objective(ours.head(features, priors), ground_truth, SIZES))
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.head.parameters())
    optimiser.step()
    after = total(ours.objective(ours.head(features, priors), ground_truth, SIZES))
    assert after < before


@pytest.mark.parametrize("name", ["vfnet", "reppoints"])
def test_images_without_truths_train_every_output(name):
    """No parameter may be left out of the graph, or a second rank would wait for its gradient."""
    ours, ground_truth = model(name), ground_truth_of_two_images()
    prediction = ours.head(pyramid(), ours.prior(SHAPES, STRIDES, CPU))
    losses = ours.objective(prediction, replace(ground_truth, valid=torch.zeros_like(ground_truth.valid)), SIZES)
    assert set(losses) == {"class", "box", "initial_box"} and losses["box"] == losses["initial_box"] == 0
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.head.parameters())
    assert ours.head.cls_out.bias.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["vfnet", "reppoints"])
def test_mixed_precision_is_near_and_finite(name):
    ours, ground_truth = model(name), ground_truth_of_two_images()
    wild(ours.head)
    priors, features = ours.prior(SHAPES, STRIDES, CPU), pyramid()
    exact = ours.head(features, priors)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = ours.head(features, priors)
    losses = ours.objective(prediction, ground_truth, SIZES)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in ours.head.parameters())
    assert_near(prediction.cls.float(), exact.cls, "cls", relative=0.2)
    assert_near(prediction.decode(), exact.decode(), "boxes", relative=0.05)


# What the sampler is told


class Spy(nn.Module):
    """A sampler that stays on the cell and keeps what it was called with."""

    extreme = False

    def __init__(self, width):
        super().__init__()
        self.width, self.shape, self.seen = width, (1, 1), []

    def forward(self, features, raw, sides):
        self.seen.append((features, raw, sides))
        return torch.zeros(len(features), 1, 2, *features.shape[-2:])


def sides_of(boxes, priors):
    """Distances (B, R, 4) in cells, of boxes in pixels."""
    x, y = priors.centres().unbind(-1)
    sides = torch.stack([x - boxes[..., 0], y - boxes[..., 1], boxes[..., 2] - x, boxes[..., 3] - y], -1)
    return sides / priors.stride[:, None]


BOXES = {
    "delta": Delta(stds=(0.1, 0.1, 0.2, 0.2)),
    "exp": Distance(activation="exp"),
    "clamp": Distance(activation="clamp"),
    "none": Distance(activation="none"),
    "log": LogDistance(),
    "gaussian": Gaussian(),
    "general": General(n=6, delta=0.5),
    "points": PointSet(),
    "minmax": PointSet(transform="minmax"),
}


@pytest.mark.parametrize("centre", [0.0, 0.5])
@pytest.mark.parametrize("name", BOXES)
def test_sides_that_a_sampler_sees_are_those_of_the_decoded_box(name, centre):
    head = wild(Head(12, CLASSES, 1, BOXES[name], NoQuality, 5, ReadAt(Spy), convs=2, width=WIDTH))
    priors = Points(scale=4.0, centre=centre)(SHAPES, STRIDES, CPU)
    prediction = head(features := pyramid(), priors)
    assert prediction.initial is None
    for x, (given, _, _) in zip(features, head.towers_at.seen, strict=True):  # those that the box comes from
        torch.testing.assert_close(given, head.box_tower(x))
    seen = torch.cat([rows(sides) for _, _, sides in head.towers_at.seen], 1)
    torch.testing.assert_close(seen, sides_of(prediction.decode(), priors), rtol=1e-4, atol=1e-3)
    raw = torch.cat([rows(raw) for _, raw, _ in head.towers_at.seen], 1)
    assert torch.equal(raw, prediction.raw)
    assert head.towers_at.width == WIDTH


@pytest.mark.parametrize("name", ["delta", "log", "points", "general"])
def test_sides_keep_their_precision_in_mixed_precision(name):
    """Of the output that the sampler is given, whatever precision that has."""
    head = wild(Head(12, CLASSES, 1, BOXES[name], NoQuality, 5, ReadAt(Spy), convs=2, width=WIDTH))
    priors = Points(scale=4.0)(SHAPES, STRIDES, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = head(pyramid(), priors)
    seen = torch.cat([rows(sides) for _, _, sides in head.towers_at.seen], 1)
    torch.testing.assert_close(seen, sides_of(prediction.decode(), priors), rtol=1e-4, atol=1e-3)


def test_an_estimate_reads_at_the_refined_box_and_the_towers_at_the_first():
    at, quality = ReadAt(Spy, quality=partial(Reader, Spy)), partial(Sampled, hidden=6)
    head = wild(Head(12, CLASSES, 1, LogDistance(), quality, 5, at, InitialStage("encoding", LogDistance()), **COMMON))
    priors = PRIORS["vfnet"](SHAPES, STRIDES, CPU)
    prediction = head(pyramid(), priors)
    for spy, boxes in (
        (head.towers_at, prediction.initial.decode()),
        (head.quality.inner.sampler, prediction.decode()),
    ):
        seen = torch.cat([rows(sides) for _, _, sides in spy.seen], 1)
        torch.testing.assert_close(seen, sides_of(boxes, priors), rtol=1e-4, atol=1e-3)
    assert prediction.quality.shape == (2, sum(h * w for h, w in SHAPES))


def test_refinement_gives_no_gradient_to_the_first_box_but_through_the_points():
    """Spy's points do not move: then nothing of the final boxes reaches the layer of the first ones."""
    first = InitialStage("encoding", LogDistance())
    head = wild(Head(12, CLASSES, 1, LogDistance(), NoQuality, 5, ReadAt(Spy), first, **COMMON))
    prediction = head(pyramid(), PRIORS["vfnet"](SHAPES, STRIDES, CPU))
    given = [head.box_out.weight, head.box_last[0].weight, head.refine_out.weight, head.box_tower[0].weight]
    slopes = torch.autograd.grad(prediction.raw.square().sum(), given, allow_unused=True, retain_graph=True)
    assert slopes[0] is None and slopes[1] is None
    assert slopes[2].abs().max() > 0 and slopes[3].abs().max() > 0
    slopes = torch.autograd.grad(prediction.initial.raw.square().sum(), given, allow_unused=True)
    assert slopes[2] is None and all(slope.abs().max() > 0 for slope in (slopes[0], slopes[1], slopes[3]))


def test_a_single_convolution_stands_on_the_pyramid_itself():
    """With channels of its own: both branches read the features at the points, the first box comes from one layer."""
    first = InitialStage("encoding", LogDistance())
    head = wild(Head(12, CLASSES, 1, LogDistance(), NoQuality, 5, AT_STAR, first, convs=1, width=WIDTH))
    p = dict(head.named_parameters())
    assert {name.split(".")[0] for name in p} == {
        *("box_last", "box_out", "cls_at", "cls_out", "refine_at", "refine_out"),
    }
    priors = PRIORS["vfnet"](SHAPES, STRIDES, CPU)
    prediction = head(features := pyramid(), priors)
    expected = [[], [], []]
    for x in features:
        first = conv(conv(x, p, "box_last.0").relu(), p, "box_out")
        left, top, right, bottom = (8 * first.exp()).unbind(1)
        none = torch.zeros_like(left)
        ys, xs = (-top, none, bottom), (-left, none, right)
        offset = torch.stack([axis for y in ys for x in xs for axis in (y, x)], 1) - GRID
        cls, box = (deform_conv2d(x, offset, p[f"{name}_at.weight"], padding=1).relu() for name in ("cls", "refine"))
        for output, maps in zip(
            expected, (conv(cls, p, "cls_out"), first, first + conv(box, p, "refine_out")), strict=True
        ):
            output.append(rows(maps))
    for mine, theirs in zip((prediction.cls, prediction.initial.raw, prediction.raw), expected, strict=True):
        assert_near(mine, torch.cat(theirs, 1))


def test_the_first_weights_of_layers_at_points_are_as_wide_as_the_towers():
    torch.manual_seed(0)
    first = InitialStage("encoding", LogDistance())
    head = Head(64, CLASSES, 1, LogDistance(), NoQuality, 5, AT_STAR, first, convs=2, width=64, tower_std=0.05)
    for layer in (head.cls_tower[0], head.box_tower[0], head.box_last[0], head.cls_at, head.refine_at):
        assert layer.weight.std().item() == pytest.approx(0.05, rel=0.05)


# Heads without a sampler, and what an estimate adds


@pytest.mark.parametrize("quality_on", ["box", "class"])
def test_a_head_without_sampler_is_towers_and_layers(quality_on):
    """Nothing else has parameters, and nothing else happens; nine numbers a cell come out prior by prior."""
    per_cell = 2
    head = wild(Head(12, CLASSES, per_cell, Delta(), ConvQuality, 5, convs=2, width=WIDTH, quality_on=quality_on))
    p = dict(head.named_parameters())
    assert {name.split(".")[0] for name in p} == {"cls_tower", "box_tower", "cls_out", "box_out", "quality"}
    priors = Anchors(octaves=2, ratios=(1.0,))(SHAPES, STRIDES, CPU)
    prediction = head(features := pyramid(), priors)
    assert prediction.initial is None and prediction.priors is priors
    outputs = [[], [], []]
    for x in features:
        cls, box = x, x
        for i in (0, 2):
            cls = F.conv2d(cls, p[f"cls_tower.{i}.weight"], p[f"cls_tower.{i}.bias"], padding=1).relu()
            box = F.conv2d(box, p[f"box_tower.{i}.weight"], p[f"box_tower.{i}.bias"], padding=1).relu()
        seen = box if quality_on == "box" else cls
        maps = conv(cls, p, "cls_out"), conv(box, p, "box_out"), conv(seen, p, "quality.conv")
        for output, one in zip(outputs, maps, strict=True):
            output.append(rows(one).reshape(2, -1, one.shape[1] // per_cell))
    for mine, theirs in zip((prediction.cls, prediction.raw, prediction.quality[..., None]), outputs, strict=True):
        torch.testing.assert_close(mine, torch.cat(theirs, 1), rtol=1e-4, atol=1e-5)


def test_statistics_are_of_the_same_prior_as_the_box():
    """Row by row, though maps hold the priors of a cell side by side."""
    head = wild(Head(12, CLASSES, 3, General(n=4), Statistics, 5, convs=1, width=WIDTH))
    prediction = head(pyramid(), Anchors(octaves=3, ratios=(1.0,))(SHAPES, STRIDES, CPU))
    alone = Statistics(EstimatorContext(WIDTH, 1, 5))
    alone.load_state_dict(head.quality.state_dict())
    expected = alone(None, prediction.raw.flatten(0, 1)[..., None, None], None)
    assert prediction.quality.std() > 0.01
    torch.testing.assert_close(prediction.quality, expected.reshape(2, -1), rtol=1e-4, atol=1e-5)


def test_composed_statistics_are_more_features_of_the_class_layer():
    """d x 3 x 3 x classes more weights than without, and the layer on the statistics; there is no estimate."""
    quality = partial(Composed, k=3, d=8)
    head = wild(Head(12, CLASSES, 1, General(n=4), quality, 5, convs=1, width=WIDTH))
    plain = Head(12, CLASSES, 1, General(n=4), NoQuality, 5, convs=1, width=WIDTH)
    more = sum(q.numel() for q in head.parameters()) - sum(q.numel() for q in plain.parameters())
    assert more == 8 * 9 * CLASSES + 4 * (3 + 1) * 8 + 8
    prediction = head(features := pyramid(), Points()(SHAPES, STRIDES, CPU))
    assert prediction.quality is None
    p, expected = dict(head.named_parameters()), []
    describe = Describe(EstimatorContext(WIDTH, 1, 5), 3, top=True, mean=True, variance=False, gradient=True)
    for x in features:
        cls = F.conv2d(x, p["cls_tower.0.weight"], p["cls_tower.0.bias"], padding=1).relu()
        box = F.conv2d(x, p["box_tower.0.weight"], p["box_tower.0.bias"], padding=1).relu()
        more = F.conv2d(describe(conv(box, p, "box_out")), p["quality.layer.weight"], p["quality.layer.bias"]).relu()
        expected.append(rows(conv(torch.cat([cls, more], 1), p, "cls_out")))
    torch.testing.assert_close(prediction.cls, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "per_cell, at, options, message",
    [
        (2, ReadAt(Star), {}, r"sampling\.towers"),
        (1, ReadAt(Star), {"convs": 0}, r"sampling\.towers"),
        (1, ReadAt(), {"residual": True}, r"head\.residual.* 12 and 256"),
    ],
)
def test_heads_that_cannot_be_are_refused(per_cell, at, options, message):
    with pytest.raises(ValueError, match=message):
        Head(12, CLASSES, per_cell, LogDistance(), NoQuality, 5, at, **options)


# Objectives by hand

LN3 = math.log(3)


def two_priors(raw, first=None, cls=0.0, quality=None):
    """Squares of 16 px at (0, 0), stride 8, and of 32 px at (40, 40), stride 16: their sides are one cell away.

    The ground truths are these squares, of class 1; outputs are distances in cells.
    """
    boxes = torch.tensor([[0.0, 0, 16, 16], [40, 40, 72, 72]])
    priors = Priors(boxes, boxes[:, :2], torch.tensor([8.0, 16.0]), (1, 1))
    raw = torch.tensor([raw]).requires_grad_()
    if first is not None:
        first = Prediction(None, torch.tensor([first]).requires_grad_(), None, priors, Distance(activation="none"))
    cls = torch.full((1, 2, 2), cls, requires_grad=True)
    quality = None if quality is None else torch.full((1, 2), quality, requires_grad=True)
    ground_truth = GroundTruthBatch(
        boxes[None], torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool)
    )
    return Prediction(cls, raw, quality, priors, Distance(activation="none"), first), ground_truth


LOWER = [[1.0, 1.0, 1.0, 0.5], [1.0, 1.0, 1.0, 0.75]]  # both end 4 px too early: IoU 3/4 and 7/8
SMALL = [[1.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 0.9]]  # 4 px in x and y: IoU 9/16; and 1.6 px in y: IoU 0.95
LARGE = torch.tensor([[96, 96]])


def of_first(term, assigner=None):
    """The objective of a first step with boxes alone."""
    return supervision(assigner, hard, {"box": term})


def evaluate(case, target=hard, sizes=LARGE, first=None, **terms):
    rule = supervision(MaxIoU(), target, {"class": Term(focal_loss), **terms}, initial=first)
    return rule(*case, sizes)


def smooth(x):
    return x**2 / 0.22 if x < 0.11 else x - 0.055


def test_boxes_in_sides_of_their_prior_by_hand():
    case = two_priors(LOWER, SMALL)
    losses = evaluate(
        case,
        box=Term(smooth_l1_loss, normalize_by_prior=True),
        first=of_first(Term(smooth_l1_loss, 0.5, normalize_by_prior=True)),
    )
    assert losses["box"].item() == pytest.approx((smooth(4 / 16) + smooth(4 / 32)) / 2, rel=1e-5)
    assert losses["initial_box"].item() == pytest.approx(0.5 * (2 * smooth(4 / 16) + smooth(1.6 / 32)) / 2, rel=1e-4)
    losses = evaluate(case, box=Term(smooth_l1_loss), first=of_first(Term(smooth_l1_loss, normalize_by_prior=False)))
    assert losses["box"].item() == pytest.approx((smooth(4) + smooth(4)) / 2, rel=1e-5)
    assert losses["initial_box"].item() == pytest.approx((2 * smooth(4) + smooth(1.6)) / 2, rel=1e-5)


def test_iou_losses_know_no_unit():
    for unit in ("side", "pixel"):
        losses = evaluate(two_priors(LOWER), box=Term(giou_loss, normalize_by_prior=unit == "side"))
        assert losses["box"].item() == pytest.approx((1 / 4 + 1 / 8) / 2, rel=1e-5)


def test_first_boxes_are_weighted_by_their_own_iou_by_hand():
    losses = evaluate(
        two_priors(LOWER, SMALL),
        box=Term(giou_loss, 2.0, weight_by="iou"),
        first=of_first(Term(giou_loss, 1.5, weight_by="iou")),
    )
    assert losses["box"].item() == pytest.approx(2 * (3 / 4 * 1 / 4 + 7 / 8 * 1 / 8) / (3 / 4 + 7 / 8), rel=1e-5)
    mean = (9 / 16 * 7 / 16 + 0.95 * 0.05) / (9 / 16 + 0.95)
    assert losses["initial_box"].item() == pytest.approx(1.5 * mean, rel=1e-5)


def test_the_term_of_first_boxes_needs_first_boxes():
    assert set(evaluate(two_priors(LOWER), first=of_first(Term(giou_loss)))) == {"class"}
    assert set(evaluate(two_priors(LOWER, SMALL))) == {"class"}


def test_final_boxes_are_matched_on_the_first_and_these_on_the_priors():
    """First boxes of 8 x 8 and 32 x 32 px, of IoU 1/4 and 1 with the ground truths.

    Then only the second is positive.
    """
    case = two_priors(LOWER, [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    alone, terms = MaxIoU(best_prior=False), {"class": Term(focal_loss), "box": Term(giou_loss)}

    def losses(own=None, **options):
        return supervision(alone, hard, terms, initial=of_first(Term(giou_loss), own), **options)(*case, LARGE)

    plain = losses()  # both positive in both terms: N = 2
    assert plain["box"].item() == pytest.approx((1 / 4 + 1 / 8) / 2, rel=1e-5)
    assert plain["initial_box"].item() == pytest.approx((3 / 4 + 0) / 2, rel=1e-5)
    again = losses(alone, reassign=True)
    assert again["box"].item() == pytest.approx(1 / 8, rel=1e-5)
    assert again["initial_box"].item() == pytest.approx((3 / 4 + 0) / 2, rel=1e-5)
    # the first location is a negative of both classes now
    assert again["class"].item() == pytest.approx((focal(1 / 2, 1) + 3 * focal(1 / 2, 0)) / 1, rel=1e-5)
    same = losses(reassign=True)  # without an assigner of their own the first boxes share the final matches
    assert same["initial_box"].item() == pytest.approx(0, abs=1e-6)
    without = replace(case[0], initial=None)
    objective = supervision(alone, hard, {"class": Term(focal_loss)}, reassign=True)
    assert objective.match(without, case[1], LARGE).tolist() == [[0, 1]]
    assert objective.match(case[0], case[1], LARGE).tolist() == [[BACKGROUND, 1]]


def test_first_boxes_are_matched_by_an_assigner_of_their_own():
    """It sees the priors, the ground truths and the usable locations; its positives are counted for its term alone."""
    calls = []

    def only_second(priors, ground_truth, usable):
        calls.append((priors, ground_truth, usable))
        return torch.tensor([[BACKGROUND, 1]])

    case = two_priors(LOWER, SMALL)
    first = of_first(Term(giou_loss), only_second)
    losses = evaluate(case, box=Term(giou_loss), first=first)
    assert losses["box"].item() == pytest.approx((1 / 4 + 1 / 8) / 2, rel=1e-5)
    assert losses["initial_box"].item() == pytest.approx(0.05, rel=1e-4)
    ((priors, ground_truth, usable),) = calls
    assert priors is case[0].priors and ground_truth.boxes is case[1].boxes and usable.tolist() == [[True, True]]
    calls.clear()
    evaluate(case, sizes=torch.tensor([[32, 32]]), first=first)
    assert calls[0][2].tolist() == [[True, False]]


def focal(p: float, target: int) -> float:
    return -(1 / 4) * (1 - p) ** 2 * math.log(p) if target else -(3 / 4) * p**2 * math.log(1 - p)


def test_locations_in_the_padding_are_ignored_or_negatives():
    """Three locations: a positive, one that its assigner ignores within the image, one in the padding."""
    prediction, ground_truth = two_priors(LOWER)
    boxes = torch.tensor([[0.0, 0, 16, 16], [16, 0, 32, 16], [40, 40, 56, 56]])
    priors = Priors(boxes, boxes[:, :2], torch.full((3,), 8.0), (3,))
    prediction = replace(prediction, cls=torch.zeros(1, 3, 2), raw=torch.zeros(1, 3, 4), priors=priors)
    seen = []

    def matches(_, __, usable):
        seen.append(usable.tolist())
        return torch.tensor([[0, IGNORED, IGNORED]])

    for padding, more in (("ignored", 0.0), ("negative", 2 * focal(1 / 2, 0))):
        objective = supervision(matches, hard, {"class": Term(focal_loss)}, padding=padding)
        loss = objective(prediction, ground_truth, torch.tensor([[32, 32]]))["class"]
        assert loss.item() == pytest.approx(focal(1 / 2, 1) + focal(1 / 2, 0) + more, rel=1e-5)
        # a larger image has no padding there: the assigner's word counts
        loss = objective(prediction, ground_truth, torch.tensor([[64, 64]]))["class"]
        assert loss.item() == pytest.approx(focal(1 / 2, 1) + focal(1 / 2, 0), rel=1e-5)
    assert seen == 2 * [[[True, True, False]], [[True, True, True]]]


def test_joint_score_by_hand():
    """C = 1/2, I = 3/4, J = 3/8: quality focal loss towards the IoU, 3/4 and 7/8, of the product."""
    case = two_priors(LOWER, quality=LN3)
    weighted = {"box": Term(giou_loss, weight_by="score", min_normalizer=1e-6)}
    losses = evaluate(case, soft, **{"class": Term(quality_focal_loss, score="joint")}, **weighted)
    assert set(losses) == {"class", "box"}  # the estimate has no term of its own

    def qfl(p, y):
        return (p - y) ** 2 * -(y * math.log(p) + (1 - y) * math.log(1 - p))

    expected = sum(qfl(3 / 8, y) for y in (3 / 4, 7 / 8, 0, 0)) / 2
    assert losses["class"].item() == pytest.approx(expected, rel=1e-5)
    own = evaluate(case, soft, **{"class": Term(quality_focal_loss)}, **weighted)
    assert own["class"].item() == pytest.approx(sum(qfl(1 / 2, y) for y in (3 / 4, 7 / 8, 0, 0)) / 2, rel=1e-5)
    slopes = torch.autograd.grad(losses["class"], [case[0].cls, case[0].quality])
    for slope, part in zip(slopes, (1 / 2, 1 / 4), strict=True):  # dJ = J (1 - C) dc = J (1 - I) di

        def slope_of(y, share=part):
            p = 3 / 8
            by_p = 2 * (p - y) * -(y * math.log(p) + (1 - y) * math.log(1 - p)) + (p - y) ** 2 * (
                (1 - y) / (1 - p) - y / p
            )
            return by_p * p * share / 2

        if slope.ndim == 3:
            hand = [[slope_of(0), slope_of(3 / 4)], [slope_of(0), slope_of(7 / 8)]]
        else:
            hand = [slope_of(0) + slope_of(3 / 4), slope_of(0) + slope_of(7 / 8)]
        torch.testing.assert_close(slope[0], torch.tensor(hand), rtol=1e-4, atol=1e-7)
    assert torch.autograd.grad(
        evaluate(case, soft, **{"class": Term(quality_focal_loss)})["class"], case[0].quality, allow_unused=True
    ) == (None,)


def test_boxes_are_weighted_by_the_joint_score():
    """The first location: C = 3/4 for one class, I = 3/4, J = 9/16; the second: 3/8 for both classes."""
    prediction, ground_truth = two_priors(LOWER, quality=LN3)
    prediction = replace(prediction, cls=torch.tensor([[[LN3, 0.0], [0.0, 0.0]]]))
    for score, first, second in (("joint", 9 / 16, 3 / 8), ("class", 3 / 4, 1 / 2)):
        parts = {
            "class": Term(quality_focal_loss, score=score),
            "box": Term(giou_loss, 2.0, weight_by="score", min_normalizer=1e-6),
        }
        losses = evaluate((prediction, ground_truth), soft, **parts)
        mean = (first * 1 / 4 + second * 1 / 8) / (first + second)
        assert losses["box"].item() == pytest.approx(2 * mean, rel=1e-5)


def test_without_an_estimate_the_class_score_is_the_joint_one():
    """The composed form: what comes out of the class layer is J itself."""
    joint, own = (
        evaluate(two_priors(LOWER), soft, **{"class": Term(quality_focal_loss, score=score)})["class"]
        for score in ("joint", "class")
    )
    assert joint == own


@pytest.mark.parametrize("floor, expected", [(0.0, 0.0), (1e-6, 1e-6), (0.3, 0.3)])
def test_target_of_a_positive_has_a_floor(floor, expected):
    """VFNet's code.

    A positive whose box misses its ground truth keeps the factor of positives, with a target of 1e-6.
    """
    assert soft(torch.tensor([0.0, 0.5, 1.0]), minimum=floor).tolist() == pytest.approx([expected, 0.5, 1.0])
    away = [[5.0, 5.0, -4.0, -4.0], [1.0, 1.0, 1.0, 1.0]]  # the first box lies outside its ground truth
    target = partial(soft, minimum=floor)
    loss = evaluate(two_priors(away, cls=0.0), target, **{"class": Term(varifocal_loss)})["class"]
    ln2, negative = math.log(2), 0.75 / 4 * math.log(2)
    missed = expected * ln2 if floor else negative
    assert loss.item() == pytest.approx((missed + ln2 + 2 * negative) / 2, rel=1e-6)
