"""Ground truth of a PASCAL VOC folder: one XML file an image, one list of image names a split.

The conventions are those of the training side, so that ids and boxes agree with what an evaluation of it writes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
DEFAULT_SPLITS = ("test", "val")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_pascal(
    root: Path, split: str | None = None, classes: Sequence[str] | None = None, one_based: bool | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Read a split of a PASCAL VOC folder as the three lists of a COCO-format file.

    Image ids are 1..N in the order of the list, category ids 1..C in the order of `classes`, annotation ids count from
    1. A difficult object has iscrowd 1. Boxes are clipped to their image (where the file tells its size); those
    without area in it are left out, with one warning for all.

    root: a folder with `Annotations` and `ImageSets/Main`, a folder that holds one such folder, itself or in
        `VOCdevkit`, or a plain folder of XML files.
    split: name of the list of images, after the year's folder if there are several (`VOC2007/test`). None: test, else
        val, else all XML files by name.
    classes: names in the order of their ids. None: Pascal's 20 where the XML files of the folder name no other class,
        else all that they name, sorted.
    one_based: Pascal VOC counts pixels from 1 and includes the last one, so that (xmin, ymin, xmax, ymax) covers
        (xmin - 1, ymin - 1, xmax, ymax); False takes the numbers as they are. None: whether the classes are Pascal's.

    Raises:
        FileNotFoundError: no XML files, no such split (saying which there are), a listed file is missing.
        ValueError: an empty list, malformed XML, a box without its four numbers, an object of a class not in `classes`.
    """
    folder, name = _folder(root, split)
    xml = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = _files(folder, xml, name)
    trees = {file: _parse(file) for file in files}  # a list may name an image twice
    if classes is None:
        rest = [_parse(file) for file in xml.glob("*.xml") if file not in trees]
        named = {_name(node) for tree in [*trees.values(), *rest] for node in tree.findall("object")}
        classes = VOC_CLASSES if named <= set(VOC_CLASSES) else sorted(named)
    one_based = tuple(classes) == VOC_CLASSES if one_based is None else one_based
    images = [_image(tree, number, file) for number, (file, tree) in enumerate(trees.items(), start=1)]
    category = {name: number for number, name in enumerate(classes, start=1)}
    annotations: list[dict[str, Any]] = []
    left_out = []
    for image, (file, tree) in zip(images, trees.items(), strict=True):
        for n, node in enumerate(tree.findall("object")):
            if _name(node) not in category:
                raise ValueError(f"{file}: object {n} of class {_name(node)!r}, allowed: {', '.join(classes)}")
            written = _corners(node, n, file)
            bbox = _box(written, image, one_based)
            if bbox is None:
                left_out.append(f"{file.name}: object {n} ({_name(node)}) {written}")
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category[_name(node)],
                    "bbox": bbox,
                    "iscrowd": int((node.findtext("difficult") or "").strip() == "1"),
                }
            )
    if left_out:
        text = f"{root}: {len(left_out)} objects without area inside their image are left out, first {left_out[0]}"
        warnings.warn(text, stacklevel=3)
    categories = [{"id": number, "name": name} for name, number in category.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


def _folder(root: Path, split: str | None) -> tuple[Path, str | None]:
    """The folder that holds the XML files or `Annotations`, and the name of the list of images in it."""
    year, _, name = (split or "").rpartition("/")
    if year:
        candidates = [folder for folder in (root / year, root / "VOCdevkit" / year) if folder.is_dir()]
    elif (root / "Annotations").is_dir() or any(root.glob("*.xml")):
        candidates = [root]
    else:
        candidates = sorted(
            path.parent for pattern in ("*/", "VOCdevkit/*/") for path in root.glob(pattern + "Annotations")
        )
    if len(candidates) != 1:
        found = ", ".join(str(folder.relative_to(root)) for folder in candidates) or "none"
        raise FileNotFoundError(
            f"{root}: one folder with Annotations/*.xml, or XML files, are needed; found: {found}"
            + (" (name one with the split, such as FOLDER/test)" if candidates else "")
        )
    return candidates[0], name or None


def _files(folder: Path, xml: Path, split: str | None) -> list[Path]:
    """The XML files of a split, as listed; of the default split where none is asked for."""
    lists = {file.stem: file for file in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}
    if split is None:
        split = next((name for name in DEFAULT_SPLITS if name in lists), None)
    if split is None:
        files = sorted(xml.glob("*.xml"))
        if not files:
            raise FileNotFoundError(f"{xml}: no XML files")
        return files
    if split not in lists:
        # `aeroplane_train` lists the images of `train`, with a column about aeroplanes
        known = [name for name in lists if name.rpartition("_")[0] not in VOC_CLASSES]
        raise FileNotFoundError(
            f"{folder}: no split {split!r} in ImageSets/Main; there are: {', '.join(known) or 'none'}"
        )
    names = [line.split()[0] for line in lists[split].read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{lists[split]}: the list of images is empty")
    return [xml / f"{name}.xml" for name in names]


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


def _image(tree: ElementTree.Element, number: int, file: Path) -> dict[str, Any]:
    """The record of an image; a size that is missing, zero or no number is None."""
    # Only the ending is taken from <filename>: sets that were renamed still carry the old names.
    suffix = Path((tree.findtext("filename") or "").strip()).suffix or ".jpg"
    width, height = (_pixels(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    return {"id": number, "file_name": file.stem + suffix, "width": width, "height": height}


def _pixels(text: str | None) -> int | None:
    """A count of pixels."""
    try:
        return int(float(text or 0)) or None
    except (ValueError, OverflowError):
        return None


def _corners(node: ElementTree.Element, n: int, file: Path) -> list[float]:
    """xmin, ymin, xmax, ymax of object n as written; VOC2011 and later hold some fractions."""
    # The box of the object itself: the parts of a person in VOC2012 carry boxes of their own.
    texts = [node.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    try:
        return [float(text or "") for text in texts]
    except ValueError:
        written = ", ".join(f"{corner} {text!r}" for corner, text in zip(_CORNERS, texts, strict=True))
        raise ValueError(f"{file}: object {n} has {written}, four numbers are needed") from None


def _box(written: Sequence[float], image: dict[str, Any], one_based: bool) -> list[float] | None:
    """[x, y, width, height] within the image, or None where that has no area."""
    if not all(map(math.isfinite, written)):
        return None
    width, height = image["width"] or math.inf, image["height"] or math.inf
    x1, y1 = (max(value - one_based, 0.0) for value in written[:2])
    x2, y2 = min(written[2], width), min(written[3], height)
    return [x1, y1, x2 - x1, y2 - y1] if x2 > x1 and y2 > y1 else None
