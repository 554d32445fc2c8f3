"""The generated data set `shapes`: painted images of six classes, written to disk as an ordinary COCO data set."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qrepro.data.shapes.outlines import CLASSES, area
from qrepro.data.shapes.paint import Thing, paint

RECORD = "shapes.json"
# Counts up whenever the same seed gives other images, so that sets of two versions are not taken for one.
VERSION = 1
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Parameters:
    """What a set was made with; two sets of equal parameters are equal."""

    train: int
    val: int
    seed: int
    version: int = VERSION


def make_shapes(root: Path, train: int = 1200, val: int = 300, seed: int = 0) -> None:
    """Make the set in `root`, or leave it as it is where it was made with the same parameters.

    Writes `annotations/instances_{train,val}.json`, `train/*.jpg`, `val/*.jpg` and `shapes.json` (the parameters). It
    appears in `root` all at once, so that an interrupted run leaves nothing that looks like a data set. `area` of an
    annotation is that of its box.

    Raises:
        ValueError: a count below 1 or a negative seed; `root` holds something else, or a set of other parameters.
    """
    if train < 1 or val < 1 or seed < 0:
        raise ValueError(f"shapes: train {train}, val {val}, seed {seed}; counts are needed from 1, the seed from 0")
    root = root.absolute()
    wanted = Parameters(train, val, seed)
    if _is_complete(root, wanted):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f".{root.name}.unfinished-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            _write_split(unfinished, split, count, (seed, number))
        (unfinished / RECORD).write_text(json.dumps(asdict(wanted)) + "\n", encoding="utf-8")
        if root.is_dir():
            root.rmdir()  # seen empty above; if another process filled it since, this and the rename fail
        unfinished.rename(root)
    except OSError:
        if not _is_complete(root, wanted):
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_complete(root: Path, wanted: Parameters) -> bool:
    """Whether `root` holds the wanted set; False where it is free to be written."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / RECORD).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{root}: exists and is no shapes set (no readable {RECORD}); give another DIR") from None
    if found != asdict(wanted):
        raise ValueError(f"{root}: holds a shapes set made with {found}, asked for {asdict(wanted)}; give another DIR")
    return True


def _write_split(root: Path, split: str, count: int, seed: tuple[int, int]) -> None:
    """Images and annotation file of one split; image n depends on seed and n only."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for id_ in range(1, count + 1):
        image, things = paint(np.random.default_rng([*seed, id_]))
        name = f"{id_:06d}.jpg"
        Image.fromarray(image).save(root / split / name, quality=JPEG_QUALITY)
        images.append({"id": id_, "file_name": name, "width": image.shape[1], "height": image.shape[0]})
        annotations += [_record(thing, len(annotations) + n, id_) for n, thing in enumerate(things, start=1)]
    content = {
        "info": {"description": f"generated shapes, version {VERSION}, seed {seed[0]}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def _record(thing: Thing, id_: int, image: int) -> dict[str, Any]:
    """One COCO annotation."""
    x1, y1, x2, y2 = (round(value, 2) for value in thing.box)
    return {
        "id": id_,
        "image_id": image,
        "category_id": thing.label + 1,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "area": round(area(thing.box), 2),
        "iscrowd": int(thing.crowd),
    }
