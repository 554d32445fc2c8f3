"""Length of a run and the learning rate of each of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from qrepro.recipe.schema import Decay, Schedule


@dataclass(frozen=True)
class Plan:
    """A schedule measured in optimiser steps.

    total: steps of the run; warmup: of which the learning rate rises; lr: its full value, scaled to the batch.
    """

    total: int
    warmup: int
    ratio: float
    lr: float
    decay: Decay
    length: float

    @classmethod
    def of(cls, schedule: Schedule, per_epoch: int) -> Plan:
        """The plan of a schedule over a data set of `per_epoch` steps an epoch."""
        whole = schedule.steps or math.ceil((schedule.epochs or 0) * per_epoch)
        total = schedule.shorten or whole
        warmup = min(schedule.warmup.steps, whole) * total // whole
        lr = schedule.optimiser.lr * schedule.batch / schedule.optimiser.lr_batch
        length = schedule.steps or schedule.epochs or 1
        return cls(total, warmup, schedule.warmup.ratio, lr, schedule.decay, length)

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..., total - 1."""
        done = step / self.total
        if self.decay.kind == "cosine":
            scale = self.decay.factor + (1 - self.decay.factor) * (1 + math.cos(math.pi * done)) / 2
        else:
            scale = self.decay.factor ** sum(done >= at / self.length for at in self.decay.at)
        if step < self.warmup:
            scale *= self.ratio + (1 - self.ratio) * step / self.warmup
        return self.lr * scale


def make_optimiser(schedule: Schedule, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser over every parameter that is trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    values = schedule.optimiser
    if values.kind == "adamw":
        return torch.optim.AdamW(parameters, lr=values.lr, betas=values.betas, weight_decay=values.weight_decay)
    return torch.optim.SGD(parameters, lr=values.lr, momentum=values.momentum, weight_decay=values.weight_decay)
