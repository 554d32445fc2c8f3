"""Detectors of MMDetection 2.x and 3.x, and of the GFocalV2 and VarifocalNet repositories, as recipes of this suite."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qrepro.interop.config import Values, at
from qrepro.recipe import Recipe
from qrepro.recipe.axes import resolve
from qrepro.recipe.build import build_detector

State = Mapping[str, Tensor]
Changes = dict[str, Any]  # recipe values by dotted name


@dataclass(frozen=True)
class Family:
    """Detectors with one kind of head.

    Attributes:
        key: Entry of their class logits.
        recipe: Recipe that they are here.
    """

    key: str
    recipe: str


FAMILIES = {
    "VFNet": Family("bbox_head.vfnet_cls.weight", "vfnet/vfnet"),
    "GFL": Family("bbox_head.gfl_cls.weight", "gfl/gfl"),
    "ATSS": Family("bbox_head.atss_cls.weight", "gfl/atss_centerness"),
    "RetinaNet": Family("bbox_head.retina_cls.weight", "iou_aware/retinanet_r50"),
    "RepPoints": Family("bbox_head.reppoints_cls_out.weight", "vfnet/reppoints_fl"),
    "FCOS or FoveaBox": Family("bbox_head.conv_cls.weight", "gfl/foveabox"),
    "SSD": Family("bbox_head.cls_convs.0.0.weight", "gfl/ssd512"),
}

# Layers of heads by the end of their name.
LAYERS = {
    **{f"{head}_cls": "cls_out" for head in ("retina", "atss", "gfl", "vfnet")},
    **{f"{head}_reg": "box_out" for head in ("retina", "atss", "gfl", "vfnet")},
    "conv_cls": "cls_out",
    "conv_reg": "box_out",
    "conv_centerness": "quality.conv",
    "atss_centerness": "quality.conv",
    "reg_conf.0": "quality.inner",
    "reg_conf.2": "quality.outer",
    "vfnet_reg_conv.conv": "box_last.0",
    "vfnet_reg_conv.gn": "box_last.1",
    "vfnet_cls_dconv": "cls_at",
    "vfnet_reg_refine_dconv": "refine_at",
    "vfnet_reg_refine": "refine_out",
    "reppoints_cls_conv": "cls_at",
    "reppoints_cls_out": "cls_out",
    "reppoints_pts_init_conv": "box_last.0",
    "reppoints_pts_init_out": "box_out",
    "reppoints_pts_refine_conv": "refine_at",
    "reppoints_pts_refine_out": "refine_out",
}
RES2NET = "backbone.layer1.0.convs.0.weight"  # an entry that no other backbone has
FIRST = ("backbone.conv1.weight", "backbone.conv1.0.weight", "backbone.features.0.weight")  # what reads an image
WITHOUT_PARAMETERS = ("bbox_head.integral.project",)  # buffers that are values of the recipe here


@dataclass(frozen=True)
class Imported:
    """A detector of another project.

    Attributes:
        recipe: Recipe that it is here.
        state: All entries of our network.
        unused: Entries of the file that no parameter takes.
    """

    recipe: Recipe
    state: dict[str, Tensor]
    unused: list[str]


def convert(
    state: State,
    config: Values,
    version: str = "",
    recipe: str | None = None,
    overrides: list[str] | None = None,
    classes: Sequence[str] = (),
) -> Imported:
    """A detector of another project as a recipe with weights.

    Args:
        state: Entries of the file by name.
        config: Configuration of the model, empty where the file has none.
        version: Version of MMDetection that trained it.
        recipe: Name of the recipe that it is, in place of the recognised one.
        overrides: Changes `a.b=c` of the recipe's values.
        classes: Names in the order of the outputs where the file has them, so that evaluation refuses data of another
            order.

    Raises:
        ValueError: The head is unknown, or a parameter of the recipe's network has no entry of its shape.
    """
    state = _renewed(state)
    changes = {**_from_shapes(state), **_from_config(config, state), **_candidates(version)}
    if len(classes) == changes.get("data.classes"):
        changes["data.classes"] = list(classes)
    name = recipe or recognised(state)
    words = [f"{key}={_yaml(value)}" for key, value in changes.items()]
    found = resolve(name, "coco", [*words, *(overrides or [])])
    found = found.model_copy(update={"overrides": sorted([*words, *(overrides or [])])})
    names = {key: _ours(key, found) for key in state}
    entries = {mine: state[theirs] for theirs, mine in names.items() if mine}
    if reads_bgr(config):
        first = next(key for key in entries if key in FIRST)
        entries[first] = entries[first].flip(1)
    with torch.device("meta"):
        wanted = build_detector(found).state_dict()
    _fits(entries, wanted, name)
    unused = [theirs for theirs, mine in names.items() if mine not in wanted and theirs not in WITHOUT_PARAMETERS]
    return Imported(
        found, {key: entries.get(key, torch.zeros((), dtype=torch.int64)) for key in wanted}, sorted(unused)
    )


def recognised(state: State) -> str:
    """The recipe whose head a state dict has."""
    families = [family for family in FAMILIES.values() if family.key in state]
    if len(families) != 1:
        heads = sorted({".".join(key.split(".")[:2]) for key in state if "head" in key})
        raise ValueError(
            f"detector is none of {', '.join(FAMILIES)}: its head has {', '.join(heads[:8]) or 'no entries'}; if you "
            "know what it is, name it with --recipe"
        )
    (family,) = families
    if "bbox_head.reg_conf.0.weight" in state:
        return "gflv2/gflv2"
    if "bbox_head.conv_centerness.weight" in state:
        return "gfl/fcos_centerness"
    if family.recipe == "gfl/ssd512" and _count(state, r"bbox_head\.cls_convs\.(\d+)\.") == 6:
        return "passd/ssd300"
    return family.recipe


def reads_bgr(config: Values) -> bool:
    """Whether the network was trained on images whose channels are blue, green, red."""
    rgb = at(config, "model", "data_preprocessor", "bgr_to_rgb")
    return (at(config, "img_norm_cfg", "to_rgb") if rgb is None else rgb) is False


def _renewed(state: State) -> dict[str, Tensor]:
    """Entries under the names of the newest version."""
    return {_newest(key): value for key, value in state.items()}


def _newest(key: str) -> str:
    """An entry of SSD as it is called since MMDetection 2.14."""
    if found := re.fullmatch(r"(bbox_head\.(?:cls|reg)_convs\.\d+)\.(weight|bias)", key):
        return f"{found[1]}.0.{found[2]}"
    if found := re.fullmatch(r"backbone\.extra\.(\d+)\.(.+)", key):
        layer, which = divmod(int(found[1]), 2)
        return f"neck.extra_layers.{layer}.{which}.conv.{found[2]}"
    return key.replace("backbone.l2_norm.", "neck.l2_norm.")


def _from_shapes(state: State) -> Changes:
    """What the names and shapes of entries say: depth, groups, deformable stages, classes, pyramid, towers."""
    changes: Changes = {}
    if "backbone.layer3.0.conv1.weight" in state:
        changes |= _res2net(state) if RES2NET in state else _backbone(state)
    extra = state.get("neck.fpn_convs.3.conv.weight")
    if extra is not None:
        changes["neck.extra"] = "p5" if extra.shape[1] == extra.shape[0] else "c5"
    if "neck.lateral_convs.0.conv.weight" in state:
        changes["neck.norm"] = "group" if "neck.lateral_convs.0.gn.weight" in state else "none"
    last = _count(state, r"bbox_head\.cls_convs\.(\d+)\.(?:conv|gn)\.") - 1
    offsets = state.get(f"bbox_head.cls_convs.{last}.conv.conv_offset.weight")
    if offsets is not None:
        changes["head.deformable"] = "v2" if offsets.shape[0] == 27 else "v1"
    if last >= 0:
        normed, biased = (f"bbox_head.cls_convs.{last}.{entry}" in state for entry in ("gn.weight", "conv.bias"))
        changes["head.norm"] = "group" if normed else "none"
        changes["head.bias"] = "always" if normed and biased else "auto"
        at_points = "bbox_head.vfnet_cls_dconv.weight" in state or "bbox_head.reppoints_cls_conv.weight" in state
        changes["head.convs"] = last + 1 + at_points
    if (reg := state.get("bbox_head.gfl_reg.weight")) is not None:
        changes["box_coder.n"] = reg.shape[0] // 4 - 1
    if (conf := state.get("bbox_head.reg_conf.0.weight")) is not None:
        changes |= {"quality.hidden": conf.shape[0], "quality.k": conf.shape[1] // 4 - 1}
    changes |= _classes(state)
    return changes


def _backbone(state: State) -> Changes:
    """Of a ResNet or ResNeXt."""
    blocks = _blocks(state)
    bottleneck = "backbone.layer1.0.conv3.weight" in state
    depths = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50 if bottleneck else 34, (3, 4, 23, 3): 101}
    if blocks not in depths or "backbone.stem.0.weight" in state:
        raise ValueError(
            f"backbone with {blocks} blocks{', a deep stem' if 'backbone.stem.0.weight' in state else ''}: allowed are "
            "ResNet-18, 34, 50, 101, ResNeXt-50, 101, and Res2Net-50, 101 (v1d)"
        )
    conv = state["backbone.layer1.0.conv2.weight"]
    changes: Changes = {"depth": depths[blocks]}
    if bottleneck:
        changes |= {"groups": conv.shape[0] // conv.shape[1], "group_width": conv.shape[1]}
    return {f"backbone.{key}": value for key, value in (changes | _deformable(state)).items()}


def _res2net(state: State) -> Changes:
    """Of a Res2Net: the whole section, because its keys are not those of a ResNet."""
    blocks, scales, width = (
        _blocks(state),
        _count(state, r"backbone\.layer1\.0\.convs\.(\d+)\.") + 1,
        state[RES2NET].shape,
    )
    depths = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}
    if blocks not in depths or "backbone.stem.7.weight" not in state or (scales, width[0]) != (4, 26):
        raise ValueError(
            f"Res2Net with {blocks} blocks of {scales} scales, width {width[0]}: allowed are Res2Net-50 and 101 "
            "v1d (deep stem) of 4 scales, width 26"
        )
    section = {"kind": "res2net", "depth": depths[blocks], "pooled_c2": False, **_deformable(state)}
    return {"backbone": section}


def _blocks(state: State) -> tuple[int, ...]:
    """Blocks in each stage of a residual network."""
    return tuple(_count(state, rf"backbone\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))


def _deformable(state: State) -> Changes:
    """Version and stages of the deformable convolutions of a residual network, if it has any."""
    moved = [key for key in state if key.startswith("backbone.") and key.endswith("conv_offset.weight")]
    if not moved:
        return {}
    stages = sorted({int(key.split(".")[1].removeprefix("layer")) + 1 for key in moved})
    return {"deformable": "v2" if state[moved[0]].shape[0] == 27 else "v1", "deformable_stages": stages}


def _classes(state: State) -> Changes:
    """The number of classes; that of default boxes a cell is told by the offsets of boxes."""
    for family in FAMILIES.values():
        if family.key in state:
            outputs = state[family.key].shape[0]
            if family.recipe == "gfl/ssd512":
                return {"data.classes": outputs // (state["bbox_head.reg_convs.0.0.weight"].shape[0] // 4) - 1}
            boxes = state.get("bbox_head.retina_reg.weight")
            return {"data.classes": outputs if boxes is None else outputs // (boxes.shape[0] // 4)}
    return {}


def _from_config(config: Values, state: State) -> Changes:
    """What only the configuration says: stride of blocks, normalisation, anchors, codes, test settings."""
    model, head = at(config, "model") or {}, at(config, "model", "bbox_head") or {}
    changes: Changes = {}
    if RES2NET not in state and (style := at(model, "backbone", "style")):
        changes["backbone.style"] = style
    norm = at(model, "data_preprocessor") or at(config, "img_norm_cfg") or {}
    for key in ("mean", "std"):
        if values := at(norm, key):
            changes[f"image.{key}"] = list(reversed(values)) if reads_bgr(config) else values
    if (relu := at(model, "neck", "relu_before_extra_convs")) is not None:
        changes["neck.relu"] = relu
    changes |= dict(_anchors(head, state))
    if stds := at(head, "bbox_coder", "target_stds"):
        changes["box_coder.stds"] = stds
    if "bbox_head.conv_centerness.weight" in state and head:
        plain = not at(head, "norm_on_bbox")
        changes |= {"box_coder.activation": "exp" if plain else "clamp", "box_coder.unit": "pixel" if plain else "cell"}
        changes["head.quality_on"] = "box" if at(head, "centerness_on_reg") else "class"
    test = at(model, "test_cfg") or at(config, "test_cfg") or {}
    nms = at(test, "nms") or {}
    settings = {
        "nms_pre": at(test, "nms_pre"),
        "score_thr": at(test, "score_thr"),
        "iou_thr": at(nms, "iou_threshold") or at(nms, "iou_thr"),
        "max_per_img": at(test, "max_per_img"),
    }
    return changes | {f"postprocess.{key}": value for key, value in settings.items() if value is not None}


def _anchors(head: Values, state: State) -> Iterator[tuple[str, Any]]:
    """The priors: MMDetection 2 and 3 centre anchors on the corner of their cell unless told otherwise."""
    made = at(head, "anchor_generator") or {}
    if "bbox_head.cls_convs.0.0.weight" in state:  # SSD
        if at(made, "basesize_ratio_range") and at(made, "input_size"):
            yield (
                "prior.sizes",
                ssd_sizes(at(made, "input_size"), at(made, "basesize_ratio_range"), len(made["strides"])),
            )
        return
    if "bbox_head.conv_cls.weight" in state:  # points
        return
    yield "prior.centre", float(at(made, "center_offset") or 0.0)
    if scale := at(made, "octave_base_scale"):
        yield "prior.scale", scale
    if octaves := at(made, "scales_per_octave"):
        yield "prior.octaves", octaves
    if ratios := at(made, "ratios"):
        yield "prior.ratios", ratios


def ssd_sizes(side: int, ratios: list[float], levels: int) -> list[int]:
    """Sides of SSD's default boxes as MMDetection's SSDAnchorGenerator has them, whole pixels."""
    least, most = (int(ratio * 100) for ratio in ratios)
    step = (most - least) // (levels - 2)
    percent = [*range(least, most + 1, step)]
    first = {(300, 15): 7, (300, 20): 10, (512, 10): 4, (512, 15): 7}.get((side, least))
    if first is None:
        raise ValueError(f"SSD of {side} px with boxes from {least} %: known are 300 from 15 or 20, 512 from 10 or 15")
    return [int(side * n / 100) for n in (first, *percent, percent[-1] + step)]


def _candidates(version: str) -> Changes:
    """How detections are chosen: by pairs of location and class since MMDetection 2.18, by location before."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    rule = "locations" if numbers and numbers < (2, 18) else "pairs"
    gates: Changes = (
        {} if rule == "locations" else {"postprocess.score_thr_on": "class", "postprocess.rank_by": "class"}
    )
    return {"postprocess.candidates": rule, **gates}


