"""PASSD's prediction module against its equations (arXiv 1907.12736) written down as functions; its recipes."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, deform_conv2d

from helpers.supervision import recipe_supervision, supervision
from qrepro.assign import MaxIoU
from qrepro.box_coder import Delta
from qrepro.data.loader import loader
from qrepro.detector import Head, InitialStage, ReadAt
from qrepro.engine.datasets import evaluation_views, open_split
from qrepro.engine.predict import predict
from qrepro.ground_truth import GroundTruthBatch
from qrepro.losses import smooth_l1_loss, softmax_loss
from qrepro.objective import Term, total
from qrepro.priors import Anchors
from qrepro.quality import NoQuality
from qrepro.recipe.axes import resolve
from qrepro.recipe.build import build_detector
from qrepro.recipe.describe import facts
from qrepro.records.score_rule import Rule
from qrepro.sampling import Grid, Learned, Region
from qrepro.target import hard

SHAPES, STRIDES = [(8, 10), (4, 5), (2, 3)], (8, 16, 32)  # of 64 x 80 px
SIZES = torch.tensor([[64, 80], [64, 80]])
WIDTH, CLASSES, A = 6, 3, 3
STDS = torch.tensor([0.1, 0.1, 0.2, 0.2])
RULE = MaxIoU(positive=0.5, negative=0.5, ties=False)
PRIOR = Anchors(scale=2, octaves=A, ratios=(1.0,))
TERMS = {"class": Term(softmax_loss), "encoding": Term(partial(smooth_l1_loss, beta=1.0))}
OBJECTIVE = supervision(
    RULE,
    hard,
    TERMS,
    count="batch",
    negatives=3,
    initial=supervision(RULE, hard, TERMS, count="batch", negatives=3),
    reassign=True,
)
BOXES = Delta(stds=tuple(STDS.tolist()))


def head_of(sampler, clip=True) -> Head:
    torch.manual_seed(0)
    first = InitialStage("box", Delta(stds=tuple(STDS.tolist()), clip=clip), objectness=True)
    head = Head(WIDTH, CLASSES, A, BOXES, NoQuality, 3, ReadAt(outputs=sampler), first, convs=0, scores="softmax")
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.normal_(std=0.1 if "bias" in name else 0.3)
    return head


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, WIDTH, *shape, generator=generator).requires_grad_() for shape in SHAPES]


def ground_truth() -> GroundTruthBatch:
    boxes = [[[4, 6, 30, 34], [40, 10, 76, 60], [20, 30, 32, 44]], [[10, 10, 50, 40], [0, 0, 0, 0], [0, 0, 0, 0]]]
    valid = torch.tensor([[True, True, True], [True, False, False]])
    return GroundTruthBatch(torch.tensor(boxes, dtype=torch.float32), torch.tensor([[0, 2, 1], [1, 0, 0]]), valid)


def rows(maps):
    """(B, A K, H, W) -> (B, H W A, K)."""
    return maps.unflatten(1, (A, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def default_boxes():
    """Centre, size and stride of the boxes of every level, cell by cell, smallest first."""
    made = []
    for (height, width), stride in zip(SHAPES, STRIDES, strict=True):
        for y in range(height):
            for x in range(width):
                sides = [2 * stride * 2 ** (i / A) for i in range(A)]
                made += [[(x + 0.5) * stride, (y + 0.5) * stride, side, side, stride] for side in sides]
    return torch.tensor(made).split([2, 2, 1], -1)


def proposed(raw, clip):
    """Centre, size and codes of the adjusted boxes: eq. 1 and 2."""
    centre, size, stride = default_boxes()
    delta = torch.cat([raw[..., :2].tanh() * stride / (2 * size), raw[..., 2:] * STDS[2:]], -1)
    if not clip:
        delta = raw * STDS
    return centre + delta[..., :2] * size, size * delta[..., 2:].exp(), delta / STDS


def attended(x, raw, stride, p, layer, clip):
    """A prediction layer of one level, read at eq. 4, for each default box at its own offsets."""
    maps = []
    for i in range(A):
        side = 2 * stride * 2 ** (i / A)
        dx, dy, dw, dh = raw[:, 4 * i : 4 * i + 4].unbind(1)
        if clip:
            right, down = dx.tanh() / 2, dy.tanh() / 2  # of a cell
        else:
            right, down = dx * 0.1 * side / stride, dy * 0.1 * side / stride
        w, h = side / stride * (0.2 * dw).exp(), side / stride * (0.2 * dh).exp()
        offsets = [o for r in (-1, 0, 1) for c in (-1, 0, 1) for o in (r * h / 3 + down - r, c * w / 3 + right - c)]
        weight = p[f"{layer}.layers.{i}.weight"]
        maps.append(deform_conv2d(x, torch.stack(offsets, 1).detach(), weight, padding=1))
    return torch.cat(maps, 1) + p[f"{layer}.bias"][:, None, None]


@pytest.mark.parametrize("clip", [True, False])
def test_outputs_losses_and_gradients_equal_the_equations(clip):
    head, given = head_of(partial(Region, bins=3, share=0.0), clip), features()
    prediction = head(given, PRIOR(SHAPES, STRIDES, torch.device("cpu")))
    copies, p = features(), {k: v.detach().clone().requires_grad_() for k, v in head.named_parameters()}
    levels = []
    for x, stride in zip(copies, STRIDES, strict=True):
        objects = F.conv2d(x, p["object_out.weight"], p["object_out.bias"], padding=1)
        raw = F.conv2d(x, p["box_out.weight"], p["box_out.bias"], padding=1)
        cls, box = (attended(x, raw, stride, p, layer, clip) for layer in ("cls_out", "refine_out"))
        levels.append([rows(one) for one in (objects, raw, cls, box)])
    objects, raw, cls, box = (torch.cat(one, 1) for one in zip(*levels, strict=True))
    assert set(p) == {name for name, _ in head.named_parameters()}
    for mine, theirs in ((prediction.initial.cls, objects), (prediction.initial.raw, raw), (prediction.cls, cls)):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prediction.raw, box, rtol=1e-4, atol=1e-4)

    centre, size, codes = proposed(raw, clip)
    adjusted = torch.cat([centre - size / 2, centre + size / 2], -1).detach()
    torch.testing.assert_close(prediction.initial.decode(), adjusted, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(prediction.priors.boxes, adjusted, rtol=1e-5, atol=1e-3)
    assert not prediction.priors.boxes.requires_grad
    final = centre.detach() + box[..., :2] * 0.1 * size.detach()
    half = size.detach() * (box[..., 2:] * 0.2).exp() / 2
    torch.testing.assert_close(prediction.decode(), torch.cat([final - half, final + half], -1), rtol=1e-4, atol=1e-3)

    default = torch.cat([default_boxes()[0] - default_boxes()[1] / 2, default_boxes()[0] + default_boxes()[1] / 2], -1)
    losses = OBJECTIVE(prediction, ground_truth(), SIZES)
    expected = {
        **dict(zip(("class", "encoding"), loss(cls, box, adjusted, False), strict=True)),
        **dict(
            zip(
                ("initial_class", "initial_encoding"), loss(objects, codes, default.expand(2, -1, 4), True), strict=True
            )
        ),
    }
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=0, msg=name)
    total(losses).backward()
    sum(expected.values()).backward()
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, p[name].grad, rtol=1e-3, atol=1e-5, msg=name)
    for mine, theirs in zip(given, copies, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def loss(cls, codes, boxes, agnostic):
    """Cross-entropy of positives and of the three hardest negatives each, and smooth L1; by the positives of both."""
    given, found, entropy, smooth = ground_truth(), 0, 0.0, 0.0
    for i in range(2):
        true, labels = given.boxes[i, given.valid[i]], given.labels[i, given.valid[i]]
        iou = box_iou(true, boxes[i])
        best, owner = iou.max(0)
        owner[best < 0.5] = -1
        for j, row in enumerate(iou):
            owner[row.argmax()] = j
        label = torch.full((len(owner),), cls.shape[-1] - 1)
        label[owner >= 0] = 0 if agnostic else labels[owner[owner >= 0]]
        value = F.cross_entropy(cls[i], label, reduction="none")
        count = int((owner >= 0).sum())
        hardest = value[owner < 0].sort(descending=True).values[: 3 * count]
        entropy = entropy + value[owner >= 0].sum() + hardest.sum()
        box, at = true[owner[owner >= 0]], boxes[i, owner >= 0]
        sides, old = box[:, 2:] - box[:, :2], at[:, 2:] - at[:, :2]
        shift = ((box[:, :2] + box[:, 2:]) - (at[:, :2] + at[:, 2:])) / 2 / old
        wanted = torch.cat([shift, (sides / old).log()], -1) / STDS
        smooth = smooth + F.smooth_l1_loss(codes[i, owner >= 0], wanted, reduction="sum")
        found += count
    return entropy / found, smooth / found


def test_centres_stay_in_their_half_cell():
    """However large the output; without the clip they leave it."""
    for clip in (True, False):
        box = Delta(clip=clip)
        priors = PRIOR(SHAPES, STRIDES, torch.device("cpu"))
        raw = 9 * torch.randn(len(priors.boxes), 4, generator=torch.Generator().manual_seed(0))
        found = box.decode(raw, priors)
        moved = ((found[:, :2] + found[:, 2:]) / 2 - priors.centres()).abs() / priors.stride[:, None]
        assert (moved.max() <= 0.5 + 1e-4) == clip and moved.max() > 0.49


def test_a_share_of_the_gradient_reaches_the_proposals_through_the_points():
    for share, reached in ((0.0, False), (0.5, True)):
        head = head_of(partial(Region, bins=3, share=share))
        prediction = head(features(), PRIOR(SHAPES, STRIDES, torch.device("cpu")))
        (slope,) = torch.autograd.grad(prediction.cls.square().sum(), head.box_out.weight, allow_unused=True)
        assert (slope is not None and bool(slope.abs().max() > 0)) == reached


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_grid_is_a_dilated_convolution(dilation):
    head, given = head_of(partial(Grid, dilation=dilation)), features()
    prediction = head(given, PRIOR(SHAPES, STRIDES, torch.device("cpu")))
    for mine, layer in ((prediction.cls, head.cls_out), (prediction.raw, head.refine_out)):
        (only,) = layer.layers
        maps = [F.conv2d(x, only.weight, layer.bias, padding=dilation, dilation=dilation) for x in given]
        torch.testing.assert_close(mine, torch.cat([rows(one) for one in maps], 1), rtol=1e-4, atol=1e-4)


def test_learned_points_are_one_set_for_both_layers_and_all_default_boxes():
    head = head_of(Learned)
    offsets = [p.shape for name, p in head.named_parameters() if "offset" in name]
    assert offsets == [(18, WIDTH, 3, 3), (18,)]
    assert len(head.cls_out.layers) == len(head.refine_out.layers) == 1


def test_without_objects_there_is_no_loss():
    """Zero positives leave zero negatives in either step."""
    head = head_of(partial(Region, bins=3, share=0.0))
    prediction = head(features(), PRIOR(SHAPES, STRIDES, torch.device("cpu")))
    none = GroundTruthBatch(
        torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool)
    )
    losses = OBJECTIVE(prediction, none, SIZES)
    assert set(losses) == {"class", "encoding", "initial_class", "initial_encoding"}
    assert all(value == 0 for value in losses.values())
    total(losses).backward()
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())


# The printed sizes: setup.md, "Parameter accounting" (printed numbers behind the recomputed ones).
VOC = {
    "plain320": 24.822,  # 24.82
    "clipped320": 24.863,  # 24.87
    "unclipped320": 24.863,
    "dilation2_320": 24.863,
    "dilation3_320": 24.863,
    "passd320": 24.863,
    "passd512": 24.863,
    "deformable320": 24.905,  # 24.91
    "convs1_320": 26.002,  # 26.00
    "convs2_320": 27.182,  # 27.19
    "resblocks1_320": 27.182,  # 27.19
    "resblocks2_320": 29.542,  # 29.55
}
COCO = {  # millions, MiB of float32
    "passd320": (25.278, 96.4),  # 25, 96
    "passd512": (25.278, 96.4),
    "passd320_r101": (47.476, 181.1),  # 47, 181
    "passd512_r101": (47.476, 181.1),
    "passd768_r101": (48.150, 183.7),  # 48, 184
    "passd320_mobilenet": (6.734, None),  # 6.7
}
PRINTED = {24.822: 24.82, 24.863: 24.87, 24.905: 24.91, 26.002: 26.00, 27.182: 27.19, 29.542: 29.55}
PER_IMAGE = {320: 6375, 512: 16_320, 768: 36_828}


@pytest.mark.parametrize("name, millions", VOC.items())
def test_parameters_on_voc(name, millions):
    found = facts(resolve(f"passd/{name}", "voc"))
    assert round(found["parameters"] / 1e6, 3) == millions
    assert abs(found["parameters"] / 1e6 - PRINTED[millions]) < 0.01
    assert found["priors an image"] == PER_IMAGE[512 if "512" in name else 320]


@pytest.mark.parametrize("name, expected", COCO.items())
def test_parameters_and_boxes_on_coco(name, expected):
    found, (millions, size) = facts(resolve(f"passd/{name}")), expected
    assert round(found["parameters"] / 1e6, 3) == millions
    assert size is None or round(found["parameters"] * 4 / 2**20, 1) == size
    side = next(n for n in PER_IMAGE if str(n) in name)
    assert found["input (height, width)"] == [side, side] and found["priors an image"] == PER_IMAGE[side]


def test_training_of_the_paper():
    voc, coco = resolve("passd/passd320", "voc"), resolve("passd/passd320")
    for recipe, lr, steps, epochs, smallest in ((voc, 4e-3, [150, 200], 250, 32), (coco, 2e-3, [80, 100], 120, 25.4)):
        schedule = recipe.schedule
        assert (schedule.optimiser.lr, schedule.decay.at, schedule.epochs, schedule.batch) == (lr, steps, epochs, 32)
        assert schedule.optimiser.lr * schedule.warmup.ratio == pytest.approx(1e-6)
        assert (schedule.warmup.epochs, schedule.optimiser.weight_decay) == (5, 5e-4)
        prior = recipe.prior.build({"anchors": Anchors})
        sides = prior.shapes(0, 8)[:, 0]
        assert sides[0] == pytest.approx(smallest, abs=0.01)
        torch.testing.assert_close(sides / sides[0], 2 ** (torch.arange(3) / 3))
        kinds = [part.kind for part in recipe.image.train]
        assert kinds == ["photometric", "zoom_out", "crop_iou", "resize_exact", "flip"]
        process = recipe.postprocess.options
        assert (process["score_thr"], process["max_per_img"], process["iou_thr"]) == (0.01, 200, 0.45)
    assert voc.postprocess.options["suppression"] == "hard" and coco.postprocess.options["suppression"] != "hard"
    largest = resolve("passd/passd768_r101").schedule
    assert (largest.batch, largest.optimiser.lr * largest.batch / largest.optimiser.lr_batch) == (24, 2e-3)


def test_a_whole_detector_gives_finite_losses_and_reaches_every_weight():
    recipe = resolve("passd/passd320", "shapes")
    detector, objective = build_detector(recipe), recipe_supervision(recipe)
    prediction = detector(torch.randn(2, 3, 128, 192))
    losses = objective(prediction, ground_truth(), torch.tensor([[128, 160], [100, 160]]))
    assert all(math.isfinite(value.item()) for value in losses.values())
    total(losses).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


def predicted(shapes, *overrides):
    torch.manual_seed(0)
    recipe = resolve("passd/passd320", "shapes", ["data.limit=3", *overrides])
    annotations = open_split(recipe, shapes, recipe.data.eval)
    detector = build_detector(recipe).eval()
    outputs = predict(recipe, detector, annotations, [Rule.parse("class")], device=torch.device("cpu"), batch=3)
    return recipe, annotations, detector, outputs


def test_matches_of_every_truth_before_and_after_proposing(shapes):
    recipe, annotations, detector, outputs = predicted(shapes)
    (batch,) = loader(evaluation_views(recipe, annotations), [[(i, 0) for i in range(3)]], recipe.image.pad, 0, False)
    with torch.no_grad():
        prediction = detector(batch.images)
    default = prediction.initial.priors.boxes.expand(3, -1, 4)
    for name, boxes in (("initial", default), ("adjusted", prediction.priors.boxes)):
        counts, sides, places = [], [], []
        for i in range(3):
            true = batch.ground_truth.boxes[i, batch.ground_truth.valid[i]]
            inside = (prediction.priors.cells < (-(-batch.sizes[i] // 64) * 64).flip(0)).all(-1)
            iou = box_iou(true, boxes[i]) * inside
            best, owner = iou.max(0)
            owner[best < 0.5] = -1
            for j, row in enumerate(iou):
                if row.max() > 0:
                    owner[row.argmax()] = j
            counts += [int((owner == j).sum()) for j in range(len(true))]
            sides += (true[:, 2:] - true[:, :2]).prod(-1).sqrt().tolist()
            places += (true / batch.scale[i].repeat(2)).tolist()
        assert outputs.assignments[name].tolist() == counts and sum(counts) > 0
        assert outputs.assignments["side"].tolist() == pytest.approx(sides)
        for column, values in zip(("x1", "y1", "x2", "y2"), zip(*places, strict=True), strict=True):
            assert outputs.assignments[column].tolist() == pytest.approx(values, abs=1e-3)
    ids = [image.id for image in annotations.images]
    counts = batch.ground_truth.valid.sum(1).tolist()
    assert outputs.assignments["image_id"].tolist() == [ids[i] for i in range(3) for _ in range(counts[i])]
    assert len(outputs.positives) == outputs.assignments["adjusted"].sum()


def test_one_step_has_initial_matches_alone(shapes):
    _, _, _, outputs = predicted(shapes, "initial=null", "sampling.outputs=null")
    assert "adjusted" not in outputs.assignments and outputs.assignments["initial"].sum() == len(outputs.positives)


def test_views_of_a_detector_whose_priors_differ_by_image(shapes):
    _, _, _, outputs = predicted(shapes, 'image.tta={"short": [128, 96], "long": 160}', "postprocess.score_thr=0")
    assert len(outputs.detections[Rule()]) > 0 and outputs.detections[Rule()]["level"].max() >= 4
