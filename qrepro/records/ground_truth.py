"""Ground truth of an evaluation split, read from COCO or PASCAL VOC files into checked frames.

Boxes are `xyxy` pixels of the original image, whatever the file holds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qrepro.records.boxes import is_box, xywh_of, xyxy_of
from qrepro.records.files import caution, column, refuse, shown
from qrepro.records.readers import voc
from qrepro.records.readers.coco import Record, Sections, annotation_records, read_sections

BOX = ["x1", "y1", "x2", "y2"]
DEFAULT_SPLITS = ("test", "val")  # of a PASCAL VOC folder, the first that there is


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Ground truth of one evaluation split.

    Attributes:
        images: frame with id, file_name, width, height (NaN where the file does not say).
        categories: frame with id, name, in increasing order of id.
        annotations: frame with id (-1: none), image_id, category_id, x1, y1, x2, y2 (pixels of the original image),
            area (pixels^2: the file's, else that of the box) and iscrowd (1: crowd or VOC-difficult, which neither
            counts as an object nor makes a detection wrong).
        listed: ids of the categories in the order of their file, in which detectors number their classes; (): as in
            `categories`.
    """

    images: pd.DataFrame
    categories: pd.DataFrame
    annotations: pd.DataFrame
    listed: tuple[int, ...] = ()


def read_ground_truth(
    path: str | Path, split: str | None = None, classes: Sequence[str] | None = None, one_based: bool | None = None
) -> GroundTruth:
    """Read the ground truth of a COCO-format file or a PASCAL VOC folder and check every record.

    Of a COCO-format file a missing `iscrowd` is 0, a missing `area` that of the box; as in pycocotools a key `ignore`
    has no effect. Boxes that have no point in common with their image are warned of.

    Of a PASCAL VOC folder image ids are 1..N in the order of the list, category ids 1..C in the order of the classes,
    annotation ids count from 1. A difficult object has iscrowd 1. Boxes are clipped to their image (where the file
    tells its size); those without area in it are left out, with one warning for all.

    Args:
        path: a .json or .json.gz file; or a folder with `Annotations` and `ImageSets/Main`, a folder that holds one
            such folder, itself or in `VOCdevkit`, or a plain folder of XML files.
        split: of a folder only: name of the list of images, after the year's folder if there are several
            (`VOC2007/test`). None: test, else val, else all XML files by name.
        classes: of a folder only: names in the order of their ids. None: Pascal's 20 where the XML files of the folder
            name no other class, else all that they name, sorted.
        one_based: of a folder only: whether pixels are counted from 1, see `qrepro.records.readers.voc.VocImage.boxes`.
            None: whether the classes are Pascal's.

    Raises:
        FileNotFoundError: no such file, no XML files, no such split (saying which there are), a listed file is missing.
        ValueError: split, classes or one_based with a file; a file that is no ground truth or with a record that no
            evaluation can use; an empty list of images, malformed XML, a box without its four numbers, an object of a
            class not in `classes`.
    """
    path = Path(path)
    if path.is_dir():
        return _from_sections(_pascal_sections(path, split, classes, one_based), path)
    if split is not None or classes is not None or one_based is not None:
        raise ValueError(f"{path}: split, classes and one_based are for a PASCAL VOC folder, this is none")
    if path.suffix == ".parquet":
        raise ValueError(f"{path}: ground truth is read from COCO-format .json or .json.gz, or a PASCAL VOC folder")
    return _from_sections(read_sections(path), path)


def sections_of(ground_truth: GroundTruth) -> Sections:
    """Ground truth as the sections of a COCO-format file, which `read_ground_truth` reads back.

    Returns:
        images with all columns of their frame; categories in the order of `GroundTruth.listed`; annotations with id,
        image_id, category_id, bbox [x, y, width, height] in pixels, area and iscrowd.
    """
    categories, annotations = ground_truth.categories, ground_truth.annotations
    if ground_truth.listed:
        categories = categories.set_index("id").loc[list(ground_truth.listed)].reset_index()
    ids, image_ids, category_ids, area, iscrowd = (
        annotations[name] for name in ("id", "image_id", "category_id", "area", "iscrowd")
    )
    return {
        "images": _records(ground_truth.images),
        "categories": _records(categories),
        "annotations": annotation_records(ids, image_ids, category_ids, annotations[BOX], area, iscrowd),
    }


def corners(boxes: np.ndarray, kind: str, source: str | Path) -> np.ndarray:
    """Convert boxes (N, 4) x, y, width, height to (N, 4) x1, y1, x2, y2.

    Raises:
        ValueError: a number that is not finite, or a negative side; names `source` and the first record of `kind`.
    """
    refuse(~np.isfinite(boxes).all(axis=1), kind, "bbox [x, y, width, height] must be finite", boxes, source)
    negative = (boxes[:, 2] < 0) | (boxes[:, 3] < 0)
    refuse(negative, kind, "bbox [x, y, width, height] has a negative side", boxes, source)
    return xyxy_of(boxes)


