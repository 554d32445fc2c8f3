"""Candidates before suppression: which are stored, and how any rule ranks them again without the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from qrepro.postprocess import Candidates, PostProcess
from qrepro.quality import Oracle, Rule, fuse
from qrepro.records.atomic import replacing

BOX = ["x1", "y1", "x2", "y2"]
_FLOORS = b"qrepro.floors"
COLUMNS = ["image_id", "category_id", *BOX, "class_score", "quality", "iou_truth", "level", "location"]


@dataclass(frozen=True)
class Floor:
    """Which (location, class) pairs are stored: class score above `score`, the `limit` best of an image or None."""

    score: float = 0.001
    limit: int | None = 10_000

    def __post_init__(self) -> None:
        if not 0 <= self.score < 1:
            raise ValueError(f"floor {self.score:g}: a class score in [0, 1)")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit}: at least 1 candidate an image")


@dataclass(frozen=True, eq=False)
class Stored:
    """Candidates of a split.

    rows: frame with COLUMNS, the rows of an image together, in order of location, then class.
    floors: by image id the class score that its candidates outside `rows` do not exceed; every image of the split.
    """

    rows: pd.DataFrame
    floors: dict[int, float]

    @property
    def has_estimate(self) -> bool:
        """Whether every candidate has a quality; without any candidate there is nothing to say so."""
        return len(self.rows) > 0 and bool(self.rows["quality"].notna().all())

    def write(self, path: Path) -> None:
        """A Parquet file, whole or not at all; the floors are in its metadata."""
        held = pa.Table.from_pandas(self.rows, preserve_index=False)
        metadata = {**(held.schema.metadata or {}), _FLOORS: json.dumps(self.floors).encode()}
        with replacing(path) as partial:
            pq.write_table(held.replace_schema_metadata(metadata), partial)

    @classmethod
    def read(cls, path: Path) -> Stored:
        """Read what `write` wrote; `ValueError` for anything else."""
        if not path.is_file():
            raise ValueError(f"{path}: no stored candidates; `qrepro eval --save-candidates` writes them")
        try:
            held = pq.read_table(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a Parquet file: {error}") from None
        missing = [name for name in COLUMNS if name not in held.column_names]
        if missing or _FLOORS not in (held.schema.metadata or {}):
            raise ValueError(f"{path}: not a file of candidates: {missing[0] if missing else 'the floor'} is missing")
        floors = {int(image): value for image, value in json.loads(held.schema.metadata[_FLOORS]).items()}
        return cls(held.select(COLUMNS).to_pandas(), floors)


def gather(scores: Tensor, store: Floor) -> tuple[Tensor, Tensor, float]:
    """Location (N,) and class (N,) of the stored pairs of class scores (R, C), and what the others do not exceed."""
    location, label = (scores > store.score).nonzero(as_tuple=True)
    if store.limit is None or len(location) <= store.limit:
        return location, label, store.score
    value = scores[location, label]
    best = value.argsort(descending=True, stable=True)[: store.limit]
    kept = best.sort().values
    return location[kept], label[kept], value[best[-1]].item()


@dataclass(frozen=True)
class Rescored:
    """Detections by one rule, from stored candidates.

    detections: as `eval` writes them; certain: ids of the images for which a pass of the network would give the same,
    because nothing that was not stored could rank among them.
    """

    detections: pd.DataFrame
    certain: list[int]


def rescore(
    stored: Stored,
    rules: Sequence[Rule],
    postprocess: PostProcess,
    report: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Rule, Rescored]]:
    """Rank stored candidates by each rule, one after the other.

    `report` is called with the number of images done, over all rules.
    """
    candidates, floors = stored.rows, stored.floors
    for rule in rules:
        _check(rule, stored.has_estimate)
    data = _Columns(candidates)
    for number, rule in enumerate(rules):
        quality = data.iou_truth if rule.oracle else data.quality
        score = fuse(data.log_class[None, :, None], quality.log()[None], rule)[0, :, 0]
        rows, scores, certain = [], [], []
        for done, (image, part) in enumerate(data.images, start=1):
            columns = (score, data.log_class, data.label, data.location, data.level, data.boxes)
            found = Candidates(*(column[part] for column in columns))
            kept = postprocess.choose(found)
            rows.append(kept.candidate + part.start)
            scores.append(kept.score)
            if _is_certain(rule, floors[image], kept.score, postprocess):
                certain.append(image)
            if done % 100 == 0:
                report(number * len(data.images) + done)
        report((number + 1) * len(data.images))
        empty = [image for image in floors if image not in data.present]
        certain += [image for image in empty if _is_certain(rule, floors[image], data.log_class[:0], postprocess)]
        yield rule, Rescored(_detections(candidates, rows, scores), certain)


class _Columns:
    """Candidates as tensors, and the rows of each image."""

    def __init__(self, candidates: pd.DataFrame) -> None:
        def tensor(name: str, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(candidates[name].to_numpy(copy=True)).to(dtype)

        self.log_class = tensor("class_score", torch.float32).log()
        self.quality = tensor("quality", torch.float32)
        self.iou_truth = tensor("iou_truth", torch.float32)
        self.label = torch.from_numpy(np.unique(candidates["category_id"], return_inverse=True)[1])
        self.location = tensor("location", torch.int64)
        self.level = tensor("level", torch.int64)
        self.boxes = torch.from_numpy(candidates[BOX].to_numpy(np.float32, copy=True))
        image = candidates["image_id"].to_numpy()
        bounds = [*np.flatnonzero(np.diff(image, prepend=image[:1] - 1)).tolist(), len(image)]
        self.images = [(int(image[a]), slice(a, b)) for a, b in pairwise(bounds)]
        self.present = {number for number, _ in self.images}
        if len(self.present) < len(self.images):
            raise ValueError("candidates: the rows of an image must stand together")


def _check(rule: Rule, has_estimate: bool) -> None:
    """Refuse what stored candidates cannot answer."""
    if rule.oracle and rule.oracle != Oracle():
        raise ValueError(
            f"score rule {rule.name}: needs the dense outputs of the network; `qrepro eval --rule {rule.name}` has them"
        )
    if rule.needs_estimate and not has_estimate:
        raise ValueError(f"score rule {rule.name}: these candidates have no quality estimate")


def _is_certain(rule: Rule, floor: float, score: Tensor, postprocess: PostProcess) -> bool:
    """Whether no unstored candidate of an image could matter, given the scores of its detections, best first.

    Its class score p is at most `floor` and u at most 1, so p^a u^b <= floor^a. It is out when it does not pass the
    threshold, or when `keep` detections are better: suppression looks at better boxes only.
    """
    if postprocess.threshold_on == "class" and floor <= postprocess.threshold:
        return True
    bound = floor ** rule.exponents[0]
    if postprocess.threshold_on == "fused" and bound <= postprocess.threshold:
        return True
    return len(score) == postprocess.keep and bound < score[-1].item()


def _detections(candidates: pd.DataFrame, rows: list[Tensor], scores: list[Tensor]) -> pd.DataFrame:
    """The chosen rows with their fused score, in the columns of `eval`."""
    index = torch.cat(rows).numpy() if rows else np.zeros(0, np.int64)
    chosen = candidates.iloc[index].reset_index(drop=True)
    chosen = chosen.drop(columns="location")
    chosen.insert(6, "score", torch.cat(scores).numpy() if scores else np.zeros(0, np.float32))
    return chosen
