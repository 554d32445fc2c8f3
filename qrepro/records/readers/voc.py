"""PASCAL VOC's format: one XML file an image in `Annotations`, one list of image names a split in `ImageSets/Main`.

Only what the files say is here. What follows from an image without a size or a box without area is decided by the two
that read them: `qrepro.records.ground_truth`, for evaluation, and `qrepro.data.voc`, for training.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """An object of an image, as written.

    Attributes:
        name: its class.
        corners: xmin, ymin, xmax, ymax in pixels; VOC2011 and later hold some fractions. May be NaN or infinite.
        difficult: whether the file marks it as difficult, so that evaluation ignores it.
    """

    name: str
    corners: tuple[float, ...]
    difficult: bool


@dataclass(frozen=True)
class VocImage:
    """An image, as its XML file describes it.

    Attributes:
        file: the XML file.
        file_name: of the image, without folder: the stem of the XML file with the ending that the file names.
        width: in pixels; None where it is missing, not positive or no number.
        height: likewise.
        objects: in the order of the file.
    """

    file: Path
    file_name: str
    width: int | None
    height: int | None
    objects: tuple[VocObject, ...]

    def boxes(self, one_based: bool) -> np.ndarray:
        """Boxes of the objects, not clipped.

        Args:
            one_based: Pascal VOC counts pixels from 1 and includes the last one, so that (xmin, ymin, xmax, ymax)
                covers (xmin - 1, ymin - 1, xmax, ymax); False takes the numbers as they are (BCCD).

        Returns:
            (G, 4) float64 x1, y1, x2, y2 in pixels from 0.
        """
        boxes = np.array([item.corners for item in self.objects], dtype=np.float64).reshape(-1, 4)
        if one_based:
            boxes[:, :2] -= 1
        return boxes

    def numbers(self, number_of: Mapping[str, int]) -> list[int]:
        """Number of the class of each object.

        Args:
            number_of: labels or category ids by class name.

        Raises:
            ValueError: an object of another class.
        """
        for n, item in enumerate(self.objects):
            if item.name not in number_of:
                raise ValueError(f"{self.file}: object {n} of class {item.name!r}, allowed: {', '.join(number_of)}")
        return [number_of[item.name] for item in self.objects]


def read_image(file: Path) -> VocImage:
    """Read the XML file of an image.

    Raises:
        FileNotFoundError: no such file.
        ValueError: malformed XML, or an object without the four numbers of its box.
    """
    tree = _parse(file)
    # Only the ending is taken from <filename>: sets that were renamed still carry the old names.
    suffix = Path((tree.findtext("filename") or "").strip()).suffix or ".jpg"
    width, height = (_pixels(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    objects = tuple(
        VocObject(_name(node), _corners(node, n, file), (node.findtext("difficult") or "").strip() == "1")
        for n, node in enumerate(tree.findall("object"))
    )
    return VocImage(file, file.stem + suffix, width, height, objects)


def class_names(folder: Path, known: Iterable[VocImage] = ()) -> tuple[str, ...]:
    """Every class that an XML file of a folder names, sorted.

    Args:
        folder: as in `annotation_folder`.
        known: images of that folder that were read already, whose files are not read again.

    Raises:
        ValueError: malformed XML.
    """
    images = {image.file: image for image in known}
    names = {item.name for image in images.values() for item in image.objects}
    for file in sorted(annotation_folder(folder).glob("*.xml")):
        if file not in images:
            names.update(_name(node) for node in _parse(file).findall("object"))
    return tuple(sorted(names))


def default_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Classes of a folder for which none are given: Pascal's 20 where no other is named, else those named, sorted."""
    named = set(names)
    return VOC_CLASSES if named <= set(VOC_CLASSES) else tuple(sorted(named))


def counts_from_one(classes: Sequence[str]) -> bool:
    """Whether a folder of these classes counts pixels from 1 where nothing is said: where they are Pascal's 20."""
    return tuple(classes) == VOC_CLASSES


def annotation_folder(folder: Path) -> Path:
    """Where the XML files of a folder lie: in `Annotations`, or, without one, in the folder itself."""
    annotations = folder / "Annotations"
    return annotations if annotations.is_dir() else folder


def split_parts(split: str) -> tuple[str, str]:
    """Folder of the year, "" for none, and name of the list of images: of `VOC2007/test` they are VOC2007 and test."""
    year, _, name = split.rpartition("/")
    return year, name


def candidate_folders(root: Path, year: str) -> list[Path]:
    """Where a split is looked for: in `root`, or, of a year, in the year's folder in `root` or in `root/VOCdevkit`."""
    return [root / year, root / "VOCdevkit" / year] if year else [root]


def subfolders(root: Path) -> list[Path]:
    """Folders of `root` that may be those of years: all in `root`, then all in `root/VOCdevkit`, by name."""
    return [*sorted(root.glob("*/")), *sorted(root.glob("VOCdevkit/*/"))]


def list_file(folder: Path, name: str) -> Path:
    """The file that lists the images of a split."""
    return folder / "ImageSets" / "Main" / f"{name}.txt"


def has_lists(folder: Path) -> bool:
    """Whether a folder has a place for lists of images."""
    return (folder / "ImageSets" / "Main").is_dir()


def list_names(folder: Path) -> list[str]:
    """Names of the lists of images in a folder, sorted, without those of one class."""
    names = sorted(file.stem for file in (folder / "ImageSets" / "Main").glob("*.txt"))
    # Pascal's `aeroplane_train.txt` lists the same images as `train.txt`, with a column about aeroplanes.
    return [name for name in names if name.rpartition("_")[0] not in VOC_CLASSES]


def read_list(folder: Path, name: str) -> list[str]:
    """Names of the images of a split as listed, which may be more than once.

    A list of one class has a second column, which is not read.

    Raises:
        FileNotFoundError: no such list; says which there are.
        ValueError: the list is empty.
    """
    file = list_file(folder, name)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such list of images; lists found there: {', '.join(list_names(folder)) or 'none'}"
        )
    names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{file}: the list of images is empty")
    return names


def _parse(file: Path) -> ElementTree.Element:
    """Root element of an XML file."""
    try:
        return ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such annotation file") from None
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not well-formed XML ({error})") from None


def _name(node: ElementTree.Element) -> str:
    """The class of an object element."""
    return (node.findtext("name") or "").strip()


def _pixels(text: str | None) -> int | None:
    """A count of pixels."""
    try:
        count = int(float(text or 0))
    except (ValueError, OverflowError):
        return None
    return count if count > 0 else None


def _corners(node: ElementTree.Element, n: int, file: Path) -> tuple[float, ...]:
    """xmin, ymin, xmax, ymax of object n as written."""
    # The box of the object itself: the parts of a person in VOC2012 carry boxes of their own.
    texts = [node.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        return tuple(float(text or "") for text in texts)
    except ValueError:
        written = ", ".join(f"{corner} {text!r}" for corner, text in zip(CORNERS, texts, strict=True))
        raise ValueError(f"{file}: object {n} has {written}, four numbers are needed") from None