def boxes_of_rows(rows: Sequence[Any], kind: str, source: str | Path) -> np.ndarray:
    """Corners (N, 4) x1, y1, x2, y2 of parsed values of `bbox`, which must be lists [x, y, width, height].

    Raises:
        ValueError: another value, a number that is not finite, or a negative side.
    """
    return corners(boxes_of_four(rows, kind, "bbox must be 4 numbers [x, y, width, height]", source), kind, source)


def boxes_of_four(rows: Sequence[Any], kind: str, message: str, source: str | Path) -> np.ndarray:
    """Array (N, 4) of parsed values that must be lists of four numbers; NaN and infinity pass.

    Raises:
        ValueError: another value; says `message`.
    """
    refuse([not is_box(row) for row in rows], kind, message, rows, source)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def check_boxes(frame: pd.DataFrame, kind: str, source: str | Path) -> None:
    """Refuse boxes that are not finite or have a negative side; a side of zero is a legal, empty box."""
    check_corners(frame[BOX].to_numpy(np.float64), kind, source)


def check_corners(boxes: np.ndarray, kind: str, source: str | Path) -> None:
    """Refuse boxes (N, 4) x1, y1, x2, y2 as `check_boxes` does."""
    refuse(~np.isfinite(boxes).all(axis=1), kind, "box x1 y1 x2 y2 must be finite", boxes, source)
    negative = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    refuse(negative, kind, "box x1 y1 x2 y2 has a negative side", boxes, source)


def check_known(frame: pd.DataFrame, ground_truth: GroundTruth, kind: str, source: str | Path, hint: str = "") -> None:
    """Refuse records of images or categories that the ground truth does not list.

    Args:
        frame: with image_id and category_id.
        ground_truth: the ground truth.
        kind: of the records, for the message.
        source: of the records, for the message.
        hint: added to the message on other categories.

    Raises:
        ValueError: such a record.
    """
    allowed = f" {shown(ground_truth.categories['id'].tolist())}{hint}"
    for name, table, more in (("image_id", ground_truth.images, ""), ("category_id", ground_truth.categories, allowed)):
        known = frame[name].isin(table["id"])
        message = f"{name} must be one of the {len(table)} of the ground truth{more}"
        refuse(~known, kind, message, frame[name].to_numpy(), source)


def caution_outside(frame: pd.DataFrame, images: pd.DataFrame, kind: str, source: str | Path, stacklevel: int) -> None:
    """Warn of boxes that have no point in common with their image, where its size is known."""
    row = pd.Index(images["id"]).get_indexer(pd.Index(frame["image_id"]))
    sizes = images[["width", "height"]].to_numpy(np.float64)
    width, height = np.where(sizes > 0, sizes, np.inf)[row].T  # a size of 0 is no size
    x1, y1, x2, y2 = (frame[name].to_numpy() for name in BOX)
    outside = (x2 < 0) | (y2 < 0) | (x1 > width) | (y1 > height)
    message = "box x1 y1 x2 y2 lies outside its image"
    caution(outside, kind, message, frame[BOX].to_numpy(np.float64), source, stacklevel + 1)


def _pascal_sections(root: Path, split: str | None, classes: Sequence[str] | None, one_based: bool | None) -> Sections:
    """A split of a PASCAL VOC folder as the three sections of a COCO-format file.

    Image ids are 1..N in the order of the list, category ids 1..C in the order of the classes, annotation ids count
    from 1, as on the training side, so that ids and boxes agree with what an evaluation of it writes.
    """
    folder, name = _pascal_folder(root, split)
    images = [voc.read_image(file) for file in _pascal_files(folder, name)]
    if classes is None:
        classes = voc.default_classes(voc.class_names(folder, images))
    one_based = voc.counts_from_one(classes) if one_based is None else one_based
    id_of = {class_name: number for number, class_name in enumerate(classes, start=1)}
    annotations: list[Record] = []
    left_out = []
    for number, image in enumerate(images, start=1):
        category_ids = image.numbers(id_of)
        boxes, usable = _clipped(image, one_based)
        bboxes = xywh_of(boxes).tolist()
        for n, item in enumerate(image.objects):
            if not usable[n]:
                left_out.append(f"{image.file.name}: object {n} ({item.name}) {list(item.corners)}")
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category_ids[n],
                    "bbox": bboxes[n],
                    "iscrowd": int(item.difficult),
                }
            )
    if left_out:
        text = f"{root}: {len(left_out)} objects without area inside their image are left out, first {left_out[0]}"
        warnings.warn(text, stacklevel=3)
    return {
        "images": [
            {"id": number, "file_name": image.file_name, "width": image.width, "height": image.height}
            for number, image in enumerate(images, start=1)
        ],
        "categories": [{"id": number, "name": class_name} for class_name, number in id_of.items()],
        "annotations": annotations,
    }


