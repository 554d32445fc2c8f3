"""Checkpoints: what a training is besides its recipe, written atomically and read without executing anything."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel

from qrepro.detector import Detector
from qrepro.recipe.axes import network_hash
from qrepro.recipe.build import build_detector
from qrepro.recipe.schema import Recipe
from qrepro.records.atomic import replacing


@dataclass
class State:
    """What a training is besides its recipe; saved and restored as a whole."""

    model: Detector
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    step: int = 0
    best: float = -math.inf
    since: dict[str, float] = field(default_factory=dict)

    def content(self, recipe: Recipe, seed: int) -> dict[str, Any]:
        """Tensors and plain values only, so that `weights_only` loading reads it."""
        return {
            "recipe": recipe.name,
            "profile": recipe.profile,
            "hash": recipe.hash,
            "model_hash": network_hash(recipe),
            "seed": seed,
            "step": self.step,
            "best": self.best,
            "since": dict(self.since),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "random": torch.get_rng_state(),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Continue where `content` was saved."""
        self.model.load_state_dict(content["model"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average:
            self.average.load_state_dict(content["average"])
        self.step, self.best, self.since = content["step"], content["best"], content["since"]
        torch.set_rng_state(content["random"])


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values so that a crash leaves the old file or the new one."""
    with replacing(path) as partial:
        torch.save(content, partial)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours without executing anything in it; `ValueError` for any other file."""
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for files that are not its own
        raise ValueError(f"checkpoint {path}: not readable ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or "model_hash" not in content:
        raise ValueError(f"checkpoint {path}: not written by qrepro")
    return content


def fit(content: dict[str, Any], recipe: Recipe, path: Path) -> None:
    """Raise `ValueError` unless a checkpoint holds the network of this recipe."""
    if content["model_hash"] != network_hash(recipe):
        raise ValueError(
            f"checkpoint {path}: holds the network of recipe {content['recipe']} on profile {content['profile']}, "
            f"which differs from {recipe.name} on {recipe.profile}"
        )


def evaluated(state: State) -> Detector:
    """The model that is evaluated: the average where there is one, as soon as it holds anything."""
    if state.average is None or not state.average.n_averaged:
        return state.model
    return cast(Detector, state.average.module)


def restore_detector(recipe: Recipe, path: Path) -> tuple[Detector, int]:
    """The network of a checkpoint that is evaluated, see `evaluated`, and the step it was saved at."""
    content = load(path)
    fit(content, recipe, path)
    model = build_detector(recipe)
    average = content["average"]
    if average is None or not average["n_averaged"]:
        model.load_state_dict(content["model"])
    else:
        model.load_state_dict({k.removeprefix("module."): v for k, v in average.items() if k.startswith("module.")})
    return model, content["step"]
