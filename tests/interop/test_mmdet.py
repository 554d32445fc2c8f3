"""Detectors of MMDetection under its names: recognised, converted, and equal to it in outputs and detections."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.files import GOLDEN
from helpers.mmdetection import by_name, shapes_of, state_of
from qrepro import cli
from qrepro.boxes import clip
from qrepro.engine.checkpoint import restore_detector
from qrepro.engine.datasets import open_split
from qrepro.experiments.experiment import open_experiment
from qrepro.interop.config import read_config
from qrepro.interop.importing import class_names
from qrepro.interop.mmdet import convert, recognised, ssd_sizes
from qrepro.interop.zoo import Published
from qrepro.ranking import DenseOutputs, rank
from qrepro.recipe.build import build_detector, build_postprocess

CAFFE = {"model": {"backbone": {"style": "caffe"}}}
MODELS = {
    "retinanet": ("iou_aware/retinanet_r50", {}),
    "atss": ("gfl/atss_centerness", {}),
    "gfl": ("gfl/gfl", {}),
    "fcos": ("gfl/fcos_centerness", CAFFE),
}


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"model_{name}.npz") as file:
        return {k: file[k] for k in file.files}


def rows(maps: np.ndarray, per_cell: int) -> torch.Tensor:
    """A map (1, A K, H, W) of the reference as our rows (1, H W A, K)."""
    return torch.from_numpy(maps).unflatten(1, (per_cell, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)


@pytest.mark.parametrize("name", MODELS)
def test_whole_detector_equals_mmdetection(name):
    ref, (expected, config) = reference(name), MODELS[name]
    given = state_of(shapes_of(ref))
    assert recognised(given) == expected
    imported = convert(given, config)
    recipe = imported.recipe
    assert recipe.name == expected and imported.unused == []
    model = build_detector(recipe).eval()
    model.load_state_dict(imported.state)
    with torch.no_grad():
        image = torch.from_numpy(ref["image"])
        pyramid = model.neck(model.backbone(image))
        prediction = model(image)
    for i, level in enumerate(pyramid):
        torch.testing.assert_close(level, torch.from_numpy(ref[f"fpn{i}"]), rtol=1e-4, atol=1e-4)
    raw = prediction.raw
    if name == "fcos":  # theirs are distances in pixels
        raw = raw.clamp(min=0) * prediction.priors.stride[:, None]
    outputs = [prediction.cls, raw, *([] if prediction.quality is None else [prediction.quality[..., None]])]
    for output, mine in enumerate(outputs):
        theirs = torch.cat([rows(ref[f"out{output}_level{i}"], model.prior.per_cell) for i in range(5)], 1)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    outputs = DenseOutputs.of(prediction, torch.tensor([image.shape[-2:]]))
    if name == "gfl":  # the rule that made the reference's entries also made the values of its bins
        bins = by_name("bbox_head.integral.project", (17,))
        sides = prediction.box.probabilities(prediction.raw) @ bins * prediction.priors.stride[:, None]
        centres = prediction.priors.centres()
        decoded = torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], -1)
        outputs = replace(outputs, boxes=clip(decoded, torch.tensor([image.shape[-2:]])))
    (kept,) = rank(outputs, recipe.rule, build_postprocess(recipe))
    torch.testing.assert_close(kept.score.float(), torch.from_numpy(ref["pred_scores"]), rtol=1e-4, atol=1e-6)
    # Two detections of ATSS differ in score by less than float32 can tell: their order depends on the threads.
    label, boxes = torch.from_numpy(ref["pred_labels"]), torch.from_numpy(ref["pred_boxes"])
    far = (kept.boxes[:, None] - boxes[None]).abs().amax(-1) + 1e6 * (kept.label[:, None] != label[None])
    mine = far.argmin(0)
    assert torch.equal(mine.sort().values, torch.arange(len(label)))
    torch.testing.assert_close(kept.boxes[mine], boxes, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(kept.score[mine].float(), torch.from_numpy(ref["pred_scores"]), rtol=1e-4, atol=1e-6)


def pyramid_of(name: str) -> dict[str, tuple[int, ...]]:
    """Backbone and neck of a reference."""
    return {key: shape for key, shape in shapes_of(reference(name)).items() if not key.startswith("bbox_head")}


def tower(branch: str, convs: int, norm: bool) -> dict[str, tuple[int, ...]]:
    found = {}
    for i in range(convs):
        found[f"bbox_head.{branch}_convs.{i}.conv.weight"] = (256, 256, 3, 3)
        if norm:
            found |= {f"bbox_head.{branch}_convs.{i}.gn.{entry}": (256,) for entry in ("weight", "bias")}
        else:
            found[f"bbox_head.{branch}_convs.{i}.conv.bias"] = (256,)
    return found


def layer(name: str, outputs: int, inputs: int = 256, kernel: int = 3) -> dict[str, tuple[int, ...]]:
    return {f"bbox_head.{name}.weight": (outputs, inputs, kernel, kernel), f"bbox_head.{name}.bias": (outputs,)}


def towers(convs: int, norm: bool = True) -> dict[str, tuple[int, ...]]:
    return {**tower("cls", convs, norm), **tower("reg", convs, norm)}


def scales(name: str = "scales") -> dict[str, tuple[int, ...]]:
    return {f"bbox_head.{name}.{i}.scale": () for i in range(5)}


# Heads as their authors' modules name their entries (MMDetection 2.x and 3.x, GFocalV2, VarifocalNet).
VFNET = {
    **towers(3),
    "bbox_head.vfnet_reg_conv.conv.weight": (256, 256, 3, 3),
    "bbox_head.vfnet_reg_conv.gn.weight": (256,),
    "bbox_head.vfnet_reg_conv.gn.bias": (256,),
    **layer("vfnet_reg", 4),
    **scales(),
    "bbox_head.vfnet_reg_refine_dconv.weight": (256, 256, 3, 3),
    **layer("vfnet_reg_refine", 4),
    **scales("scales_refine"),
    "bbox_head.vfnet_cls_dconv.weight": (256, 256, 3, 3),
    **layer("vfnet_cls", 80),
}
GFLV2 = {
    **towers(4),
    **layer("gfl_cls", 80),
    **layer("gfl_reg", 68),
    **scales(),
    "bbox_head.integral.project": (17,),
    **layer("reg_conf.0", 64, 20, 1),
    **layer("reg_conf.2", 1, 64, 1),
}
FOVEA = {**towers(4, norm=False), **layer("conv_cls", 80), **layer("conv_reg", 4)}
REPPOINTS = {
    **towers(3),
    "bbox_head.moment_transfer": (2,),
    "bbox_head.reppoints_cls_conv.weight": (256, 256, 3, 3),
    **layer("reppoints_cls_out", 80, kernel=1),
    **layer("reppoints_pts_init_conv", 256),
    **layer("reppoints_pts_init_out", 18, kernel=1),
    "bbox_head.reppoints_pts_refine_conv.weight": (256, 256, 3, 3),
    **layer("reppoints_pts_refine_out", 18, kernel=1),
}
OURS = {  # of every kind of entry one
    "vfnet/vfnet": {
        "cls_tower.6.weight": "cls_convs.2.conv.weight",
        "box_tower.4.bias": "reg_convs.1.gn.bias",
        "box_last.0.weight": "vfnet_reg_conv.conv.weight",
        "box_last.1.weight": "vfnet_reg_conv.gn.weight",
        "box_out.bias": "vfnet_reg.bias",
        "cls_at.weight": "vfnet_cls_dconv.weight",
        "refine_at.weight": "vfnet_reg_refine_dconv.weight",
        "refine_out.weight": "vfnet_reg_refine.weight",
        "scales.3": "scales.3.scale",
        "refine_scales.4": "scales_refine.4.scale",
        "cls_out.weight": "vfnet_cls.weight",
    },
    "gflv2/gflv2": {
        "quality.inner.weight": "reg_conf.0.weight",
        "quality.outer.bias": "reg_conf.2.bias",
        "box_out.weight": "gfl_reg.weight",
        "cls_out.bias": "gfl_cls.bias",
        "cls_tower.9.weight": "cls_convs.3.conv.weight",
    },
    "gfl/foveabox": {
        "cls_tower.6.bias": "cls_convs.3.conv.bias",
        "box_tower.2.weight": "reg_convs.1.conv.weight",
        "cls_out.weight": "conv_cls.weight",
        "box_out.weight": "conv_reg.weight",
    },
    "vfnet/reppoints_fl": {
        "box.moment": "moment_transfer",
        "cls_at.weight": "reppoints_cls_conv.weight",
        "box_tower.0.weight": "reg_convs.0.conv.weight",
        "cls_out.weight": "reppoints_cls_out.weight",
        "box_last.0.bias": "reppoints_pts_init_conv.bias",
        "box_out.weight": "reppoints_pts_init_out.weight",
        "refine_at.weight": "reppoints_pts_refine_conv.weight",
        "refine_out.bias": "reppoints_pts_refine_out.bias",
    },
}


def without_norm(head: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The head with biases in place of norms."""
    return {k.replace(".gn.", ".conv."): s for k, s in head.items() if not k.endswith("gn.weight")}


