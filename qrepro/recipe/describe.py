"""Facts of a recipe's network, without training it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from qrepro.data.transforms import TRANSFORMS, Sample
from qrepro.layers import FLOPS
from qrepro.priors import PRIORS
from qrepro.recipe.build import build_detector, each
from qrepro.recipe.schema import Recipe

PICTURE = (480, 640)  # height, width of a typical COCO picture


def facts(recipe: Recipe) -> dict[str, Any]:
    """Parameters, multiply-adds and priors for a 640 x 480 picture sent through the recipe's evaluation transforms."""
    sample = Sample(torch.zeros(3, *PICTURE, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for part in recipe.image.eval:
        sample = part.build(TRANSFORMS)(sample)
    pad = recipe.image.pad
    height, width = (-(-side // pad) * pad for side in sample.image.shape[-2:])
    with torch.device("meta"):  # shapes only: nothing is computed
        detector = build_detector(recipe).eval()
        image = torch.zeros(1, 3, height, width)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        pyramid = detector.neck(detector.backbone(image))
        levels = [tuple(level.shape[-2:]) for level in pyramid]
        detector.head(pyramid, detector.prior(levels, detector.neck.strides, image.device))
    per_cell = each(recipe.prior.build(PRIORS).per_cell, len(levels))
    return {
        "recipe": recipe.name,
        "profile": recipe.profile,
        "hash": recipe.hash,
        "parameters": sum(p.numel() for p in detector.parameters()),
        "trained parameters": sum(p.numel() for p in detector.parameters() if p.requires_grad),
        "giga multiply-adds": round(counter.get_total_flops() / 2e9, 2),
        "input (height, width)": [height, width],
        "levels (height, width)": [list(level) for level in levels],
        "strides": list(detector.neck.strides),
        "priors a cell": list(per_cell) if len({*per_cell}) > 1 else per_cell[0],
        "priors an image": sum(h * w * count for (h, w), count in zip(levels, per_cell, strict=True)),
        "classes": recipe.data.class_count,
        "score": recipe.score,
    }
