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
from qrepro.data.loader import Batch, Pictures, in_order, loader
from qrepro.data.transforms import TRANSFORMS, Normalise
from qrepro.detector import Detector, Prediction
from qrepro.engine.atomic import replacing, write_text
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
    transforms = [part.build(TRANSFORMS) for part in recipe.image.eval]
    pictures = Pictures(annotations, transforms, Normalise(mean=recipe.image.mean, std=recipe.image.std), cache=False)
    batches: Iterable[Batch] = loader(
        pictures, in_order(len(annotations), batch), recipe.image.pad, workers, device.type == "cuda"
    )
    detector = detector.to(device).eval()
    objective, postprocess = build_objective(recipe), build_postprocess(recipe)
    outputs = Outputs({rule.name: {} for rule in rules})
    done = 0
    for item in batches:
        moved = item.to(device)
        prediction = detector(moved.images)
        _rank(moved, prediction, detector, postprocess, rules, annotations, outputs)
        _label(moved, prediction, objective, annotations, outputs)
        done += len(item.index)
        report(done)
    return outputs


def _rank(
    batch: Batch,
    prediction: Prediction,
    detector: Detector,
    postprocess: PostProcess,
    rules: Sequence[Rule],
    annotations: Annotations,
    outputs: Outputs,
) -> None:
    """Detections of a batch by every rule."""
    boxes = clip(detector.decode(prediction), batch.sizes)
    truth = best_iou(boxes, batch.truths)
    log_class, log_quality = log_estimate(prediction.cls), log_estimate(prediction.quality)
    assert log_class is not None
    log_true = truth.log()
    level = prediction.priors.level()
    for rule in rules:
        score = fuse(log_class, log_true if rule.oracle else log_quality, rule)
        for i, kept in enumerate(postprocess(score, boxes, prediction.priors.counts)):
            quality = None if prediction.quality is None else prediction.quality[i, kept.location].sigmoid()
            columns = {
                **_place(annotations, int(batch.index[i]), kept.label, boxes[i, kept.location], batch.scale[i]),
                "score": kept.score,
                "class_score": log_class[i, kept.location, kept.label].exp(),
                "quality": torch.full_like(kept.score, torch.nan) if quality is None else quality,
                "iou_truth": truth[i, kept.location],
                "level": level[kept.location].to(torch.int8),
            }
            _append(outputs.detections[rule.name], columns)


def _label(
    batch: Batch, prediction: Prediction, objective: Objective, annotations: Annotations, outputs: Outputs
) -> None:
    """The positives of a batch, as the training assigner finds them on the evaluation pictures."""
    found = positives(prediction, batch.truths, objective.match(prediction, batch.truths, batch.sizes), objective.box)
    level = prediction.priors.level()
    for i in range(len(batch.index)):
        mine = found.image == i
        location, label = found.location[mine], found.labels[mine]
        quality = None if prediction.quality is None else prediction.quality[i, location].sigmoid()
        columns = {
            **_place(annotations, int(batch.index[i]), label, found.decoded[mine], batch.scale[i]),
            "class_score": prediction.cls[i, location, label].sigmoid(),
            "quality": torch.full_like(found.iou[mine], torch.nan) if quality is None else quality,
            "iou": found.iou[mine],
            "level": level[location].to(torch.int8),
        }
        _append(outputs.positives, columns)


def _place(annotations: Annotations, index: int, label: Tensor, boxes: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Which picture, which category, and the box in the original picture."""
    ids = torch.tensor(annotations.category_ids, device=label.device)
    x1, y1, x2, y2 = (boxes / scale.repeat(2).to(boxes)).unbind(-1)
    image = torch.full_like(label, annotations.images[index].id)
    return {"image_id": image, "category_id": ids[label], "x1": x1, "y1": y1, "x2": x2, "y2": y2}


def _append(columns: Columns, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        columns.setdefault(name, []).append(value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy())
