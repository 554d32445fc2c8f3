"""The head on MMDetection's weights: outputs, losses, gradients and detections; and whole detectors."""

import zlib

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from conftest import GOLDEN
from qrepro.assign import MaxIoU
from qrepro.backbone import FPN, Residual
from qrepro.boxes import Anchors, Truths, clip
from qrepro.detector import Detector, Head, Prediction
from qrepro.losses import focal_loss, smooth_l1_loss
from qrepro.objective import Objective, Term
from qrepro.postprocess import PostProcess
from qrepro.quality import ConvQuality, NoQuality, Rule, fuse
from qrepro.represent import Delta
from qrepro.target import hard

MMDET = {"cls_convs": "cls_tower", "reg_convs": "box_tower", "retina_cls": "cls_out", "retina_reg": "box_out"}


def ours(name: str) -> str:
    """Our name of a parameter of MMDetection's RetinaHead."""
    part, *rest = name.split(".")
    if part.endswith("_convs"):
        rest = [str(2 * int(rest[0])), rest[2]]  # towers without norm: convolution, ReLU, convolution, ...
    return ".".join([MMDET[part], *rest])


@pytest.fixture
def case(golden):
    ref = golden("head_retina")
    head = Head(16, 4, 9, Delta(), NoQuality, convs=2, width=16)
    head.load_state_dict({ours(k[2:]): v for k, v in ref.items() if k.startswith("p/")})
    features = [ref[f"feat{i}"].requires_grad_() for i in range(5)]
    cls, raw, quality = head(features)
    priors = Anchors(centre=0.0)([tuple(f.shape[-2:]) for f in features], (8, 16, 32, 64, 128), torch.device("cpu"))
    truths = Truths(
        torch.stack([ref["gt_boxes"], torch.zeros(7, 4)]),
        torch.stack([ref["gt_labels"], torch.zeros(7, dtype=torch.int64)]),
        torch.tensor([[True] * 7, [False] * 7]),
    )
    return ref, head, features, Prediction(cls, raw, quality, priors), truths, ref["image_size"].repeat(2, 1)


def levels(maps: torch.Tensor, ref, output: int) -> list[torch.Tensor]:
    """Our concatenated output as MMDetection's maps."""
    shapes = [ref[f"out{output}_level{i}"].shape for i in range(5)]
    parts = maps.split([h * w * 9 for _, _, h, w in shapes], 1)
    return [p.reshape(s[0], s[2], s[3], s[1]).permute(0, 3, 1, 2) for p, s in zip(parts, shapes, strict=True)]


def test_forward_equals_mmdetection(case):
    ref, _, _, prediction, _, _ = case
    for output, maps in enumerate((prediction.cls, prediction.raw)):
        for i, level in enumerate(levels(maps, ref, output)):
            torch.testing.assert_close(level, ref[f"out{output}_level{i}"], rtol=1e-5, atol=1e-5)


def test_losses_and_gradients_equal_mmdetection(case):
    ref, head, features, prediction, truths, sizes = case
    terms = {"class": Term(focal_loss), "code": Term(smooth_l1_loss)}
    losses = Objective(MaxIoU(), hard, Delta(), terms)(prediction, truths, sizes)
    torch.testing.assert_close(losses["class"], ref["loss/loss_cls"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["code"], ref["loss/loss_bbox"], rtol=1e-5, atol=0)
    total = sum(losses.values())
    torch.testing.assert_close(total, ref["total"], rtol=1e-5, atol=0)
    total.backward()
    norms = {ours(k[9:]): v for k, v in ref.items() if k.startswith("gradnorm/")}
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad.norm(), norms[name], rtol=1e-5, atol=1e-6)
    for level in (0, 2):
        torch.testing.assert_close(features[level].grad, ref[f"featgrad{level}"], rtol=1e-4, atol=1e-6)


