"""Result files of five other projects, each as that project writes it: one ground truth, five detections, equal AP.

The examples are modelled on the code of the projects; the comment over each names the file and version that was read.
All of them are written by `json.dump` with its defaults.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers.commands import run
from helpers.voc_files import box
from helpers.voc_files import write as write_pascal
from qrepro.records.detections import read_detections
from qrepro.records.ground_truth import BOX, read_ground_truth

# As COCO: categories with gaps between their ids, images named after theirs.
TRUTHS = {
    "images": [
        {"id": 139, "file_name": "000000000139.jpg", "width": 640, "height": 426},
        {"id": 285, "file_name": "000000000285.jpg", "width": 586, "height": 640},
        {"id": 632, "file_name": "000000000632.jpg", "width": 640, "height": 483},
        {"id": 724, "file_name": "000000000724.jpg", "width": 375, "height": 500},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 139, "category_id": 1, "bbox": [100, 50, 80, 160]},
        {"id": 2, "image_id": 139, "category_id": 18, "bbox": [300, 200, 64, 48]},
        {"id": 3, "image_id": 285, "category_id": 3, "bbox": [10, 20, 200, 100]},
        {"id": 4, "image_id": 632, "category_id": 18, "bbox": [40, 40, 100, 80]},
        {"id": 5, "image_id": 724, "category_id": 1, "bbox": [0, 0, 50, 100]},
    ],
}
IMAGES = [139, 139, 285, 285, 632]
CATEGORIES = [1, 18, 3, 1, 18]
SCORES = [0.96875, 0.8125, 0.75, 0.5, 0.09375]
CORNERS = [
    [100.0, 50.0, 180.0, 210.0],
    [300.5, 200.0, 364.0, 248.25],
    [10.0, 20.0, 210.0, 120.0],
    [400.0, 300.0, 450.0, 400.0],
    [40.0, 40.0, 140.0, 110.0],
]
# At IoU 0.5 all but the fourth are hits. person: half the objects at precision 1, 51 of 101 recalls; car and dog: all.
AP50 = 100 * (51 / 101 + 1 + 1) / 3

# MMDetection 3, mmdet/evaluation/metrics/coco_metric.py (commit 013e541), results2json: PREFIX.bbox.json.
MMDETECTION = [
    {"image_id": 139, "bbox": [100.0, 50.0, 80.0, 160.0], "score": 0.96875, "category_id": 1},
    {"image_id": 139, "bbox": [300.5, 200.0, 63.5, 48.25], "score": 0.8125, "category_id": 18},
    {"image_id": 285, "bbox": [10.0, 20.0, 200.0, 100.0], "score": 0.75, "category_id": 3},
    {"image_id": 285, "bbox": [400.0, 300.0, 50.0, 100.0], "score": 0.5, "category_id": 1},
    {"image_id": 632, "bbox": [40.0, 40.0, 100.0, 70.0], "score": 0.09375, "category_id": 18},
]

# MMDetection 3, mmdet/apis/det_inferencer.py (commit 6f5971e), pred2dict: OUT/preds/STEM.json, one file an image; with
# masks where the detector has some. Labels count the classes from 0, boxes are x1, y1, x2, y2.
MASK = {"size": [483, 640], "counts": "PPY:7c0O1"}
PREDS = {
    "000000000139": {
        "labels": [0, 2],
        "scores": [0.96875, 0.8125],
        "bboxes": [[100.0, 50.0, 180.0, 210.0], [300.5, 200.0, 364.0, 248.25]],
    },
    "000000000285": {
        "labels": [1, 0],
        "scores": [0.75, 0.5],
        "bboxes": [[10.0, 20.0, 210.0, 120.0], [400.0, 300.0, 450.0, 400.0]],
    },
    "000000000632": {"labels": [2], "scores": [0.09375], "bboxes": [[40.0, 40.0, 140.0, 110.0]], "masks": [MASK]},
    "000000000724": {"labels": [], "scores": [], "bboxes": []},
}

# Detectron2, detectron2/evaluation/coco_evaluation.py (commit 021ec57), instances_to_json and _eval_predictions:
# coco_instances_results.json; a mask head adds segmentation.
DETECTRON2 = [
    {"image_id": 139, "category_id": 1, "bbox": [100.0, 50.0, 80.0, 160.0], "score": 0.96875, "segmentation": MASK},
    {"image_id": 139, "category_id": 18, "bbox": [300.5, 200.0, 63.5, 48.25], "score": 0.8125, "segmentation": MASK},
    {"image_id": 285, "category_id": 3, "bbox": [10.0, 20.0, 200.0, 100.0], "score": 0.75, "segmentation": MASK},
    {"image_id": 285, "category_id": 1, "bbox": [400.0, 300.0, 50.0, 100.0], "score": 0.5, "segmentation": MASK},
    {"image_id": 632, "category_id": 18, "bbox": [40.0, 40.0, 100.0, 70.0], "score": 0.09375, "segmentation": MASK},
]

# Ultralytics, ultralytics/models/yolo/detect/val.py, pred_to_json since pull request 21837 (8.3, August 2025; before it
# without file_name): predictions.json. On COCO class numbers become COCO's ids.
ULTRALYTICS = [
    {"image_id": 139, "file_name": "000000000139.jpg", "category_id": 1,
     "bbox": [100.0, 50.0, 80.0, 160.0], "score": 0.96875},
    {"image_id": 139, "file_name": "000000000139.jpg", "category_id": 18,
     "bbox": [300.5, 200.0, 63.5, 48.25], "score": 0.8125},
    {"image_id": 285, "file_name": "000000000285.jpg", "category_id": 3,
     "bbox": [10.0, 20.0, 200.0, 100.0], "score": 0.75},
    {"image_id": 285, "file_name": "000000000285.jpg", "category_id": 1,
     "bbox": [400.0, 300.0, 50.0, 100.0], "score": 0.5},
    {"image_id": 632, "file_name": "000000000632.jpg", "category_id": 18,
     "bbox": [40.0, 40.0, 100.0, 70.0], "score": 0.09375},
]  # fmt: skip

# torchvision, references/detection/coco_eval.py (commit 12e7d7b), prepare_for_coco_detection: it writes no file; this
# is what `json.dump(coco_evaluator.prepare(predictions, "bbox"), file)` does.
TORCHVISION = [
    {"image_id": 139, "category_id": 1, "bbox": [100.0, 50.0, 80.0, 160.0], "score": 0.96875},
    {"image_id": 139, "category_id": 18, "bbox": [300.5, 200.0, 63.5, 48.25], "score": 0.8125},
    {"image_id": 285, "category_id": 3, "bbox": [10.0, 20.0, 200.0, 100.0], "score": 0.75},
    {"image_id": 285, "category_id": 1, "bbox": [400.0, 300.0, 50.0, 100.0], "score": 0.5},
    {"image_id": 632, "category_id": 18, "bbox": [40.0, 40.0, 100.0, 70.0], "score": 0.09375},
]

# RT-DETR, rtdetrv2_pytorch/src/data/dataset/coco_eval.py (commit 0259aa6), prepare_for_coco_detection; D-FINE's
# src/solver/det_engine.py (commit 0177325) hands its results to a class of the same name and origin. No file either;
# with `remap_mscoco_category: True` the ids are COCO's.
DFINE = [
    {"image_id": 139, "category_id": 1, "bbox": [100.0, 50.0, 80.0, 160.0], "score": 0.96875},
    {"image_id": 139, "category_id": 18, "bbox": [300.5, 200.0, 63.5, 48.25], "score": 0.8125},
    {"image_id": 285, "category_id": 3, "bbox": [10.0, 20.0, 200.0, 100.0], "score": 0.75},
    {"image_id": 285, "category_id": 1, "bbox": [400.0, 300.0, 50.0, 100.0], "score": 0.5},
    {"image_id": 632, "category_id": 18, "bbox": [40.0, 40.0, 100.0, 70.0], "score": 0.09375},
]

LISTS = {
    "mmdetection.bbox.json": MMDETECTION,
    "coco_instances_results.json": DETECTRON2,
    "predictions.json": ULTRALYTICS,
    "torchvision.json": TORCHVISION,
    "dfine.json": DFINE,
}
ALL = [*LISTS, "preds"]


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_preds(folder, preds):
    for stem, pred in preds.items():
        write(folder / f"{stem}.json", pred)
    return folder


@pytest.fixture
def files(tmp_path):
    """A folder with the ground truth and the example of every project."""
    write(tmp_path / "ground_truth.json", TRUTHS)
    for name, records in LISTS.items():
        write(tmp_path / name, records)
    write_preds(tmp_path / "preds", PREDS)
    return tmp_path


@pytest.fixture
def ground_truth(tmp_path):
    return read_ground_truth(write(tmp_path / "ground_truth.json", TRUTHS))


def columns(frame):
    """What every format says: image ids, category ids, scores, corners."""
    return [*(frame[name].tolist() for name in ("image_id", "category_id", "score")), frame[BOX].to_numpy().tolist()]


@pytest.mark.parametrize("name", ALL)
def test_the_file_of_a_project_is_read_as_it_was_meant(files, ground_truth, name):
    frame = read_detections(files / name, ground_truth)
    assert columns(frame) == [IMAGES, CATEGORIES, SCORES, CORNERS]
    assert frame["image_id"].dtype == frame["category_id"].dtype == np.int64 and frame["score"].dtype == np.float64
    assert frame["quality"].isna().all() and (frame["level"] == -1).all()


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_the_same_detections_have_the_same_ap_in_every_format(capsys, files, engine):
    given = [files / name for name in ALL]
    code, _, err = run(
        capsys, "analyze", "ap", *given, "--annotations", files / "ground_truth.json", "--out", files / "out",
        "--engine", engine,
    )  # fmt: skip
    assert (code, err) == (0, "")
    rows = pd.read_csv(files / "out" / "ap.csv")
    assert rows["run"].tolist() == ALL
    assert rows["AP50"].tolist() == pytest.approx([AP50] * len(ALL))
    assert (rows.drop(columns="run").nunique(dropna=False) == 1).all()


def test_two_formats_are_compared(capsys, files):
    given = ["--annotations", files / "ground_truth.json", "--out", files / "out", "--draws", "10"]
    code, out, err = run(capsys, "analyze", "compare", files / "dfine.json", files / "preds", *given)
    assert code == 0, err
    assert "a: dfine.json" in out and "b: preds" in out
    rows = pd.read_csv(files / "out" / "compare.csv").set_index("metric")
    assert rows["a"]["AP50"] == pytest.approx(AP50) and (rows["difference"].dropna() == 0).all()
    code, _, err = run(capsys, "analyze", "compare", files / "preds", files / "preds", "--rule-b", "class", *given)
    assert code == 2 and "a result file has no score rules" in err


def test_a_folder_of_runs_is_no_folder_of_predictions(capsys, files):
    write(files / "runs" / "recipe" / "run.json", {"recipe": "r", "profile": "p", "seed": 0})
    write(files / "runs" / "notes.json", {})
    given = ["--annotations", files / "ground_truth.json"]
    code, _, err = run(capsys, "analyze", "compare", files / "runs", files / "preds", *given)
    assert code == 2 and err == f"error: {files / 'runs'}: no evaluated run (1 without metrics.json); `qrepro eval` makes one\n"  # fmt: skip # noqa: E501


def test_files_of_the_same_name_are_told_apart(capsys, files):
    paths = [write(files / where / "predictions.json", ULTRALYTICS[:count]) for where, count in (("a", 5), ("b", 4))]
    given = ["--annotations", files / "ground_truth.json", "--out", files / "out"]
    code, _, err = run(
        capsys, "analyze", "ap", paths[0], paths[1],
        files / "dfine.json", "--curves", "--thresholds", "0.5", *given,
    )  # fmt: skip
    assert (code, err) == (0, "")
    rows = pd.read_csv(files / "out" / "ap.csv")
    assert rows["run"].tolist() == [*map(str, paths), "dfine.json"]
    assert rows["AP50"][0] == rows["AP50"][2] > rows["AP50"][1]
    assert len(list((files / "out").glob("precision_recall-*.png"))) == 3
    code, out, err = run(capsys, "analyze", "compare", *paths, "--draws", "10", *given)
    assert code == 0 and f"a: {paths[0]}" in out and f"b: {paths[1]}" in out, err


# A data set of one's own. Ultralytics knows no ids: image_id is the stem of the file, a number where it is made of
# digits; category_id is the class number, + 1 since pull request 18140 (8.3, December 2024).
STEMS = ["sea_1", "sea_2", "000003", "4"]


def own(first, ids=(101, 102, 103, 104)):
    """Ground truth whose category ids start at `first`."""
    names = {"person": first, "car": first + 1, "dog": first + 2}
    new = {1: first, 3: first + 1, 18: first + 2}
    image = dict(zip((139, 285, 632, 724), ids, strict=True))
    return {
        "images": [{"id": id_, "file_name": f"{stem}.jpg"} for id_, stem in zip(ids, STEMS, strict=True)],
        "categories": [{"id": id_, "name": name} for name, id_ in names.items()],
        "annotations": [
            a | {"image_id": image[a["image_id"]], "category_id": new[a["category_id"]]} for a in TRUTHS["annotations"]
        ],
    }


def yolo(first, named=True):
    """predictions.json of the data set, whose category_id starts at `first`; with file_name as since August 2025."""
    stem = {139: "sea_1", 285: "sea_2", 632: "000003"}
    number = {1: first, 3: first + 1, 18: first + 2}
    records = []
    for record in TORCHVISION:
        name = stem[record["image_id"]]
        records.append({"image_id": int(name) if name.isnumeric() else name})
        if named:
            records[-1]["file_name"] = f"{name}.jpg"
        rest = {"category_id": number[record["category_id"]], "bbox": record["bbox"], "score": record["score"]}
        records[-1].update(rest)
    return records


@pytest.mark.parametrize(
    "written, has, classes_from", [(1, 1, None), (0, 0, None), (0, 1, 0), (1, 0, 1), (1, 1, 1), (0, 7, 0)]
)
def test_ultralytics_on_data_of_ones_own(tmp_path, written, has, classes_from):
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", own(has)))
    frame = read_detections(write(tmp_path / "predictions.json", yolo(written)), ground_truth, classes_from)
    categories = [has, has + 2, has + 1, has, has + 2]
    assert columns(frame) == [[101, 101, 102, 102, 103], categories, SCORES, CORNERS]


@pytest.mark.parametrize("written, has, row, got", [(0, 1, 0, 0), (1, 0, 1, 3)])
def test_class_numbers_that_are_no_ids_are_never_guessed(tmp_path, written, has, row, got):
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", own(has)))
    path = write(tmp_path / "predictions.json", yolo(written))
    with pytest.raises(ValueError) as error:
        read_detections(path, ground_truth)
    allowed = list(range(has, has + 3))
    assert str(error.value) == (
        f"{path}: detections[{row}]: category_id must be one of the 3 of the ground truth {allowed} "
        f"(class numbers need --classes-from), got {got} (2 such records)"
    )


@pytest.mark.parametrize("written, classes_from, message", [
    (1, 0, r"detections\[1\]: category_id must be a class number from 0 to 2, one of the 3 of .*, got 3 \(2 such"),
    (0, 1, r"detections\[0\]: category_id must be a class number from 1 to 3, one of the 3 of .*, got 0 \(2 such"),
    (-1, 0, r"detections\[0\]: category_id must be a class number from 0 to 2, one of the 3 of .*, got -1 \(2 such"),
])  # fmt: skip
def test_numbers_beyond_the_classes_are_named(tmp_path, written, classes_from, message):
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", own(5)))
    path = write(tmp_path / "predictions.json", yolo(written))
    with pytest.raises(ValueError, match=message):
        read_detections(path, ground_truth, classes_from)


def test_a_class_number_is_a_number_and_needs_classes(files, ground_truth):
    path = write(files / "found.json", [DFINE[0] | {"category_id": "person"}])
    with pytest.raises(ValueError, match=r"detections\[0\]: category_id must be a class number, got 'person'"):
        read_detections(path, ground_truth, 0)
    with pytest.raises(ValueError, match=r"found.json: classes_from 0 needs the ground truth"):
        read_detections(path, classes_from=0)


@pytest.mark.parametrize("packed", [False, True])
def test_classes_are_counted_in_the_order_of_the_annotations(tmp_path, packed):
    """MMDetection numbers classes as its annotation file lists them (mmdet/datasets/coco.py, cat2label)."""
    people, car, dog = TRUTHS["categories"]
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", TRUTHS | {"categories": [dog, people, car]}))
    assert ground_truth.listed == (18, 1, 3) and ground_truth.categories["id"].tolist() == [1, 3, 18]
    preds = write_preds(tmp_path / "preds", PREDS)
    moved = [{1: 18, 3: 1, 18: 3}[category] for category in CATEGORIES]
    assert read_detections(preds, ground_truth)["category_id"].tolist() == moved
    assert read_detections(preds, replace(ground_truth, listed=()))["category_id"].tolist() == CATEGORIES
    records = [record | {"category_id": [1, 3, 18].index(record["category_id"])} for record in DFINE]
    path = write(tmp_path / "found.json", records)
    if packed:
        path = tmp_path / "found.parquet"
        pd.DataFrame(records).to_parquet(path)
    assert read_detections(path, ground_truth, 0)["category_id"].tolist() == moved


@pytest.mark.parametrize("command", ["ap", "pcc", "oracle", "calibration", "lrp", "compare"])
def test_every_analysis_counts_classes_where_told(capsys, tmp_path, command):
    write(tmp_path / "ground_truth.json", own(1))
    for name, first in (("ids", 1), ("numbers", 0)):
        path = write(tmp_path / name / "found.json", yolo(first))
        given = [path, path, "--draws", "10"] if command == "compare" else [path]
        option = ["--classes-from", "0"] if name == "numbers" else []
        common = ["--annotations", tmp_path / "ground_truth.json", "--out", tmp_path / name]
        code, _, err = run(capsys, "analyze", command, *given, *option, *common)
        assert code == 0, err
    assert (tmp_path / "numbers" / f"{command}.csv").read_text() == (tmp_path / "ids" / f"{command}.csv").read_text()
    for option, said in (
        ([], "(class numbers need --classes-from), got 0"),
        (["--classes-from", "2"], "--classes-from'"),
    ):
        code, _, err = run(capsys, "analyze", command, *given, *option, *common)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err


def test_of_a_numeric_file_name_the_name_says_which_image(tmp_path):
    """Image 3 of Ultralytics is 000003.jpg, which this ground truth calls 4; its image 3 is another."""
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", own(1, (1, 2, 4, 3))))
    path = write(tmp_path / "predictions.json", yolo(1))
    assert read_detections(path, ground_truth)["image_id"].tolist() == [1, 1, 2, 2, 4]
    numbers = [record for record in yolo(1) if record["image_id"] == 3]
    assert read_detections(write(path, numbers), ground_truth)["image_id"].tolist() == [4]  # all plain: the fast reader
    unnamed = [*numbers, {name: value for name, value in numbers[0].items() if name != "file_name"}]
    assert read_detections(write(path, unnamed), ground_truth)["image_id"].tolist() == [4, 3]
    assert read_detections(write(path, yolo(1, named=False)), ground_truth)["image_id"].tolist() == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("file", ["5.jpg", "", 3])
def test_a_file_name_of_no_image_is_refused_whatever_the_id(tmp_path, file):
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", own(1)))
    record = {"image_id": 101, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
    path = write(tmp_path / "predictions.json", [record | {"file_name": "sea_1.jpg"}, record | {"file_name": file}])
    with pytest.raises(ValueError, match=rf"detections\[1\]: file_name must be that of one image of .*, got {file!r}"):
        read_detections(path, ground_truth)


def test_a_file_name_may_have_a_folder_or_another_ending_or_no_use(tmp_path):
    images = [{"id": 1, "file_name": "val/a.jpg"}, {"id": 2, "file_name": "val/a.png"}, {"id": 3, "file_name": "b.tif"}]
    value = {"images": images, "categories": [{"id": 1, "name": "x"}], "annotations": []}
    record = {"image_id": "a", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
    names = ["a.jpg", "val/a.png", "a.png", "b.png"]
    path = write(tmp_path / "predictions.json", [record | {"file_name": name} for name in names])
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", value))
    assert read_detections(path, ground_truth)["image_id"].tolist() == [1, 2, 2, 3]
    path = write(tmp_path / "predictions.json", [record | {"file_name": "a.bmp"}])
    with pytest.raises(ValueError, match=r"file_name must be that of one image of .*, got 'a.bmp'"):
        read_detections(path, ground_truth)
    # a ground truth without file names, and none at all, know ids only
    bare = read_ground_truth(write(tmp_path / "ground_truth.json", value | {"images": [{"id": 12}, {"id": 3}]}))
    path = write(tmp_path / "predictions.json", [record | {"image_id": 12, "file_name": "000012.jpg"}])
    assert read_detections(path, bare)["image_id"].tolist() == [12]
    assert read_detections(path)["image_id"].tolist() == [12]


def change(**values):
    """The predictions of the second image with other values."""
    return PREDS | {"000000000285": PREDS["000000000285"] | values}


FOUR = [[10.0, 20.0, 210.0, 120.0], [400.0, 300.0, 450.0, 400.0]]


@pytest.mark.parametrize("preds, message", [
    (change(labels=[1, 3]), r"285.json: labels\[1\]: must be a class number from 0 to 2, one of the 3 of .*, got 3$"),
    (change(labels=[-1, 0]), r"285.json: labels\[0\]: must be a class number from 0 to 2, one of the 3 of .*, got -1$"),
    (change(labels=[1, 0.5]), r"285.json: labels\[1\]: must be a class number, got 0.5$"),
    (change(labels=[True, 0]), r"285.json: labels\[0\]: must be a class number, got True$"),
    (change(labels=[1]), r"285.json: labels, scores and bboxes must be equally long, got \[1, 2, 2\]$"),
    (change(scores=[0.5] * 3), r"285.json: labels, scores and bboxes must be equally long, got \[2, 3, 2\]$"),
    (change(bboxes=FOUR[:1]), r"285.json: labels, scores and bboxes must be equally long, got \[2, 2, 1\]$"),
    (change(scores="high"), r"285.json: scores must be a list, got 'high'$"),
    (change(scores=[0.5, "0.5"]), r"285.json: scores\[1\]: must be a number, got '0.5'$"),
    (change(scores=[0.5, math.nan]), r"285.json: scores\[1\]: must be a finite number, got nan$"),
    (change(bboxes=[FOUR[0], [0, 0, 1]]), r"285.json: bboxes\[1\]: must be 4 numbers \[x1, y1, x2, y2\], got \[0"),
    (change(bboxes=[FOUR[0], [9, 9, 8, 10]]), r"285.json: bboxes\[1\]: box x1 y1 x2 y2 has a negative side, got \[9"),
    (change(bboxes=[FOUR[0], [0, 0, math.inf, 1]]), r"285.json: bboxes\[1\]: box x1 y1 x2 y2 must be finite, got \["),
    (PREDS | {"000000000285": {"labels": [], "scores": []}}, r"285.json: key 'bboxes' is missing; present: labels, sc"),
    (PREDS | {"000000000285": []}, r"285.json: expected a JSON object, got list"),
    (PREDS | {"cat": PREDS["000000000724"]}, r"cat.json: 'cat' must be .* of just one of the 4 images of the gr"),
    (PREDS | {"000000000139.jpg": PREDS["000000000724"]}, r"139.jpg.json: '000000000139.jpg' must be the file name, "),
])  # fmt: skip
def test_bad_predictions_name_file_and_record(tmp_path, ground_truth, preds, message):
    folder = write_preds(tmp_path / "preds", preds)
    with pytest.raises(ValueError, match=message) as error:
        read_detections(folder, ground_truth)
    assert str(error.value).startswith(f"{folder}/") and "\n" not in str(error.value)


def test_a_stem_that_two_images_share_stands_for_neither(tmp_path):
    images = [*TRUTHS["images"], {"id": 9, "file_name": "other/000000000724.png"}]
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", TRUTHS | {"images": images}))
    with pytest.raises(ValueError, match=r"724.json: '000000000724' must be .* of just one of the 5 images"):
        read_detections(write_preds(tmp_path / "preds", PREDS), ground_truth)


def test_folders_that_are_not_what_they_claim(files, ground_truth):
    with pytest.raises(ValueError, match="preds: a folder of predictions needs the ground truth"):
        read_detections(files / "preds")
    with pytest.raises(ValueError, match="preds: labels of MMDetection count from 0, got --classes-from 1"):
        read_detections(files / "preds", ground_truth, 1)
    assert columns(read_detections(files / "preds", ground_truth, 0))[1] == CATEGORIES
    write_preds(files / "out" / "preds", PREDS)
    with pytest.raises(FileNotFoundError, match=r"out: no .json file in this folder; is it .*out/preds\?$"):
        read_detections(files / "out", ground_truth)
    (files / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no .json file in this folder$"):
        read_detections(files / "empty", ground_truth)
    with pytest.raises(ValueError, match=r"with \['labels', 'scores', 'bboxes'\] that looks like one image of MMDet"):
        read_detections(files / "preds" / "000000000139.json", ground_truth)
    (files / "preds" / "000000000139.json").write_text("{")
    with pytest.raises(ValueError, match=r"139.json: not JSON"):
        read_detections(files / "preds", ground_truth)


def test_images_without_a_file_are_warned_of(tmp_path, ground_truth):
    folder = write_preds(tmp_path / "preds", {stem: pred for stem, pred in PREDS.items() if stem > "000000000285"})
    (folder / "000000000632_panoptic_seg.png").write_bytes(b"")
    message = r"preds: 2 of 4 images: has no file here, so counts as without detections, first images\[0\]: '0+139.jpg'"
    with pytest.warns(UserWarning, match=message) as caught:
        frame = read_detections(folder, ground_truth)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert columns(frame) == [[632], [18], [0.09375], [CORNERS[4]]]


def test_predictions_without_a_detection(tmp_path, ground_truth):
    frame = read_detections(write_preds(tmp_path / "preds", dict.fromkeys(PREDS, PREDS["000000000724"])), ground_truth)
    assert len(frame) == 0 and frame["image_id"].dtype == frame["category_id"].dtype == np.int64


def test_predictions_on_a_voc_folder_count_the_classes_as_given(capsys, tmp_path):
    one = {"dog": (10, 10, 50, 50), "ant": (60, 10, 90, 40)}
    objects = "".join(box(name, corners) for name, corners in one.items())
    pascal = write_pascal(tmp_path / "voc", {"000007": objects, "000009": ""}, val="000009\n000007\n", test="000009\n")
    labels = {"ant": 1, "dog": 0}
    boxes = [list(map(float, corners)) for corners in one.values()]
    preds = {"000007": {"labels": [labels[name] for name in one], "scores": [0.5, 0.75], "bboxes": boxes}}
    folder = write_preds(tmp_path / "preds", preds | {"000009": PREDS["000000000724"]})
    given = [folder, "--annotations", pascal, "--out", tmp_path / "out"]
    for classes, ap in (("dog,ant", 100), ("ant,dog", 0)):
        code, _, err = run(capsys, "analyze", "ap", *given, "--split", "val", "--classes", classes)
        assert (code, err) == (0, "")
        assert pd.read_csv(tmp_path / "out" / "ap.csv")["AP"].tolist() == pytest.approx([ap])
    code, _, err = run(capsys, "analyze", "ap", *given)
    assert (
        code == 2 and "000007.json: '000007' must be the file name, without ending, of just one of the 1 images" in err
    )