def normed_pyramid() -> dict[str, tuple[int, ...]]:
    """The neck of RepPoints: P6 of C5, a norm behind every convolution, no biases."""
    found = {key: shape for key, shape in pyramid_of("retinanet").items() if not key.startswith("neck")}
    for kind, inputs in (("lateral", (512, 1024, 2048)), ("fpn", (256, 256, 256, 2048, 256))):
        for i, width in enumerate(inputs):
            kernel = 1 if kind == "lateral" else 3
            found[f"neck.{kind}_convs.{i}.conv.weight"] = (256, width, kernel, kernel)
            found |= {f"neck.{kind}_convs.{i}.gn.{entry}": (256,) for entry in ("weight", "bias")}
    return found


@pytest.mark.parametrize(
    "name, head, pyramid",
    [
        ("vfnet/vfnet", VFNET, pyramid_of("atss")),
        ("gflv2/gflv2", GFLV2, pyramid_of("gfl")),
        ("gfl/foveabox", FOVEA, pyramid_of("retinanet")),
        ("vfnet/reppoints_fl", REPPOINTS, normed_pyramid()),
        ("vfnet/reppoints_fl", without_norm(REPPOINTS), pyramid_of("retinanet")),
    ],
)
def test_every_entry_of_a_head_has_its_place(name, head, pyramid):
    given = state_of({**pyramid, **head})
    imported = convert(given, {})
    assert imported.recipe.name == name and imported.unused == []
    for mine, theirs in OURS[name].items():
        assert torch.equal(imported.state[f"head.{mine}"], given[f"bbox_head.{theirs}"]), mine
    model = build_detector(imported.recipe)
    model.load_state_dict(imported.state)
    used = [key for key in given if key != "bbox_head.integral.project"]
    assert len(model.state_dict()) == len(used)
    if "neck.lateral_convs.1.gn.bias" in given:
        assert torch.equal(imported.state["neck.extra.0.0.weight"], given["neck.fpn_convs.3.conv.weight"])
        assert torch.equal(imported.state["neck.lateral.1.1.bias"], given["neck.lateral_convs.1.gn.bias"])


