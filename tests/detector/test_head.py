"""Heads on MMDetection's weights: outputs, losses, gradients and detections."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from helpers.supervision import supervision
from qrepro.assign import ATSS, MaxIoU, Ranges
from qrepro.box_coder import Delta, Distance, General
from qrepro.detector import Head, Prediction
from qrepro.ground_truth import GroundTruthBatch
from qrepro.losses import bce_loss, distribution_focal_loss, focal_loss, giou_loss, quality_focal_loss, smooth_l1_loss
from qrepro.objective import Term
from qrepro.postprocess import PostProcess
from qrepro.priors import Anchors, Points
from qrepro.quality import ConvQuality, NoQuality
from qrepro.ranking import DenseOutputs, rank
from qrepro.recipe.axes import resolve
from qrepro.recipe.build import build_detector
from qrepro.records.score_rule import Rule
from qrepro.target import CLASS_TARGETS

STRIDES = (8, 16, 32, 64, 128)
NAMES = {"cls_convs": "cls_tower", "reg_convs": "box_tower", "scales": "scales"}
OUTPUTS = {"cls": "cls_out", "reg": "box_out", "centerness": "quality.conv"}


@dataclass(frozen=True)
class Host:
    """A detector of MMDetection in our parts. losses: our name of each of its terms."""

    box: object
    prior: object
    assigner: Callable
    terms: dict[str, Term]
    losses: dict[str, str]
    quality: Callable = NoQuality
    rule: str = "class"
    target: str = "hard"
    count: str = "images"
    nms: float = 0.6
    head: dict = field(default_factory=dict)


NORMED = {"norm": "group", "groups": 4, "scales": True}
SQUARE = Anchors(scale=8, octaves=1, ratios=(1.0,), centre=0.0)
BOX_TERM = {"loss_cls": "class", "loss_bbox": "box"}
HOSTS = {
    "retina": Host(
        Delta(),
        Anchors(centre=0.0),
        MaxIoU(),
        {"class": Term(focal_loss), "encoding": Term(smooth_l1_loss)},
        {"loss_cls": "class", "loss_bbox": "encoding"},
        nms=0.5,
    ),
    "atss": Host(
        Delta(stds=(0.1, 0.1, 0.2, 0.2)),
        SQUARE,
        ATSS(),
        {
            "class": Term(focal_loss),
            "box": Term(giou_loss, 2.0, weight_by="centerness"),
            "quality": Term(bce_loss, target="centerness"),
        },
        {**BOX_TERM, "loss_centerness": "quality"},
        ConvQuality,
        "product",
        head=NORMED,
    ),
    "gfl": Host(
        General(n=16),
        SQUARE,
        ATSS(),
        {
            "class": Term(quality_focal_loss),
            "box": Term(giou_loss, 2.0, weight_by="score"),
            "encoding": Term(distribution_focal_loss, 0.25, weight_by="score"),
        },
        {**BOX_TERM, "loss_dfl": "encoding"},
        target="iou",
        head=NORMED,
    ),
    "fcos": Host(
        Distance(activation="clamp"),
        Points(),
        Ranges(),
        {
            "class": Term(focal_loss),
            "box": Term(giou_loss, weight_by="centerness", min_normalizer=1e-6),
            "quality": Term(bce_loss, target="centerness"),
        },
        {**BOX_TERM, "loss_centerness": "quality"},
        ConvQuality,
        "product",
        count="batch",
        head={**NORMED, "bias": "always"},
    ),
}


def ours(name: str, normed: bool) -> str | None:
    """Our name of a parameter of a head of MMDetection; None for what is no parameter of ours."""
    part, *rest = name.split(".")
    if part.endswith("_convs"):
        at = int(rest[0]) * (3 if normed else 2) + (rest[1] == "gn")  # convolution, (norm,) ReLU, convolution, ...
        return ".".join([NAMES[part], str(at), rest[2]])
    if part == "scales":
        return f"scales.{rest[0]}"
    if part == "integral":
        return None
    return ".".join([OUTPUTS[part.split("_")[-1]], *rest])


@dataclass
class Case:
    """A host on the reference's weights and features."""

    host: Host
    ref: dict[str, torch.Tensor]
    head: Head
    features: list[torch.Tensor]
    prediction: Prediction
    ground_truth: GroundTruthBatch
    sizes: torch.Tensor

    @property
    def names(self) -> dict[str, str]:
        """Names of the reference by ours."""
        kept = {ours(k[2:], "norm" in self.host.head): k[2:] for k in self.ref if k.startswith("p/")}
        return {mine: theirs for mine, theirs in kept.items() if mine}


