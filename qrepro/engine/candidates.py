"""Candidates before suppression: which are stored, and how any rule ranks them again without the network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from qrepro.oracle import LocationGroundTruth
from qrepro.postprocess import Candidates, PostProcess
from qrepro.ranking import rank
from qrepro.records.atomic import replacing
from qrepro.records.ground_truth import BOX
from qrepro.records.run_folder import CANDIDATE_COLUMNS
from qrepro.records.score_rule import Oracle, Rule
from qrepro.reporter import Progress, no_progress

_UNSTORED = b"qrepro.unstored"


@dataclass(frozen=True)
class CandidateFilter:
    """Which (location, class) pairs are stored.

    Attributes:
        score: they have a class score above it.
        limit: so many of an image, those of the highest class score; None: all.
    """

    score: float = 0.001
    limit: int | None = 10_000

    def __post_init__(self) -> None:
        if not 0 <= self.score < 1:
            raise ValueError(f"stored score threshold {self.score:g}: a class score in [0, 1)")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit}: at least 1 candidate an image")


@dataclass(frozen=True, eq=False)
class StoredCandidates:
    """Candidates of a split.

    Attributes:
        rows: frame with CANDIDATE_COLUMNS, the rows of an image together, in order of location, then class.
        unstored: by image id the log of the class score that its candidates outside `rows` do not exceed; every image
            of the split.
    """

    rows: pd.DataFrame
    unstored: dict[int, float]

    @property
    def has_estimate(self) -> bool:
        """Whether every candidate has a quality; without any candidate there is nothing to say so."""
        return len(self.rows) > 0 and bool(self.rows["log_quality"].notna().all())

    def write(self, path: Path) -> None:
        """A Parquet file, whole or not at all; what is known of unstored candidates is in its metadata."""
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        metadata = {**(table.schema.metadata or {}), _UNSTORED: json.dumps(self.unstored).encode()}
        with replacing(path) as partial:
            pq.write_table(table.replace_schema_metadata(metadata), partial)

    @classmethod
    def read(cls, path: Path) -> StoredCandidates:
        """Read what `write` wrote.

        Raises:
            ValueError: anything else.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no stored candidates; `qrepro eval --save-candidates` writes them")
        try:
            table = pq.read_table(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a Parquet file: {error}") from None
        missing = [name for name in CANDIDATE_COLUMNS if name not in table.column_names]
        if missing or _UNSTORED not in (table.schema.metadata or {}):
            absent = missing[0] if missing else "the bound on unstored scores"
            raise ValueError(f"{path}: not a file of candidates: {absent} is missing")
        unstored = {int(image): value for image, value in json.loads(table.schema.metadata[_UNSTORED]).items()}
        return cls(table.select(CANDIDATE_COLUMNS).to_pandas(), unstored)


def gather(log_class: Tensor, kept: CandidateFilter) -> tuple[Tensor, Tensor, float]:
    """Location (N,), class (N,) of the stored pairs of log class scores (R, C), and what the others do not exceed."""
    bound = math.log(kept.score) if kept.score > 0 else -math.inf
    location, label = (log_class > bound).nonzero(as_tuple=True)
    if kept.limit is None or len(location) <= kept.limit:
        return location, label, bound
    value = log_class[location, label]
    best = value.argsort(descending=True, stable=True)[: kept.limit]
    index = best.sort().values
    return location[index], label[index], value[best[-1]].item()


@dataclass(frozen=True)
class Rescored:
    """Detections by one rule, from stored candidates.

    Attributes:
        detections: as `eval` writes them.
        certain: ids of the images for which a pass of the network would give the same, because nothing that was not
            stored could rank among them.
    """

    detections: pd.DataFrame
    certain: list[int]


@dataclass(frozen=True)
class CandidateOutputs:
    """The stored candidates of one image as outputs to rank, N of them; see `qrepro.ranking.rank`.

    Attributes:
        log_class, log_quality: (N,); the latter NaN without an estimate.
        boxes: (N, 4) in pixels of the original image.
        label, location, level: (N,) int64.
    """

    log_class: Tensor
    log_quality: Tensor | None
    boxes: Tensor
    label: Tensor
    location: Tensor
    level: Tensor

    def candidates(self, log_score: Tensor, postprocess: PostProcess) -> Iterator[Candidates]:
        """All of them: post-processing leaves out what is below the threshold."""
        yield Candidates(log_score, self.log_class, self.label, self.location, self.level, self.boxes)


def rescore(
    stored: StoredCandidates, rules: Sequence[Rule], postprocess: PostProcess, progress: Progress = no_progress
) -> Iterator[tuple[Rule, Rescored]]:
    """Rank stored candidates by each rule, one after the other.

    Args:
        stored: candidates of a split.
        rules: without oracles that need more than the true IoU.
        postprocess: candidate selection, suppression and cut.
        progress: is told the number of images done, over all rules.

    Raises:
        ValueError: a rule that these candidates cannot answer.
    """
    for rule in rules:
        _check(rule, stored.has_estimate)
    images = list(_images(stored.rows, stored.has_estimate))
    present = {image for image, *_ in images}
    nothing = torch.zeros(0, dtype=torch.float64)
    for number, rule in enumerate(rules):
        rows, scores, certain = [], [], []
        for done, (image, start, outputs, ground_truth) in enumerate(images, start=1):
            (detections,) = rank(outputs, rule, postprocess, partial(_stored_gt, ground_truth))
            rows.append(detections.candidate + start)
            scores.append(detections.score)
            if _is_certain(rule, stored.unstored[image], detections.score, postprocess):
                certain.append(image)
            if done % 100 == 0:
                progress(number * len(images) + done)
        progress((number + 1) * len(images))
        empty = [image for image in stored.unstored if image not in present]
        certain += [image for image in empty if _is_certain(rule, stored.unstored[image], nothing, postprocess)]
        yield rule, Rescored(_detections(stored.rows, rows, scores), certain)


def _images(rows: pd.DataFrame, has_estimate: bool) -> Iterator[tuple[int, int, CandidateOutputs, LocationGroundTruth]]:
    """Id, first row, outputs and ground truth of each image."""

    def tensor(name: str, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(rows[name].to_numpy(copy=True)).to(dtype)

    label = torch.from_numpy(np.unique(rows["category_id"], return_inverse=True)[1])
    floats = [tensor(name, torch.float32) for name in ("log_class", "log_quality", "iou_truth")]
    integers = [tensor(name, torch.int64) for name in ("location", "level")]
    boxes = torch.from_numpy(rows[BOX].to_numpy(np.float32, copy=True))
    ids = rows["image_id"].to_numpy()
    bounds = [*np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1)).tolist(), len(ids)]
    known = set()
    for start, end in pairwise(bounds):
        image, part = int(ids[start]), slice(start, end)
        if image in known:
            raise ValueError("candidates: the rows of an image must stand together")
        known.add(image)
        log_class, log_quality, iou = (column[part] for column in floats)
        location, level = (column[part] for column in integers)
        quality = log_quality if has_estimate else None
        outputs = CandidateOutputs(log_class, quality, boxes[part], label[part], location, level)
        yield image, start, outputs, LocationGroundTruth(iou, iou > 0)


