"""Reading of result files: what comes back, and what is refused with which message."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from analysis.detections import DETECTION_COLUMNS, read_detections
from analysis.runs import find_runs, load_run, read_log
from analysis.truths import read_truths

TRUTHS = {
    "images": [{"id": 5, "file_name": "a.png", "width": 64, "height": 48}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 9, "name": "square"}, {"id": 1, "name": "disc"}],
    "annotations": [
        {"id": 0, "image_id": 5, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 1},
        {"id": 7, "image_id": 2, "category_id": 9, "bbox": [0, 0, 3, 4]},
    ],
}
RESULTS = [
    {"image_id": 5, "category_id": 1, "bbox": [1.5, 2, 10, 20], "score": 0.75, "quality": 0.5},
    {"image_id": 2, "category_id": 9, "bbox": [0, 0, 0, 4], "score": 0.25},
]


def write(path, value):
    path.write_text(json.dumps(value))
    return path


def test_truths_keep_every_value_and_derive_what_is_missing(tmp_path):
    truths = read_truths(write(tmp_path / "truths.json", TRUTHS))
    assert truths.images["id"].tolist() == [5, 2] and np.isnan(truths.images["width"][1])
    assert truths.categories.to_dict("records") == [{"id": 1, "name": "disc"}, {"id": 9, "name": "square"}]
    assert truths.annotations.to_dict("records") == [
        {"id": 0, "image_id": 5, "category_id": 1, "x1": 1, "y1": 2, "x2": 11, "y2": 22, "area": 150.5, "iscrowd": 1},
        {"id": 7, "image_id": 2, "category_id": 9, "x1": 0, "y1": 0, "x2": 3, "y2": 4, "area": 12, "iscrowd": 0},
    ]


def test_truths_without_annotations_are_legal(tmp_path):
    truths = read_truths(write(tmp_path / "truths.json", TRUTHS | {"annotations": []}))
    assert len(truths.annotations) == 0 and truths.annotations["image_id"].dtype == np.int64


BAD = {"image_id": 5, "category_id": 1, "bbox": [0, 0, 1, 1]}


@pytest.mark.parametrize("change, message", [
    ({"images": []}, "images is empty"),
    ({"images": TRUTHS["images"] * 2}, "images: id 5 occurs twice"),
    ({"images": [{"id": "5"}]}, r"images\[0\]: id must be an integer, got '5'"),
    ({"categories": {}}, "categories must be a list, got dict"),
    ({"annotations": [BAD | {"image_id": 3}]}, r"annotations\[0\]: image_id .*: 3"),
    ({"annotations": [BAD | {"category_id": 4}]}, r"annotations\[0\]: category_id .*: 4"),
    ({"annotations": [BAD | {"bbox": [0, 0, -1, 1]}]}, r"annotations\[0\]: .*negative side"),
    ({"annotations": [BAD | {"bbox": [0, 0, 1]}]}, r"annotations\[0\]: bbox must be 4 numbers"),
    ({"annotations": [BAD | {"bbox": None}]}, r"annotations\[0\]: bbox must be 4 numbers.*None"),
    ({"annotations": [BAD | {"iscrowd": 2}]}, "iscrowd must be 0 or 1: 2"),
    ({"annotations": ["x"]}, r"annotations\[0\] must be an object, got 'x'"),
])  # fmt: skip
def test_bad_truths_name_file_and_record(tmp_path, change, message):
    path = write(tmp_path / "truths.json", TRUTHS | change)
    with pytest.raises(ValueError, match=message) as error:
        read_truths(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_truths_without_a_section_are_refused(tmp_path):
    with pytest.raises(ValueError, match="key 'categories' is missing"):
        read_truths(write(tmp_path / "truths.json", {"images": [], "annotations": []}))


@pytest.mark.parametrize("packed", [False, True])
def test_coco_results_become_corners(tmp_path, packed):
    path = tmp_path / ("found.json.gz" if packed else "found.json")
    path.write_bytes(gzip.compress(json.dumps(RESULTS).encode()) if packed else json.dumps(RESULTS).encode())
    frame = read_detections(path)
    assert list(frame.columns) == DETECTION_COLUMNS
    assert frame[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[1.5, 2, 11.5, 22], [0, 0, 0, 4]]
    assert frame["quality"][0] == 0.5 and np.isnan(frame["quality"][1])
    assert frame["level"].tolist() == [-1, -1]


def test_parquet_results_round_trip(tmp_path):
    written = read_detections(write(tmp_path / "found.json", RESULTS)).assign(level=np.int8([3, 4]))
    written.to_parquet(tmp_path / "found.parquet")
    pd.testing.assert_frame_equal(read_detections(tmp_path / "found.parquet"), written)


def test_no_detections_are_legal(tmp_path):
    frame = read_detections(write(tmp_path / "found.json", []))
    assert len(frame) == 0 and list(frame.columns) == DETECTION_COLUMNS


@pytest.mark.parametrize("change, message", [
    ({"image_id": 4}, r"detections\[1\]: image_id is not among the 2 of the ground truth: 4"),
    ({"category_id": 2}, r"detections\[1\]: category_id is not among the 2"),
    ({"score": float("nan")}, r"detections\[1\]: score must be a finite number: nan"),
    ({"score": None}, r"detections\[1\]: score must be a number, got None"),
    ({"bbox": [0, 0, float("inf"), 1]}, r"detections\[1\]: box must be finite"),
    ({"bbox": [5, 5, 1, -2]}, r"detections\[1\]: box has a negative side"),
    ({"bbox": "0 0 1 1"}, r"detections\[1\]: bbox must be 4 numbers"),
    ({"image_id": 2.5}, r"detections\[1\]: image_id must be an integer, got 2.5"),
])  # fmt: skip
def test_bad_detections_name_file_and_record(tmp_path, change, message):
    truths = read_truths(write(tmp_path / "truths.json", TRUTHS))
    path = write(tmp_path / "found.json", [RESULTS[0], RESULTS[1] | change])
    with pytest.raises(ValueError, match=message) as error:
        read_detections(path, truths)
    assert str(error.value).startswith(str(path))


def test_scores_beyond_one_are_warned_about(tmp_path):
    path = write(tmp_path / "found.json", [RESULTS[0], RESULTS[1] | {"score": 1.5}])
    with pytest.warns(UserWarning, match=r"1 of 2 scores lie outside \[0, 1\], first detections\[1\]: 1.5"):
        assert read_detections(path)["score"][1] == 1.5


def test_files_that_are_not_what_they_claim(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_detections(tmp_path / "none.json")
    for name, content in (("a.json", "{"), ("a.json.gz", "plain"), ("a.parquet", "plain"), ("a.csv", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=name):
            read_detections(tmp_path / name)
    with pytest.raises(ValueError, match="expected a list of results, got dict"):
        read_detections(write(tmp_path / "b.json", {}))
    pd.DataFrame({"image_id": [1]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="column 'category_id' is missing; present: image_id"):
        read_detections(tmp_path / "b.parquet")


def make_run(folder, recipe, profile, seed):
    path = folder / recipe / profile / f"seed{seed}"
    path.mkdir(parents=True)
    write(path / "run.json", {"recipe": recipe, "profile": profile, "seed": seed})
    return path


def test_runs_are_found_in_order_with_seeds_as_numbers(tmp_path):
    for recipe, profile, seed in (("p/b", "voc", 10), ("p/b", "voc", 9), ("p/a", "voc", 0), ("p/b", "coco", 0)):
        make_run(tmp_path, recipe, profile, seed)
    found = [(run.recipe, run.profile, run.seed) for run in find_runs(tmp_path)]
    assert found == [("p/a", "voc", 0), ("p/b", "coco", 0), ("p/b", "voc", 9), ("p/b", "voc", 10)]
    assert [run.seed for run in find_runs(tmp_path / "p/b/voc/seed9")] == [9]
    with pytest.raises(FileNotFoundError):
        find_runs(tmp_path / "nowhere")


def test_a_run_reads_its_files_and_checks_detections_against_its_truths(tmp_path):
    path = make_run(tmp_path, "p/a", "shapes", 0)
    run = load_run(path)
    assert not run.evaluated and run.rules == []
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        run.metrics  # noqa: B018
    write(path / "truths.json", TRUTHS)
    write(path / "metrics.json", {"split": "val", "images": 2, "rules": {"class": {"AP": 10.0}}})
    (path / "detections").mkdir()
    read_detections(write(tmp_path / "found.json", RESULTS)).to_parquet(path / "detections" / "power-0.5.parquet")
    assert run.evaluated and run.rules == ["power-0.5"] and run.metrics["rules"]["class"]["AP"] == 10.0
    assert run.detections("power-0.5")["score"].tolist() == [0.75, 0.25]
    with pytest.raises(FileNotFoundError, match=r"no detections of rule 'class'; stored: power-0.5"):
        run.detections("class")
    read_detections(tmp_path / "found.json").assign(image_id=77).to_parquet(path / "detections" / "class.parquet")
    with pytest.raises(ValueError, match="image_id is not among the 2"):
        run.detections("class")


def test_a_broken_run_file_is_named(tmp_path):
    path = make_run(tmp_path, "p/a", "shapes", 0)
    write(path / "run.json", {"recipe": "p/a", "seed": 0})
    with pytest.raises(ValueError, match=r"run\.json: key 'profile' is missing"):
        find_runs(tmp_path)
    write(path / "run.json", {"recipe": "p/a", "profile": "x", "seed": "0"})
    with pytest.raises(ValueError, match="seed must be an integer, got '0'"):
        find_runs(tmp_path)


def test_log_lines_become_rows_and_a_cut_line_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n\n{"step": 2, "loss": 1.5, "quality": 0.5}\n')
    log = read_log(path)
    assert log["loss"].tolist() == [2.5, 1.5] and np.isnan(log["quality"][0]) and log["quality"][1] == 0.5
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_log(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1 is not an object with a key 'step'"):
        read_log(path)
