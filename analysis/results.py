"""Files that hold results: ground truth, detections and run folders, read into checked frames.

Every file is checked where it is read, so that the analyses may trust their arrays; an error names the file and the
first offending record. Boxes are `xyxy` pixels of the original image, whatever the file holds.
"""

from __future__ import annotations

import gzip
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BOX = ["x1", "y1", "x2", "y2"]
DETECTION_COLUMNS = ["image_id", "category_id", *BOX, "score", "class_score", "quality", "iou_truth", "level"]
POSITIVE_COLUMNS = ["image_id", "category_id", "level", *BOX, "class_score", "quality", "iou"]


@dataclass(frozen=True, eq=False)
class Truths:
    """Ground truth of one evaluation split.

    images: frame with id, file_name, width, height (NaN where the file does not say).
    categories: frame with id, name, in increasing order of id.
    annotations: frame with id, image_id, category_id, x1, y1, x2, y2, area (px^2: the file's, else that of the box) and
        iscrowd (1: crowd or VOC-difficult, which neither counts as an object nor makes a detection wrong).
    """

    images: pd.DataFrame
    categories: pd.DataFrame
    annotations: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder `results/<recipe>/<profile>/seed<k>`; its files are read when they are first asked for.

    path: the folder.
    info: the parsed `run.json`.
    """

    path: Path
    info: Mapping[str, Any]

    @property
    def recipe(self) -> str:
        """Name of the recipe, such as `iou_aware/r50_detached`."""
        return str(self.info["recipe"])

    @property
    def profile(self) -> str:
        """Name of the profile, such as `shapes`."""
        return str(self.info["profile"])

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.info["seed"])

    @property
    def name(self) -> str:
        """Recipe, profile and seed in one label."""
        return f"{self.recipe} / {self.profile} / seed {self.seed}"

    @property
    def evaluated(self) -> bool:
        """Whether the run has been evaluated."""
        return (self.path / "metrics.json").is_file()

    @property
    def rules(self) -> list[str]:
        """Names of the scoring rules whose detections are stored."""
        return sorted(path.stem for path in (self.path / "detections").glob("*.parquet"))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The parsed `metrics.json`: split, images, engine, and rules: {rule: {metric: percent}}."""
        return _read_object(self.path / "metrics.json", ("split", "images", "rules"))

    @cached_property
    def truths(self) -> Truths:
        """The ground truth that the run was evaluated on."""
        return read_truths(self.path / "truths.json")

    @cached_property
    def positives(self) -> pd.DataFrame:
        """One row per positive location of the training assigner; `iou` is that of the decoded box and its truth."""
        return _read_parquet(self.path / "positives.parquet", POSITIVE_COLUMNS)

    @cached_property
    def log(self) -> pd.DataFrame:
        """One row per logged training step; a term that a line does not have is NaN."""
        return read_log(self.path / "log.jsonl")

    def detections(self, rule: str) -> pd.DataFrame:
        """Detections ranked by one scoring rule, checked against the ground truth of the run."""
        if rule not in self.rules:
            stored = ", ".join(self.rules) or "none"
            raise FileNotFoundError(f"{self.path}: no detections of rule {rule!r}; stored: {stored}")
        return read_detections(self.path / "detections" / f"{rule}.parquet", self.truths)


def read_truths(path: str | Path) -> Truths:
    """Read a COCO-format ground-truth file (.json or .json.gz) and check every record.

    A missing `iscrowd` is 0, a missing `area` that of the box. As in pycocotools a key `ignore` has no effect.
    """
    path = Path(path)
    data = _read_object(path, ("images", "categories", "annotations"))
    images = _table(data["images"], {"id": int, "file_name": str, "width": float, "height": float}, "images", path)
    categories = _table(data["categories"], {"id": int, "name": str}, "categories", path)
    categories = categories.sort_values("id", ignore_index=True)  # the order of K in every precision array
    for name, frame in (("images", images), ("categories", categories)):
        if frame.empty:
            raise ValueError(f"{path}: {name} is empty")
        if frame["id"].duplicated().any():
            raise ValueError(f"{path}: {name}: id {frame['id'][frame['id'].duplicated()].iloc[0]} occurs twice")

    records = data["annotations"]
    annotations = _boxes_from_records(records, "annotations", path)
    annotations.insert(0, "id", _column(records, "id", int, "annotations", path, default=-1))
    sides = annotations["x2"] - annotations["x1"], annotations["y2"] - annotations["y1"]
    area = _column(records, "area", float, "annotations", path, default=math.nan)
    annotations["area"] = np.where(np.isnan(area), sides[0] * sides[1], area)
    annotations["iscrowd"] = _column(records, "iscrowd", int, "annotations", path, default=0)
    _refuse(~annotations["iscrowd"].isin([0, 1]), "annotations", "iscrowd must be 0 or 1", annotations["iscrowd"], path)
    truths = Truths(images, categories, annotations)
    _check_boxes(annotations, "annotations", path)
    _check_known(annotations, truths, "annotations", path)
    return truths


