"""Run folders made by hand."""

import json

import numpy as np
import pandas as pd

SCRIPT = "<script>alert(1)</script>"
CLASS, AWARE = {"AP": 40.0, "AP50": 60.0}, {"AP": 46.0, "AP50": 61.0}
RULES = {"class": CLASS, "power-0.5": AWARE, "power-0.8": {"AP": 43.0}, "oracle-power-0.2": {"AP": 52.0, "AP50": 62.0}}


def make_run(root, recipe, seed, rules, shift=0.0, **info):
    """A run folder with everything, tiny: one image, one ground truth, detections along it, ten positives."""
    path = root / recipe / "shapes" / f"seed{seed}"
    (path / "detections").mkdir(parents=True)
    head = {"recipe": recipe, "profile": "shapes", "seed": seed, "hash": "0123456789abcdef", "commit": "cafe"}
    (path / "run.json").write_text(json.dumps(head | info))
    (path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    shifted = {rule: {name: value + shift for name, value in some.items()} for rule, some in rules.items()}
    metrics = {"split": "val", "images": 1, "engine": "hotcoco", "rules": shifted}
    (path / "metrics.json").write_text(json.dumps(metrics))
    ground_truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": SCRIPT}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
    }
    (path / "ground_truth.json").write_text(json.dumps(ground_truth))
    height = np.linspace(1, 10, 10)
    boxes = {"image_id": 1, "category_id": 1, "x1": 0.0, "y1": 0.0, "x2": 10.0, "y2": height}
    for rule in rules:
        frame = pd.DataFrame({**boxes, "score": height / 20})
        frame.to_parquet(path / "detections" / f"{rule}.parquet")
    quality = height / 10 if "power-0.5" in rules else np.nan
    positives = pd.DataFrame({**boxes, "level": 3, "class_score": 0.5, "quality": quality, "iou": height / 10})
    positives.to_parquet(path / "positives.parquet")
    return path
