"""Reader of COCO instance annotations (one JSON file and a folder of images)."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qrepro.data.annotations import Annotations, Defect, Image, Objects
from qrepro.data.clean import box_area, clean_boxes
from qrepro.records.boxes import is_box, xyxy_of
from qrepro.records.readers.coco import Record, read_sections


def read_coco(annotation_file: Path, image_dir: Path) -> Annotations:
    """Read an `instances_*.json` file.

    Categories are sorted by id. Images without objects and crowds are kept (a crowd with ignore=True). Boxes that are
    not usable are skipped and recorded as defects. That the images exist is not checked here: `check` does that.

    Args:
        annotation_file: the JSON file; without `annotations` (as COCO's test sets are) no image has objects.
        image_dir: folder in which each `file_name` is found.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, `images` or `categories` missing or not lists of objects, an image or category without
            its keys, two images or two categories of one id.
    """
    sections = read_sections(annotation_file, required=("images", "categories"))
    images = _images(sections["images"], annotation_file, image_dir.absolute())
    category_ids, classes, defects = _categories(sections["categories"], annotation_file)
    if "annotations" not in sections:
        defects.append(Defect(annotation_file.name, "no `annotations`: read as images without objects"))
    records = sections.get("annotations", [])
    objects, found = _objects(records, images, category_ids, annotation_file.name)
    return Annotations(
        name=f"{image_dir.parent.name}/{annotation_file.stem.removeprefix('instances_').removeprefix('image_info_')}",
        classes=classes,
        category_ids=category_ids,
        images=images,
        objects=objects,
        defects=(*defects, *found),
    )


def _images(records: list[Record], file: Path, folder: Path) -> tuple[Image, ...]:
    """The images in the order of the file."""
    for n, record in enumerate(records):
        _require(record, {"id": int, "file_name": str, "width": int, "height": int}, f"{file}: images[{n}]")
        if record["width"] < 1 or record["height"] < 1:
            raise ValueError(
                f"{file}: images[{n}] is {record['width']} x {record['height']} pixels, both must be positive"
            )
    _unique([record["id"] for record in records], f"{file}: image id")
    return tuple(
        Image(record["id"], folder / record["file_name"], record["width"], record["height"]) for record in records
    )


def _categories(records: list[Record], file: Path) -> tuple[tuple[int, ...], tuple[str, ...], list[Defect]]:
    """Category ids in ascending order, their names, and names that stand for several ids."""
    for n, record in enumerate(records):
        _require(record, {"id": int, "name": str}, f"{file}: categories[{n}]")
    _unique([record["id"] for record in records], f"{file}: category id")
    ordered = sorted(records, key=lambda record: record["id"])
    names = tuple(record["name"] for record in ordered)
    defects = [
        Defect(file.name, f"category name {name!r} stands for {count} ids: kept as separate classes")
        for name, count in Counter(names).items()
        if count > 1
    ]
    return tuple(record["id"] for record in ordered), names, defects


def _require(record: Record, keys: dict[str, type], where: str) -> None:
    """Refuse a record that lacks a key of the right type."""
    for key, kind in keys.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"{where} has {key} {record.get(key)!r}, {kind.__name__} is needed")


def _unique(ids: list[int], what: str) -> None:
    """Refuse a repeated id."""
    id_, count = Counter(ids).most_common(1)[0] if ids else (0, 0)
    if count > 1:
        raise ValueError(f"{what} {id_} occurs {count} times, ids must be unique")


def _objects(
    records: list[Record], images: tuple[Image, ...], category_ids: tuple[int, ...], file: str
) -> tuple[tuple[Objects, ...], list[Defect]]:
    """Annotation records grouped by image, without a loop over images x records (COCO train has 860,000 records)."""

    def where(n: int) -> str:
        return f"{file}: annotations[{n}] (id {records[n].get('id')}, image {records[n].get('image_id')})"

    image_of, unknown_images = _lookup(records, "image_id", [image.id for image in images], where)
    label_of, unknown_labels = _lookup(records, "category_id", list(category_ids), where)
    rows, boxes, malformed = _raw_boxes(records, np.flatnonzero((image_of >= 0) & (label_of >= 0)), where)

    sizes = np.array([(image.width, image.height) for image in images], dtype=np.int64).reshape(-1, 2)
    clipped, usable, unusable = clean_boxes(boxes, sizes[image_of[rows]], lambda n: where(int(rows[n])))
    kept, clipped = rows[usable], clipped[usable]
    area, replaced = _areas(records, kept, clipped, where)
    ignore = np.array([bool(records[n].get("iscrowd", 0)) for n in kept.tolist()], dtype=bool)

    repeated = _repeated_ids(records, file)
    defects = [*unknown_images, *unknown_labels, *malformed, *unusable, *replaced, *repeated]
    return _grouped(image_of[kept], len(images), Objects(clipped, label_of[kept], ignore, area)), defects


def _lookup(
    records: list[Record], key: str, ids: list[int], where: Callable[[int], str]
) -> tuple[NDArray[np.int64], list[Defect]]:
    """For each record the position of record[key] in `ids`, (N,), -1 and a defect where it is not there."""
    position = {id_: n for n, id_ in enumerate(ids)}
    values = (record.get(key) for record in records)
    found = [position.get(value, -1) if isinstance(value, int) else -1 for value in values]
    defects = [
        Defect(where(n), f"{key} {records[n].get(key)!r} is not in the file: skipped")
        for n, index in enumerate(found)
        if index < 0
    ]
    return np.array(found, dtype=np.int64), defects


def _raw_boxes(
    records: list[Record], rows: NDArray[np.int64], where: Callable[[int], str]
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[Defect]]:
    """The rows whose bbox is four numbers, their boxes (N, 4) as xyxy in pixels, and a defect for each other row."""
    kept, boxes, defects = [], [], []
    for n in rows.tolist():
        box = records[n].get("bbox")
        if is_box(box):
            kept.append(n)
            boxes.append(box)
        else:
            defects.append(Defect(where(n), f"bbox is {box!r}, four numbers [x, y, width, height] are needed: skipped"))
    return np.array(kept, dtype=np.int64), xyxy_of(np.array(boxes, dtype=np.float64).reshape(-1, 4)), defects


def _areas(
    records: list[Record], rows: NDArray[np.int64], boxes: NDArray[np.float32], where: Callable[[int], str]
) -> tuple[NDArray[np.float32], list[Defect]]:
    """`area` of each row in pixels^2, (N,), the box's where it is absent or no area; the latter is a defect."""
    given = [records[n].get("area") for n in rows.tolist()]
    values = np.array([value if isinstance(value, (int, float)) else np.nan for value in given], dtype=np.float64)
    valid = np.isfinite(values) & (values >= 0)
    defects = [
        Defect(where(int(rows[n])), f"area is {given[n]!r}, a number from 0 is needed: replaced by the box's")
        for n in np.flatnonzero(~valid).tolist()
        if given[n] is not None
    ]
    return np.where(valid, values, box_area(boxes)).astype(np.float32), defects


def _repeated_ids(records: list[Record], file: str) -> list[Defect]:
    """One defect for each annotation id that several records share."""
    counts = Counter(record.get("id") for record in records if isinstance(record.get("id"), int))
    return [
        Defect(file, f"annotation id {id_} occurs {count} times: all kept")
        for id_, count in counts.items()
        if count > 1
    ]


def _grouped(image_of: NDArray[np.int64], images: int, objects: Objects) -> tuple[Objects, ...]:
    """Split objects (N) by image index (N,), in the order of the file within each image."""
    if images == 0:
        return ()
    order = np.argsort(image_of, kind="stable")
    ends = np.cumsum(np.bincount(image_of, minlength=images))[:-1]
    columns = (objects.boxes, objects.labels, objects.ignore, objects.area)
    parts = [np.split(column[order], ends) for column in columns]
    return tuple(Objects(*group) for group in zip(*parts, strict=True))
