"""COCO-format ground truth, written and read back; how files can be wrong is in `test_inputs.py`."""

import gzip
import json

import numpy as np
import pytest

from qrepro.data.coco import read_coco
from qrepro.records.ground_truth import read_ground_truth, sections_of
from qrepro.records.readers.coco import annotation_records, read_sections, write_sections

SECTIONS = {
    "images": [
        {"id": 7, "file_name": "seven.jpg", "width": 100, "height": 50},
        {"id": 3, "file_name": "three.jpg", "width": 640, "height": 480},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {"id": 4, "image_id": 3, "category_id": 90, "bbox": [10, 20, 30, 5], "area": 99.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 18, "bbox": [0.25, 0, 2, 4], "area": 8, "iscrowd": 1},
    ],
}


def test_ground_truth_is_written_as_it_was_read(tmp_path):
    (tmp_path / "given.json").write_text(json.dumps({"info": {}, **SECTIONS}))
    ground_truth = read_ground_truth(tmp_path / "given.json")
    write_sections(tmp_path / "written.json", sections_of(ground_truth))
    # the order of the categories is that of the file: detectors number their classes in it
    assert json.loads((tmp_path / "written.json").read_text()) == SECTIONS
    assert read_ground_truth(tmp_path / "written.json").listed == ground_truth.listed == (90, 18)


def test_annotations_by_hand():
    (record,) = annotation_records([1], [7], [18], [[0.25, 0, 2.25, 4]], [8.0], [1])
    assert record == {"id": 1, "image_id": 7, "category_id": 18, "bbox": [0.25, 0, 2, 4], "area": 8, "iscrowd": 1}
    assert type(record["id"]) is int
    assert annotation_records([], [], [], np.empty((0, 4)), [], []) == []


def test_a_file_without_annotations_is_read_where_they_are_not_required(tmp_path):
    images = {"images": SECTIONS["images"], "categories": SECTIONS["categories"], "licenses": []}
    (tmp_path / "a.json").write_text(json.dumps(images))
    assert set(read_sections(tmp_path / "a.json", ("images", "categories"))) == {"images", "categories"}
    with pytest.raises(ValueError, match="with images, categories, annotations; got no 'annotations' among"):
        read_sections(tmp_path / "a.json")


def test_both_sides_read_a_compressed_file(tmp_path):
    path = tmp_path / "instances_some.json.gz"
    path.write_bytes(gzip.compress(json.dumps(SECTIONS).encode()))
    assert len(read_ground_truth(path).annotations) == sum(map(len, read_coco(path, tmp_path).objects)) == 2
