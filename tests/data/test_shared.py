"""The readers on real data, against the facts of the data sets and against pycocotools; skipped where it is absent."""

from xml.etree import ElementTree

import numpy as np
import pytest
from pycocotools.coco import COCO

from helpers.files import shared_data
from qrepro.data.check import check, find_sets
from qrepro.data.sets import read_split

BCCD_CLASSES = ("RBC", "WBC", "Platelets")


@pytest.mark.parametrize(
    "split, images, zero", [("train", 205, 1), ("val", 87, 1), ("test", 72, 0), ("trainval", 292, 2)]
)
def test_bccd_splits(split, images, zero):
    found = read_split("voc", shared_data("bccd"), split, BCCD_CLASSES, one_based=False)
    assert len(found) == images
    assert len(found.defects) == zero
    assert all("no positive area" in defect.what for defect in found.defects)
    assert {defect.where.split(".")[0] for defect in found.defects} <= {"BloodImage_00338", "BloodImage_00343"}


def test_bccd_whole():
    root = shared_data("bccd")
    reports = {label: check(annotations) for label, annotations in find_sets(root)}
    assert list(reports) == ["test", "train", "trainval", "val"]
    per_class = {name: reports["trainval"].per_class[name] + reports["test"].per_class[name] for name in BCCD_CLASSES}
    assert per_class == {"RBC": 4155 - 2, "WBC": 372, "Platelets": 361}
    assert [len(reports[name].defects) for name in reports] == [0, 1, 2, 1]


def test_bccd_boxes_are_those_of_the_files():
    root = shared_data("bccd")
    found = read_split("voc", root, "val", BCCD_CLASSES)
    for image, objects in list(zip(found.images, found.objects, strict=True))[:20]:
        text = (root / "Annotations" / f"{image.file.stem}.xml").read_text()
        values = [
            int(node.text)
            for node in ElementTree.fromstring(text).iter()
            if node.tag in ("xmin", "ymin", "xmax", "ymax")
        ]
        boxes = [box for box in zip(*[iter(values)] * 4, strict=True) if box[0] < box[2] and box[1] < box[3]]
        assert objects.boxes.tolist() == [list(box) for box in boxes]


@pytest.mark.parametrize("split, images, objects, crowds", [("train2017", 80, 739, 8), ("val2017", 79, 624, 5)])
def test_coco_mini_is_what_pycocotools_reads(split, images, objects, crowds):
    root = shared_data("coco_mini")
    found = read_split("coco", root, split)
    judge = COCO(str(root / "annotations" / f"instances_{split}.json"))
    assert (len(found), found.defects, len(found.classes)) == (images, (), 80)
    assert found.category_ids == tuple(sorted(judge.cats)) and found.category_ids[-1] == 90
    assert found.classes == tuple(judge.cats[id_]["name"] for id_ in found.category_ids)
    for image, mine in zip(found.images, found.objects, strict=True):
        theirs = judge.loadAnns(judge.getAnnIds(imgIds=[image.id]))
        boxes = np.array([record["bbox"] for record in theirs], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(mine.boxes, boxes, atol=0.011)
        assert [found.category_ids[label] for label in mine.labels] == [record["category_id"] for record in theirs]
        assert mine.ignore.tolist() == [bool(record["iscrowd"]) for record in theirs]
        np.testing.assert_allclose(mine.area, [record["area"] for record in theirs], rtol=1e-6)
    report = check(found)
    assert (report.images, report.objects, report.ignored, report.defects) == (images, objects, crowds, ())
    assert report.small + report.medium + report.large == objects
