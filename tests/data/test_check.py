"""Checking: counts by hand, every defect of an image file, and what is found in a folder."""

import json

import pytest
from PIL import Image

from qrepro.data.check import check, find_sets
from qrepro.data.coco import read_coco


def coco_set(root, split="val"):
    """Four images; objects of area 10, 1024 (on the border), 9216 (on the border), one crowd of 400."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir()
    names = ("a.png", "b.jpg", "c.png", "d.png")
    for name in names:
        Image.effect_noise((200, 150), 50).convert("RGB").save(root / split / name)

    def record(id_, image, category, size, area, *, crowd=0):
        box = [0, 0, size, size]
        return {"id": id_, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}

    value = {
        "images": [{"id": n, "file_name": name, "width": 200, "height": 150} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}, {"id": 3, "name": "cat"}],
        "annotations": [
            record(1, 0, 1, 5, 10),
            record(2, 0, 2, 40, 32**2),
            record(3, 0, 2, 100, 96**2),
            record(4, 1, 1, 20, 400, crowd=1),
            record(5, 1, 1, 0, 0),
        ],
    }
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(value))
    return read_coco(file, root / split)


def test_counts_by_hand(tmp_path):
    report = check(coco_set(tmp_path))
    assert (report.name, report.images, report.empty) == (f"{tmp_path.name}/val", 4, 2)
    assert (report.objects, report.ignored) == (4, 1)
    assert report.per_class == {"ant": 2, "bee": 2, "cat": 0}
    assert (report.small, report.medium, report.large) == (2, 1, 1)
    assert [defect.what for defect in report.defects] == ["box [0, 0, 0, 0] (xyxy) has no positive area: skipped"]


def test_every_defect_of_a_picture_is_found(tmp_path):
    annotations = coco_set(tmp_path)
    a, b, c, d = (image.file for image in annotations.images)
    a.unlink()
    b.write_bytes(b.read_bytes()[:-3000])
    c.write_text("no image")
    Image.new("RGB", (150, 200)).save(d)
    found = check(annotations).defects[1:]
    assert [defect.where for defect in found] == [str(a), str(b), str(c), str(d)]
    for defect, text in zip(
        found, ("no such image", "truncated", "cannot be read", "is 150 x 200 pixels"), strict=True
    ):
        assert text in defect.what
    assert len(check(annotations, images=False).defects) == 1


def test_a_flipped_bit_in_a_png_is_found(tmp_path):
    annotations = coco_set(tmp_path)
    file = annotations.images[2].file
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    (defect,) = check(annotations).defects[1:]
    assert defect.where == str(file) and "cannot be read" in defect.what


def test_a_set_without_images_is_counted(tmp_path):
    (tmp_path / "instances_none.json").write_text('{"images": [], "categories": [{"id": 1, "name": "ant"}]}')
    report = check(read_coco(tmp_path / "instances_none.json", tmp_path))
    assert (report.images, report.objects, report.per_class) == (0, 0, {"ant": 0})


def voc_set(
    folder, objects, splits=("train", "test"), corners="<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
):
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    nodes = "".join(f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>" for name in objects)
    size = "<size><width>9</width><height>9</height></size>"
    for split in splits:
        (folder / "Annotations" / f"{split}.xml").write_text(f"<annotation>{size}{nodes}</annotation>")
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(split)


def test_find_coco_files_in_a_folder(tmp_path):
    coco_set(tmp_path, "train")
    coco_set(tmp_path, "val")
    (tmp_path / "annotations" / "captions_val.json").write_text("{}")
    found = list(find_sets(tmp_path))
    assert [label for label, _ in found] == ["annotations/instances_train.json", "annotations/instances_val.json"]
    assert found[1][1].images[0].file == tmp_path / "val" / "a.png"


def test_find_one_coco_file(tmp_path):
    coco_set(tmp_path)
    ((label, annotations),) = find_sets(tmp_path / "annotations" / "instances_val.json")
    assert (label, annotations.images[0].file) == ("instances_val.json", tmp_path / "val" / "a.png")


def test_pictures_may_lie_beside_their_file(tmp_path):
    coco_set(tmp_path)
    (tmp_path / "annotations" / "instances_val.json").rename(tmp_path / "val" / "labels.json")
    ((_, annotations),) = find_sets(tmp_path / "val" / "labels.json")
    assert annotations.images[0].file == tmp_path / "val" / "a.png"
    assert len(check(annotations).defects) == 1


def test_find_pascal_folders(tmp_path):
    voc_set(tmp_path / "VOCdevkit" / "VOC2007", ("dog", "cat"))
    voc_set(tmp_path / "VOC2012", ("cow",), splits=("trainval",))
    (tmp_path / "VOC2012" / "ImageSets" / "Main" / "cow_trainval.txt").write_text("trainval 1")
    found = dict(find_sets(tmp_path))
    assert list(found) == ["VOC2012/trainval", "VOCdevkit/VOC2007/test", "VOCdevkit/VOC2007/train"]
    for annotations in found.values():
        assert len(annotations.classes) == 20
        assert annotations.objects[0].boxes[0].tolist() == [0, 0, 9, 9]


def test_find_a_voc_folder_of_other_classes(tmp_path):
    voc_set(tmp_path, ("WBC", "RBC", "cat"))
    found = dict(find_sets(tmp_path))
    assert list(found) == ["test", "train"]
    assert found["test"].classes == ("RBC", "WBC", "cat")
    assert found["test"].objects[0].boxes[0].tolist() == [1, 1, 9, 9]


def test_splits_are_read_one_after_the_other(tmp_path):
    coco_set(tmp_path, "train")
    coco_set(tmp_path, "val")
    (tmp_path / "annotations" / "instances_val.json").write_text("{")
    found = find_sets(tmp_path)
    assert next(found)[0] == "annotations/instances_train.json"
    with pytest.raises(ValueError, match="not JSON"):
        next(found)


def test_nothing_to_check_is_said_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither annotations/instances_"):
        find_sets(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent: no such file or folder"):
        find_sets(tmp_path / "absent")
