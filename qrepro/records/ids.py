"""Ids of images and categories, where a file of detections gives names or class numbers in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from qrepro.records.files import numbers, refuse
from qrepro.records.ground_truth import GroundTruth


@dataclass(frozen=True)
class Ids:
    """How one file of detections says which image and which category a detection is of.

    Attributes:
        source: File, named in errors.
        ground_truth: Ground truth that knows names; None: ids only.
        classes_from: See `qrepro.records.detections.read_detections`.
    """

    source: Path
    ground_truth: GroundTruth | None = None
    classes_from: int | None = None

    def images(self, values: Sequence[Any] | np.ndarray, files: Sequence[Any] | None = None) -> np.ndarray:
        """(N,) ids of images, of N ids or names.

        Ultralytics writes both, and its image_id is the number in the file name, whatever the ground truth calls the
        image: of 000012.jpg it is 12.

        Args:
            values: N ids or names.
            files: N file names or None, which go before the values.
        """
        if files is not None and any(files) and self.ground_truth is not None and _have_names(self.ground_truth):
            names = image_names(self.ground_truth)
            known = {file: _named(file, names) for file in set(filter(_is_text, files))}
            ids = [known.get(file) if _is_text(file) else None for file in files]
            unknown = [file is not None and id_ is None for file, id_ in zip(files, ids, strict=True)]
            refuse(unknown, "detections", "file_name must be that of one image of the ground truth", files, self.source)
            values = [value if id_ is None else id_ for value, id_ in zip(_listed(values), ids, strict=True)]
        return self._ids(values, "image_id", image_names)

    def categories(self, values: Sequence[Any] | np.ndarray) -> np.ndarray:
        """(N,) ids of categories, of N ids or names, or of N class numbers."""
        if self.ground_truth is None or self.classes_from is None:
            return self._ids(values, "category_id", category_names)
        what = "category_id must be"
        found = numbers(_listed(values), int, "detections", f"{what} a class number", self.source)
        return class_ids(found, self.classes_from, self.ground_truth, "detections", what, self.source)

    def _ids(
        self, values: Sequence[Any] | np.ndarray, key: str, naming: Callable[[GroundTruth], dict[str, int]]
    ) -> np.ndarray:
        """Ids of values that are ids or, with ground truth, names."""
        if isinstance(values, np.ndarray):
            return values
        what = f"{key} must be a 64-bit integer"
        if any(map(_is_text, values)):
            names = {} if self.ground_truth is None else naming(self.ground_truth)
            ids = [names.get(value, value) if _is_text(value) else value for value in values]
            also = "or a name that just one of the ground truth has"
            also = "where no ground truth knows names" if self.ground_truth is None else also
            refuse([_is_text(id_) for id_ in ids], "detections", f"{what} {also}", values, self.source)
            values = ids
        return numbers(values, int, "detections", what, self.source)


def class_ids(
    classes: np.ndarray, first: int, ground_truth: GroundTruth, kind: str, message: str, source: str | Path
) -> np.ndarray:
    """(N,) category ids of (N,) class numbers that count the categories from `first`, in the order of their file."""
    order = np.array(ground_truth.listed or ground_truth.categories["id"].tolist(), dtype=np.int64)
    outside = (classes < first) | (classes >= first + len(order))
    allowed = f"a class number from {first} to {first + len(order) - 1}, one of the {len(order)} of the ground truth"
    refuse(outside, kind, f"{message} {allowed}", classes, source)
    ids: np.ndarray = order[classes - first]
    return ids


def image_names(ground_truth: GroundTruth) -> dict[str, int]:
    """Id of every image by its file name, and by what is left of it without folder, without ending, without both."""
    file = ground_truth.images["file_name"].map(PurePath)
    spellings = [file.map(str), file.map(lambda path: path.name), file.map(lambda path: str(path.with_suffix("")))]
    return _once(ground_truth.images["id"], [*spellings, file.map(lambda path: path.stem)])


def image_stems(ground_truth: GroundTruth) -> dict[str, int]:
    """Id of every image by its file name without folder and ending."""
    return _once(ground_truth.images["id"], [ground_truth.images["file_name"].map(lambda name: PurePath(name).stem)])


def category_names(ground_truth: GroundTruth) -> dict[str, int]:
    """Id of every category by its name."""
    return _once(ground_truth.categories["id"], [ground_truth.categories["name"]])


def _once(ids: pd.Series, spellings: Sequence[pd.Series]) -> dict[str, int]:
    """Ids by name, without the names that two records share; an earlier spelling goes before a later one."""
    found: dict[str, int] = {}
    for names in spellings:
        alone = ~names.duplicated(keep=False)
        found = dict(zip(names[alone], ids[alone].tolist(), strict=True)) | found
    return found


def _have_names(ground_truth: GroundTruth) -> bool:
    """Whether the images of the ground truth have file names.

    Where the file gives none, `read_ground_truth` takes the id.
    """
    return bool((ground_truth.images["file_name"] != ground_truth.images["id"].astype(str)).any())


def _named(file: str, names: dict[str, int]) -> int | None:
    """Id of the image of a file name, whose ending may be another one."""
    return names.get(file, names.get(PurePath(file).stem))


def _is_text(value: Any) -> bool:
    """Whether a parsed value is a text."""
    return type(value) is str


def _listed(values: Sequence[Any] | np.ndarray) -> list[Any]:
    """Values as Python objects."""
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
