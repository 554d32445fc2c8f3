"""What is analysed: detections beside their ground truth, from run folders or from any detector's result files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from qrepro.records.detections import read_detections
from qrepro.records.ground_truth import GroundTruth, read_ground_truth
from qrepro.records.readers.mmdetection import is_folder_of_predictions
from qrepro.records.run_folder import RunFolder, find_runs


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """Detections of a detector ranked by one rule, and the ground truth that they are evaluated against.

    Attributes:
        name: of the run or file.
        rule: that ranks them; "as scored" for a file.
        ground_truth: ground truth of the split.
        detections: frame with image_id, category_id, x1, y1, x2, y2 (pixels of the original image) and score.
        own: whether the rule is the detector's own.
        run: the run that they come from; None for a file.
    """

    name: str
    rule: str
    ground_truth: GroundTruth
    detections: pd.DataFrame
    own: bool = True
    run: RunFolder | None = None


@dataclass(frozen=True)
class Sources:
    """Run folders, folders that hold some, and result files, as a user names them.

    Attributes:
        paths: of runs and files; empty: all runs of the results.
        results: folder of runs.
        annotations: ground truth of the files: a COCO file or a VOC folder.
        split: of a VOC folder.
        classes: of a VOC folder, in the order of their ids.
        classes_from: where the files count classes from, see `qrepro.records.detections.read_detections`.
    """

    paths: Sequence[Path] = ()
    results: Path = Path("results")
    annotations: Path | None = None
    split: str | None = None
    classes: Sequence[str] | None = None
    classes_from: int | None = None

    @classmethod
    def of(cls, arguments: Sequence[str | Path], results: Path = Path("results")) -> Sources:
        """What a script is called with: nothing (all runs of the results), runs, or `DETECTIONS ANNOTATIONS`."""
        paths = [Path(word) for word in ([arguments] if isinstance(arguments, str | Path) else arguments)]
        if not paths or not (paths[0].is_file() or is_folder_of_predictions(paths[0])):
            return cls(paths, results)
        if len(paths) != 2:
            raise ValueError(f"{paths[0]}: one path must follow a result file, its ground truth; got {len(paths) - 1}")
        return cls(paths[:1], results, paths[1])

    def __post_init__(self) -> None:
        given = [self.paths] if isinstance(self.paths, str | Path) else self.paths
        object.__setattr__(self, "paths", [Path(path) for path in given])
        for path in self.paths:
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such file or folder")
        files = self.files
        if files and self.annotations is None:
            raise ValueError(f"{files[0]}: a result file needs its ground truth, as --annotations of a command")
        if self.annotations is not None and not files:
            what = f"got {', '.join(map(str, self.paths))}" if self.paths else "none is named"
            raise ValueError(f"--annotations: belongs to result files, {what}")

    @cached_property
    def files(self) -> list[Path]:
        """Those of the paths that are result files."""
        return [path for path in self.paths if path.is_file() or is_folder_of_predictions(path)]

    @cached_property
    def ground_truth(self) -> GroundTruth:
        """Of the files."""
        assert self.annotations is not None
        return read_ground_truth(self.annotations, self.split, self.classes)

    def runs(self) -> list[RunFolder]:
        """Evaluated runs at or below the paths, or in all of the results.

        Raises:
            ValueError: a path is a file, or no evaluated run is there.
        """
        if self.files:
            raise ValueError(f"{self.files[0]}: is a result file, a run folder is needed")
        return self.runs_at(self.paths or [self.results])

    def sets(self, rules: Sequence[str] = ()) -> Iterator[DetectionSet]:
        """Detection sets in the order of the paths: of runs by the `rules` named, by all for "all", or by their own."""
        for path in self.paths or [self.results]:
            if path in self.files:
                yield self.detections_of(path)
            else:
                yield from run_sets(self.runs_at([path]), rules)

    def detections_of(self, path: Path) -> DetectionSet:
        """The detections of one of the files, under its name or, where others are called the same, its path."""
        namesakes = {other for other in self.files if other.name == path.name}
        detections = read_detections(path, self.ground_truth, self.classes_from)
        return DetectionSet(path.name if len(namesakes) < 2 else str(path), "as scored", self.ground_truth, detections)

    def runs_at(self, paths: Sequence[Path]) -> list[RunFolder]:
        """Evaluated runs at or below some paths; `ValueError` where there are none."""
        runs = [run for path in paths for run in find_runs(path)]
        evaluated = [run for run in runs if run.evaluated]
        if not evaluated:
            where = ", ".join(str(path) for path in paths)
            raise ValueError(f"{where}: no evaluated run ({len(runs)} without metrics.json); `qrepro eval` makes one")
        return evaluated


def run_sets(runs: Iterable[RunFolder], rules: Sequence[str] = ()) -> Iterator[DetectionSet]:
    """Stored detections of evaluated runs, by the `rules` named, by all for "all", or by the recipe's own."""
    for run in runs:
        for rule in run.rules if "all" in rules else rules or [run.rule]:
            yield DetectionSet(run.name, rule, run.ground_truth, run.detections(rule), rule == run.rule, run)
