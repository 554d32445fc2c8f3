"""One pass over a split, ranked by every rule that is asked for, by estimated and by true quality."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qrepro.boxes import best_iou, clip
from qrepro.data.annotations import Annotations, to_coco
from qrepro.data.loader import Batch, in_order, loader
from qrepro.detector import Detector, Prediction
from qrepro.engine.atomic import replacing, write_text
from qrepro.engine.pictures import evaluation_pictures
from qrepro.objective import Objective, positives
from qrepro.postprocess import PostProcess
from qrepro.quality import Rule, fuse, log_estimate
from qrepro.recipe.build import build_objective, build_postprocess
from qrepro.recipe.schema import Recipe

Columns = dict[str, list[np.ndarray]]


@dataclass
class Outputs:
    """What a pass leaves: detections by rule and the positives of the assigner, as columns of arrays."""

    detections: dict[str, Columns]
    positives: Columns = field(default_factory=dict)

    def frames(self) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
        """Detections by rule name, and positives; boxes in pixels of the original pictures."""
        return {rule: _frame(columns) for rule, columns in self.detections.items()}, _frame(self.positives)


def _frame(columns: Columns) -> pd.DataFrame:
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """A Parquet file, whole or not at all."""
    with replacing(path) as partial:
        frame.to_parquet(partial, index=False)


def write_truths(annotations: Annotations, path: Path) -> None:
    """The ground truth of a split as a COCO file: what its detections are judged by, kept beside them."""
    write_text(path, json.dumps(to_coco(annotations)))


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
    report: Callable[[int], None] = lambda done: None,
) -> Outputs:
    """Run the detector once over a split and rank its boxes by each rule.

    Ground truth stays outside the network: it ranks boxes for oracle rules and labels the positives.
    `report` is called with the number of pictures done.
    """
    pictures = evaluation_pictures(recipe, annotations)
    batches: Iterable[Batch] = loader(
        pictures, in_order(len(annotations), batch), recipe.image.pad, workers, device.type == "cuda"
    )
    detector = detector.to(device).eval()
    scribe = _Scribe(annotations, rules, build_postprocess(recipe), build_objective(recipe))
    done = 0
    for item in batches:
        moved = item.to(device)
        prediction = detector(moved.images)
        scribe.rank(moved, prediction, clip(detector.decode(prediction), moved.sizes))
        scribe.label(moved, prediction)
        done += len(item.index)
        report(done)
    return scribe.outputs


class _Scribe:
    """Turns dense predictions into columns, batch by batch."""

    def __init__(
        self, annotations: Annotations, rules: Sequence[Rule], postprocess: PostProcess, objective: Objective
    ) -> None:
        self.annotations, self.rules = annotations, rules
        self.postprocess, self.objective = postprocess, objective
        self.outputs = Outputs({rule.name: {} for rule in rules})

    def rank(self, batch: Batch, prediction: Prediction, boxes: Tensor) -> None:
        """Detections of a batch by every rule, of its clipped boxes (B, R, 4)."""
        truth = best_iou(boxes, batch.truths)
        log_class, log_quality = log_estimate(prediction.cls), log_estimate(prediction.quality)
        assert log_class is not None
        log_true, level = truth.log(), prediction.priors.level()
        for rule in self.rules:
            score = fuse(log_class, log_true if rule.oracle else log_quality, rule)
            for i, kept in enumerate(self.postprocess(score, boxes, prediction.priors.counts)):
                columns = {
                    **self._place(batch, i, kept.label, boxes[i, kept.location]),
                    "score": kept.score,
                    "class_score": log_class[i, kept.location, kept.label].exp(),
                    "quality": _quality(prediction, i, kept.location),
                    "iou_truth": truth[i, kept.location],
                    "level": level[kept.location].to(torch.int8),
                }
                _append(self.outputs.detections[rule.name], columns)

    def label(self, batch: Batch, prediction: Prediction) -> None:
        """The positives of a batch, as the training assigner finds them on the evaluation pictures."""
        matches = self.objective.match(prediction, batch.truths, batch.sizes)
        found = positives(prediction, batch.truths, matches, self.objective.box)
        level = prediction.priors.level()
        for i in range(len(batch.index)):
            mine = found.image == i
            location, label = found.location[mine], found.labels[mine]
            columns = {
                **self._place(batch, i, label, found.decoded[mine]),
                "class_score": prediction.cls[i, location, label].sigmoid(),
                "quality": _quality(prediction, i, location),
                "iou": found.iou[mine],
                "level": level[location].to(torch.int8),
            }
            _append(self.outputs.positives, columns)

    def _place(self, batch: Batch, i: int, label: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Which picture, which category, and the box (K, 4) in the original picture."""
        ids = torch.tensor(self.annotations.category_ids, device=label.device)
        x1, y1, x2, y2 = (boxes / batch.scale[i].repeat(2).to(boxes)).unbind(-1)
        image = torch.full_like(label, self.annotations.images[int(batch.index[i])].id)
        return {"image_id": image, "category_id": ids[label], "x1": x1, "y1": y1, "x2": x2, "y2": y2}


def _quality(prediction: Prediction, i: int, location: Tensor) -> Tensor:
    """(K,) estimated quality at locations (K,) of image i; NaN where the detector has none."""
    if prediction.quality is None:
        return torch.full(location.shape, torch.nan, device=location.device)
    return prediction.quality[i, location].sigmoid()


def _append(columns: Columns, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        array = (value.float() if value.is_floating_point() else value).cpu().numpy()
        columns.setdefault(name, []).append(array)
