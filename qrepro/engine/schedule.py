"""Length of a run and the learning rate of each of its steps."""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass

import torch
from torch import nn

from qrepro.recipe.schema import Decay, Length, Schedule

NORMS = nn.GroupNorm, nn.modules.batchnorm._NormBase


@dataclass(frozen=True)
class StepSchedule:
    """A schedule measured in optimiser steps.

    Attributes:
        total: Steps of the run.
        warmup: Number of first steps over which the learning rate rises.
        ratio: Share of the learning rate at which the warm-up begins.
        lr: Full learning rate, scaled to the batch.
        decay: Fall of the learning rate.
        length: Length of the schedule as the recipe says it, in the unit of `decay.at`.
        bounds: Steps done at the end of the schedule and of each cycle of averaging.
        swing: Learning rates at both ends of a cycle.
    """

    total: int
    warmup: int
    ratio: float
    lr: float
    decay: Decay
    length: float
    bounds: tuple[int, ...] = ()
    swing: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, schedule: Schedule, per_epoch: int) -> StepSchedule:
        """The plan of a schedule over a data set of `per_epoch` steps an epoch."""
        average = schedule.average
        plain = _steps(schedule, per_epoch)
        cycles, cycle = (average.cycles, _steps(average, per_epoch)) if average else (0, 0)
        whole = plain + cycles * cycle
        total = schedule.shorten or whole
        # in proportion, but never less than one step for each cycle that is still to come
        bounds = tuple(min((plain + n * cycle) * total // whole, total - cycles + n) for n in range(cycles + 1))
        epochs = schedule.warmup.epochs
        warmup = schedule.warmup.steps if epochs is None else math.ceil(epochs * per_epoch)
        warmup = min(warmup, plain) * total // whole
        length = schedule.steps or schedule.epochs or 1
        swing = (schedule.scaled(average.lr[0]), schedule.scaled(average.lr[1])) if average else (0.0, 0.0)
        lr = schedule.scaled(schedule.optimiser.lr)
        return cls(total, warmup, schedule.warmup.ratio, lr, schedule.decay, length, bounds, swing)

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..., total - 1.

        Within a cycle half a cosine, as in the code of arXiv 2012.12645 (mmcv's CyclicLrUpdaterHook, step_ratio_up 0):
        its first step has the upper value, the step after its last would have the lower one.
        """
        plain = self.bounds[0] if self.bounds else self.total
        if plain <= step < self.total:
            end = bisect(self.bounds, step)
            first, after = self.bounds[end - 1 : end + 1]
            return _cosine(*self.swing, (step - first) / (after - first))
        done = step / plain
        if self.decay.kind == "cosine":
            scale = _cosine(1, self.decay.factor, done)
        else:
            scale = self.decay.factor ** sum(done >= at / self.length for at in self.decay.at)
        if step < self.warmup:
            scale *= self.ratio + (1 - self.ratio) * step / self.warmup
        return self.lr * scale

    def ends_cycle(self, step: int) -> bool:
        """Whether a cycle of averaging ends with the `step`-th step, the first being 1."""
        return step in self.bounds[1:]


def _steps(length: Length, per_epoch: int) -> int:
    """A length in optimiser steps."""
    return length.steps or math.ceil((length.epochs or 0) * per_epoch)


def _cosine(first: float, last: float, done: float) -> float:
    """From `first` at done = 0 to `last` at done = 1 along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def make_optimiser(schedule: Schedule, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser over every parameter that is trained; `factor` of a group is on its learning rate."""
    values = schedule.optimiser
    biases = {id(getattr(module, "bias", None)) for module in model.modules() if not isinstance(module, NORMS)}
    trained = [p for p in model.parameters() if p.requires_grad]
    parts = (
        (1.0, 1.0, [p for p in trained if id(p) not in biases]),
        (values.bias_lr, values.bias_decay, [p for p in trained if id(p) in biases]),
    )
    groups = [
        {"params": params, "lr": values.lr * lr, "weight_decay": values.weight_decay * decay, "factor": lr}
        for lr, decay, params in parts
    ]
    if values.kind == "adamw":
        return torch.optim.AdamW(groups, betas=values.betas)
    return torch.optim.SGD(groups, momentum=values.momentum)
