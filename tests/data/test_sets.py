"""Where splits are looked for, and what is said when they are not there."""

import json

import pytest

from qrepro.data.sets import read_split

XML = (
    "<annotation><size><width>9</width><height>9</height></size><object><name>{}</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


def voc(folder, name="cat"):
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "a.xml").write_text(XML.format(name))
    return folder


def coco(root):
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    value = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}],
        "categories": [{"id": 1, "name": "ant"}],
        "annotations": [],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(value))
    return root


def test_coco_layout(tmp_path):
    found = read_split("coco", coco(tmp_path), "val2017", ("ant",))
    assert found.name == f"{tmp_path.name}/val2017"
    assert found.images[0].file == tmp_path / "val2017" / "a.jpg"


@pytest.mark.parametrize(
    "below, split", [("", "trainval"), ("VOC2007", "VOC2007/trainval"), ("VOCdevkit/VOC2012", "VOC2012/trainval")]
)
def test_voc_layouts(tmp_path, below, split):
    folder = voc(tmp_path / below)
    found = read_split("voc", tmp_path, split, None, one_based=True)
    assert found.images[0].file == folder / "JPEGImages" / "a.jpg"
    assert len(found.classes) == 20 and found.classes[found.objects[0].labels[0]] == "cat"
    assert found.objects[0].boxes.tolist() == [[0, 0, 9, 9]]


def test_voc_with_classes_of_its_own(tmp_path):
    voc(tmp_path, "RBC")
    found = read_split("voc", tmp_path, "trainval", ("WBC", "RBC"), one_based=False)
    assert found.objects[0].labels.tolist() == [1]
    assert found.objects[0].boxes.tolist() == [[1, 1, 9, 9]]
    with pytest.raises(ValueError, match="object 0 of class 'RBC', allowed: aeroplane"):
        read_split("voc", tmp_path, "trainval", None)


@pytest.mark.parametrize(
    "format, split, looked_for",
    [
        ("coco", "val2017", r"annotations/instances_val2017\.json and the folder .*/val2017;"),
        ("voc", "trainval", r"ImageSets/Main/trainval\.txt;"),
        ("voc", "VOC2007/test", r"VOC2007/ImageSets/Main/test\.txt or .*/VOCdevkit/VOC2007/ImageSets/Main/test\.txt;"),
    ],
)
def test_missing_files_say_what_was_looked_for_and_how_to_get_it(tmp_path, format, split, looked_for):
    with pytest.raises(FileNotFoundError, match=looked_for + r".*qrepro data download NAME DIR.*--data DIR") as caught:
        read_split(format, tmp_path, split)
    assert "\n" not in str(caught.value)


def test_annotation_file_without_its_pictures_is_refused(tmp_path):
    (coco(tmp_path) / "val2017").rmdir()
    with pytest.raises(FileNotFoundError, match="the folder"):
        read_split("coco", tmp_path, "val2017")


def test_missing_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent: no such data folder; .*qrepro data download NAME DIR"):
        read_split("coco", tmp_path / "absent", "val2017")


def test_values_that_do_not_fit_are_refused(tmp_path):
    coco(tmp_path)
    with pytest.raises(ValueError, match="format 'yolo' is unknown, allowed: coco, voc"):
        read_split("yolo", tmp_path, "val2017")
    with pytest.raises(ValueError, match="has classes ant, asked for: bee"):
        read_split("coco", tmp_path, "val2017", ("bee",))
    with pytest.raises(ValueError, match="one_based is for the format voc"):
        read_split("coco", tmp_path, "val2017", one_based=True)
