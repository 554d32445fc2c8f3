"""Facts of a recipe's network, without training it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from qrepro.data.transforms import TRANSFORMS, Sample
from qrepro.layers import FLOPS
from qrepro.priors import PRIORS
from qrepro.recipe.build import build_detector, each
from qrepro.recipe.schema import Recipe

IMAGE = (480, 640)  # height, width of a typical COCO image


@dataclass(frozen=True)
class Network:
    """What a recipe's network is made of, for an image of 640 x 480 sent through its evaluation transforms.

    Attributes:
        parameters: in all.
        trained: those that are trained.
        multiply_adds: of one image.
        size: height, width of the input, with its padding.
        levels: height, width of each pyramid level.
        strides: pixels a cell, of each level.
        per_cell: priors of a cell, of each level.
    """

    parameters: int
    trained: int
    multiply_adds: float
    size: tuple[int, int]
    levels: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    per_cell: tuple[int, ...]

    @property
    def priors(self) -> int:
        """Of an image."""
        return sum(h * w * count for (h, w), count in zip(self.levels, self.per_cell, strict=True))


def network(recipe: Recipe) -> Network:
    """Count a network's parts, without computing anything."""
    sample = Sample(torch.zeros(3, *IMAGE, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for part in recipe.image.eval:
        sample = part.build(TRANSFORMS)(sample)
    pad = recipe.image.pad
    height, width = (-(-side // pad) * pad for side in sample.image.shape[-2:])
    with torch.device("meta"):  # shapes only: nothing is computed
        detector = build_detector(recipe).eval()
        image = torch.zeros(1, 3, height, width)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        pyramid = detector.neck(detector.backbone(image))
        levels = tuple((level.shape[-2], level.shape[-1]) for level in pyramid)
        detector.head(pyramid, detector.prior(levels, detector.neck.strides, image.device))
    return Network(
        sum(p.numel() for p in detector.parameters()),
        sum(p.numel() for p in detector.parameters() if p.requires_grad),
        counter.get_total_flops() / 2,
        (height, width),
        levels,
        tuple(detector.neck.strides),
        each(recipe.prior.build(PRIORS).per_cell, len(levels)),
    )


def multiply_adds(recipe: Recipe) -> float:
    """Of one image."""
    return network(recipe).multiply_adds


def facts(recipe: Recipe) -> dict[str, Any]:
    """What describes a recipe, by a label for people."""
    counted = network(recipe)
    return {
        "recipe": recipe.name,
        "profile": recipe.profile,
        "hash": recipe.hash,
        "parameters": counted.parameters,
        "trained parameters": counted.trained,
        "giga multiply-adds": round(counted.multiply_adds / 1e9, 2),
        "input (height, width)": list(counted.size),
        "levels (height, width)": [list(level) for level in counted.levels],
        "strides": list(counted.strides),
        "priors a cell": list(counted.per_cell) if len({*counted.per_cell}) > 1 else counted.per_cell[0],
        "priors an image": counted.priors,
        "classes": recipe.data.class_count,
        "score": recipe.rule.name,
    }
