"""Run folders: card, log, checkpoints and evaluations of one trained detector, and the name of every file in them.

results/<recipe>[+overrides]/<profile>/seed<k>/
    run.json               the card: recipe, hash, seed, commit, versions, device
    log.jsonl              one JSON object a logged step
    last.pt, best.pt       checkpoints
    metrics.json           of the evaluation: split, images, and by score rule the AP family
    ground_truth.json      what the detections were evaluated against, in COCO's format
    detections/<rule>.parquet
    positives.parquet      locations that the training assigner matches on the evaluation images
    assignments.parquet    how many of them each object has
    distributions.parquet  side distributions of the best detections
    candidates.parquet     what stood before non-maximum suppression, where it was asked for
    rescored/<settings>/   the same, ranked again without the network
    split-<name>/          an evaluation on another split
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from qrepro.records.atomic import replacing, write_text
from qrepro.records.detections import read_detections
from qrepro.records.files import check_columns, read_object, read_parquet, read_text
from qrepro.records.ground_truth import BOX, GroundTruth, read_ground_truth
from qrepro.records.score_rule import Rule, find_rule

CARD, LOG, LAST, BEST = "run.json", "log.jsonl", "last.pt", "best.pt"
METRICS, GROUND_TRUTH, DETECTIONS = "metrics.json", "ground_truth.json", "detections"
POSITIVES, ASSIGNMENTS = "positives.parquet", "assignments.parquet"
DISTRIBUTIONS, CANDIDATES, RESCORED = "distributions.parquet", "candidates.parquet", "rescored"
EVALUATION = (METRICS, GROUND_TRUTH, POSITIVES, ASSIGNMENTS, DISTRIBUTIONS, CANDIDATES)
# Names in runs that were made while the analyses were a package of their own (until November 2026).
EARLIER = {GROUND_TRUTH: "truths.json", ASSIGNMENTS: "matches.parquet"}

POSITIVE_COLUMNS = ["image_id", "category_id", "level", *BOX, "class_score", "quality", "iou"]
ASSIGNMENT_COLUMNS = ["image_id", "category_id", *BOX, "side", "initial"]
CANDIDATE_COLUMNS = ["image_id", "category_id", *BOX, "log_class", "log_quality", "iou_truth", "level", "location"]
SIDES = ["left", "top", "right", "bottom"]
DISTRIBUTION_COLUMNS = ["image_id", *BOX, "score", "centre_x", "centre_y", "bin_x", "bin_y", *SIDES]

_RULE = b"qrepro.rule"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; its files are read when they are first asked for.

    Attributes:
        path: the folder.
        split: the split whose evaluation is meant; None for that of the profile.
    """

    path: Path
    split: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def on(self, split: str | None) -> RunFolder:
        """The same run, evaluated on a split; None and the profile's own split are the run's main evaluation."""
        own = self.card.get("values", {}).get("data", {}).get("eval") if self.has_card else None
        return RunFolder(self.path, None if split in (None, own) else split)

    @property
    def evaluation(self) -> Path:
        """Where the files of the evaluation lie."""
        return self.path if self.split is None else self.path / f"split-{self.split.replace('/', '-')}"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / LAST

    @property
    def best(self) -> Path:
        """The checkpoint of the highest AP, where the schedule evaluates during training."""
        return self.path / BEST

    # -- card ------------------------------------------------------------------------------------------------

    @property
    def has_card(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / CARD).is_file()

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """The parsed card.

        Raises:
            ValueError: the folder holds no run, or a card without recipe, profile and seed.
        """
        if not self.has_card:
            raise ValueError(f"{self.path}: not a run folder (no {CARD}); `qrepro train` makes one")
        card = read_object(self.path / CARD, ("recipe", "profile", "seed"))
        if not isinstance(card["seed"], int):
            raise ValueError(f"{self.path / CARD}: seed must be an integer, got {card['seed']!r}")
        return card

    def write_card(self, card: Mapping[str, Any]) -> None:
        """Record what is trained here, and by what."""
        write_text(self.path / CARD, json.dumps(card, indent=1))
        self.__dict__.pop("card", None)

    @property
    def recipe(self) -> str:
        """Name of the recipe, such as `iou_aware/r50_detached`."""
        return str(self.card["recipe"])

    @property
    def profile(self) -> str:
        """Name of the profile, such as `shapes`."""
        return str(self.card["profile"])

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.card["seed"])

    @property
    def hash(self) -> str:
        """Hash of what was trained, empty where the card does not say."""
        return str(self.card.get("hash", ""))

    @property
    def name(self) -> str:
        """Recipe, profile and seed in one label."""
        return f"{self.recipe} / {self.profile} / seed {self.seed}"

    # -- log -------------------------------------------------------------------------------------------------

    @property
    def has_log(self) -> bool:
        """Whether the training left a log."""
        return (self.path / LOG).is_file()

    @cached_property
    def log(self) -> pd.DataFrame:
        """One row per logged training step; a term that a line does not have is NaN."""
        return read_log(self.path / LOG)

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def cut_log(self, step: int) -> None:
        """Drop log lines after `step`: a resumed run writes them again."""
        log = self.path / LOG
        if log.exists():
            lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            write_text(log, "".join(f"{line}\n" for line in kept))

    # -- evaluation ------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the evaluation holds a file of this name: each belongs to a step that may not have been run."""
        return self.file(name).is_file()

    def file(self, name: str) -> Path:
        """Where a file of the evaluation lies: under its name, or under the one that earlier runs have for it."""
        path = self.evaluation / name
        earlier = self.evaluation / EARLIER.get(name, name)
        return earlier if earlier.is_file() and not path.is_file() else path

    @property
    def evaluated(self) -> bool:
        """Whether the run has been evaluated."""
        return self.has(METRICS)

    @property
    def up_to_date(self) -> bool:
        """Whether the last checkpoint is the one that was evaluated."""
        metrics = self.evaluation / METRICS
        return metrics.exists() and metrics.stat().st_mtime >= self.last.stat().st_mtime

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The parsed metrics: split, images, engine, and rules: {rule: {metric: percent}}."""
        return read_object(self.evaluation / METRICS, ("split", "images", "rules"))

    @cached_property
    def ground_truth(self) -> GroundTruth:
        """The ground truth that the run was evaluated on."""
        return read_ground_truth(self.file(GROUND_TRUTH))

    @cached_property
    def positives(self) -> pd.DataFrame:
        """One row per positive location; `iou` is that of the decoded box with the ground truth assigned to it."""
        return read_parquet(self.evaluation / POSITIVES, POSITIVE_COLUMNS)

    @cached_property
    def assignments(self) -> pd.DataFrame:
        """One row per object: `side`, sqrt of its area in px of the network's input, and the boxes assigned to it.

        `initial` counts priors, `adjusted` the boxes of the initial stage (NaN or absent for a detector without one).
        """
        if not self.has(ASSIGNMENTS):
            raise FileNotFoundError(f"{self.evaluation / ASSIGNMENTS}: no such file; evaluate the run again")
        return read_parquet(self.file(ASSIGNMENTS), ASSIGNMENT_COLUMNS)

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """One row per stored (location, class) pair before suppression, with class_score and quality in [0, 1]."""
        if not self.has(CANDIDATES):
            raise FileNotFoundError(f"{self.evaluation / CANDIDATES}: no such file; `qrepro eval --save-candidates`")
        stored = read_parquet(self.evaluation / CANDIDATES, [])
        if "class_score" in stored:  # of an earlier run, which stored probabilities
            return stored
        check_columns(stored, CANDIDATE_COLUMNS, self.evaluation / CANDIDATES)
        return stored.assign(class_score=np.exp(stored["log_class"]), quality=np.exp(stored["log_quality"]))

    @cached_property
    def distributions(self) -> pd.DataFrame:
        """One row per detection whose side distributions were kept: probabilities of the bins, and where they lie."""
        return read_parquet(self.evaluation / DISTRIBUTIONS, DISTRIBUTION_COLUMNS)

    @property
    def _detection_files(self) -> dict[str, Path]:
        """Files of detections by the name of their rule."""
        return {_rule_of(path): path for path in sorted((self.evaluation / DETECTIONS).glob("*.parquet"))}

    @property
    def rules(self) -> list[str]:
        """Names of the score rules whose detections are stored."""
        return sorted(self._detection_files)

    @property
    def rule(self) -> str:
        """The score rule of the recipe itself, or the class score where it was not evaluated."""
        own = self.card.get("values", {}).get("score", "class")
        return find_rule(self.rules, own if isinstance(own, str) else Rule.of(own)) or "class"

    def detections(self, rule: str) -> pd.DataFrame:
        """Detections ranked by one score rule, checked against the ground truth of the run."""
        files = self._detection_files
        name = rule if rule in files else find_rule(files, rule)
        if name is None:
            stored = ", ".join(files) or "none"
            raise FileNotFoundError(f"{self.evaluation}: no detections of rule {rule!r}; stored: {stored}")
        return read_detections(files[name], self.ground_truth)

    def clear(self) -> None:
        """Remove what an earlier training and its evaluation left."""
        for name in (LAST, BEST, LOG, *EVALUATION, *EARLIER.values()):
            (self.path / name).unlink(missing_ok=True)
        for file in (self.path / DETECTIONS).glob("*.parquet"):
            file.unlink()
        for folder in (self.path / RESCORED, *self.path.glob("split-*")):
            shutil.rmtree(folder, ignore_errors=True)


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """A Parquet file, whole or not at all."""
    with replacing(path) as partial:
        frame.to_parquet(partial, index=False)


def detection_file(evaluation: Path, rule: Rule) -> Path:
    """Where the detections of a rule lie in the folder of an evaluation."""
    return evaluation / DETECTIONS / f"{rule.file_stem}.parquet"


def write_ranked(frame: pd.DataFrame, evaluation: Path, rule: Rule) -> Path:
    """Detections as Parquet; the file carries its rule as metadata."""
    path = detection_file(evaluation, rule)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _RULE: json.dumps(rule.values).encode()})
    with replacing(path) as partial:
        pq.write_table(table, partial)
    return path


def _rule_of(path: Path) -> str:
    """Name of the rule of a file of detections: the inverse of `Rule.file_stem`, for which no class is imported."""
    return path.stem.replace("~", ":")


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


def read_run(path: str | Path) -> RunFolder:
    """One run folder, which is recognised by its card.

    Raises:
        ValueError: the folder holds no run, or its card is broken.
    """
    run = RunFolder(Path(path))
    _ = run.card
    return run


def find_runs(root: str | Path) -> list[RunFolder]:
    """All run folders at or below `root`, ordered by recipe, profile and seed."""
    return sorted(_runs(Path(root)), key=lambda run: (run.recipe, run.profile, run.seed, run.path))


def _runs(root: Path) -> Iterator[RunFolder]:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    for card in root.rglob(CARD):
        yield read_run(card.parent)
