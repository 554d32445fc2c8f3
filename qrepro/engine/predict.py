"""One pass over a split, ranked by every rule that is asked for, by estimated and by true quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from qrepro.data.annotations import Annotations
from qrepro.data.loader import loader
from qrepro.detector import Detector
from qrepro.engine.candidates import CandidateFilter, StoredCandidates
from qrepro.engine.datasets import evaluation_views
from qrepro.engine.recorders import (
    AssignmentRecorder,
    CandidateRecorder,
    DetectionRecorder,
    DistributionRecorder,
    EvaluatedBatch,
    PositiveRecorder,
)
from qrepro.ranking import DenseOutputs, concatenate_views, rank
from qrepro.recipe.build import build_matcher, build_postprocess
from qrepro.recipe.schema import Recipe
from qrepro.records.score_rule import Rule
from qrepro.reporter import Progress, no_progress


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a pass leaves; boxes in pixels of the original images. The columns are those of `qrepro.records.run_folder`.

    Attributes:
        detections: by rule.
        positives: locations that the training assigner matches.
        assignments: objects, and how many boxes are assigned to each.
        distributions: of the sides of the best detections by the first rule; None of a box coder without any.
        candidates: before suppression, where asked for.
    """

    detections: dict[Rule, pd.DataFrame]
    positives: pd.DataFrame
    assignments: pd.DataFrame
    distributions: pd.DataFrame | None
    candidates: StoredCandidates | None


@torch.no_grad()
def predict(
    recipe: Recipe,
    detector: Detector,
    annotations: Annotations,
    rules: Sequence[Rule],
    *,
    device: torch.device,
    batch: int = 1,
    workers: int = 0,
    keep: CandidateFilter | None = None,
    progress: Progress = no_progress,
) -> Predictions:
    """Run the detector once over a split and rank its boxes by each rule.

    Ground truth stays outside the network: it ranks boxes for oracle rules and labels the positives.

    Args:
        recipe: of the detector.
        detector: with its weights.
        annotations: the split.
        rules: that rank the boxes; the first one also chooses whose side distributions are kept.
        device: that the pass runs on.
        batch: images at a time.
        workers: processes that read images.
        keep: which candidates are kept; None: none.
        progress: is told the number of images done.
    """
    views = evaluation_views(recipe, annotations)
    stream = iter(loader(views, views.order(batch), recipe.image.pad, workers, device.type == "cuda"))
    detector = detector.to(device).eval()
    postprocess, matcher = build_postprocess(recipe), build_matcher(recipe)
    ranked = {rule: DetectionRecorder(rule) for rule in rules}
    distributions, positives, assignments = DistributionRecorder(), PositiveRecorder(), AssignmentRecorder()
    candidates = CandidateRecorder(keep) if keep else None
    done = 0
    for items in zip(*[stream] * len(views.views), strict=True):
        batches = [item.to(device) for item in items]
        first = batches[0]
        prediction = detector(first.images)
        seen = [DenseOutputs.of(prediction, first.sizes, first.scale)]
        for other, view in zip(batches[1:], views.views[1:], strict=True):
            outputs = DenseOutputs.of(detector(other.images), other.sizes, other.scale)
            outputs = outputs.mirrored(other.sizes[0, 1].to(outputs.boxes)) if view.mirrored else outputs
            seen.append(outputs.at_scale(first.scale))
        matches = matcher(prediction, first.ground_truth, first.sizes)
        outputs = concatenate_views(seen) if len(seen) > 1 else seen[0]
        evaluated = EvaluatedBatch(annotations, first, prediction, matches, outputs)
        for rule, recorder in ranked.items():
            detections = rank(outputs, rule, postprocess, evaluated.find_gt)
            recorder.record(evaluated, detections)
            if rule == rules[0]:
                distributions.record(evaluated, detections)
        positives.record(evaluated)
        assignments.record(evaluated)
        if candidates:
            candidates.record(evaluated)
        done += len(items[0].index)
        progress(done)
    shown = distributions.columns.frame()
    return Predictions(
        {rule: recorder.columns.frame() for rule, recorder in ranked.items()},
        positives.columns.frame(),
        assignments.columns.frame(),
        shown if len(shown.columns) else None,
        candidates.stored() if candidates else None,
    )
