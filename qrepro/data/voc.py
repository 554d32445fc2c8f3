"""Pascal VOC annotations for training: images without a size are measured, unusable boxes skipped, both reported."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from qrepro.data.annotations import Annotations, Defect, Image, Objects
from qrepro.data.clean import box_area, clean_boxes
from qrepro.records.readers.voc import VocImage, list_file, read_image, read_list


def read_voc(root: Path, split: str, classes: Sequence[str], one_based: bool) -> Annotations:
    """Read `Annotations/*.xml` of the images listed in `ImageSets/Main/<split>.txt`; images are in `JPEGImages`.

    Image ids are 1..N in the order of the list, category ids 1..C in the order of `classes`. A difficult object has
    ignore=True. Boxes that are not usable are skipped and recorded as defects.

    Args:
        root: the folder that holds the three folders.
        split: name of the list, for example `trainval`.
        classes: names in the order of the labels.
        one_based: whether pixels are counted from 1, see `qrepro.records.readers.voc.VocImage.boxes`.

    Raises:
        FileNotFoundError: the list or an XML file is missing.
        ValueError: empty list, malformed XML, a box without its four numbers, an object of another class, an image
            without size that cannot be read.
    """
    names = read_list(root, split)
    unique = list(dict.fromkeys(names))
    defects: list[Defect] = []
    if repeats := len(names) - len(unique):
        defects.append(Defect(list_file(root, split).name, f"{repeats} names are listed again: skipped"))
    label_of = {name: label for label, name in enumerate(classes)}
    images, objects = [], []
    for number, name in enumerate(unique, start=1):
        annotation = read_image(root / "Annotations" / f"{name}.xml")
        image, resized = _image(annotation, number, root.absolute() / "JPEGImages")
        usable_objects, unusable = _objects(annotation, image, label_of, one_based)
        images.append(image)
        objects.append(usable_objects)
        defects += resized + unusable
    return Annotations(
        name=f"{root.name}/{split}",
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        images=tuple(images),
        objects=tuple(objects),
        defects=tuple(defects),
    )


def _image(annotation: VocImage, number: int, folder: Path) -> tuple[Image, list[Defect]]:
    """The image of an XML file. A missing or zero size is read from the image itself, and is a defect."""
    path = folder / annotation.file_name
    if annotation.width and annotation.height:
        return Image(number, path, annotation.width, annotation.height), []
    file = annotation.file
    try:
        with PIL.Image.open(path) as opened:
            width, height = opened.size
    except OSError as error:
        raise ValueError(f"{file}: has no <size>, and its image {path} cannot be read ({error})") from None
    defect = Defect(file.name, f"<size> is missing or zero: {width} x {height} taken from the image")
    return Image(number, path, width, height), [defect]


def _objects(
    annotation: VocImage, image: Image, label_of: dict[str, int], one_based: bool
) -> tuple[Objects, list[Defect]]:
    """The usable objects of one XML file."""
    labels = np.array(annotation.numbers(label_of), dtype=np.int64)
    ignore = np.array([item.difficult for item in annotation.objects], dtype=bool)
    sizes = np.tile(np.array([[image.width, image.height]], dtype=np.int64), (len(labels), 1))

    def where(n: int) -> str:
        return f"{annotation.file.name}: object {n} ({annotation.objects[n].name})"

    boxes, usable, defects = clean_boxes(annotation.boxes(one_based), sizes, where)
    boxes = boxes[usable]
    return Objects(boxes, labels[usable], ignore[usable], box_area(boxes)), defects