def _stored_gt(ground_truth: LocationGroundTruth, oracle: Oracle) -> LocationGroundTruth:
    """The ground truth of stored candidates: one IoU, whatever an oracle asks for; `_check` lets no other through."""
    return ground_truth


def _check(rule: Rule, has_estimate: bool) -> None:
    """Refuse what stored candidates cannot answer."""
    if rule.oracle and rule.oracle != Oracle():
        raise ValueError(
            f"score rule {rule.name}: needs the dense outputs of the network; `qrepro eval --rule {rule.name}` has them"
        )
    if rule.needs_estimate and not has_estimate:
        raise ValueError(f"score rule {rule.name}: these candidates have no quality estimate")


def _is_certain(rule: Rule, unstored: float, score: Tensor, postprocess: PostProcess) -> bool:
    """Whether no unstored candidate of an image could matter, given the scores of its detections, best first.

    The log of its class score is at most `unstored` and that of its quality at most 0, and a fusion does not fall in
    either, so its score is bounded. It is out when it does not pass the threshold, or when `max_per_img` detections are
    better: suppression looks at better boxes only.
    """
    threshold = postprocess.log_threshold
    if postprocess.score_thr_on == "class" and unstored <= threshold:
        return True
    bound = float(rule.fusion(unstored, 0.0))
    if postprocess.score_thr_on == "fused" and bound <= threshold:
        return True
    return len(score) == postprocess.max_per_img and math.exp(bound) < score[-1].item()


def _detections(candidates: pd.DataFrame, rows: list[Tensor], scores: list[Tensor]) -> pd.DataFrame:
    """The chosen rows with their score, in the columns of `eval`."""
    index = torch.cat(rows).numpy() if rows else np.zeros(0, np.int64)
    chosen = candidates.iloc[index].reset_index(drop=True)
    logs = {"class_score": chosen["log_class"], "quality": chosen["log_quality"]}
    predicted = {name: torch.from_numpy(values.to_numpy(copy=True)).exp().numpy() for name, values in logs.items()}
    chosen = chosen.drop(columns=["location", "log_class", "log_quality"])
    chosen.insert(6, "score", torch.cat(scores).numpy() if scores else np.zeros(0, np.float64))
    for place, (name, values) in enumerate(predicted.items(), start=7):
        chosen.insert(place, name, values)
    return chosen
