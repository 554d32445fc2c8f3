"""A detector and its detections in formats of other programs: safetensors, COCO results, torch.export, ONNX.

What is written says of itself where it comes from: `Origin.metadata` is in every file but the COCO list, whose form
leaves no room.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from qrepro import __version__
from qrepro.detector import Detector, Prediction
from qrepro.engine.checkpoint import load, restore_detector
from qrepro.engine.datasets import evaluation_size
from qrepro.recipe import Recipe
from qrepro.recipe.axes import checked
from qrepro.recipe.build import build_detector
from qrepro.records.atomic import replacing, write_text
from qrepro.records.boxes import xywh_of
from qrepro.records.ground_truth import BOX

TOLERANCE = 1e-4  # of the largest value of an output: more than rounding in another order, less than anything wrong
OPSET = 20  # of ONNX: has both ways of reading features at points, GridSample and DeformConv
ABOUT = "qrepro.json"  # where a torch program carries its metadata


class Differs(Exception):
    """What was exported does not compute what the detector computes."""


@dataclass(frozen=True)
class Origin:
    """Where the weights of a detector come from.

    Attributes:
        recipe: Recipe of the detector.
        trained_by: Hash of the recipe that the checkpoint names.
        seed: Seed of the training.
        step: Step that the checkpoint was saved at.
    """

    recipe: Recipe
    trained_by: str
    seed: int
    step: int

    def metadata(self) -> dict[str, str]:
        """Texts by name. `values` is the recipe as JSON, and alone enough to build the network."""
        return {
            "qrepro": __version__,
            "recipe": self.recipe.name,
            "profile": self.recipe.profile,
            "hash": self.recipe.hash,
            "trained_by": self.trained_by,
            "seed": str(self.seed),
            "step": str(self.step),
            "values": json.dumps(self.recipe.values()),
        }


def restore(recipe: Recipe, path: Path) -> tuple[Detector, Origin]:
    """The network of a checkpoint that is evaluated, the average where there is one, and where it comes from."""
    detector, step = restore_detector(recipe, path)
    content = load(path)
    return detector, Origin(recipe, content["hash"], content["seed"], step)


def write_weights(path: Path, detector: Detector, origin: Origin) -> None:
    """The state of a detector as a safetensors file with the recipe in its metadata."""
    library = _library("safetensors.torch")
    state = {name: value.contiguous() for name, value in detector.state_dict().items()}
    with replacing(path) as partial:
        # by way of bytes, because its own file is readable to its owner only
        partial.write_bytes(library.save(state, origin.metadata()))


def read_exported(path: Path) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a file of `write_weights`, and the state that `build_detector(recipe)` loads.

    Raises:
        ValueError: A file that is missing, of another kind or program, whose recipe names code outside of qrepro, or
            whose tensors are not those of its recipe's network; in one line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    library = _library("safetensors")
    try:
        with library.safe_open(path, framework="pt") as file:
            values = (file.metadata() or {}).get("values")
            if values is None:
                raise ValueError(f"{path}: not written by `qrepro export`, its metadata holds no recipe")
            state = {name: file.get_tensor(name) for name in file.keys()}
    except library.SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    try:
        given = json.loads(values)
        if outside := sorted({kind for kind in _kinds(given) if ":" in kind}):
            raise ValueError(f"{path}: its recipe names code outside of qrepro, {outside[0]}; it is not run for a file")
        recipe = checked(given, str(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the recipe in its metadata is broken JSON ({error})") from error
    with torch.device("meta"):  # names and shapes only
        expected = build_detector(recipe).state_dict()
    form = {name: (value.shape, value.dtype) for name, value in expected.items()}
    found = {name: (value.shape, value.dtype) for name, value in state.items()}
    wrong = sorted(name for name in form.keys() | found.keys() if form.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} tensors are not as in recipe {recipe.name}, the first is {wrong[0]}")
    return recipe, state


def _kinds(values: object) -> Iterator[str]:
    """All kinds of parts that a recipe's values name."""
    if isinstance(values, dict):
        yield from (value for key, value in values.items() if key == "kind" and isinstance(value, str))
    for inner in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        yield from _kinds(inner)


