"""COCO reader: a small file by hand, and every way a file can be wrong."""

import json
import random
import re

import numpy as np
import pytest
from pycocotools.coco import COCO

from qrepro.data.coco import read_coco


def record(**changes):
    return {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 5], "area": 99.5, "iscrowd": 0} | changes


def content(annotations):
    return {
        "images": [
            {"id": 7, "file_name": "seven.jpg", "width": 100, "height": 50},
            {"id": 3, "file_name": "sub/three.jpg", "width": 640, "height": 480},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}],
        "annotations": annotations,
    }


def read(folder, value):
    file = folder / "instances_some.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_coco(file, folder / "pictures")


def test_small_file_by_hand(tmp_path):
    found = read(
        tmp_path, content([record(category_id=90), record(id=2, iscrowd=1, category_id=18, bbox=[0, 0, 2, 4])])
    )
    assert found.name == f"{tmp_path.name}/some"
    assert (found.classes, found.category_ids) == (("dog", "toothbrush"), (18, 90))
    assert [(image.id, image.width, image.height) for image in found.images] == [(7, 100, 50), (3, 640, 480)]
    assert found.images[1].file == tmp_path / "pictures" / "sub" / "three.jpg"
    seven, three = found.objects
    assert seven.boxes.tolist() == [[10, 20, 40, 25], [0, 0, 2, 4]]
    assert seven.labels.tolist() == [1, 0]
    assert seven.ignore.tolist() == [False, True]
    assert seven.area.tolist() == [99.5, 99.5]
    assert three.boxes.shape == (0, 4) and len(three) == 0
    assert found.defects == ()
    assert [a.dtype for a in (seven.boxes, seven.labels, seven.ignore, seven.area)] == ["f4", "i8", "?", "f4"]


def test_missing_area_and_crowd_are_derived(tmp_path):
    bare = {key: value for key, value in record().items() if key not in ("area", "iscrowd")}
    found = read(tmp_path, content([bare]))
    assert found.objects[0].area.tolist() == [150]
    assert found.objects[0].ignore.tolist() == [False]
    assert found.defects == ()


def test_objects_are_those_pycocotools_finds(tmp_path):
    rng = random.Random(0)
    records = [
        record(
            id=n,
            image_id=rng.choice([7, 3]),
            category_id=rng.choice([18, 90]),
            bbox=[rng.randint(0, 50), rng.randint(0, 20), rng.randint(1, 50), rng.randint(1, 30)],
            area=n,
        )
        for n in range(1, 60)
    ]
    found = read(tmp_path, content(records))
    judge = COCO(str(tmp_path / "instances_some.json"))
    for image, objects in zip(found.images, found.objects, strict=True):
        theirs = judge.loadAnns(judge.getAnnIds(imgIds=[image.id]))
        boxes = np.array([a["bbox"] for a in theirs], dtype=float)
        boxes[:, 2:] += boxes[:, :2]
        assert objects.boxes.tolist() == boxes.tolist()
        assert [found.category_ids[label] for label in objects.labels] == [a["category_id"] for a in theirs]
        assert objects.area.tolist() == [a["area"] for a in theirs]


DEFECTS = [
    ({"bbox": [10, 20, 0, 5]}, 0, "no positive area: skipped"),
    ({"bbox": [10, 20, 5, -5]}, 0, "no positive area: skipped"),
    ({"bbox": [90, 20, 30, 5]}, 1, "reaches beyond its 100 x 50 image: clipped"),
    ({"bbox": [200, 20, 30, 5]}, 0, "lies outside its 100 x 50 image: skipped"),
    ({"bbox": [float("nan"), 20, 30, 5]}, 0, "not a finite number: skipped"),
    ({"bbox": [10, 20, 30]}, 0, r"bbox is \[10, 20, 30\], four numbers"),
    ({"bbox": None}, 0, "bbox is None, four numbers"),
    ({"bbox": [10, 20, "30", 5]}, 0, "four numbers"),
    ({"bbox": [10, 20, True, 5]}, 0, "four numbers"),
    ({"bbox": [10, 20, 10**400, 5]}, 0, "four numbers"),
    ({"image_id": 8}, 0, "image_id 8 is not in the file: skipped"),
    ({"image_id": [7]}, 0, r"image_id \[7\] is not in the file: skipped"),
    ({"category_id": 1}, 0, "category_id 1 is not in the file: skipped"),
    ({"area": -1}, 1, "area is -1, a number from 0 is needed: replaced by the box's"),
    ({"area": "big"}, 1, "area is 'big'"),
]


