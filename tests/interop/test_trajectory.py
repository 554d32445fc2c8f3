"""Eight training steps of MMDetection 3.3: its losses, and the movement of every parameter (see tests/golden)."""

import math

import numpy as np
import pytest
import torch

from helpers.files import GOLDEN
from helpers.mmdetection import shapes_of, state_of
from helpers.supervision import recipe_supervision
from qrepro.engine.schedule import make_optimiser
from qrepro.ground_truth import GroundTruthBatch
from qrepro.interop.config import read_config
from qrepro.interop.mmdet import _ours, convert
from qrepro.objective import total
from qrepro.recipe.build import build_detector

STEPS = 8
# What the configuration of a small detector says of training; `convert` reads the rest.
OVERRIDES = [
    *("neck.channels=64", "head.width=64", "backbone.weights=null", "backbone.frozen_stages=1"),
    *("schedule.optimiser.lr=0.002", "schedule.optimiser.weight_decay=0.0001", "schedule.clip=null"),
]
DETECTORS = {
    "retinanet": ["loss.encoding={kind: l1, weight: 1.0}"],
    "atss": [],
    "gfl": [],
}
TERMS = {
    "loss_cls": "class",
    "loss_bbox": "box",
    "loss_centerness": "quality",
    "loss_dfl": "encoding",
}


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"trajectory_{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def batch(inputs: dict[str, np.ndarray], step: int) -> tuple[torch.Tensor, GroundTruthBatch, torch.Tensor]:
    """Images, padded ground truth and sizes of a step; an image may have no objects."""
    images = torch.from_numpy(inputs[f"image{step}"])
    boxes = [torch.from_numpy(inputs[f"boxes{step}_{b}"]).float().reshape(-1, 4) for b in range(len(images))]
    labels = [torch.from_numpy(inputs[f"labels{step}_{b}"]).long() for b in range(len(images))]
    room = max(map(len, boxes))
    padded = torch.stack([torch.nn.functional.pad(each, (0, 0, 0, room - len(each))) for each in boxes])
    label = torch.stack([torch.nn.functional.pad(each, (0, room - len(each))) for each in labels])
    valid = torch.arange(room) < torch.tensor([len(each) for each in boxes])[:, None]
    sizes = torch.tensor([images.shape[-2:]] * len(images))
    return images, GroundTruthBatch(padded, label, valid), sizes


@pytest.mark.parametrize("name", DETECTORS)
def test_training_steps_equal_mmdetection(name):
    ref, inputs = reference(name), reference("retinanet")
    config = read_config(str(ref["config"]))
    given = state_of(shapes_of(ref))
    imported = convert(given, config, "3.3.0", None, [*OVERRIDES, *DETECTORS[name]])
    detector = build_detector(imported.recipe)
    detector.load_state_dict(imported.state)
    detector.train()
    before = {key: value.detach().clone() for key, value in detector.named_parameters()}
    optimiser, supervise = make_optimiser(imported.recipe.schedule, detector), recipe_supervision(imported.recipe)
    for group in optimiser.param_groups:
        group["lr"] = float(ref["lr"]) * group["factor"]
    for step in range(STEPS):
        images, ground_truth, sizes = batch(inputs, step)
        losses = supervise(detector(images), ground_truth, sizes)
        for theirs, mine in TERMS.items():
            if f"step{step}/{theirs}" in ref:
                key = "encoding" if name == "retinanet" and mine == "box" else mine
                expected = float(ref[f"step{step}/{theirs}"])
                assert losses[key].item() == pytest.approx(expected, rel=1e-5), f"step {step}: {theirs}"
        optimiser.zero_grad()
        total(losses).backward()
        optimiser.step()
    names = {key.removeprefix("norm/"): key for key in ref if key.startswith("norm/")}
    moved = 0
    after = dict(detector.named_parameters())
    for theirs in names:
        mine = _ours(theirs, imported.recipe)
        if mine not in after:
            continue
        movement = (after[mine] - before[mine]).norm().item()
        assert movement == pytest.approx(float(ref[f"moved/{theirs}"]), rel=1e-3, abs=1e-7), theirs
        moved += movement > 0
    assert moved > 60 and all(math.isfinite(value.norm().item()) for value in after.values())