def read_detections(path: str | Path, truths: Truths | None = None) -> pd.DataFrame:
    """Read detections and check them; against `truths` too when given (unknown images or categories are refused).

    path: Parquet with DETECTION_COLUMNS, or a COCO result list (.json, .json.gz) of {image_id, category_id,
        bbox [x, y, w, h], score, optional quality and class_score}.
    Returns a frame with DETECTION_COLUMNS; what the file does not have is NaN, and -1 for `level`.
    A score outside [0, 1] is allowed, since only the order counts for AP, but warned about.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        frame = _read_parquet(path, ["image_id", "category_id", *BOX, "score"])
    elif path.name.endswith((".json", ".json.gz")):
        frame = _read_coco_results(path)
    else:
        raise ValueError(f"{path}: detections are read from .parquet, .json or .json.gz")
    for name in ("class_score", "quality", "iou_truth"):
        if name not in frame:
            frame[name] = np.nan
    if "level" not in frame:
        frame["level"] = np.int8(-1)
    frame = frame[DETECTION_COLUMNS]
    check_detections(frame, truths, path)
    return frame


def check_detections(detections: pd.DataFrame, truths: Truths | None = None, source: str | Path = "detections") -> None:
    """Refuse detections that no evaluation can use, naming `source` and the first offending row.

    Refused: NaN or infinite boxes and scores, negative sides and, with `truths`, unknown images and categories.
    """
    missing = [name for name in ("image_id", "category_id", *BOX, "score") if name not in detections]
    if missing:
        present = ", ".join(map(str, detections.columns))
        raise ValueError(f"{source}: column {missing[0]!r} is missing; present: {present}")
    _check_boxes(detections, "detections", source)
    score = detections["score"]
    _refuse(~np.isfinite(score), "detections", "score must be a finite number", score, source)
    if truths is not None:
        _check_known(detections, truths, "detections", source)
    outside = (score < 0) | (score > 1)
    if outside.any():
        row = int(np.argmax(outside.to_numpy()))
        count = f"{int(outside.sum())} of {len(score)} scores lie outside [0, 1]"
        warnings.warn(f"{source}: {count}, first detections[{row}]: {score.iloc[row]}", stacklevel=3)


def read_log(path: str | Path) -> pd.DataFrame:
    """Read a training log of one JSON object per line into one row per line."""
    path = Path(path)
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict) or "step" not in row:
            raise ValueError(f"{path}: line {number} is not an object with a key 'step'")
        rows.append(row)
    return pd.DataFrame(rows)


def load_run(path: str | Path) -> Run:
    """Read one run folder, which is recognised by its `run.json`."""
    path = Path(path)
    info = _read_object(path / "run.json", ("recipe", "profile", "seed"))
    if not isinstance(info["seed"], int):
        raise ValueError(f"{path / 'run.json'}: seed must be an integer, got {info['seed']!r}")
    return Run(path, info)


def find_runs(root: str | Path) -> list[Run]:
    """All run folders at or below `root`, ordered by recipe, profile and seed."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    runs = [load_run(path.parent) for path in root.rglob("run.json")]
    return sorted(runs, key=lambda run: (run.recipe, run.profile, run.seed, run.path))


def _read_text(path: Path) -> str:
    """Text of a file, through gzip where the name ends in .gz."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return file.read()
        return path.read_text(encoding="utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def _read_json(path: Path) -> Any:
    """Parsed JSON of a file."""
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def _read_object(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Parsed JSON object that must have `keys`."""
    data = _read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(data).__name__}")
    for key in keys:
        if key not in data:
            raise ValueError(f"{path}: key {key!r} is missing; present: {', '.join(data) or 'none'}")
    return data