def _pascal_folder(root: Path, split: str | None) -> tuple[Path, str | None]:
    """The one folder of a PASCAL VOC data set that is meant, and the name of the list of images in it."""
    year, name = voc.split_parts(split or "")
    if year:
        folders = [folder for folder in voc.candidate_folders(root, year) if folder.is_dir()]
    elif (root / "Annotations").is_dir() or any(root.glob("*.xml")):
        folders = [root]
    else:
        folders = [folder for folder in voc.subfolders(root) if (folder / "Annotations").is_dir()]
    if len(folders) != 1:
        present = ", ".join(str(folder.relative_to(root)) for folder in folders) or "none"
        raise FileNotFoundError(
            f"{root}: one folder with Annotations/*.xml, or XML files, are needed; found: {present}"
            + (" (name one with the split, such as FOLDER/test)" if folders else "")
        )
    return folders[0], name or None


def _pascal_files(folder: Path, name: str | None) -> list[Path]:
    """The XML files of a split, each once, as listed; of the default split where none is named."""
    annotations = voc.annotation_folder(folder)
    if name is None:
        name = next((default for default in DEFAULT_SPLITS if voc.list_file(folder, default).is_file()), None)
    if name is not None:
        return [annotations / f"{image}.xml" for image in dict.fromkeys(voc.read_list(folder, name))]
    files = sorted(annotations.glob("*.xml"))
    if not files:
        raise FileNotFoundError(f"{annotations}: no XML files")
    return files


def _clipped(image: voc.VocImage, one_based: bool) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (G, 4) xyxy of an image within its size, where that is known, and whether each has an area there, (G,)."""
    boxes = image.boxes(one_based)
    size = [image.width or math.inf, image.height or math.inf]
    clipped = np.concatenate([np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], size)], axis=1)
    usable = np.isfinite(boxes).all(axis=1) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    return np.where(usable[:, None], clipped, 0.0), usable


def _from_sections(sections: Sections, source: Path) -> GroundTruth:
    """Checked frames of parsed ground truth."""
    images = _table(sections["images"], "file_name", "images", source)
    for name in ("width", "height"):
        images[name] = column(sections["images"], name, float, "images", source, default=math.nan)
    categories = _table(sections["categories"], "name", "categories", source)
    listed = tuple(categories["id"].tolist())
    categories = categories.sort_values("id", ignore_index=True)  # the order of K in every precision array
    ground_truth = GroundTruth(images, categories, _annotations(sections["annotations"], source), listed)
    check_known(ground_truth.annotations, ground_truth, "annotations", source)
    caution_outside(ground_truth.annotations, images, "annotations", source, stacklevel=3)
    return ground_truth


def _table(records: list[Record], label: str, kind: str, source: Path) -> pd.DataFrame:
    """Frame of the ids, each once, and of one text, which falls back to the id."""
    ids = column(records, "id", int, kind, source)
    if not len(ids):
        raise ValueError(f"{source}: {kind} is empty")
    _check_unique(ids, kind, source)
    texts = [str(record["id"] if (value := record.get(label)) is None else value) for record in records]
    return pd.DataFrame({"id": ids, label: texts})


def _annotations(records: list[Record], source: Path) -> pd.DataFrame:
    """Frame of the objects."""
    kind = "annotations"
    ids = column(records, "id", int, kind, source, default=-1)
    _check_unique(ids, kind, source, missing=-1)
    image_id = column(records, "image_id", int, kind, source)
    category_id = column(records, "category_id", int, kind, source)
    boxes = boxes_of_rows([record.get("bbox") for record in records], kind, source)
    area = column(records, "area", float, kind, source, default=math.nan)
    area = np.where(np.isnan(area), (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), area)
    refuse(~np.isfinite(area) | (area < 0), kind, "area must be finite and not negative", area, source)
    iscrowd = column(records, "iscrowd", bool, kind, source, default=0)
    refuse((iscrowd != 0) & (iscrowd != 1), kind, "iscrowd must be 0 or 1", iscrowd, source)
    box = dict(zip(BOX, boxes.T, strict=True))
    known = {"id": ids, "image_id": image_id, "category_id": category_id}
    return pd.DataFrame({**known, **box, "area": area, "iscrowd": iscrowd})


def _records(frame: pd.DataFrame) -> list[Record]:
    """Rows of a frame as JSON objects."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _check_unique(ids: np.ndarray, kind: str, source: Path, missing: int | None = None) -> None:
    """Refuse an id that an earlier record has; `missing` stands for none."""
    again = pd.Series(ids).duplicated().to_numpy() & (ids != missing)
    refuse(again, kind, "id must be unique", ids, source)
