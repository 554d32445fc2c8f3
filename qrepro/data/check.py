"""Checking a data set: what is in it, and what is wrong with it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from qrepro.data.annotations import Annotations, Defect, Image
from qrepro.data.coco import read_coco
from qrepro.data.voc import read_voc
from qrepro.records.readers.voc import (
    class_names,
    counts_from_one,
    default_classes,
    has_lists,
    list_names,
    subfolders,
)

# COCO's borders between small, medium and large objects, in pixels^2 of `area`.
MEDIUM, LARGE = 32**2, 96**2


@dataclass(frozen=True)
class Report:
    """What a split holds.

    Attributes:
        name: of the split.
        images: how many images.
        empty: images among them without objects.
        objects: usable objects, the ignored ones included.
        ignored: crowd or difficult objects among them.
        per_class: objects of each class, the ignored ones included, in the order of the classes.
        small: objects of less than 32^2 pixels^2, the ignored ones included.
        medium: objects between.
        large: objects of 96^2 pixels^2 and more.
        defects: those found at reading, then those of the image files.
    """

    name: str
    images: int
    empty: int
    objects: int
    ignored: int
    per_class: dict[str, int]
    small: int
    medium: int
    large: int
    defects: tuple[Defect, ...]


def check(annotations: Annotations, images: bool = True) -> Report:
    """Count a split and, unless `images` is False, open every image of it."""
    counts = [len(objects) for objects in annotations.objects]
    labels = np.concatenate([np.empty(0, np.int64), *(objects.labels for objects in annotations.objects)])
    area = np.concatenate([np.empty(0, np.float32), *(objects.area for objects in annotations.objects)])
    per_label = np.bincount(labels, minlength=len(annotations.classes)).tolist()
    # Several ids may share a name: their counts then do, too.
    per_class = dict.fromkeys(annotations.classes, 0)
    for name, count in zip(annotations.classes, per_label, strict=True):
        per_class[name] += count
    return Report(
        name=annotations.name,
        images=len(annotations),
        empty=counts.count(0),
        objects=sum(counts),
        ignored=sum(int(objects.ignore.sum()) for objects in annotations.objects),
        per_class=per_class,
        small=int((area < MEDIUM).sum()),
        medium=int(((area >= MEDIUM) & (area < LARGE)).sum()),
        large=int((area >= LARGE).sum()),
        defects=annotations.defects + (_image_defects(annotations.images) if images else ()),
    )


def find_sets(path: Path) -> Iterator[tuple[str, Annotations]]:
    """What there is to check below a folder or in a COCO JSON file: label and annotations, read one after the other.

    Found are `annotations/instances_*.json`, and every list in `ImageSets/Main` of the folder itself, of its
    subfolders and of those in `VOCdevkit`, the lists of single classes left out. A VOC folder with other classes than
    Pascal's 20 has those that its XML files name, sorted, and pixels counted from 0.

    Raises:
        FileNotFoundError: no such path, or nothing in it that could be checked.
        ValueError: while iterating, for files that cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    files = [path] if path.is_file() else sorted((path / "annotations").glob("instances_*.json"))
    folders = [] if path.is_file() else _voc_folders(path)
    if not files and not folders:
        raise FileNotFoundError(f"{path}: neither annotations/instances_*.json nor ImageSets/Main/*.txt in it")
    return _read(path, files, folders)


def _read(path: Path, files: Sequence[Path], folders: Sequence[Path]) -> Iterator[tuple[str, Annotations]]:
    """Label, relative to the path, and annotations of each COCO file and of each split of each VOC folder."""
    for file in files:
        yield file.name if file == path else file.relative_to(path).as_posix(), _read_json(file)
    for folder in folders:
        classes = default_classes(class_names(folder))
        for split in list_names(folder):
            label = (folder.relative_to(path) / split).as_posix()
            yield label, read_voc(folder, split, classes, counts_from_one(classes))


def _read_json(file: Path) -> Annotations:
    """A COCO file with its images in `../<split>`, or, where there is no such folder, beside it."""
    beside = file.absolute().parent
    folder = beside.parent / file.stem.removeprefix("instances_")
    return read_coco(file, folder if folder.is_dir() else beside)


def _voc_folders(path: Path) -> list[Path]:
    """The folders in VOC layout."""
    return [folder for folder in (path, *subfolders(path)) if has_lists(folder)]


def _image_defects(images: Sequence[Image]) -> tuple[Defect, ...]:
    """One defect for each image that is missing, damaged or of another size, in the order of the images."""
    # Decoding releases the interpreter lock, so that threads help.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(defect for defect in pool.map(_image_defect, images) if defect is not None)


def _image_defect(image: Image) -> Defect | None:
    """What is wrong with an image file, if anything."""
    if not image.file.is_file():
        return Defect(str(image.file), "no such image")
    try:
        # Decoding the whole image is the only way to find a truncated one.
        with PIL.Image.open(image.file) as opened:
            opened.load()
            width, height = opened.size
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        return Defect(str(image.file), f"image cannot be read ({error})")
    if (width, height) != (image.width, image.height):
        return Defect(
            str(image.file), f"image is {width} x {height} pixels, its annotation says {image.width} x {image.height}"
        )
    return None