def test_detections_equal_mmdetection(case):
    ref, _, _, prediction, _, sizes = case
    boxes = clip(Delta().decode(prediction.raw, prediction.priors), sizes)
    score = fuse(logsigmoid(prediction.cls), None, Rule())
    found = PostProcess(candidates="pairs")(score, boxes, prediction.priors.level())
    for i, kept in enumerate(found):
        torch.testing.assert_close(kept.score, ref[f"pred{i}_scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(kept.label, ref[f"pred{i}_labels"])
        torch.testing.assert_close(boxes[i, kept.location], ref[f"pred{i}_boxes"], rtol=1e-5, atol=1e-3)


def detector(classes: int = 80, quality=NoQuality) -> Detector:
    box, prior = Delta(), Anchors(centre=0.0)
    backbone = Residual(depth=50)
    return Detector(backbone, FPN(backbone.channels), Head(256, classes, 9, box, quality), prior, box)


def test_parameter_counts():
    """37.97 M as MMDetection counts them; the IoU layer is 256 * 9 * 9 weights and 9 biases."""
    plain = sum(p.numel() for p in detector().parameters())
    assert plain == 37_968_692
    assert sum(p.numel() for p in detector(quality=ConvQuality).parameters()) - plain == 20_745 == 256 * 81 + 9


def test_whole_detector_equals_mmdetection():
    with np.load(GOLDEN / "model_retinanet.npz") as file:
        ref = {k: file[k] for k in file.files}
    state = {}
    for name, text in zip(ref["names"].tolist(), ref["shapes"].tolist(), strict=True):
        shape = tuple(int(n) for n in text.strip("()").split(",") if n.strip())
        part, _, rest = name.partition(".")
        if part == "bbox_head":
            name_here = "head." + ours(rest)
        elif part == "neck":
            kind, index, _, entry = rest.split(".")
            extra = kind == "fpn_convs" and int(index) > 2
            kind = {"lateral_convs": "lateral", "fpn_convs": "extra" if extra else "output"}[kind]
            name_here = f"neck.{kind}.{int(index) - 3 * extra}.{entry}"
        else:
            name_here = name
        state[name_here] = by_name(name, shape)
    model = detector().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        image = torch.from_numpy(ref["image"])
        pyramid = model.neck(model.backbone(image))
        prediction = model(image)
    for i, level in enumerate(pyramid):
        torch.testing.assert_close(level, torch.from_numpy(ref[f"fpn{i}"]), rtol=1e-4, atol=1e-4)
    for output, maps in enumerate((prediction.cls, prediction.raw)):
        expected = {k: torch.from_numpy(v) for k, v in ref.items() if k.startswith("out")}
        for i, level in enumerate(levels(maps, expected, output)):
            torch.testing.assert_close(level, expected[f"out{output}_level{i}"], rtol=1e-4, atol=1e-4)
    sizes = torch.tensor([image.shape[-2:]])
    boxes = clip(model.decode(prediction), sizes)
    (kept,) = PostProcess(candidates="pairs")(logsigmoid(prediction.cls), boxes, prediction.priors.level())
    torch.testing.assert_close(kept.score, torch.from_numpy(ref["pred_scores"]), rtol=1e-4, atol=1e-6)
    assert torch.equal(kept.label, torch.from_numpy(ref["pred_labels"]))
    torch.testing.assert_close(boxes[0, kept.location], torch.from_numpy(ref["pred_boxes"]), rtol=1e-4, atol=1e-2)


def by_name(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The entry of a state dict that the reference's rule makes from its name."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("running_var"):
        return 1 + 0.2 * r.abs()
    if name.endswith("running_mean"):
        return 0.1 * r
    if len(shape) >= 2:
        return r * (1 / r[0].numel()) ** 0.5
    if name.endswith(("weight", "scale")):
        return 0.5 + 0.05 * r
    return 0.05 * r + (-2 if name == "bbox_head.retina_cls.bias" else 0)