def _ours(theirs: str, recipe: Recipe) -> str | None:
    """Our name of an entry, None for what is none of our network."""
    part, _, rest = theirs.partition(".")
    if part == "backbone":
        stem = re.fullmatch(r"stem\.(\d)\.(.+)", rest)  # of Res2Net; ends in what is the first norm of others
        place = rest if not stem else f"bn1.{stem[2]}" if stem[1] == "7" else f"conv1.{stem[1]}.{stem[2]}"
        return f"backbone.{place}".replace(".conv_offset.", ".offset.")
    if part == "neck":
        return _of_neck(rest, recipe)
    return _of_head(rest, recipe) if part == "bbox_head" else None


def _of_neck(name: str, recipe: Recipe) -> str | None:
    """The name in a pyramid, or in SSD's extra layers."""
    if found := re.fullmatch(r"extra_layers\.(\d+)\.(\d+)\.conv\.(.+)", name):
        return f"neck.extra.{found[1]}.{2 * int(found[2])}.{found[3]}"
    if name == "l2_norm.weight":
        return f"neck.{name}"
    found = re.fullmatch(r"(lateral|fpn)_convs\.(\d+)\.(conv|gn)\.(.+)", name)
    if not found:
        return None
    kind, index, layer, entry = found[1], int(found[2]), found[3], found[4]
    place = {"lateral": f"lateral.{index}", "fpn": f"output.{index}" if index < 3 else f"extra.{index - 3}"}[kind]
    if recipe.neck.options.get("norm") == "group":
        place += ".0" if layer == "conv" else ".1"
    return f"neck.{place}.{entry}"


