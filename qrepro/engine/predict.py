"""One pass over a split, ranked by every rule that is asked for, by estimated and by true quality."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from qrepro.assign import BACKGROUND
from qrepro.box_coder import distributions_of
from qrepro.boxes import area, centerness, clip, distances
from qrepro.data.annotations import Annotations, to_coco
from qrepro.data.loader import Batch, loader
from qrepro.detector import Detector, Prediction
from qrepro.engine.candidates import Floor, Stored, gather
from qrepro.engine.datasets import evaluation_views
from qrepro.objective import Objective, positives
from qrepro.oracle import Dense, overwrite, owners
from qrepro.postprocess import Kept, PostProcess
from qrepro.quality import Rule, fuse
from qrepro.recipe.build import build_objective, build_postprocess
from qrepro.recipe.schema import Recipe
from qrepro.records.atomic import replacing, write_text

Columns = dict[str, list[np.ndarray]]
SHOWN = 3  # boxes of a picture whose distributions are kept


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a pass leaves; boxes in pixels of the original pictures.

    detections: by name of the rule; positives: of the training assigner; matches: how many priors it gave each truth,
    `initial`, and `adjusted` as a first step moved them, where there is one; distributions: of the sides of the SHOWN
    best detections of each picture by the first rule, where the representation has any; stored: candidates, where
    asked for.
    """

    detections: dict[str, pd.DataFrame]
    positives: pd.DataFrame
    matches: pd.DataFrame
    distributions: pd.DataFrame | None
    stored: Stored | None


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
    store: Floor | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Outputs:
    """Run the detector once over a split and rank its boxes by each rule.

    Ground truth stays outside the network: it ranks boxes for oracle rules and labels the positives.
    `store` asks for candidates above a floor; `report` is called with the number of pictures done.
    """
    views = evaluation_views(recipe, annotations)
    stream = iter(loader(views, views.order(batch), recipe.image.pad, workers, device.type == "cuda"))
    detector = detector.to(device).eval()
    scribe = _Scribe(annotations, rules, build_postprocess(recipe), build_objective(recipe), store)
    done = 0
    for items in zip(*[stream] * len(views.views), strict=True):
        batches = [item.to(device) for item in items]
        prediction = detector(batches[0].images)
        seen = [_dense(batches[0], prediction), *(_dense(view, detector(view.images)) for view in batches[1:])]
        dense = seen[0] if len(seen) == 1 else _joined(batches, seen, [view.mirrored for view in views.views])
        scribe.write(batches[0], prediction, dense)
        done += len(items[0].index)
        report(done)
    return scribe.outputs()


def _dense(batch: Batch, prediction: Prediction) -> Dense:
    """Probabilities and clipped boxes of a batch."""
    quality = None if prediction.quality is None else prediction.quality.float().sigmoid()
    boxes, priors = clip(prediction.decode(), batch.sizes), prediction.priors
    return Dense(prediction.scores(), quality, boxes, priors.centres(), priors.level())


def _joined(batches: Sequence[Batch], seen: Sequence[Dense], mirrored: Sequence[bool]) -> Dense:
    """All views of one picture as one, in the frame of the first.

    Their levels are different levels, so that a limit of candidates a level holds for each view.
    """
    moved, levels = [], 0
    for batch, dense, turned in zip(batches, seen, mirrored, strict=True):
        boxes, centres = dense.boxes, dense.centres
        if turned:
            width = batch.sizes[0, 1].to(boxes)
            x1, y1, x2, y2 = boxes.unbind(-1)
            boxes = torch.stack([width - x2, y1, width - x1, y2], -1)
            centres = torch.stack([width - centres[..., 0], centres[..., 1]], -1)
        zoom = (batches[0].scale[0] / batch.scale[0]).to(boxes)
        level = dense.level + levels
        levels = int(level.max()) + 1
        moved.append(replace(dense, boxes=boxes * zoom.repeat(2), centres=centres * zoom, level=level))
    cls, boxes = (torch.cat([getattr(dense, name) for dense in moved], 1) for name in ("cls", "boxes"))
    centres, level = torch.cat([dense.centres for dense in moved], -2), torch.cat([dense.level for dense in moved])
    estimates = [dense.quality for dense in moved if dense.quality is not None]
    return Dense(cls, torch.cat(estimates, 1) if estimates else None, boxes, centres, level)


def _frame(columns: Columns) -> pd.DataFrame:
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return pd.DataFrame({name: list(values) if values.ndim > 1 else values for name, values in joined.items()})


