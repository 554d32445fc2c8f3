"""What a training will cost, before it is run: its steps, its images, and the time they take at a known speed."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch

from qrepro.data.sets import TRAINING_IMAGES
from qrepro.engine.schedule import StepSchedule
from qrepro.recipe import Recipe
from qrepro.recipe.axes import checked
from qrepro.recipe.describe import multiply_adds
from qrepro.records.run_folder import RunFolder

SHARE = 0.5  # of the speed of a lone convolution that a whole training step reaches: a guess, within a factor of 2


@dataclass(frozen=True)
class Speeds:
    """How fast trainings were. images: a second, by hash of the recipe; work: giga multiply-adds a second."""

    images: dict[str, float]
    work: float
    source: str

    def seconds(self, recipe: Recipe) -> float:
        """Of a whole training on one device, nan where its steps are unknown; evaluation is not in it."""
        own = self.images.get(recipe.hash) or self.work / giga_multiply_adds(recipe)
        return (training_steps(recipe) or math.nan) * recipe.schedule.batch / own


def training_steps(recipe: Recipe) -> int:
    """Optimiser steps of a whole training; 0 where its schedule is in epochs of data of unknown size."""
    images = TRAINING_IMAGES.get(recipe.data.name, 0)
    counted = recipe.schedule.steps is not None or recipe.schedule.shorten or images
    return StepSchedule.of(recipe.schedule, max(1, images // recipe.schedule.batch)).total if counted else 0


def known_speeds(runs: Iterable[RunFolder], device: torch.device, name: str) -> Speeds:
    """Speeds from the logs of run folders on a device of this name; where there is none, from a convolution now.

    CPUs count as one device whatever their threads: with `--jobs` each training has a share of the cores.
    """
    name = _kind(name)
    images: dict[str, list[float]] = {}
    work: list[float] = []
    for run in runs:
        if _kind(str(run.card.get("device", ""))) != name or not run.has_log or "images_per_s" not in run.log:
            continue
        rates = run.log["images_per_s"].dropna() / run.card.get("processes", 1)
        if len(rates := rates[rates > 0]):
            recipe = checked(run.card["values"], str(run.path))
            images.setdefault(recipe.hash, []).append(float(rates.median()))
            work.append(float(rates.median()) * giga_multiply_adds(recipe))
    if work:
        means = {key: statistics.median(values) for key, values in images.items()}
        source = f"from the logs of {len(work)} runs on {name}; others by their multiply-adds"
        return Speeds(means, statistics.median(work), source)
    return Speeds({}, SHARE * _convolution(device) / 3, f"a guess from one convolution on {name}, within a factor of 2")


def _kind(name: str) -> str:
    """The name of a device without its threads."""
    return name.partition(",")[0]


def giga_multiply_adds(recipe: Recipe) -> float:
    """Giga multiply-adds of an image's inference."""
    return _counted(json.dumps(recipe.values()))


@cache
def _counted(values: str) -> float:
    return multiply_adds(checked(json.loads(values), "recipe")) / 1e9


def _convolution(device: torch.device) -> float:
    """Giga multiply-adds a second of a convolution as towers have them; three of them are one step of training."""
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, device=device)
    x = torch.randn(1, 256, 64, 64, device=device)
    done, began = 0, time.perf_counter()
    with torch.no_grad():
        while done < 3 or time.perf_counter() - began < 0.5:
            layer(x)
            done += 1
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    return done * 256 * 256 * 9 * 64 * 64 / 1e9 / (time.perf_counter() - began)
