"""Reader of Pascal VOC annotations (one XML file an image, one list of image names a split)."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import PIL.Image

from qrepro.data.annotations import Annotations, Defect, Image, Objects
from qrepro.data.clean import box_area, clean_boxes

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(root: Path, split: str, classes: Sequence[str], one_based: bool) -> Annotations:
    """Read `Annotations/*.xml` of the images listed in `ImageSets/Main/<split>.txt`; pictures are in `JPEGImages`.

    Image ids are 1..N in the order of the list, category ids 1..C in the order of `classes`. A difficult object has
    ignore=True. Boxes that are not usable are skipped and recorded as defects.

    Args:
        root: the folder that holds the three folders.
        split: name of the list, for example `trainval`.
        classes: names in the order of the labels.
        one_based: Pascal VOC counts pixels from 1 and includes the last one, so that (xmin, ymin, xmax, ymax) covers
            (xmin - 1, ymin - 1, xmax, ymax); False takes the numbers as they are (BCCD).

    Raises:
        FileNotFoundError: the list or an XML file is missing.
        ValueError: empty list, malformed XML, a box without its four numbers, an object of another class.
    """
    names, defects = _listed(root, split)
    labels = {name: label for label, name in enumerate(classes)}
    images, objects = [], []
    for number, name in enumerate(names, start=1):
        file = root / "Annotations" / f"{name}.xml"
        tree = _parse(file)
        image, resized = _image(tree, number, root.absolute(), file)
        found, unusable = _objects(tree, image, labels, one_based, file)
        images.append(image)
        objects.append(found)
        defects += resized + unusable
    return Annotations(
        name=f"{root.name}/{split}",
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        images=tuple(images),
        objects=tuple(objects),
        defects=tuple(defects),
    )


def class_names(root: Path) -> tuple[str, ...]:
    """Every class that an XML file in `root/Annotations` names, sorted.

    Raises:
        ValueError: malformed XML.
    """
    files = sorted((root / "Annotations").glob("*.xml"))
    return tuple(sorted({_name(node) for file in files for node in _parse(file).findall("object")}))


def _listed(root: Path, split: str) -> tuple[list[str], list[Defect]]:
    """Names of the images of a split, each once. A per-class list has a second column, which is not read."""
    file = root / "ImageSets" / "Main" / f"{split}.txt"
    if not file.is_file():
        known = ", ".join(sorted(other.stem for other in file.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"{file}: no such list of images; lists found there: {known}")
    names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{file}: the list of images is empty")
    unique = list(dict.fromkeys(names))
    if len(unique) == len(names):
        return names, []
    return unique, [Defect(file.name, f"{len(names) - len(unique)} names are listed again: skipped")]


def _parse(file: Path) -> ElementTree.Element:
    """Root element of an XML file."""
    try:
        return ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such annotation file") from None
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not well-formed XML ({error})") from None


def _image(tree: ElementTree.Element, number: int, root: Path, file: Path) -> tuple[Image, list[Defect]]:
    """The picture of an XML file. A missing or zero size is read from the picture itself, and is a defect."""
    # Only the ending is taken from <filename>: sets that were renamed still carry the old names.
    suffix = Path((tree.findtext("filename") or "").strip()).suffix or ".jpg"
    picture = root / "JPEGImages" / f"{file.stem}{suffix}"
    width, height = (_whole(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    if width > 0 and height > 0:
        return Image(number, picture, width, height), []
    try:
        with PIL.Image.open(picture) as opened:
            width, height = opened.size
    except OSError as error:
        raise ValueError(f"{file}: has no <size>, and its picture {picture} cannot be read ({error})") from None
    return Image(number, picture, width, height), [
        Defect(file.name, f"<size> is missing or zero: {width} x {height} taken from the picture")
    ]


def _whole(text: str | None) -> int:
    """A count of pixels, 0 where it is missing or no number."""
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        return 0


def _objects(
    tree: ElementTree.Element, image: Image, labels: dict[str, int], one_based: bool, file: Path
) -> tuple[Objects, list[Defect]]:
    """The usable objects of one XML file."""
    nodes = tree.findall("object")
    label = np.array([_label(node, labels, file) for node in nodes], dtype=np.int64)
    ignore = np.array([(node.findtext("difficult") or "0").strip() == "1" for node in nodes], dtype=bool)
    boxes = np.array([_corners(node, n, file) for n, node in enumerate(nodes)], dtype=np.float64).reshape(-1, 4)
    if one_based:
        boxes[:, :2] -= 1
    sizes = np.tile(np.array([[image.width, image.height]], dtype=np.int64), (len(nodes), 1))
    clipped, usable, defects = clean_boxes(boxes, sizes, lambda n: f"{file.name}: object {n} ({_name(nodes[n])})")
    clipped = clipped[usable]
    return Objects(clipped, label[usable], ignore[usable], box_area(clipped)), defects


def _name(node: ElementTree.Element) -> str:
    """The class of an object element."""
    return (node.findtext("name") or "").strip()


def _label(node: ElementTree.Element, labels: dict[str, int], file: Path) -> int:
    """The label of an object element."""
    name = _name(node)
    if name not in labels:
        raise ValueError(f"{file}: object of class {name!r}, allowed: {', '.join(labels)}")
    return labels[name]


def _corners(node: ElementTree.Element, n: int, file: Path) -> list[float]:
    """xmin, ymin, xmax, ymax as written; VOC2011 and later hold some fractions."""
    # The box of the object itself: the parts of a person in VOC2012 carry boxes of their own.
    texts = [node.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        return [float(text or "") for text in texts]
    except ValueError:
        shown = ", ".join(f"{corner} {text!r}" for corner, text in zip(CORNERS, texts, strict=True))
        raise ValueError(f"{file}: object {n} has {shown}, four numbers are needed") from None
