"""Random draws, all from torch's global generator, and the checks of the values that say what is drawn."""

import math
from collections.abc import Sequence

import torch


def happens(probability: float) -> bool:
    """Whether an event of this probability takes place this time."""
    return float(torch.rand(())) < probability


def between(low: float, high: float) -> float:
    """A number from [low, high), each as likely as the others; `low` where both are equal."""
    return low + (high - low) * float(torch.rand(()))


def whole(low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included, each as likely as the others."""
    return int(torch.randint(low, high + 1, ()))


def check_probability(what: str, value: float) -> None:
    """Raise `ValueError` unless a value of the transform `what` may be given to `happens`; nan may not."""
    if not 0 <= value <= 1:
        raise ValueError(f"{what} probability {value}: a number in [0, 1] is needed")


def is_range(values: Sequence[float], least: float, most: float = math.inf) -> bool:
    """Whether `values` are two finite numbers [low, high] in order, neither below `least` nor above `most`."""
    return len(values) == 2 and least <= values[0] <= values[1] <= most and math.isfinite(values[1])
