"""The annotation model that every reader returns and every consumer reads: images, objects, classes, defects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qrepro.records.readers.coco import Sections, annotation_records, write_sections


@dataclass(frozen=True)
class Image:
    """One image: id unique in its set, absolute path, size in pixels as annotated."""

    id: int
    file: Path
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Objects:
    """The G objects of one image.

    Attributes:
        boxes: (G, 4) float32 xyxy in pixels of the original image, inside the image, each with a positive area.
        labels: (G,) int64, index into the classes of the set (0-based, contiguous).
        ignore: (G,) bool, COCO crowd or VOC difficult: never a training target, ignored in evaluation.
        area: (G,) float32 in pixels^2: COCO's `area`, which is the mask's; the box's where absent.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    area: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Defect:
    """Something wrong in a set that a reader could step over: where it is, and what it is."""

    where: str
    what: str


@dataclass(frozen=True, eq=False)
class Annotations:
    """A data set split.

    Attributes:
        name: what messages call it, for example `coco/val2017`.
        classes: names, in the order of the labels.
        category_ids: the id of each class in the file the set came from (COCO: 1..90 with gaps).
        images: the images, in the order of the file.
        objects: aligned with `images`; an image without objects has arrays of length 0.
        defects: what was wrong with the files and how it was stepped over.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[Image, ...]
    objects: tuple[Objects, ...]
    defects: tuple[Defect, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.category_ids):
            raise ValueError(f"{self.name}: {len(self.classes)} classes but {len(self.category_ids)} category ids")
        if len(self.images) != len(self.objects):
            raise ValueError(f"{self.name}: {len(self.images)} images but {len(self.objects)} lists of objects")

    def __len__(self) -> int:
        return len(self.images)


def to_coco(annotations: Annotations) -> Sections:
    """The set as a COCO-format dict, for pycocotools and for writing as JSON.

    Boxes become xywh, `iscrowd` is the ignore flag, annotation ids count from 1 (pycocotools takes id 0 for "no
    match"), and `file_name` is the name of the image without its folder.
    """
    images = [
        {"id": image.id, "file_name": image.file.name, "width": image.width, "height": image.height}
        for image in annotations.images
    ]
    categories = [
        {"id": id_, "name": name} for id_, name in zip(annotations.category_ids, annotations.classes, strict=True)
    ]
    empty = Objects(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.float32))
    every = (empty, *annotations.objects)  # so that a set without images has columns
    boxes, labels, ignore, area = (
        np.concatenate([getattr(objects, column) for objects in every])
        for column in ("boxes", "labels", "ignore", "area")
    )
    records = annotation_records(
        ids=np.arange(1, len(labels) + 1),
        image_ids=np.repeat(np.array([image.id for image in annotations.images], np.int64), [*map(len, every[1:])]),
        category_ids=np.array(annotations.category_ids, np.int64)[labels],
        boxes=boxes,
        area=area,
        iscrowd=ignore.astype(np.int64),
    )
    return {"images": images, "categories": categories, "annotations": records}


def write_ground_truth(annotations: Annotations, path: Path) -> None:
    """Write the ground truth of a split as a COCO file: what its detections are evaluated against, beside them."""
    write_sections(path, to_coco(annotations))


def concatenate(parts: Sequence[Annotations]) -> Annotations:
    """Several splits as one set, for example VOC2007/trainval + VOC2012/trainval.

    Image ids are kept unless two parts share one; then all images are renumbered from 1.

    Raises:
        ValueError: nothing given, or the parts differ in classes or category ids.
    """
    if not parts:
        raise ValueError("nothing to concatenate: give at least one split")
    first = parts[0]
    for part in parts[1:]:
        if (part.classes, part.category_ids) != (first.classes, first.category_ids):
            raise ValueError(
                f"{part.name} cannot follow {first.name}: it has classes {_named(part)}, the first has {_named(first)}"
            )
    images = tuple(image for part in parts for image in part.images)
    if len({image.id for image in images}) < len(images):
        images = tuple(replace(image, id=number) for number, image in enumerate(images, start=1))
    return Annotations(
        name="+".join(part.name for part in parts),
        classes=first.classes,
        category_ids=first.category_ids,
        images=images,
        objects=tuple(objects for part in parts for objects in part.objects),
        defects=tuple(defect for part in parts for defect in part.defects),
    )


def subset(annotations: Annotations, count: int) -> Annotations:
    """The first `count` images, or all when there are fewer.

    The defects stay: they describe the files, not the images taken.

    Raises:
        ValueError: count below 1.
    """
    if count < 1:
        raise ValueError(f"{annotations.name}: a subset of {count} images was asked for, at least 1 is needed")
    return replace(annotations, images=annotations.images[:count], objects=annotations.objects[:count])


def _named(annotations: Annotations) -> str:
    """Classes with their category ids, for messages."""
    return ", ".join(f"{name} ({id_})" for name, id_ in zip(annotations.classes, annotations.category_ids, strict=True))
