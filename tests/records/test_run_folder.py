"""Run folders: what is found in which order, and which file is named when one is broken."""

import json

import numpy as np
import pytest

from qrepro.records.detections import read_detections
from qrepro.records.run_folder import find_runs, read_log, read_run

TRUTHS = {
    "images": [{"id": 5}, {"id": 2}],
    "categories": [{"id": 1, "name": "disc"}],
    "annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 2, 10, 20]}],
}
RESULTS = [
    {"image_id": 5, "category_id": 1, "bbox": [1.5, 2, 10, 20], "score": 0.75},
    {"image_id": 2, "category_id": 1, "bbox": [0, 0, 3, 4], "score": 0.25},
]


def write(path, value):
    path.write_text(json.dumps(value))
    return path


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
    run = read_run(path)
    assert not run.evaluated and run.rules == []
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        run.metrics  # noqa: B018
    write(path / "ground_truth.json", TRUTHS)
    write(path / "metrics.json", {"split": "val", "images": 2, "rules": {"class": {"AP": 10.0}}})
    (path / "detections").mkdir()
    read_detections(write(tmp_path / "found.json", RESULTS)).to_parquet(path / "detections" / "power-0.5.parquet")
    assert run.evaluated and run.rules == ["power-0.5"] and run.metrics["rules"]["class"]["AP"] == 10.0
    assert run.detections("power-0.5")["score"].tolist() == [0.75, 0.25]
    with pytest.raises(FileNotFoundError, match=r"no detections of rule 'class'; stored: power-0.5"):
        run.detections("class")
    read_detections(tmp_path / "found.json").assign(image_id=77).to_parquet(path / "detections" / "class.parquet")
    with pytest.raises(ValueError, match="image_id must be one of the 2 of the ground truth, got 77"):
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
