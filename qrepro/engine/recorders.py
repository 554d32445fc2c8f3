"""What an evaluation writes down of each batch: one recorder for each file of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from qrepro.assign import BACKGROUND
from qrepro.boxes import area, centerness, distances
from qrepro.data.annotations import Annotations
from qrepro.data.loader import Batch
from qrepro.detector import Prediction
from qrepro.engine.candidates import CandidateFilter, StoredCandidates, gather
from qrepro.matching import Matches
from qrepro.objective import positives
from qrepro.oracle import LocationGroundTruth, assigned_gt, nearest_gt
from qrepro.postprocess import Detections
from qrepro.ranking import DenseOutputs
from qrepro.records.run_folder import SIDES
from qrepro.records.score_rule import Oracle, Rule

DISTRIBUTIONS_SHOWN = 3  # detections of an image whose side distributions are kept


@dataclass(frozen=True)
class EvaluatedBatch:
    """A batch with all that is known of it.

    Attributes:
        annotations: of the split.
        batch: images, ground truth, scale.
        prediction: of the images as they are; matches: of its locations.
        outputs: as they are ranked; with test-time augmentation those of further views follow.
    """

    annotations: Annotations
    batch: Batch
    prediction: Prediction
    matches: Matches
    outputs: DenseOutputs

    @cached_property
    def nearest(self) -> LocationGroundTruth:
        """To each location the ground truth that its box overlaps most."""
        return nearest_gt(self.outputs.boxes, self.outputs.centres, self.batch.ground_truth)

    @cached_property
    def assigned(self) -> LocationGroundTruth:
        """To each location the ground truth that the training assigner gives it; further views have none."""
        further = self.outputs.boxes.shape[1] - self.matches.final.shape[1]
        matches = F.pad(self.matches.final, (0, further), value=BACKGROUND)
        return assigned_gt(self.outputs.boxes, self.outputs.centres, self.batch.ground_truth, matches)

    def find_gt(self, oracle: Oracle) -> LocationGroundTruth:
        """The ground truth of each location where an oracle acts."""
        return self.nearest if oracle.where == "nearest" else self.assigned

    def identity(self, image: int, label: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Ids of image and categories (K,), and the boxes (K, 4) in pixels of the original image."""
        ids = torch.tensor(self.annotations.category_ids, device=label.device)
        return {
            "image_id": torch.full_like(label, self.image_id(image)),
            "category_id": ids[label],
            **dict(zip(("x1", "y1", "x2", "y2"), boxes.unbind(-1), strict=True)),
        }

    def image_id(self, image: int) -> int:
        """Id of an image of the batch in its split."""
        return self.annotations.images[int(self.batch.index[image])].id

    def predicted(self, image: int, location: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Predicted class score and quality (K,) at pairs of an image; quality is NaN of a detector without one."""
        log_quality = self.outputs.log_quality
        none = torch.full(location.shape, torch.nan, device=location.device)
        quality = none if log_quality is None else log_quality[image, location, 0].exp()
        return {"class_score": self.outputs.log_class[image, location, label].exp(), "quality": quality}

    def level(self, location: Tensor) -> Tensor:
        """(K,) pyramid level of locations."""
        return self.outputs.level[location].to(torch.int16)


class Columns:
    """Rows by column, collected image by image."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def append(self, values: Mapping[str, Tensor]) -> None:
        """Add rows; float64 stays float64, other floats become float32."""
        for name, value in values.items():
            narrow = value.is_floating_point() and value.dtype != torch.float64
            self._parts.setdefault(name, []).append((value.float() if narrow else value).cpu().numpy())

    def frame(self) -> pd.DataFrame:
        """All rows; a column of vectors holds one array a row."""
        joined = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return pd.DataFrame({name: list(values) if values.ndim > 1 else values for name, values in joined.items()})


class DetectionRecorder:
    """Detections by one rule; class score and quality stay what was predicted, whatever an oracle replaced."""

    def __init__(self, rule: Rule) -> None:
        self.columns = Columns()
        self.moves_boxes = rule.oracle is not None and rule.oracle.what == "box"

    def record(self, evaluated: EvaluatedBatch, detections: list[Detections]) -> None:
        """Add the detections of a batch."""
        for image, found in enumerate(detections):
            self.columns.append(
                {
                    **evaluated.identity(image, found.label, found.boxes),
                    "score": found.score,
                    **evaluated.predicted(image, found.location, found.label),
                    "iou_truth": self._iou_truth(evaluated, image, found),
                    "level": evaluated.level(found.location),
                }
            )

    def _iou_truth(self, evaluated: EvaluatedBatch, image: int, found: Detections) -> Tensor:
        """(K,) IoU of the detected boxes with the ground truth that each overlaps most."""
        if not self.moves_boxes:
            return evaluated.nearest.iou[image, found.location, 0]
        batch = evaluated.batch
        ground_truth = type(batch.ground_truth)(
            *(part[image : image + 1] for part in vars(batch.ground_truth).values())
        )
        boxes = (found.boxes * batch.scale[image].repeat(2).to(found.boxes))[None]
        return nearest_gt(boxes, boxes[0, :, :2], ground_truth).iou[0, :, 0]


class DistributionRecorder:
    """Side distributions of the best detections of each image, in pixels of the original image."""

    def __init__(self) -> None:
        self.columns = Columns()

    def record(self, evaluated: EvaluatedBatch, detections: list[Detections]) -> None:
        """Add those of a batch; nothing of a box coder without distributions."""
        prediction = evaluated.prediction
        for image, found in enumerate(detections):
            location = found.location[:DISTRIBUTIONS_SHOWN]
            shown = location < prediction.raw.shape[1]  # not those of further views
            location, label = location[shown], found.label[:DISTRIBUTIONS_SHOWN][shown]
            sides = prediction.box.distributions(prediction.raw[image, location])
            if sides is None:
                return
            priors = prediction.priors.at(image, location)
            scale = evaluated.batch.scale[image].to(sides.probability)
            centre, width = priors.centres() / scale, priors.stride[:, None] * sides.spacing / scale
            self.columns.append(
                {
                    **evaluated.identity(image, label, found.boxes[:DISTRIBUTIONS_SHOWN][shown]),
                    "score": found.score[:DISTRIBUTIONS_SHOWN][shown],
                    **evaluated.predicted(image, location, label),
                    "iou_truth": evaluated.nearest.iou[image, location, 0],
                    "level": evaluated.level(location),
                    **dict(zip(("centre_x", "centre_y"), centre.unbind(-1), strict=True)),
                    **dict(zip(("bin_x", "bin_y"), width.unbind(-1), strict=True)),
                    **dict(zip(SIDES, sides.probability.unbind(1), strict=True)),
                }
            )


class CandidateRecorder:
    """Candidates before suppression, with their true IoU."""

    def __init__(self, kept: CandidateFilter) -> None:
        self.kept, self.columns = kept, Columns()
        self.unstored: dict[int, float] = {}

    def record(self, evaluated: EvaluatedBatch) -> None:
        """Add those of a batch."""
        for image, log_class in enumerate(evaluated.outputs.log_class):
            location, label, highest_unstored = gather(log_class, self.kept)
            log_quality = evaluated.outputs.log_quality
            none = torch.full(location.shape, torch.nan, device=location.device)
            self.columns.append(
                {
                    **evaluated.identity(image, label, evaluated.outputs.original_boxes(image, location)),
                    "log_class": log_class[location, label],
                    "log_quality": none if log_quality is None else log_quality[image, location, 0],
                    "iou_truth": evaluated.nearest.iou[image, location, 0],
                    "level": evaluated.level(location),
                    "location": location.to(torch.int32),
                }
            )
            self.unstored[evaluated.image_id(image)] = highest_unstored

    def stored(self) -> StoredCandidates:
        """All of them."""
        return StoredCandidates(self.columns.frame(), self.unstored)


class PositiveRecorder:
    """Locations that the training assigner matches on the evaluation images.

    Beside the decoded box: the centerness of the prior's centre in the ground truth, and its distances to the sides of
    the latter in cells, negative where it lies outside; top1: largest probability of a side distribution, mean over
    the sides.
    """

    def __init__(self) -> None:
        self.columns = Columns()

    def record(self, evaluated: EvaluatedBatch) -> None:
        """Add those of a batch."""
        batch, prediction = evaluated.batch, evaluated.prediction
        matched = positives(prediction, batch.ground_truth, evaluated.matches.final)
        priors = prediction.priors.at(matched.image, matched.location)
        sides = distances(priors.centres(), matched.gt_boxes) / priors.stride[:, None]
        shares = prediction.box.distributions(prediction.raw[matched.image, matched.location])
        columns = {
            "centerness": centerness(priors.centres(), matched.gt_boxes),
            **dict(zip(SIDES, sides.unbind(-1), strict=True)),
            **({} if shares is None else {"top1": shares.probability.amax(-1).mean(-1)}),
        }
        for image in range(len(batch.index)):
            here = matched.image == image
            location, label = matched.location[here], matched.labels[here]
            boxes = matched.decoded[here] / batch.scale[image].repeat(2).to(matched.decoded)
            self.columns.append(
                {
                    **evaluated.identity(image, label, boxes),
                    **evaluated.predicted(image, location, label),
                    "iou": matched.iou[here],
                    "level": evaluated.level(location),
                    **{name: value[here] for name, value in columns.items()},
                }
            )


class AssignmentRecorder:
    """Objects, and how many boxes are assigned to each: priors, and those that an initial stage moved.

    side: square root of the object's area in the network input, pixels.
    """

    def __init__(self) -> None:
        self.columns = Columns()

    def record(self, evaluated: EvaluatedBatch) -> None:
        """Add those of a batch."""
        batch, matches = evaluated.batch, evaluated.matches
        stages = {"initial": matches.final}
        if matches.initial is not None:
            stages = {"initial": matches.initial, "adjusted": matches.final}
        counts = {name: _assigned(stage, batch.ground_truth.valid) for name, stage in stages.items()}
        for image, valid in enumerate(batch.ground_truth.valid):
            boxes = batch.ground_truth.boxes[image, valid]
            original = boxes / batch.scale[image].repeat(2).to(boxes)
            self.columns.append(
                {
                    **evaluated.identity(image, batch.ground_truth.labels[image, valid], original),
                    "side": area(boxes).sqrt(),
                    **{name: count[image, valid] for name, count in counts.items()},
                }
            )


def _assigned(matches: Tensor, valid: Tensor) -> Tensor:
    """(B, G) number of locations of each object, of matches (B, R)."""
    count = F.pad(torch.zeros_like(valid, dtype=torch.int64), (0, 1))  # the last is for locations without an object
    owner = torch.where(matches >= 0, matches, valid.shape[1])
    return count.scatter_add(1, owner, torch.ones_like(owner))[:, :-1]
