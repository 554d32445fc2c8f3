"""Where the splits of a data set lie on disk, so that a recipe names only a format, a folder and a split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from qrepro.data.annotations import Annotations
from qrepro.data.coco import read_coco
from qrepro.data.voc import read_voc
from qrepro.records.readers.voc import VOC_CLASSES, candidate_folders, has_lists, list_file, split_parts

Format = Literal["coco", "voc"]

# Images with objects in the training sets that the papers use: COCO train2017; VOC 2007 and 2012 trainval.
TRAINING_IMAGES = {"coco": 117_266, "voc": 16_551}

HOW_TO_GET = (
    "get it (`qrepro data download NAME DIR`, `qrepro data make shapes DIR`) or say where it lies (`--data DIR`)"
)


def read_split(
    format: Format, root: Path, split: str, classes: Sequence[str] | None = None, one_based: bool = False
) -> Annotations:
    """Read one split of a data set.

    Args:
        format: `coco`: `root/annotations/instances_<split>.json` with images in `root/<split>/`; `voc`:
            `ImageSets/Main/<split>.txt` and so on in `root`, or, for `VOC2007/trainval`, in `root/VOC2007` or
            `root/VOCdevkit/VOC2007`.
        root: the folder of the data set.
        split: as above.
        classes: voc: names in the order of the labels, None for the 20 of Pascal VOC. coco: the file has its own;
            given names must be those.
        one_based: voc only, see `read_voc`.

    Raises:
        FileNotFoundError: root or a file is missing; says what was looked for and how to get it.
        ValueError: malformed files, another format, other classes, one_based with coco.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such data folder; {HOW_TO_GET}")
    if format == "coco":
        return _read_coco_split(root, split, classes, one_based)
    if format == "voc":
        return read_voc(*_voc_folder(root, split), classes if classes is not None else VOC_CLASSES, one_based)
    raise ValueError(f"data format {format!r} is unknown, allowed: coco, voc")


def _read_coco_split(root: Path, split: str, classes: Sequence[str] | None, one_based: bool) -> Annotations:
    """One JSON file with its folder of images; of a test set the file lists images only."""
    if one_based:
        raise ValueError(f"{root}: one_based is for the format voc, COCO counts pixels from 0")
    file, images = root / "annotations" / f"instances_{split}.json", root / split
    listed = root / "annotations" / f"image_info_{split}.json"
    if listed.is_file() and not file.is_file():
        # COCO's images of test-dev are some of those of test
        file, images = listed, images if images.is_dir() else root / split.replace("-dev", "")
    if not file.is_file() or not images.is_dir():
        raise FileNotFoundError(f"{root}: looked for {file} and the folder {images}; {HOW_TO_GET}")
    annotations = read_coco(file, images)
    if classes is not None and tuple(classes) != annotations.classes:
        raise ValueError(f"{file}: has classes {', '.join(annotations.classes)}, asked for: {', '.join(classes)}")
    return annotations


def _voc_folder(root: Path, split: str) -> tuple[Path, str]:
    """The folder that holds `ImageSets`, and the name of the list of images in it."""
    year, name = split_parts(split)
    candidates = candidate_folders(root, year)
    for folder in candidates:
        if has_lists(folder):
            return folder, name
    looked = " or ".join(str(list_file(folder, name)) for folder in candidates)
    raise FileNotFoundError(f"{root}: looked for {looked}; {HOW_TO_GET}")
