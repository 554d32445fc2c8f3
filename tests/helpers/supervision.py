"""Matcher and objective together, as a training step uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qrepro.detector import Prediction
from qrepro.ground_truth import GroundTruthBatch
from qrepro.matching import Matcher
from qrepro.objective import Objective, Term
from qrepro.recipe import Recipe
from qrepro.recipe.build import build_matcher, build_objective


@dataclass(frozen=True)
class Supervision:
    """A matcher (None of an initial stage without an assigner of its own) and an objective."""

    matcher: Matcher | None
    objective: Objective

    def __call__(self, prediction: Prediction, ground_truth: GroundTruthBatch, sizes: Tensor) -> dict[str, Tensor]:
        """Loss terms."""
        return self.objective(prediction, ground_truth, self.matcher(prediction, ground_truth, sizes))

    def match(self, prediction: Prediction, ground_truth: GroundTruthBatch, sizes: Tensor) -> Tensor:
        """Matches of the final boxes."""
        return self.matcher(prediction, ground_truth, sizes).final

    def match_initial(self, prediction: Prediction, ground_truth: GroundTruthBatch, sizes: Tensor) -> Tensor | None:
        """Matches of the initial stage."""
        return self.matcher(prediction, ground_truth, sizes).initial


def supervision(
    assigner: Any,
    target: Callable[[Tensor], Tensor],
    terms: Mapping[str, Term],
    count: str = "images",
    count_images: bool = False,
    *,
    padding: str = "ignored",
    pad: int = 32,
    reassign: bool = False,
    negatives: float | None = None,
    initial: Supervision | None = None,
) -> Supervision:
    """Of parts."""
    matcher = Matcher(assigner, padding, pad, reassign, initial.matcher if initial else None) if assigner else None
    return Supervision(
        matcher, Objective(target, terms, count, count_images, negatives, initial.objective if initial else None)
    )


def recipe_supervision(recipe: Recipe) -> Supervision:
    """Of a recipe."""
    return Supervision(build_matcher(recipe), build_objective(recipe))
