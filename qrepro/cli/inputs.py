"""What the analyses are of: run folders, or the result files of any other detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qrepro.metrics.pairs import DetectionSet, Pairs
    from qrepro.records.ground_truth import Truths
    from qrepro.records.run_folder import Run

APART = "--detections and --annotations belong together, and exclude run folders"


@dataclass(frozen=True)
class Files:
    """Result files of other detectors, and the ground truth that judges them, as options give them.

    detections: the files.   annotations: a COCO file or a VOC folder.   split, classes (A,B,C): of a VOC folder.
    classes_from: where the files count classes, see `qrepro.records.detections.read_detections`.
    """

    detections: list[Path] | None
    annotations: Path | None
    split: str | None
    classes: str | None
    classes_from: int | None

    @property
    def given(self) -> bool:
        """Whether files are analysed, and not runs."""
        return bool(self.detections or self.annotations)

    def truths(self) -> Truths:
        """The ground truth."""
        from qrepro.records.ground_truth import read_truths

        if not self.detections or self.annotations is None:
            raise ValueError(APART)
        return read_truths(self.annotations, self.split, self.classes.split(",") if self.classes else None)

    def read(self, path: Path, truths: Truths) -> DetectionSet:
        """One of the detection files, under its name or, where others are called the same, its path."""
        from qrepro.metrics.pairs import DetectionSet
        from qrepro.records.detections import read_detections

        namesakes = {other for other in self.detections or [] if other.name == path.name}
        found = read_detections(path, truths, self.classes_from)
        return DetectionSet(path.name if len(namesakes) < 2 else str(path), "as scored", truths, found)


def sizes(text: str, option: str) -> tuple[float, float]:
    """The two sides in px that part small, medium and large objects: by name, or as LOW,HIGH."""
    from qrepro.metrics.area_ranges import SIZES, areas

    try:
        low, high = SIZES[text] if text in SIZES else map(float, text.split(","))
        areas((low, high))
    except ValueError:
        allowed = f"{', '.join(SIZES)} or two increasing sides in px, such as 64,192"
        raise ValueError(f"{option} {text}: allowed are {allowed}") from None
    return low, high


def bins(text: str, option: str) -> Callable[[Any], Any]:
    """How sides of truths are parted into bins of scale, as a function of the sides that gives the edges."""
    from qrepro.metrics.positives_by_scale import quantile_edges, regular_edges

    ways = {"": regular_edges, "quantile": quantile_edges}
    way, _, number = text.rpartition(":")
    try:
        if "," in text:
            edges = [float(part) for part in text.split(",")]
            return lambda side: edges
        return partial(ways[way], bins=int(number))
    except (KeyError, ValueError):
        raise ValueError(f"{option} {text}: must look like 16, quantile:16 or 0,32,96,320") from None


def chosen(paths: list[Path] | None, results: Path) -> list[Run]:
    """Evaluated runs in the folders that were named, or in all of the results."""
    from qrepro.records.run_folder import find_runs

    found = [run for path in paths or [results] for run in find_runs(path)]
    runs = [run for run in found if run.evaluated]
    if not runs:
        where = ", ".join(str(path) for path in paths or [results])
        raise ValueError(f"{where}: no evaluated run ({len(found)} without metrics.json); `qrepro eval` makes one")
    return runs


def foreign(files: Files, runs: list[Path] | None = None) -> Iterator[DetectionSet]:
    """Detection sets of files."""
    if runs:
        raise ValueError(APART)
    truths = files.truths()
    for path in files.detections or []:
        yield files.read(path, truths)


def sets(files: Files, runs: list[Path] | None, rules: list[str] | None, results: Path) -> Iterator[DetectionSet]:
    """Detection sets of files where they were given, else of runs."""
    from qrepro.metrics.pairs import detection_sets

    if files.given:
        yield from foreign(files, runs)
    else:
        yield from detection_sets(chosen(runs, results), rules or [])


def pairs_of(
    files: Files, runs: list[Path] | None, rules: list[str] | None, over: str | None, floor: float, results: Path
) -> Iterator[Pairs]:
    """Samples of estimate and true IoU."""
    from qrepro.metrics.pairs import candidate_pairs, detection_pairs, positive_pairs

    over = over or ("detections" if files.given else "positives")
    if over not in ("positives", "candidates", "detections") or (files.given and over != "detections"):
        raise ValueError(f"--over {over}: allowed are {'' if files.given else 'positives, candidates, '}detections")
    if over == "detections":
        for found in sets(files, runs, rules, results):
            yield detection_pairs(found, floor)
        return
    for run in chosen(runs, results):
        yield positive_pairs(run) if over == "positives" else candidate_pairs(run, floor)


def side(path: Path, rule: str | None, files: Files) -> list[tuple[Run | None, DetectionSet]]:
    """One side of a comparison: a file, or the runs of one recipe and profile."""
    from qrepro.metrics.pairs import detection_sets
    from qrepro.records.readers.mmdetection import is_folder_of_predictions

    if path.is_file() or is_folder_of_predictions(path):
        if rule:
            raise ValueError(f"{path}: a result file has no scoring rules, got {rule}")
        return [(None, files.read(path, files.truths()))]
    runs = chosen([path], path)
    kinds = sorted({f"{run.recipe} on {run.profile}" for run in runs})
    if len(kinds) > 1:
        raise ValueError(f"{path}: holds {len(kinds)} recipes or profiles ({', '.join(kinds[:3])} ...); name one")
    return list(zip(runs, detection_sets(runs, [rule] if rule else []), strict=True))
