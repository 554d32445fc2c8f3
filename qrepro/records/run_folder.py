"""Run folders: identity card, log, ground truth, detections and positives of one trained model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from qrepro.records.detections import read_detections
from qrepro.records.files import read_object, read_parquet, read_text
from qrepro.records.ground_truth import BOX, Truths, read_truths

POSITIVE_COLUMNS = ["image_id", "category_id", "level", *BOX, "class_score", "quality", "iou"]
MATCH_COLUMNS = ["image_id", "category_id", *BOX, "side", "initial"]


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder `results/<recipe>/<profile>/seed<k>`; its files are read when they are first asked for.

    path: the folder.
    info: the parsed `run.json`.
    """

    path: Path
    info: Mapping[str, Any]

    @property
    def recipe(self) -> str:
        """Name of the recipe, such as `iou_aware/r50_detached`."""
        return str(self.info["recipe"])

    @property
    def profile(self) -> str:
        """Name of the profile, such as `shapes`."""
        return str(self.info["profile"])

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.info["seed"])

    @property
    def name(self) -> str:
        """Recipe, profile and seed in one label."""
        return f"{self.recipe} / {self.profile} / seed {self.seed}"

    def has(self, name: str) -> bool:
        """Whether the folder holds a file of this name: each belongs to a step that may not have been run."""
        return (self.path / name).is_file()

    @property
    def evaluated(self) -> bool:
        """Whether the run has been evaluated."""
        return self.has("metrics.json")

    @property
    def rules(self) -> list[str]:
        """Names of the scoring rules whose detections are stored."""
        return sorted(path.stem for path in (self.path / "detections").glob("*.parquet"))

    @property
    def rule(self) -> str:
        """The scoring rule of the recipe itself, or the class score where it was not evaluated."""
        own = str(self.info.get("values", {}).get("score", "class"))
        return own if own in self.rules else "class"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The parsed `metrics.json`: split, images, engine, and rules: {rule: {metric: percent}}."""
        return read_object(self.path / "metrics.json", ("split", "images", "rules"))

    @cached_property
    def truths(self) -> Truths:
        """The ground truth that the run was evaluated on."""
        return read_truths(self.path / "truths.json")

    @cached_property
    def positives(self) -> pd.DataFrame:
        """One row per positive location of the training assigner; `iou` is that of the decoded box and its truth."""
        return read_parquet(self.path / "positives.parquet", POSITIVE_COLUMNS)

    @cached_property
    def matches(self) -> pd.DataFrame:
        """One row per truth: `side`, sqrt of its area in px of the network's input, and boxes matched to it.

        `initial` counts priors, `adjusted` boxes after the first step (NaN or absent for a detector without one).
        """
        if not self.has("matches.parquet"):
            raise FileNotFoundError(f"{self.path / 'matches.parquet'}: no such file; evaluate the run again")
        return read_parquet(self.path / "matches.parquet", MATCH_COLUMNS)

    @cached_property
    def log(self) -> pd.DataFrame:
        """One row per logged training step; a term that a line does not have is NaN."""
        return read_log(self.path / "log.jsonl")

    def detections(self, rule: str) -> pd.DataFrame:
        """Detections ranked by one scoring rule, checked against the ground truth of the run."""
        if rule not in self.rules:
            stored = ", ".join(self.rules) or "none"
            raise FileNotFoundError(f"{self.path}: no detections of rule {rule!r}; stored: {stored}")
        return read_detections(self.path / "detections" / f"{rule}.parquet", self.truths)


def read_log(path: str | Path) -> pd.DataFrame:
    """Read a training log of one JSON object per line into one row per line."""
    path = Path(path)
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict) or "step" not in row:
            raise ValueError(f"{path}: line {number} is not an object with a key 'step'")
        rows.append(row)
    return pd.DataFrame(rows)


def load_run(path: str | Path) -> Run:
    """Read one run folder, which is recognised by its `run.json`."""
    path = Path(path)
    info = read_object(path / "run.json", ("recipe", "profile", "seed"))
    if not isinstance(info["seed"], int):
        raise ValueError(f"{path / 'run.json'}: seed must be an integer, got {info['seed']!r}")
    return Run(path, info)


def find_runs(root: str | Path) -> list[Run]:
    """All run folders at or below `root`, ordered by recipe, profile and seed."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    runs = [load_run(path.parent) for path in root.rglob("run.json")]
    return sorted(runs, key=lambda run: (run.recipe, run.profile, run.seed, run.path))