@pytest.fixture(params=HOSTS)
def case(golden, request) -> Case:
    host, ref = HOSTS[request.param], golden(f"head_{request.param}")
    head = Head(16, 4, host.prior.per_cell, host.box, host.quality, convs=2, width=16, **host.head)
    features = [ref[f"feat{i}"].requires_grad_() for i in range(5)]
    priors = host.prior([tuple(f.shape[-2:]) for f in features], STRIDES, torch.device("cpu"))
    ground_truth = GroundTruthBatch(
        torch.stack([ref["gt_boxes"], torch.zeros(7, 4)]),
        torch.stack([ref["gt_labels"], torch.zeros(7, dtype=torch.int64)]),
        torch.tensor([[True] * 7, [False] * 7]),
    )
    made = Case(
        host,
        ref,
        head,
        features,
        Prediction(None, None, None, priors, host.box),
        ground_truth,
        ref["image_size"].repeat(2, 1),
    )
    head.load_state_dict({mine: ref[f"p/{theirs}"] for mine, theirs in made.names.items()})
    made.prediction = head(features, priors)
    return made


def levels(maps: torch.Tensor, ref, output: int, per_cell: int) -> list[torch.Tensor]:
    """Our concatenated output as MMDetection's maps."""
    shapes = [ref[f"out{output}_level{i}"].shape for i in range(5)]
    parts = maps.split([h * w * per_cell for _, _, h, w in shapes], 1)
    return [p.reshape(s[0], s[2], s[3], s[1]).permute(0, 3, 1, 2) for p, s in zip(parts, shapes, strict=True)]


def test_forward_equals_mmdetection(case):
    raw = case.prediction.raw
    if isinstance(case.host.box, Distance):  # theirs are after the activation
        raw = raw.clamp(min=0)
    outputs = [case.prediction.cls, raw, case.prediction.quality]
    for output, maps in enumerate(outputs[: 3 if outputs[2] is not None else 2]):
        wide = maps[..., None] if output == 2 else maps
        for i, level in enumerate(levels(wide, case.ref, output, case.host.prior.per_cell)):
            torch.testing.assert_close(level, case.ref[f"out{output}_level{i}"], rtol=1e-5, atol=1e-5)


def test_losses_and_gradients_equal_mmdetection(case):
    host, ref = case.host, case.ref
    objective = supervision(host.assigner, CLASS_TARGETS[host.target], host.terms, host.count)
    losses = objective(case.prediction, case.ground_truth, case.sizes)
    assert set(losses) == set(host.losses.values())
    for theirs, mine in host.losses.items():
        torch.testing.assert_close(losses[mine], ref[f"loss/{theirs}"], rtol=1e-5, atol=0)
    total = sum(losses.values())
    torch.testing.assert_close(total, ref["total"], rtol=1e-5, atol=0)
    total.backward()
    for name, parameter in case.head.named_parameters():
        norm = ref[f"gradnorm/{case.names[name]}"]
        torch.testing.assert_close(parameter.grad.norm(), norm, rtol=1e-5, atol=1e-6)
    for level in (0, 2):
        torch.testing.assert_close(case.features[level].grad, ref[f"featgrad{level}"], rtol=1e-4, atol=1e-6)


def test_detections_equal_mmdetection(case):
    """By the host's rule: class score and quality as MMDetection 3 joins them, after threshold and limit."""
    process = PostProcess(candidates="pairs", iou_thr=case.host.nms, score_thr_on="class", rank_by="class")
    outputs = DenseOutputs.of(case.prediction, case.sizes)
    for i, kept in enumerate(rank(outputs, Rule.parse(case.host.rule), process)):
        torch.testing.assert_close(kept.score.float(), case.ref[f"pred{i}_scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(kept.label, case.ref[f"pred{i}_labels"])
        torch.testing.assert_close(kept.boxes, case.ref[f"pred{i}_boxes"], rtol=1e-5, atol=1e-3)


COUNTS = {
    "iou_aware/retinanet_r50": 37.97,
    "gfl/atss_centerness": 32.30,
    "gfl/gfl": 32.44,
    "gfl/fcos_centerness": 32.30,
    "gfl/foveabox": 36.42,
    "vfnet/vfnet": 32.89,
}


@pytest.mark.parametrize("name, millions", COUNTS.items())
def test_parameter_counts_are_those_of_mmdetection(name, millions):
    recipe = resolve(name)
    assert round(sum(p.numel() for p in build_detector(recipe).parameters()) / 1e6, 2) == millions


def test_the_iou_layer_is_256_times_9_times_9_weights_and_9_biases():
    plain, aware = (build_detector(resolve(f"iou_aware/{name}")) for name in ("retinanet_r50", "grad_r50"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (plain, aware)]
    assert counts[0] == 37_968_692
    assert counts[1] - counts[0] == 20_745 == 256 * 81 + 9