def _read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Frame of a Parquet file that must have `columns`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueError or OSError
        raise ValueError(f"{path}: not a Parquet file: {error}") from None
    for name in columns:
        if name not in frame:
            raise ValueError(f"{path}: column {name!r} is missing; present: {', '.join(frame.columns)}")
    return frame


def _read_coco_results(path: Path) -> pd.DataFrame:
    """Frame of a COCO result list; class_score and quality are NaN where a record has none."""
    records = _read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a list of results, got {type(records).__name__}")
    frame = _boxes_from_records(records, "detections", path)
    frame["score"] = _column(records, "score", float, "detections", path)
    for name in ("class_score", "quality"):
        frame[name] = _column(records, name, float, "detections", path, default=math.nan)
    return frame


def _boxes_from_records(records: Any, kind: str, path: Path) -> pd.DataFrame:
    """Frame of image_id, category_id and corners of records with a COCO `bbox` [x, y, width, height]."""
    image_id = _column(records, "image_id", int, kind, path)
    category_id = _column(records, "category_id", int, kind, path)
    rows = [record.get("bbox") for record in records]
    try:
        boxes = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    except (TypeError, ValueError):
        for index, row in enumerate(rows):
            if not (isinstance(row, list) and len(row) == 4 and all(isinstance(v, int | float) for v in row)):
                message = f"{path}: {kind}[{index}]: bbox must be 4 numbers [x, y, width, height], got {row!r}"
                raise ValueError(message) from None
        raise
    boxes[:, 2:] += boxes[:, :2]
    frame = pd.DataFrame(boxes, columns=BOX)
    frame.insert(0, "image_id", image_id)
    frame.insert(1, "category_id", category_id)
    return frame


def _table(records: Any, columns: Mapping[str, type], kind: str, path: Path) -> pd.DataFrame:
    """Frame of records: `id` is required, other columns fall back to NaN or the id as text."""
    ids = _column(records, "id", int, kind, path)
    frame = pd.DataFrame({"id": ids})
    for name, dtype in columns.items():
        if dtype is str:
            frame[name] = [str(record.get(name, record["id"])) for record in records]
        elif name != "id":
            frame[name] = _column(records, name, dtype, kind, path, default=math.nan)
    return frame


def _column(records: Any, key: str, dtype: type, kind: str, path: Path, *, default: float | None = None) -> np.ndarray:
    """One key of all records as an int64 or float64 vector; a key without default is required."""
    if not isinstance(records, list):
        raise ValueError(f"{path}: {kind} must be a list, got {type(records).__name__}")
    allowed = int if dtype is int else (int, float)
    values = []
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: {kind}[{index}] must be an object, got {record!r}")
        value = record.get(key, default)
        if value is None and default is not None:  # an explicit null is a missing value
            value = default
        if not isinstance(value, allowed):
            what = "an integer" if dtype is int else "a number"
            raise ValueError(f"{path}: {kind}[{index}]: {key} must be {what}, got {value!r}")
        values.append(value)
    return np.array(values, dtype=np.int64 if dtype is int else np.float64)


def _check_boxes(frame: pd.DataFrame, kind: str, source: str | Path) -> None:
    """Refuse boxes that are not finite or have a negative side; a side of zero is a legal, empty box."""
    boxes = frame[BOX].to_numpy(np.float64)
    shown = pd.Series(list(boxes), index=frame.index)
    _refuse(~np.isfinite(boxes).all(axis=1), kind, "box must be finite", shown, source)
    _refuse((boxes[:, 2:] < boxes[:, :2]).any(axis=1), kind, "box has a negative side, x1 y1 x2 y2", shown, source)


def _check_known(frame: pd.DataFrame, truths: Truths, kind: str, source: str | Path) -> None:
    """Refuse records of images or categories that the ground truth does not list."""
    for name, table in (("image_id", truths.images), ("category_id", truths.categories)):
        known = np.isin(frame[name].to_numpy(), table["id"].to_numpy())
        _refuse(~known, kind, f"{name} is not among the {len(table)} of the ground truth", frame[name], source)


def _refuse(bad: Any, kind: str, message: str, shown: pd.Series, source: str | Path) -> None:
    """Raise ValueError naming the first record for which `bad` holds."""
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        row = int(np.argmax(bad))
        more = f" ({int(bad.sum())} such records)" if bad.sum() > 1 else ""
        raise ValueError(f"{source}: {kind}[{row}]: {message}: {shown.iloc[row]}{more}")
