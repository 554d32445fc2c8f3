"""What a training will cost, before it is run: its steps, its pictures, and the time they take at a known speed."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from qrepro.engine.schedule import Plan
from qrepro.experiments.timing import TRAIN2017
from qrepro.recipe import Recipe, checked
from qrepro.recipe.describe import facts

PICTURES = {"coco": TRAIN2017, "voc": 16_551}  # with objects, in the papers' own training sets
SHARE = 0.5  # of the speed of a lone convolution that a whole training step reaches: a guess, within a factor of 2


@dataclass(frozen=True)
class Speeds:
    """How fast trainings were. pictures: a second, by hash of the recipe; work: giga multiply-adds a second."""

    pictures: dict[str, float]
    work: float
    source: str

    def seconds(self, recipe: Recipe) -> float:
        """Of a whole training on one device, nan where its steps are unknown; evaluation is not in it."""
        own = self.pictures.get(recipe.hash) or self.work / _work(recipe)
        return (steps(recipe) or math.nan) * recipe.schedule.batch / own


def steps(recipe: Recipe) -> int:
    """Optimiser steps of a whole training; 0 where its schedule is in epochs of data of unknown size."""
    pictures = PICTURES.get(recipe.data.name, 0)
    counted = recipe.schedule.steps is not None or recipe.schedule.shorten or pictures
    return Plan.of(recipe.schedule, max(1, pictures // recipe.schedule.batch)).total if counted else 0


def measured(runs: Iterable[Path], device: torch.device, name: str) -> Speeds:
    """Speeds from the logs of run folders on a device of this name; where there is none, from a convolution now.

    CPUs count as one device whatever their threads: with `--jobs` each training has a share of the cores.
    """
    name = _kind(name)
    pictures: dict[str, list[float]] = {}
    work: list[float] = []
    for run in runs:
        card = json.loads((run / "run.json").read_text(encoding="utf-8"))
        if _kind(card.get("device", "")) != name or not (run / "log.jsonl").is_file():
            continue
        lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line).get("images_per_s") for line in lines if line.endswith("}")]
        if rates := [rate / card.get("processes", 1) for rate in found if rate]:
            recipe = checked(card["values"], str(run))
            pictures.setdefault(recipe.hash, []).append(statistics.median(rates))
            work.append(statistics.median(rates) * _work(recipe))
    if work:
        means = {key: statistics.median(values) for key, values in pictures.items()}
        source = f"from the logs of {len(work)} runs on {name}; others by their multiply-adds"
        return Speeds(means, statistics.median(work), source)
    return Speeds({}, SHARE * _convolution(device) / 3, f"a guess from one convolution on {name}, within a factor of 2")


def _kind(name: str) -> str:
    """The name of a device without its threads."""
    return name.partition(",")[0]


def _work(recipe: Recipe) -> float:
    """Giga multiply-adds of a picture's inference."""
    return _counted(json.dumps(recipe.values()))


@cache
def _counted(values: str) -> float:
    return float(facts(checked(json.loads(values), "recipe"))["giga multiply-adds"])


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
