"""PASCAL VOC ground truth: small folders by hand, ways they can be wrong, and the training side's reader as judge."""

import json
import warnings

import pytest

from helpers.files import shared_data
from helpers.voc_files import box, write
from qrepro.data import voc
from qrepro.data.annotations import to_coco
from qrepro.metrics.coco_ap import ap_metrics, evaluate_ap
from qrepro.records.detections import read_detections
from qrepro.records.ground_truth import BOX, read_ground_truth
from qrepro.records.readers.voc import VOC_CLASSES, class_names, read_image


def boxes(ground_truth):
    return ground_truth.annotations[BOX].to_numpy().tolist()


def test_a_small_folder_by_hand(tmp_path):
    files = {"a": "", "b": box() + box("ant", (0, 0, 100, 50), "<difficult> 1 </difficult>"), "c": box("zebra")}
    ground_truth = read_ground_truth(write(tmp_path, files, test="b 1\n\na -1\nb 1\n"))
    assert ground_truth.images.to_dict("records") == [
        {"id": 1, "file_name": "b.png", "width": 100, "height": 50},
        {"id": 2, "file_name": "a.png", "width": 100, "height": 50},
    ]
    # the classes are those of every file, so that a category has one id in all splits
    assert ground_truth.categories.to_dict("records") == [
        {"id": 1, "name": "ant"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "zebra"},
    ]  # fmt: skip
    first = {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "x1": 11,
        "y1": 21,
        "x2": 30,
        "y2": 40,
        "area": 361,
        "iscrowd": 0,
    }
    whole = {
        "id": 2,
        "image_id": 1,
        "category_id": 1,
        "x1": 0,
        "y1": 0,
        "x2": 100,
        "y2": 50,
        "area": 5000,
        "iscrowd": 1,
    }
    assert ground_truth.annotations.to_dict("records") == [first, whole]


def test_pascals_own_classes_count_pixels_from_one(tmp_path):
    root = write(tmp_path, {"a": box("person", (1, 1, 100, 50)) + box("cat", (7, 8, 7, 8))})
    ground_truth = read_ground_truth(root)
    assert ground_truth.categories["name"].tolist() == list(VOC_CLASSES)
    assert boxes(ground_truth) == [[0, 0, 100, 50], [6, 7, 7, 8]]
    assert ground_truth.annotations["category_id"].tolist() == [15, 8]
    with pytest.warns(UserWarning, match=r"1 objects without area .*, first a\.xml: object 1 \(cat\) \[7.0, 8.0, 7.0"):
        assert boxes(read_ground_truth(root, one_based=False)) == [[1, 1, 100, 50]]
    assert boxes(read_ground_truth(root, classes=["cat", "person"], one_based=True)) == [[0, 0, 100, 50], [6, 7, 7, 8]]


def test_boxes_are_clipped_where_the_size_is_known(tmp_path):
    objects = box(corners=("-3", "45.25", 130, 60)) + box(corners=(1, 2, 3, "4.5"))
    assert boxes(read_ground_truth(write(tmp_path, {"a": objects}), one_based=False)) == [
        [0, 45.25, 100, 50],
        [1, 2, 3, 4.5],
    ]
    for size in ("", "<size/>", "<size><width>0</width><height>x</height></size>",
                 "<size><width>-1</width><height>inf</height></size>"):  # fmt: skip
        ground_truth = read_ground_truth(write(tmp_path, {"a": objects}, size), one_based=False)
        assert boxes(ground_truth) == [[0, 45.25, 130, 60], [1, 2, 3, 4.5]]
        assert ground_truth.images[["width", "height"]].isna().all(axis=None)


@pytest.mark.parametrize("corners", [(7, 8, 7, 9), (7, 8, 9, 8), (9, 8, 7, 9), (100, 8, 120, 9), (5, -9, 9, 0),
                                     ("nan", 1, 5, 5), (1, 1, 5, "inf")])  # fmt: skip
def test_boxes_without_area_in_their_image_are_left_out(tmp_path, corners):
    root = write(tmp_path, {"a": box(corners=corners) + box(corners=(1, 2, 3, 4)), "b": box(corners=corners)})
    with pytest.warns(UserWarning, match=r"2 objects without area inside .*, first a\.xml: object 0 \(dog\)") as caught:
        assert boxes(read_ground_truth(root, one_based=False)) == [[1, 2, 3, 4]]
    assert len(caught) == 1 and caught[0].filename == __file__


def test_parts_of_objects_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    ground_truth = read_ground_truth(write(tmp_path, {"a": box(extra=part)}), one_based=False)
    assert boxes(ground_truth) == [[11, 21, 30, 40]] and "head" not in ground_truth.categories["name"].tolist()


def names(ground_truth):
    return [name.split(".")[0] for name in ground_truth.images["file_name"]]


def test_the_split_is_test_then_val_then_everything(tmp_path):
    root = write(tmp_path, {"c": "", "a": box("ant"), "b": ""})
    assert names(read_ground_truth(root)) == ["a", "b", "c"]
    write(root, {}, train="a\n", ant_train="a 1\n")
    assert names(read_ground_truth(root)) == ["a", "b", "c"] and names(read_ground_truth(root, "train")) == ["a"]
    write(root, {}, val="b\n")
    assert names(read_ground_truth(root)) == ["b"]
    write(root, {}, test="c\na\n", cat_train="a 1\n")
    assert names(read_ground_truth(root)) == ["c", "a"]
    with pytest.raises(
        FileNotFoundError, match=r"all\.txt: no such list of images; lists found there: ant_train, test, train, val$"
    ):
        read_ground_truth(root, "all")