def write_coco(path: Path, detections: pd.DataFrame) -> None:
    """Detections as a COCO result list of {image_id, category_id, bbox [x, y, width, height], score}.

    Args:
        path: File to be written.
        detections: Frame with image_id, category_id, x1, y1, x2, y2 (px of the original image), score and, perhaps NaN,
            class_score and quality, which a record has beside the score where they are defined.
    """
    boxes = xywh_of(detections[BOX]).tolist()
    ids = (detections[name].tolist() for name in ("image_id", "category_id"))
    scores = {name: detections[name].astype(np.float64).tolist() for name in ("score", "class_score", "quality")}
    records = [
        {
            "image_id": image,
            "category_id": category,
            "bbox": box,
            **{name: value for name, value in zip(scores, values, strict=True) if not math.isnan(value)},
        }
        for image, category, box, *values in zip(*ids, boxes, *scores.values(), strict=True)
    ]
    write_text(path, json.dumps(records))


def write_submission(folder: Path, split: str, name: str, detections: pd.DataFrame) -> Path:
    """Detections as COCO's evaluation server takes them: a zip with `detections_<split>_<name>_results.json`.

    Boxes are rounded to 0.01 px and scores to 1e-6, because the server limits the size of a file.

    Args:
        folder: Folder of the zip.
        split: Name of the split.
        name: Name of the method; in the file all but letters, digits, dots and hyphens become hyphens.
        detections: Frame with image_id, category_id, x1, y1, x2, y2 (px of the original image) and score.

    Returns:
        The path of the zip.
    """
    method = re.sub(r"[^\w.-]+|_", "-", name)
    stem = f"detections_{split}_{method}_results"
    boxes = xywh_of(detections[BOX]).round(2).tolist()
    scores = detections["score"].astype(np.float64).round(6).tolist()
    ids = (detections[column].tolist() for column in ("image_id", "category_id"))
    records = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(*ids, boxes, scores, strict=True)
    ]
    path = folder / f"{stem}.zip"
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{stem}.json", json.dumps(records))
    return path


class Named(nn.Module):
    """A detector whose outputs are tensors with names.

    Args:
        detector: Detector that gives them.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs that the detector has, of N images and R locations, level after level as `levels` counts them.

        Args:
            images: (N, 3, H, W) RGB pixels from 0 to 255, less the recipe's `image.mean` and divided by its
                `image.std`; the right and bottom of smaller images are 0.

        Returns:
            Tensors by name, in this order:
                class_logits: (N, R, C); with `head.scores: softmax` the last channel is the background.
                box_output: (N, R, channels) as the recipe's `box_coder` encodes boxes.
                quality_logits: (N, R), of a detector that estimates.
                prior_boxes: (N, R, 4) what box_output is relative to, of a detector whose first step predicts it.
                boxes: (N, R, 4) decoded, xyxy in pixels of the input, not clipped.
        """
        return named(self.detector(images))


def named(prediction: Prediction) -> dict[str, Tensor]:
    """What a prediction holds, as `Named` calls it."""
    priors = prediction.priors.boxes
    outputs = {
        "class_logits": prediction.cls,
        "box_output": prediction.raw,
        "quality_logits": prediction.quality,
        "prior_boxes": priors if priors.dim() == 3 else None,
        "boxes": prediction.decode(),
    }
    return {name: value for name, value in outputs.items() if value is not None}