VGG = (3, 64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


def ssd300(classes: int, old: bool) -> dict[str, tuple[int, ...]]:
    """SSD300 as it was called before MMDetection 2.14, or since."""
    found, place, width = {}, 0, 3
    for outputs in VGG[1:]:
        if outputs:
            found |= {f"backbone.features.{place}.weight": (outputs, width, 3, 3)}
            found |= {f"backbone.features.{place}.bias": (outputs,)}
        place, width = place + (2 if outputs else 1), outputs or width
    for place, (outputs, inputs, kernel) in {31: (1024, 512, 3), 33: (1024, 1024, 1)}.items():
        found |= {f"backbone.features.{place}.weight": (outputs, inputs, kernel, kernel)}
        found |= {f"backbone.features.{place}.bias": (outputs,)}
    widths = [(1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256)]
    for i, (inputs, middle, outputs) in enumerate(widths):
        for j, shape in enumerate([(middle, inputs, 1, 1), (outputs, middle, 3, 3)]):
            name = f"backbone.extra.{2 * i + j}" if old else f"neck.extra_layers.{i}.{j}.conv"
            found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    found["backbone.l2_norm.weight" if old else "neck.l2_norm.weight"] = (512,)
    maps = zip((512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4), strict=True)
    for i, (inputs, count) in enumerate(maps):
        for branch, outputs in (("cls", count * (classes + 1)), ("reg", 4 * count)):
            name = f"bbox_head.{branch}_convs.{i}" + ("" if old else ".0")
            found |= {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}
    return found


@pytest.mark.parametrize("old", [False, True])
def test_ssd_of_both_ages(old):
    given = state_of(ssd300(20, old))
    imported = convert(given, {})
    assert imported.recipe.name == "passd/ssd300" and imported.recipe.data.classes == 20 and imported.unused == []
    build_detector(imported.recipe).load_state_dict(imported.state)
    theirs = "backbone.extra.3.weight" if old else "neck.extra_layers.1.1.conv.weight"
    assert torch.equal(imported.state["neck.extra.1.2.weight"], given[theirs])
    theirs = f"bbox_head.cls_convs.2{'' if old else '.0'}.bias"
    assert torch.equal(imported.state["head.heads.2.cls_out.bias"], given[theirs])
    assert torch.equal(imported.state["neck.l2_norm.weight"], given[f"{'backbone' if old else 'neck'}.l2_norm.weight"])


def test_sizes_of_default_boxes_are_whole_pixels():
    """MMDetection's SSDAnchorGenerator: 300 on COCO and on VOC as SSD prints them, 512 cut to whole pixels."""
    assert ssd_sizes(300, [0.15, 0.9], 6) == [21, 45, 99, 153, 207, 261, 315]
    assert ssd_sizes(300, [0.2, 0.9], 6) == [30, 60, 111, 162, 213, 264, 315]
    assert ssd_sizes(512, [0.1, 0.9], 7) == [20, 51, 133, 215, 296, 378, 460, 542]
    with pytest.raises(ValueError, match="known are"):
        ssd_sizes(400, [0.1, 0.9], 7)


def test_backbones_are_told_by_their_entries():
    """ResNeXt-101-32x4d with deformable convolutions v2 in its last three stages, and twelve classes."""
    plain = {key: shape for key, shape in shapes_of(reference("gfl")).items() if ".layer3." not in key}
    shapes = dict(plain)
    for i in range(23):
        like = {k: s for k, s in shapes_of(reference("gfl")).items() if f".layer3.{min(i, 1)}." in k}
        shapes |= {k.replace(f".layer3.{min(i, 1)}.", f".layer3.{i}."): s for k, s in like.items()}
    for key, shape in list(shapes.items()):
        if found := re.match(r"backbone\.layer(\d)\.\d+\.(conv[12]|bn[12]|conv3)\.", key):
            width = 2 * 64 * 2 ** (int(found[1]) - 1)
            if found[2] == "conv2":
                shapes[key] = (width, width // 32, 3, 3)
                if int(found[1]) > 1:
                    shapes[key.replace("weight", "conv_offset.weight")] = (27, width, 3, 3)
                    shapes[key.replace("weight", "conv_offset.bias")] = (27,)
            elif found[2] == "conv1":
                shapes[key] = (width, *shape[1:])
            elif found[2] == "conv3":
                shapes[key] = (shape[0], width, 1, 1)
            elif shape:
                shapes[key] = (width,)
    shapes |= layer("gfl_cls", 12)
    imported = convert(state_of(shapes), {})
    options = imported.recipe.backbone.options
    assert (options["depth"], options["groups"], options["group_width"]) == (101, 32, 4)
    assert (options["deformable"], options["deformable_stages"]) == ("v2", [3, 4, 5])
    assert imported.recipe.data.classes == 12 and imported.unused == []
    build_detector(imported.recipe).load_state_dict(imported.state)


CONFIG = """
norm = dict(mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], to_rgb=False)
img_norm_cfg = norm
model = dict(
    type='FCOS',
    backbone=dict(type='ResNet', style='caffe', depth=50),
    neck=dict(type='FPN', relu_before_extra_convs=True, add_extra_convs='on_output'),
    bbox_head=dict(type='FCOSHead', norm_on_bbox=False, centerness_on_reg=False),
    test_cfg=dict(nms_pre=700, score_thr=0.03, nms=dict(type='nms', iou_threshold=0.55), max_per_img=77))
secret = __import__('os').system('touch stolen')
negative = -1.5
"""


def test_values_of_a_configuration_are_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(CONFIG)
    assert config["secret"] is None and config["negative"] == -1.5 and not (tmp_path / "stolen").exists()
    given = state_of(shapes_of(reference("fcos")))
    imported = convert(given, config, "2.3.0")
    recipe = imported.recipe
    assert recipe.backbone.options["style"] == "caffe"
    assert recipe.image.mean == (122.7717, 115.9465, 102.9801) and recipe.image.std == (1, 1, 1)
    # trained on blue, green, red: the first layer is turned round instead of every image
    assert torch.equal(imported.state["backbone.conv1.weight"], given["backbone.conv1.weight"].flip(1))
    assert (recipe.box_coder.options["activation"], recipe.box_coder.options["unit"]) == ("exp", "pixel")
    assert recipe.head.options["quality_on"] == "class" and recipe.neck.options["relu"]
    process = recipe.postprocess.options
    assert (process["nms_pre"], process["score_thr"], process["iou_thr"], process["max_per_img"]) == (
        700,
        0.03,
        0.55,
        77,
    )
    assert process["candidates"] == "locations"
    newer = convert(given, config, "2.25.1").recipe.postprocess.options
    assert (newer["candidates"], newer["score_thr_on"], newer["rank_by"]) == ("pairs", "class", "class")


def test_old_and_new_configurations_name_the_normalisation_apart():
    given = state_of(shapes_of(reference("atss")))
    new = {"model": {"data_preprocessor": {"mean": [1, 2, 3], "std": [4, 5, 6], "bgr_to_rgb": True}}}
    recipe = convert(given, new).recipe
    assert recipe.image.mean == (1, 2, 3) and recipe.image.std == (4, 5, 6)
    anchors = {"anchor_generator": {"center_offset": 0.5, "octave_base_scale": 6, "scales_per_octave": 1}}
    anchors["anchor_generator"]["ratios"] = [1.0]
    recipe = convert(given, {"model": {"bbox_head": {**anchors, "bbox_coder": {"target_stds": [0.2] * 4}}}}).recipe
    assert (recipe.prior.options["centre"], recipe.prior.options["scale"]) == (0.5, 6)
    assert recipe.box_coder.options["stds"] == [0.2] * 4


NORMS = "weight", "bias", "running_mean", "running_var"


def res2net(blocks: tuple[int, ...] = (3, 4, 6, 3), deformed: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Res2Net v1d 26w4s as MMDetection names its entries."""
    shapes = {
        f"backbone.stem.{at}.weight": s for at, s in ((0, (32, 3, 3, 3)), (3, (32, 32, 3, 3)), (6, (64, 32, 3, 3)))
    }
    shapes |= {f"backbone.stem.{at}.{entry}": (n,) for at, n in ((1, 32), (4, 32), (7, 64)) for entry in NORMS}
    before = 64
    for stage, count in enumerate(blocks, 1):
        width, out = 26 * 2 ** (stage - 1), 256 * 2 ** (stage - 1)
        for block in range(count):
            name = f"backbone.layer{stage}.{block}"
            shapes |= {
                f"{name}.conv1.weight": (4 * width, before, 1, 1),
                f"{name}.conv3.weight": (out, 4 * width, 1, 1),
            }
            shapes |= {f"{name}.bn{i}.{entry}": (n,) for i, n in ((1, 4 * width), (3, out)) for entry in NORMS}
            for i in range(3):
                shapes[f"{name}.convs.{i}.weight"] = (width, width, 3, 3)
                shapes |= {f"{name}.bns.{i}.{entry}": (width,) for entry in NORMS}
                if stage in deformed:
                    shapes[f"{name}.convs.{i}.conv_offset.weight"] = (27, width, 3, 3)
                    shapes[f"{name}.convs.{i}.conv_offset.bias"] = (27,)
            if block == 0:
                shapes[f"{name}.downsample.1.weight"] = (out, before, 1, 1)
                shapes |= {f"{name}.downsample.2.{entry}": (out,) for entry in NORMS}
            before = out
    return shapes


def res2net_forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """C3 to C5 as MMDetection's modules compute them (mmdet/models/backbones/res2net.py), from its entries."""

    def norm(x, name):
        weight, bias, mean, var = (state[f"backbone.{name}.{entry}"] for entry in NORMS)
        return F.batch_norm(x, mean, var, weight, bias)

    def conv(x, name, stride=1):
        weight = state[f"backbone.{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    for at, stride in ((0, 2), (3, 1), (6, 1)):
        x = norm(conv(x, f"stem.{at}", stride), f"stem.{at + 1}").relu()
    x, levels = F.max_pool2d(x, 3, 2, 1), []
    for stage in (1, 2, 3, 4):
        block = 0
        while f"backbone.layer{stage}.{block}.conv1.weight" in state:
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            parts = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").relu().chunk(4, 1)
            done: list[torch.Tensor] = []
            for i in range(3):
                part = parts[i] if block == 0 or i == 0 else parts[i] + done[-1]
                done.append(norm(conv(part, f"{name}.convs.{i}", stride), f"{name}.bns.{i}").relu())
            last = F.avg_pool2d(parts[3], 3, stride, 1) if stride > 1 else parts[3]  # and C2 pools nothing
            out = norm(conv(torch.cat([*done, last], 1), f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
                x = norm(conv(x, f"{name}.downsample.1"), f"{name}.downsample.2")
            x, block = (out + x).relu(), block + 1
        levels.append(x)
    return levels[1:]


def with_res2net(deformed: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """The reference's GFL over a Res2Net."""
    ours = {key: shape for key, shape in shapes_of(reference("gfl")).items() if not key.startswith("backbone.")}
    return state_of({**res2net(deformed=deformed), **ours})


def test_res2net_equals_a_transcription_of_mmdetections():
    pytest.importorskip("timm", reason="timm is not installed (the timm extra)")
    given = with_res2net()
    imported = convert(given, {"model": {"backbone": {"style": "pytorch"}}, "img_norm_cfg": {"to_rgb": False}})
    assert imported.unused == [] and imported.recipe.backbone.options["pooled_c2"] is False
    model = build_detector(imported.recipe).eval()
    model.load_state_dict(imported.state)
    image = torch.randn(1, 3, 61, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for mine, theirs in zip(model.backbone(image), res2net_forward(given, image.flip(1)), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_deformable_stages_of_res2net_are_seen():
    pytest.importorskip("timm", reason="timm is not installed (the timm extra)")
    imported = convert(with_res2net(deformed=(3, 4)), {})
    found = imported.recipe.backbone.options
    assert (found["deformable"], found["deformable_stages"], imported.unused) == ("v2", [4, 5], [])
    name = "layer4.2.convs.1"
    assert torch.equal(
        imported.state[f"backbone.{name}.offset.weight"],
        by_name(f"backbone.{name}.conv_offset.weight", (27, 208, 3, 3)),
    )
    wrong = {**with_res2net(), "backbone.layer1.0.convs.3.weight": torch.zeros(26, 26, 3, 3)}
    with pytest.raises(ValueError, match=r"Res2Net with .* of 5 scales, width 26: allowed are Res2Net-50 and 101"):
        convert(wrong, {})


def test_what_does_not_fit_is_refused_in_one_line():
    given = state_of(shapes_of(reference("gfl")))
    for change, message in (
        ({"bbox_head.gfl_cls.weight": None}, "detector is none of .*: its head has bbox_head.cls_convs"),
        ({"bbox_head.gfl_reg.bias": None}, "recipe gfl/gfl: the file has no head.box_out.bias$"),
        ({"bbox_head.gfl_reg.bias": torch.zeros(3)}, r"head.box_out.bias is \(3,\) in the file, the recipe needs \(68"),
        ({"backbone.layer1.0.conv1.weight": None, "backbone.layer1.0.conv2.weight": torch.zeros(64, 64, 3, 3)},
         "the file has no backbone.layer1.0.conv1.weight"),
        ({"backbone.stem.0.weight": torch.zeros(1)}, "a deep stem: allowed are ResNet-18"),
    ):  # fmt: skip
        changed = {**given, **change}
        with pytest.raises(ValueError, match=message) as error:
            convert({key: value for key, value in changed.items() if value is not None}, {})
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"the file has no head\.quality"):
        convert(given, {}, recipe="gflv2/gflv2")
    extra = convert({**given, "bbox_head.mystery.weight": torch.zeros(1), "teacher.x": torch.zeros(1)}, {})
    assert extra.unused == ["bbox_head.mystery.weight", "teacher.x"]
    with pytest.raises(ValueError, match="configuration: not readable"):
        read_config("model = dict(")


def small(path, classes=2, names=None, **more):
    """A RetinaNet of depth 18, as MMDetection saves it."""
    shapes = {"backbone.conv1.weight": (64, 3, 7, 7), "backbone.bn1.weight": (64,)}
    norms = ("weight", "bias", "running_mean", "running_var")
    shapes |= {f"backbone.bn1.{entry}": (64,) for entry in norms}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"backbone.layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, before, 3, 3), f"{name}.conv2.weight": (width, width, 3, 3)}
            shapes |= {f"{name}.bn{i}.{entry}": (width,) for i in (1, 2) for entry in norms}
            if before != width:
                shapes |= {f"{name}.downsample.0.weight": (width, before, 1, 1)}
                shapes |= {f"{name}.downsample.1.{entry}": (width,) for entry in norms}
            before = width
    for kind, widths in (("lateral", (128, 256, 512)), ("fpn", (256, 256, 256, 512, 256))):
        for i, width in enumerate(widths):
            kernel = 1 if kind == "lateral" else 3
            shapes[f"neck.{kind}_convs.{i}.conv.weight"] = (256, width, kernel, kernel)
            shapes[f"neck.{kind}_convs.{i}.conv.bias"] = (256,)
    shapes |= {**towers(4, norm=False), **layer("retina_cls", 9 * classes), **layer("retina_reg", 36)}
    meta = {
        "CLASSES": names,
        "mmdet_version": "2.25.0",
        "config": "img_norm_cfg = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)",
    }
    torch.save({"meta": meta, "state_dict": state_of(shapes), **more}, path)


def test_an_imported_file_is_a_run_that_evaluation_takes(tmp_path, capsys):
    file, folder = tmp_path / "theirs.pth", tmp_path / "run"
    small(file, optimizer={"lr": 1.0})
    assert main(["import", str(file), "--out", str(folder)], capsys)[0] == 0
    choice = open_experiment(str(folder))
    assert choice.recipe.name == "iou_aware/retinanet_r50" and choice.recipe.data.classes == 2
    assert choice.recipe.backbone.options["depth"] == 18 and choice.recipe.image.std == (4, 5, 6)
    detector, step = restore_detector(choice.recipe, choice.run.last)
    assert step == 0
    given = by_name("bbox_head.retina_reg.bias", (36,))
    assert torch.equal(detector.head.box_out.bias.detach(), given)
    origin = choice.run.card["imported"]
    assert origin["mmdet_version"] == "2.25.0" and origin["file"] == "theirs.pth" and len(origin["sha256"]) == 64
    code, _, error = main(["import", str(file), "--out", str(folder)], capsys)
    assert code == 2 and "holds a run already" in error and error.count("\n") == 1
    assert main(["import", str(file), "--out", str(folder), "--overwrite"], capsys)[0] == 0
    code, _, error = main(["import", str(file), "--out", str(tmp_path / "x"), "--recipe", "gfl/gfl"], capsys)
    assert code == 2 and "theirs.pth: recipe gfl/gfl: the file has no" in error and not (tmp_path / "x").exists()
    (tmp_path / "text.pth").write_text("no checkpoint")
    code, _, error = main(["import", str(tmp_path / "text.pth")], capsys)
    assert code == 2 and "text.pth" in error and error.count("\n") == 1


def test_a_safetensors_file_comes_back(tmp_path, capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed (the export extra)")
    small(tmp_path / "theirs.pth")
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["import", str(tmp_path / "theirs.pth"), "--out", str(first)], capsys)[0] == 0
    assert main(["export", str(first), "--to", "safetensors"], capsys)[0] == 0
    file = first / "last.safetensors"
    assert main(["import", str(file), "--out", str(second)], capsys)[0] == 0
    assert open_experiment(str(second)).recipe == open_experiment(str(first)).recipe
    (was, _), (found, _) = (
        restore_detector(open_experiment(str(run)).recipe, run / "last.pt") for run in (first, second)
    )
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in was.state_dict().items())
    code, _, error = main(["import", str(file), "--out", str(tmp_path / "x"), "--recipe", "gfl/gfl"], capsys)
    assert code == 2 and "says itself what it is" in error and not (tmp_path / "x").exists()


def test_a_published_detector_is_evaluated_in_one_command(tmp_path, capsys, monkeypatch, shapes):
    """From an address to the reported AP beside the measured one, on images laid out as COCO."""
    data = tmp_path / "coco"
    (data / "annotations").mkdir(parents=True)
    shutil.copy(shapes / "annotations" / "instances_val.json", data / "annotations" / "instances_val2017.json")
    shutil.copytree(shapes / "val", data / "val2017")
    small(tmp_path / "there.pth", classes=6)
    address = (tmp_path / "there.pth").as_uri()
    model = Published("small_r18", "MMDetection", "1708.02002", "", "", "31.7", address, "")
    monkeypatch.setattr("qrepro.interop.zoo.published", lambda: [model])
    folders = ["--to", str(tmp_path / "zoo"), "--results", str(tmp_path / "results"), "--data", str(data)]
    code, out, error = main(["zoo", "evaluate", "small_r18", *folders, "--device", "cpu", "--workers", "0"], capsys)
    assert code == 0, error
    rules = json.loads((tmp_path / "results" / "imported" / "small_r18" / "metrics.json").read_text())["rules"]
    assert {"class", "oracle-product"} <= rules.keys()
    (own,) = (line for line in out.splitlines() if "reported" in line and "31.7" in line)
    (found,) = (line for line in out.splitlines() if "measured" in line)
    assert f"{rules['class']['AP50']:.1f}" in found and own.count("│") == found.count("│")
    assert "AP true IoU" in out and "PCC score" in out


def test_names_of_classes_decide_what_data_fits(tmp_path, capsys, shapes):
    """MMDetection 2 calls them CLASSES, 3 has them in dataset_meta; data of another order are refused."""
    names = ["disc", "square", "triangle", "ring", "star", "cross"]
    assert class_names({"dataset_meta": {"classes": ("a", "b")}}) == ["a", "b"]
    assert class_names({"dataset_meta": {"CLASSES": ["a"]}, "config": ""}) == ["a"] and class_names({}) == []
    assert class_names({"CLASSES": None}) == class_names({"CLASSES": "person"}) == class_names({"CLASSES": [1]}) == []
    for order, fits in ((names, True), (names[::-1], False)):
        small(tmp_path / "theirs.pth", classes=6, names=order)
        run = tmp_path / f"run{fits}"
        assert main(["import", str(tmp_path / "theirs.pth"), "--out", str(run)], capsys)[0] == 0
        choice = open_experiment(str(run))
        assert choice.recipe.data.classes == order
        data = choice.recipe.data.model_copy(update={"eval": "val"})
        recipe = choice.recipe.model_copy(update={"data": data})
        if fits:
            assert list(open_split(recipe, shapes, "val").classes) == names
        else:
            with pytest.raises(ValueError, match=r"has classes disc, .*, asked for: cross, star"):
                open_split(recipe, shapes, "val")


def main(arguments, capsys):
    """Exit code, output and error of a command."""
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    said = capsys.readouterr()
    return leaving.value.code, said.out, said.err