def _of_head(name: str, recipe: Recipe) -> str | None:
    """The name in a head."""
    if found := re.fullmatch(r"(cls|reg)_convs\.(\d+)\.0\.(weight|bias)", name):  # SSD
        return f"head.heads.{found[2]}.{'cls' if found[1] == 'cls' else 'box'}_out.{found[3]}"
    if found := re.fullmatch(r"(cls|reg)_convs\.(\d+)\.(conv|gn)\.(.+)", name):
        step = 3 if recipe.head.options["norm"] == "group" else 2
        index = int(found[2]) * step + (found[3] == "gn")
        entry = found[4].replace("conv_offset.", "offset.")
        return f"head.{'cls' if found[1] == 'cls' else 'box'}_tower.{index}.{entry}"
    if found := re.fullmatch(r"scales(_refine)?\.(\d+)\.scale", name):
        return f"head.{'refine_' if found[1] else ''}scales.{found[2]}"
    if name == "moment_transfer":
        return "head.box.moment"
    layer, _, entry = name.rpartition(".")
    return f"head.{LAYERS[layer]}.{entry}" if layer in LAYERS else None


def _fits(entries: Mapping[str, Tensor], wanted: Mapping[str, Tensor], recipe: str) -> None:
    """Raise `ValueError` unless every parameter of a network has an entry of its shape."""
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # that old files lack
    if missing := sorted(wanted.keys() - entries.keys() - counters):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"recipe {recipe}: the file has no {', '.join(missing[:3])}{more}")
    for key in wanted.keys() & entries.keys():
        if entries[key].shape != wanted[key].shape:
            came, needed = tuple(entries[key].shape), tuple(wanted[key].shape)
            raise ValueError(f"recipe {recipe}: {key} is {came} in the file, the recipe needs {needed}")


def _count(state: State, pattern: str) -> int:
    """How many different numbers a pattern finds at the beginning of names."""
    return len({found[1] for key in state if (found := re.match(pattern, key))})


def _yaml(value: Any) -> str:
    """A value as an override says it: JSON, which is YAML."""
    return json.dumps(value)