def test_a_plain_folder_of_xml_files_is_read_whole(tmp_path):
    root = write(tmp_path, {"b": box("ant"), "a": ""}, test="b\n") / "Annotations"
    assert names(read_ground_truth(root)) == ["a", "b"]
    with pytest.raises(FileNotFoundError, match=r"test\.txt: no such list of images; lists found there: none$"):
        read_ground_truth(root, "test")


@pytest.mark.parametrize("inside", ["", "VOCdevkit"])
def test_a_folder_of_years_needs_one_to_be_named_unless_it_is_alone(tmp_path, inside):
    write(tmp_path / inside / "VOC2007", {"a": ""}, test="a\n")
    assert names(read_ground_truth(tmp_path)) == names(read_ground_truth(tmp_path, "VOC2007/test")) == ["a"]
    write(tmp_path / inside / "VOC2012", {"b": ""}, test="b\n")
    assert names(read_ground_truth(tmp_path, "VOC2012/test")) == ["b"]
    with pytest.raises(FileNotFoundError, match=r"found: .*VOC2007, .*VOC2012 \(name one with the split"):
        read_ground_truth(tmp_path)
    with pytest.raises(FileNotFoundError, match="found: none"):
        read_ground_truth(tmp_path, "VOC2010/test")


@pytest.mark.parametrize("objects, message", [
    ("<object>", r"a\.xml: not well-formed XML"),
    (box(corners=("", 1, 2, 3)), r"a\.xml: object 0 has xmin '', .*, four numbers are needed"),
    ("<object><name>dog</name></object>", r"a\.xml: object 0 has xmin None"),
    (box() + box("cow"), r"a\.xml: object 1 of class 'cow', allowed: cat, dog"),
])  # fmt: skip
def test_a_broken_file_is_named(tmp_path, objects, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_ground_truth(write(tmp_path, {"a": objects}), classes=["cat", "dog"])
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one folder with Annotations/\*\.xml, or XML files, are needed"):
        read_ground_truth(tmp_path)
    root = write(tmp_path, {}, test="a\n", val="\n")
    with pytest.raises(FileNotFoundError, match=r"a\.xml: no such annotation file"):
        read_ground_truth(root)
    with pytest.raises(ValueError, match=r"val\.txt: the list of images is empty"):
        read_ground_truth(root, "val")
    (root / "ImageSets/Main/test.txt").unlink()
    (root / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(FileNotFoundError, match="Annotations: no XML files"):
        read_ground_truth(root)


def test_a_split_of_a_coco_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="split, classes and one_based are for a PASCAL VOC folder"):
        read_ground_truth(tmp_path / "a.json", split="test")


def test_class_names_are_those_of_all_files(tmp_path):
    root = write(tmp_path, {"a": box("dog"), "b": box("ant") + box("dog")})
    assert class_names(root) == class_names(root / "Annotations") == ("ant", "dog")
    # the file of a known image is not read again
    known = read_image(root / "Annotations" / "b.xml")
    known.file.write_text("<object>")
    assert class_names(root, [known]) == ("ant", "dog")


def test_voc_classes_are_the_twenty_in_alphabetical_order():
    assert len(set(VOC_CLASSES)) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert (VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == ("aeroplane", "person", "tvmonitor")


def coco(path, annotations):
    path.write_text(json.dumps(to_coco(annotations)))
    return read_ground_truth(path)


def assert_same(first, second):
    for part in ("images", "categories", "annotations"):
        assert getattr(first, part).to_dict("records") == getattr(second, part).to_dict("records")


@pytest.mark.parametrize("one_based", [False, True])
def test_the_training_side_reads_the_same(tmp_path, one_based):
    corners = [(11, 21, 30, 40), (-5, 3, 120, 9), (7, 8, 7, 8), (100, 1, 101, 2), (101, 1, 120, 9), (9, 9, 1, 1)]
    files = {"b": "".join(box("cat", c) for c in corners), "a": box(extra="<difficult>1</difficult>"), "c": ""}
    root = write(tmp_path, files, val="c\na 1\nb\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = read_ground_truth(root, classes=["dog", "cat"], one_based=one_based)
    assert_same(mine, coco(tmp_path / "judge.json", voc.read_voc(root, "val", ["dog", "cat"], one_based)))


@pytest.mark.parametrize("split", ["train", "val", "test", "trainval"])
def test_bccd_is_what_the_training_side_reads(tmp_path, split):
    root = shared_data("bccd")
    classes = class_names(root)
    judge = coco(tmp_path / "judge.json", voc.read_voc(root, split, classes, one_based=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = read_ground_truth(root, split)
    assert_same(mine, judge)


def test_detections_of_bccd_may_name_images_and_classes(tmp_path):
    ground_truth = read_ground_truth(shared_data("bccd"))
    objects = ground_truth.annotations.merge(ground_truth.images, left_on="image_id", right_on="id")
    names = dict(zip(ground_truth.categories["id"], ground_truth.categories["name"], strict=True))
    results = [
        {"image_id": row.file_name.removesuffix(".jpg"), "category": names[row.category_id], "score": 0.5,
         "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1]}
        for row in objects.itertuples()
    ]  # fmt: skip
    (tmp_path / "found.json").write_text(json.dumps(results))
    found = read_detections(tmp_path / "found.json", ground_truth)
    assert found["image_id"].tolist() == ground_truth.annotations["image_id"].tolist()
    # every object found once, nothing else
    assert ap_metrics(evaluate_ap(ground_truth, found))["AP"] == pytest.approx(100)