class _Scribe:
    """Turns dense predictions into columns, batch by batch."""

    def __init__(
        self,
        annotations: Annotations,
        rules: Sequence[Rule],
        postprocess: PostProcess,
        objective: Objective,
        store: Floor | None,
    ) -> None:
        self.annotations, self.rules, self.store = annotations, rules, store
        self.postprocess, self.objective = postprocess, objective
        self.detections: dict[str, Columns] = {rule.name: {} for rule in rules}
        self.positives: Columns = {}
        self.matches: Columns = {}
        self.distributions: Columns = {}
        self.candidates: Columns = {}
        self.floors: dict[int, float] = {}

    def outputs(self) -> Outputs:
        """Everything that was written, as frames."""
        return Outputs(
            {rule: _frame(columns) for rule, columns in self.detections.items()},
            _frame(self.positives),
            _frame(self.matches),
            _frame(self.distributions) if self.distributions else None,
            Stored(_frame(self.candidates), self.floors) if self.store else None,
        )

    def write(self, batch: Batch, prediction: Prediction, dense: Dense) -> None:
        """Everything of a batch: its prediction, and the dense outputs of this and perhaps of further views."""
        boxes = dense.boxes
        found = self.objective.match(prediction, batch.truths, batch.sizes)
        matches = F.pad(found, (0, boxes.shape[1] - found.shape[1]), value=BACKGROUND)  # further views have none
        places = {"nearest", *(rule.oracle.where for rule in self.rules if rule.oracle)}
        owned = {where: owners(where, boxes, batch.truths, matches) for where in places}
        log_class = dense.cls.log()  # large, and the same for most rules
        for rule in self.rules:
            seen, truth = dense, owned["nearest"].iou
            if rule.oracle:
                seen = overwrite(dense, rule.oracle, owned[rule.oracle.where])
            if seen.boxes is not boxes:
                truth = owners("nearest", seen.boxes, batch.truths, matches).iou
            log_seen = log_class if seen.cls is dense.cls else seen.cls.log()
            self._rank(batch, prediction, dense, seen, log_seen, truth, rule)
        if self.store:
            self._keep(batch, dense, owned["nearest"].iou, self.store)
        self._label(batch, prediction, dense, found)
        self._count(batch, prediction, found)

    def _rank(
        self,
        batch: Batch,
        prediction: Prediction,
        dense: Dense,
        seen: Dense,
        log_class: Tensor,
        truth: Tensor,
        rule: Rule,
    ) -> None:
        """Detections by one rule of the outputs as `seen` by it.

        log_class: (B, R, C) log of the class scores it sees; truth: (B, R) true IoU of the boxes it sees. The columns
        of class score and quality keep what was predicted.
        """
        log_quality = None if seen.quality is None else seen.quality.log()
        score = fuse(log_class, log_quality, rule)
        boxes, level = _original(seen.boxes, batch), dense.level
        for i, kept in enumerate(self.postprocess(score, log_class, boxes, level)):
            columns = {
                **self._place(batch, i, kept.label, boxes[i, kept.location]),
                "score": kept.score,
                **_outputs(dense, i, kept.location, kept.label),
                "iou_truth": truth[i, kept.location],
                "level": level[kept.location].to(torch.int16),
            }
            _append(self.detections[rule.name], columns)
            if rule == self.rules[0]:
                self._note_sides(batch, prediction, i, {name: value[:SHOWN] for name, value in columns.items()}, kept)

    def _note_sides(self, batch: Batch, prediction: Prediction, i: int, columns: dict[str, Tensor], kept: Kept) -> None:
        """The side distributions of the best detections of image i, in pixels of the original picture."""
        location = kept.location[:SHOWN]
        own = location < prediction.raw.shape[1]  # not those of further views
        location, columns = location[own], {name: value[own] for name, value in columns.items()}
        found = distributions_of(prediction.box, prediction.raw[i, location])
        if found is None:
            return
        priors, scale = prediction.priors.at(i, location), batch.scale[i].to(found.probability)
        centre = priors.centres() / scale
        width = priors.stride[:, None] * found.spacing / scale
        place = dict(zip(("centre_x", "centre_y"), centre.unbind(-1), strict=True))
        place |= dict(zip(("bin_x", "bin_y"), width.unbind(-1), strict=True))
        sides = dict(zip(("left", "top", "right", "bottom"), found.probability.unbind(1), strict=True))
        _append(self.distributions, {**columns, **place, **sides})

    def _keep(self, batch: Batch, dense: Dense, truth: Tensor, store: Floor) -> None:
        """Candidates of a batch, before suppression, with their true IoU (B, R)."""
        boxes, level = _original(dense.boxes, batch), dense.level
        for i in range(len(batch.index)):
            location, label, floor = gather(dense.cls[i], store)
            columns = {
                **self._place(batch, i, label, boxes[i, location]),
                **_outputs(dense, i, location, label),
                "iou_truth": truth[i, location],
                "level": level[location].to(torch.int16),
                "location": location.to(torch.int32),
            }
            _append(self.candidates, columns)
            self.floors[self.annotations.images[int(batch.index[i])].id] = floor

    def _label(self, batch: Batch, prediction: Prediction, dense: Dense, matches: Tensor) -> None:
        """The positives of a batch, as the training assigner finds them on the evaluation pictures.

        Beside the decoded box: the centerness of the prior's centre in the truth, and its distances to the truth's
        sides in cells, negative where it lies outside; top1: largest probability of a distribution, mean of the sides.
        """
        found = positives(prediction, batch.truths, matches)
        priors = prediction.priors.at(found.image, found.location)
        level = dense.level
        labels = centerness(priors.centres(), found.truth)
        sides = distances(priors.centres(), found.truth) / priors.stride[:, None]
        shares = distributions_of(prediction.box, prediction.raw[found.image, found.location])
        top1 = None if shares is None else shares.probability.amax(-1).mean(-1)
        for i in range(len(batch.index)):
            mine = found.image == i
            location, label = found.location[mine], found.labels[mine]
            columns = {
                **self._place(batch, i, label, found.decoded[mine] / batch.scale[i].repeat(2).to(found.decoded)),
                **_outputs(dense, i, location, label),
                "iou": found.iou[mine],
                "level": level[location].to(torch.int16),
                "centerness": labels[mine],
                **dict(zip(("left", "top", "right", "bottom"), sides[mine].unbind(-1), strict=True)),
                **({} if top1 is None else {"top1": top1[mine]}),
            }
            _append(self.positives, columns)

    def _count(self, batch: Batch, prediction: Prediction, matches: Tensor) -> None:
        """The truths of a batch, and how many priors are matched to each; side: root of the area, network input."""
        truths, first = batch.truths, self.objective.match_first(prediction, batch.truths, batch.sizes)
        counts = {"initial": matches} if first is None else {"initial": first, "adjusted": matches}
        counts = {name: _matched(found, truths.valid) for name, found in counts.items()}
        boxes = _original(truths.boxes, batch)
        for i, valid in enumerate(truths.valid):
            columns = {
                **self._place(batch, i, truths.labels[i, valid], boxes[i, valid]),
                "side": area(truths.boxes[i, valid]).sqrt(),
                **{name: count[i, valid] for name, count in counts.items()},
            }
            _append(self.matches, columns)

    def _place(self, batch: Batch, i: int, label: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Which picture, which category, and the box (K, 4) in pixels of the original picture."""
        ids = torch.tensor(self.annotations.category_ids, device=label.device)
        x1, y1, x2, y2 = boxes.unbind(-1)
        image = torch.full_like(label, self.annotations.images[int(batch.index[i])].id)
        return {"image_id": image, "category_id": ids[label], "x1": x1, "y1": y1, "x2": x2, "y2": y2}


def _matched(matches: Tensor, valid: Tensor) -> Tensor:
    """(B, G) number of locations of each truth, of matches (B, R)."""
    count = torch.zeros_like(valid, dtype=torch.int64)
    count = F.pad(count, (0, 1))  # where the matches of none go
    owner = torch.where(matches >= 0, matches, valid.shape[1])
    return count.scatter_add(1, owner, torch.ones_like(owner))[:, :-1]


def _original(boxes: Tensor, batch: Batch) -> Tensor:
    """Boxes (B, R, 4) of the network input in pixels of the original pictures."""
    return boxes / batch.scale.repeat(1, 2)[:, None].to(boxes)


def _outputs(dense: Dense, i: int, location: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Predicted class score and quality (K,) at pairs of image i; quality is NaN where the detector has none."""
    none = torch.full(location.shape, torch.nan, device=location.device)
    quality = none if dense.quality is None else dense.quality[i, location]
    return {"class_score": dense.cls[i, location, label], "quality": quality}


def _append(columns: Columns, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        array = (value.float() if value.is_floating_point() else value).cpu().numpy()
        columns.setdefault(name, []).append(array)
