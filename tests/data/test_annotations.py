"""The annotation model: COCO export against pycocotools, joining, subsets; clipping and dropping of boxes by hand."""

from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from qrepro.data.annotations import Annotations, Defect, Image, Objects, concatenate, subset, to_coco
from qrepro.data.clean import box_area, clean_boxes


def objects(boxes, labels, ignore):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Objects(boxes, np.array(labels, dtype=np.int64), np.array(ignore, dtype=bool), box_area(boxes))


def two_images(name="set", ids=(4, 9), classes=("cat", "dog"), category_ids=(3, 7)):
    return Annotations(
        name=name,
        classes=classes,
        category_ids=category_ids,
        images=(Image(ids[0], Path("/p/a.jpg"), 100, 50), Image(ids[1], Path("/p/b.jpg"), 60, 80)),
        objects=(objects([[1, 2, 11, 22], [0, 0, 100, 50]], [1, 0], [False, True]), objects([], [], [])),
        defects=(Defect(name, "something"),),
    )


def test_to_coco_is_what_pycocotools_reads_back():
    coco = COCO()
    coco.dataset = to_coco(two_images())
    coco.createIndex()
    assert coco.getImgIds() == [4, 9]
    assert coco.imgs[9] == {"id": 9, "file_name": "b.jpg", "width": 60, "height": 80}
    assert {id_: record["name"] for id_, record in coco.cats.items()} == {3: "cat", 7: "dog"}
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=[4]))
    assert (first["bbox"], first["area"], first["category_id"], first["iscrowd"]) == ([1, 2, 10, 20], 200, 7, 0)
    assert (second["bbox"], second["category_id"], second["iscrowd"]) == ([0, 0, 100, 50], 3, 1)
    assert coco.getAnnIds(imgIds=[9]) == []


def test_to_coco_numbers_annotations_from_one():
    assert [record["id"] for record in to_coco(two_images())["annotations"]] == [1, 2]


def test_concatenate_keeps_ids_that_do_not_clash():
    joined = concatenate([two_images("a"), two_images("b", ids=(1, 2))])
    assert joined.name == "a+b"
    assert [image.id for image in joined.images] == [4, 9, 1, 2]
    assert [len(o) for o in joined.objects] == [2, 0, 2, 0]
    assert [defect.where for defect in joined.defects] == ["a", "b"]


def test_concatenate_renumbers_when_ids_clash():
    joined = concatenate([two_images("a"), two_images("b", ids=(9, 1))])
    assert [image.id for image in joined.images] == [1, 2, 3, 4]
    assert [image.file.name for image in joined.images] == ["a.jpg", "b.jpg", "a.jpg", "b.jpg"]


@pytest.mark.parametrize("other", [{"classes": ("cat", "cow")}, {"category_ids": (3, 8)}])
def test_concatenate_refuses_other_classes(other):
    with pytest.raises(
        ValueError, match=r"b cannot follow a: it has classes cat \(3\), .*the first has cat \(3\), dog"
    ):
        concatenate([two_images("a"), two_images("b", **other)])


def test_concatenate_refuses_nothing():
    with pytest.raises(ValueError, match="at least one split"):
        concatenate([])


@pytest.mark.parametrize("count, kept", [(1, 1), (2, 2), (5, 2)])
def test_subset_takes_the_first(count, kept):
    part = subset(two_images(), count)
    assert [image.id for image in part.images] == [4, 9][:kept]
    assert len(part) == len(part.objects) == kept
    assert part.defects == two_images().defects


def test_subset_refuses_none():
    with pytest.raises(ValueError, match="subset of 0 images"):
        subset(two_images(), 0)


def test_misaligned_annotations_are_refused():
    whole = two_images()
    with pytest.raises(ValueError, match="2 images but 1 lists"):
        Annotations("x", whole.classes, whole.category_ids, whole.images, whole.objects[:1])
    with pytest.raises(ValueError, match="2 classes but 1 category ids"):
        Annotations("x", whole.classes, (1,), whole.images, whole.objects)


# Box in a 100 x 50 image -> clipped box or None, and what the defect says or None.
CASES = [
    ([10, 10, 20, 20], [10, 10, 20, 20], None),
    ([0, 0, 100, 50], [0, 0, 100, 50], None),
    ([10, 10, 100.01, 20], [10, 10, 100, 20], None),
    ([-5, 10, 20, 70], [0, 10, 20, 50], "reaches beyond its 100 x 50 image: clipped"),
    ([10, 10, 10, 20], None, "no positive area: skipped"),
    ([10, 20, 20, 10], None, "no positive area: skipped"),
    ([100, 10, 120, 20], None, "lies outside its 100 x 50 image: skipped"),
    ([10, -30, 20, 0], None, "lies outside"),
    ([10, np.nan, 20, 20], None, "not a finite number: skipped"),
    ([10, 10, np.inf, 20], None, "not a finite number: skipped"),
]


@pytest.mark.parametrize("box, expected, message", CASES)
def test_clean_boxes_by_hand(box, expected, message):
    sizes = np.array([[100, 50]])
    boxes, usable, defects = clean_boxes(np.array([box], dtype=np.float64), sizes, lambda n: f"box {n}")
    assert usable.tolist() == [expected is not None]
    assert boxes.dtype == np.float32
    assert boxes[0].tolist() == (expected or [0, 0, 0, 0])
    assert [defect.where for defect in defects] == ([] if message is None else ["box 0"])
    assert all(message in defect.what for defect in defects)


def test_clean_boxes_uses_the_image_of_each_box():
    boxes = np.array([[0, 0, 30, 30], [0, 0, 30, 30], [1, 1, 1, 1]], dtype=np.float64)
    clipped, usable, defects = clean_boxes(boxes, np.array([[40, 40], [20, 10], [9, 9]]), lambda n: f"box {n}")
    assert clipped.tolist() == [[0, 0, 30, 30], [0, 0, 20, 10], [0, 0, 0, 0]]
    assert usable.tolist() == [True, True, False]
    assert [defect.where for defect in defects] == ["box 1", "box 2"]