@dataclass(frozen=True)
class Traced:
    """A detector as a graph, for any number of images of one size.

    Attributes:
        program: The graph.
        metadata: Metadata of its origin, and `levels`: JSON [[stride, priors], ...] of each, finest first.
        images: Images that it was not traced with.
        outputs: What the detector itself makes of these images, by name.
    """

    program: ExportedProgram
    metadata: dict[str, str]
    images: Tensor
    outputs: dict[str, Tensor]

    def check(self, found: Mapping[str, Tensor], what: str) -> float:
        """The largest difference of outputs from the detector's own, relative to the largest value of each.

        Args:
            found: Outputs by name.
            what: Name of what gave them, for the error.

        Raises:
            Differs: The difference is above `TOLERANCE` or undefined.
        """
        worst = 0.0
        for name, own in self.outputs.items():
            other, largest = found[name], own.abs().max().item()
            off = (other - own).abs().max().item() if other.shape == own.shape else torch.nan
            if not off <= TOLERANCE * largest:
                raise Differs(f"{what}: {name} is off by {off:g} where torch's largest is {largest:g}; nothing written")
            worst = max(worst, off / largest if largest else 0.0)
        return worst


def input_size(recipe: Recipe, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of the network's input for images of a size, by default the largest of evaluation."""
    height, width = size or evaluation_size(recipe)
    pad = recipe.image.pad
    return -(-height // pad) * pad, -(-width // pad) * pad


@torch.no_grad()
def trace(detector: Detector, origin: Origin, size: tuple[int, int]) -> Traced:
    """The graph of a detector on a CPU for inputs of a height and width, in evaluation mode."""
    random = torch.Generator().manual_seed(0)
    images, traced_with = (torch.randn(number, 3, *size, generator=random) for number in (2, 3))
    # First, because the priors of a size are kept, and those that tracing would make hold no numbers.
    prediction = detector.eval()(images)
    program = torch.export.export(Named(detector), (traced_with,), dynamic_shapes=({0: Dim("batch")},))
    levels = list(zip(detector.neck.strides, prediction.priors.counts, strict=True))
    return Traced(program, {**origin.metadata(), "levels": json.dumps(levels)}, images, named(prediction))


def write_program(path: Path, traced: Traced) -> float:
    """The graph as a file for `torch.export.load`; returns how far the file's outputs are off, see `Traced.check`.

    `torch.export.load(path, extra_files={"qrepro.json": ""})` fills in the metadata.
    """
    buffer = BytesIO()  # a path would have to end in .pt2 already
    torch.export.save(traced.program, buffer, extra_files={ABOUT: json.dumps(traced.metadata)})
    buffer.seek(0)
    with torch.no_grad():
        off = traced.check(torch.export.load(buffer).module()(traced.images), "torch.export")
    with replacing(path) as partial:
        partial.write_bytes(buffer.getvalue())
    return off


def write_onnx(path: Path, traced: Traced) -> float:
    """The graph as an ONNX file; returns how far onnxruntime's outputs are off on a CPU, see `Traced.check`.

    Raises:
        ValueError: A detector with an operation that ONNX, or onnxruntime, has not; in one line.
    """
    runtime, _, _ = (_library(name) for name in ("onnxruntime", "onnxscript", "onnx"))
    names = list(traced.outputs)
    try:
        with _quiet("onnxscript"):
            made = torch.onnx.export(
                traced.program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                output_names=names,
                dynamic_shapes=({0: "batch"},),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(f"ONNX cannot express this detector: {_reason(error)}") from error
    assert made is not None
    made.model.metadata_props.update(traced.metadata)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with replacing(path) as partial:
        made.save(partial)
        try:
            session = runtime.InferenceSession(partial, options, providers=["CPUExecutionProvider"])
            found = session.run(names, {"images": traced.images.numpy()})
        except Exception as error:  # its errors share no base class
            raise ValueError(f"onnxruntime {runtime.__version__} cannot run this detector: {_reason(error)}") from error
        return traced.check(dict(zip(names, map(torch.from_numpy, found), strict=True)), "onnxruntime")


def _library(name: str) -> ModuleType:
    """A library of the export extra; raises `ValueError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"needs the export extra (pip install 'qrepro[export]'): {error}") from error


@contextmanager
def _quiet(library: str) -> Iterator[None]:
    """Without the warnings that a library gives about its own optimiser."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of what an error began with."""
    while error.__cause__:
        error = error.__cause__
    return str(error).strip().split("\n", maxsplit=1)[0]