@pytest.mark.parametrize("change, kept, message", DEFECTS)
def test_defects_are_recorded_and_stepped_over(tmp_path, change, kept, message):
    found = read(tmp_path, content([record(id=5, bbox=[1, 1, 2, 2]), record(id=6, **change)]))
    assert len(found.objects[0]) == 1 + kept
    assert found.objects[0].boxes[0].tolist() == [1, 1, 3, 3]
    (defect,) = found.defects
    assert defect.where.startswith("instances_some.json: annotations[1] (id 6")
    assert re.search(message, defect.what), defect.what


def test_clipped_box_and_replaced_area(tmp_path):
    found = read(tmp_path, content([record(bbox=[90, 20, 30, 5], area=-1)]))
    assert found.objects[0].boxes.tolist() == [[90, 20, 100, 25]]
    assert found.objects[0].area.tolist() == [50]


def test_repeated_annotation_ids_are_reported_and_kept(tmp_path):
    found = read(tmp_path, content([record(), record(), record(id=2)]))
    assert len(found.objects[0]) == 3
    assert [defect.what for defect in found.defects] == ["annotation id 1 occurs 2 times: all kept"]


def test_one_name_for_two_categories_is_reported(tmp_path):
    value = content([record()])
    value["categories"].append({"id": 91, "name": "dog"})
    found = read(tmp_path, value)
    assert found.classes == ("dog", "toothbrush", "dog")
    assert "'dog' stands for 2 ids" in found.defects[0].what


def test_file_without_annotations_has_images_without_objects(tmp_path):
    value = content([])
    del value["annotations"]
    found = read(tmp_path, value)
    assert [len(objects) for objects in found.objects] == [0, 0]
    assert "no `annotations`" in found.defects[0].what


def test_file_without_images(tmp_path):
    found = read(tmp_path, {"images": [], "categories": [], "annotations": []})
    assert (len(found), found.objects, found.classes) == (0, (), ())


def changed(path, value):
    """The content with one place of it replaced, or removed where the value is `del`."""
    whole = content([record()])
    *folders, last = path
    place = whole
    for key in folders:
        place = place[key]
    if value == "del":
        del place[last]
    else:
        place[last] = value
    return whole


REFUSED = [
    ("{", "not JSON"),
    ("", "not JSON"),
    ("[]", "ground truth must be a JSON object with images, categories; got a list$"),
    (changed(["images"], "del"), "got no 'images' among .'categories', 'annotations'."),
    (changed(["categories"], "del"), "got no 'categories' among"),
    (changed(["images"], {}), "images must be a list, got {}"),
    (changed(["categories"], None), "categories must be a list, got none"),
    (changed(["annotations"], "x"), "annotations must be a list, got 'x'"),
    (changed(["annotations", 0], 5), r"annotations\[0\]: must be an object, got 5"),
    (changed(["images", 1, "id"], 7), "image id 7 occurs 2 times"),
    (changed(["images", 1, "id"], "three"), r"images\[1\] has id 'three', int is needed"),
    (changed(["images", 1], "three"), r"images\[1\]: must be an object, got 'three'"),
    (changed(["images", 0, "width"], "del"), r"images\[0\] has width None"),
    (changed(["images", 0, "height"], 0), r"images\[0\] is 100 x 0 pixels"),
    (changed(["images", 0, "file_name"], "del"), r"images\[0\] has file_name None"),
    (changed(["categories", 1, "id"], 90), "category id 90 occurs 2 times"),
    (changed(["categories", 1, "name"], "del"), r"categories\[1\] has name None"),
]


@pytest.mark.parametrize("value, message", REFUSED)
def test_malformed_files_are_refused_in_one_line(tmp_path, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, value)
    assert str(caught.value).startswith(str(tmp_path / "instances_some.json"))
    assert "\n" not in str(caught.value)


def test_binary_file_is_refused(tmp_path):
    file = tmp_path / "instances_some.json"
    file.write_bytes(b"\xff\xfe\x00\xd8{")
    with pytest.raises(ValueError, match="not JSON"):
        read_coco(file, tmp_path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such file"):
        read_coco(tmp_path / "absent.json", tmp_path)
