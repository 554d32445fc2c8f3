"""Claims put to runs: the effect of each comparison with an interval over images and seeds, and what it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from qrepro.metrics.area_ranges import column_area
from qrepro.metrics.matching import COCO_THRESHOLDS, match
from qrepro.papers.claims import AGREES, CONTRADICTS, NOT_PRINTED, Cell, Comparison
from qrepro.records.columns import Column
from qrepro.records.run_folder import RunFolder
from qrepro.records.score_rule import Rule, find_rule, fused_scores
from qrepro.statistics.bootstrap import Resampled, resample_ap, resample_moments
from qrepro.statistics.intervals import combined_row

HOLDS, FAILS, INCONCLUSIVE, NOT_RUN, NOT_MEASURABLE = (
    "holds",
    "does not hold",
    "inconclusive",
    "not run",
    "not measurable",
)
VERDICTS = {
    HOLDS: "the whole 95 % interval of the effect, left side less right side, lies above 0",
    FAILS: "the interval lies below 0",
    INCONCLUSIVE: "0 lies in the interval",
    NOT_RUN: "a run is missing",
    NOT_MEASURABLE: "a cited row, a column that runs do not have, or the same training on both sides here",
}
READING = (
    "The worst of a claim's comparisons decides, and its effect is shown: mean over seeds, bootstrap over images and, "
    f"with several runs, seeds. {'; '.join(f'{name}: {meaning}' for name, meaning in VERDICTS.items())}."
)
MAP_NOTE = "mAP columns are measured as COCO's AP at that IoU (101 recalls, COCO's matching), which can be resampled"


@dataclass(frozen=True, eq=False)
class Measured:
    """The runs behind a row, one a seed, and the rule that the row is ranked by."""

    runs: tuple[RunFolder, ...]
    rule: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two rows the same measurement."""
        return tuple(run.path for run in self.runs), Rule.parse(self.rule)


class Sampler:
    """Metrics of runs on draws of their images, each computed once.

    Args:
        draws: Number of draws of the bootstrap, see `qrepro.statistics.intervals`.
        seed: Seed of the draws.
    """

    def __init__(self, draws: int = 1000, seed: int = 0) -> None:
        self.draws, self.seed = draws, seed
        self._ap: dict[tuple[Path, str, str], Resampled] = {}
        self._pcc: dict[tuple[Path, str], Resampled] = {}

    def term(self, weight: float, measured: Measured, column: str) -> tuple[float, list[Resampled], str]:
        """A term of `combined_row`: weight, resampled runs, metric."""
        sampled = [self.sampled(run, measured.rule, column) for run in measured.runs]
        return weight, [one for one, _ in sampled], sampled[0][1]

    def sampled(self, run: RunFolder, rule: str, column: str) -> tuple[Resampled, str]:
        """A run's resampled metrics that hold a column, and its name among them.

        Raises:
            KeyError: A column that no run measures.
            FileNotFoundError: The run has not the files.
        """
        if column == "PCC":
            if (run.path, rule) not in self._pcc:
                boxes, images = run.positives, run.ground_truth.images["id"]
                values = (boxes["image_id"], fused_scores(boxes, rule), boxes["iou"])
                self._pcc[run.path, rule] = resample_moments(*values, images, self.draws, self.seed)
            return self._pcc[run.path, rule], "pearson"
        found = Column.of(column)
        if found is None or found.family == "AR":
            raise KeyError(column)
        key = (run.path, rule, found.family + found.size)
        if key not in self._ap:
            stored = find_rule(run.rules, rule) or rule
            thresholds = (0.5,) if found.family == "mAP" and found.size else COCO_THRESHOLDS  # mAPS is at 0.5 only
            matches = match(run.ground_truth, run.detections(stored), thresholds, area=column_area(found))
            self._ap[key] = resample_ap(matches, run.ground_truth.images["id"], self.draws, self.seed)
        at = found.threshold or (0.5 if found.family == "mAP" else None)
        return self._ap[key], "AP" if at is None else f"AP{100 * at:g}"


def measured_row(
    comparison: Comparison, find: Callable[[Cell], Measured | None], sampler: Sampler, level: float = 0.95
) -> dict[str, Any]:
    """What runs say: {verdict, effect, low, high, p_value, seeds, images, runs}.

    The verdict is `holds` where the whole interval of the effect lies above 0, `does not hold` where it lies below,
    `inconclusive` where 0 is in it; `not run` where a run is missing; `not measurable` where a cell is of a cited row,
    of a column that runs do not have, or where both sides are the same training here.

    Args:
        comparison: Comparison of cells.
        find: Function that gives the runs behind a cell; None for a row that nobody can train, no runs for one that was
            not trained.
        sampler: Draws of the runs' metrics.
        level: Level of the interval, in (0, 1).
    """
    nothing: dict[str, Any] = dict.fromkeys(("effect", "low", "high", "p_value"), math.nan)
    nothing |= dict.fromkeys(("seeds", "images", "runs"), "")
    behind = {cell: find(cell) for cell in comparison.cells}
    if any(found is None or not _measurable(cell.column) for cell, found in behind.items()):
        return {"verdict": NOT_MEASURABLE, **nothing}
    found = {cell: one for cell, one in behind.items() if one is not None}
    if not all(one.runs for one in found.values()):
        return {"verdict": NOT_RUN, **nothing}
    constant, weighed = _collected(comparison, found)
    if not weighed:
        return {"verdict": NOT_MEASURABLE, **nothing}
    try:
        row = combined_row([sampler.term(*one) for one in weighed], constant, level)
    except FileNotFoundError:
        return {"verdict": NOT_RUN, **nothing}
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if math.isnan(value):
        return {"verdict": NOT_MEASURABLE, **nothing}
    runs = list(dict.fromkeys(run for one in found.values() for run in one.runs))
    return {
        "verdict": HOLDS if low > 0 else FAILS if high < 0 else INCONCLUSIVE,
        "effect": value,
        **{name: row[name] for name in ("low", "high", "p_value")},
        "seeds": " ".join(map(str, sorted({run.seed for run in runs}))),
        "images": str(row["images"]),
        "runs": " ".join(sorted({f"{run.card.get('hash', '')}@{run.card.get('commit', '')}" for run in runs})),
    }


def _collected(
    comparison: Comparison, found: Mapping[Cell, Measured]
) -> tuple[float, list[tuple[float, Measured, str]]]:
    """Left side less right side: the numbers in it, and weight, runs and column of each different measurement."""
    signed = [*comparison.left, *((-sign, of) for sign, of in comparison.right)]
    constant = sum(sign * of for sign, of in signed if not isinstance(of, Cell))
    weights: dict[tuple[Any, ...], float] = {}
    measurements: dict[tuple[Any, ...], tuple[Measured, str]] = {}
    for sign, of in signed:
        if isinstance(of, Cell):
            key = (*found[of].key, of.column)
            weights[key] = weights.get(key, 0.0) + sign
            measurements[key] = found[of], of.column
    return constant, [(weight, *measurements[key]) for key, weight in weights.items() if weight]


def _measurable(column: str) -> bool:
    """Whether runs have a column, with draws of their images."""
    found = Column.of(column)
    return column == "PCC" or (found is not None and found.family != "AR")


def claim_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of a whole claim, from those of its comparisons: it holds where all that can be measured do."""
    said = [row["verdict"] for row in rows if row["verdict"] != NOT_MEASURABLE]
    return next((worst for worst in (FAILS, NOT_RUN, INCONCLUSIVE, HOLDS) if worst in said), NOT_MEASURABLE)


def effect_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The comparison that decides of each claim that was measured, with its column: for `plots.claimed_effects`."""
    found = []
    for _, group in groupby(rows, lambda row: (row["paper"], row["claim"])):
        some = list(group)
        if decisive := _decisive(some):
            found.append({**decisive, "column": _column(decisive)})
    return found


def claim_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per claim for reading, from rows of its comparisons: the worst of each decides, and is shown.

    Args:
        rows: Rows {claim, says, where, core, that} with those of `printed_row` and `measured_row`, claim after claim.
    """
    lines = []
    for name, group in groupby(rows, lambda row: row["claim"]):
        some = list(group)
        said = claim_verdict(some)
        wrong = next((row for row in some if row["printed"] == CONTRADICTS), None)
        own = NOT_PRINTED if all(row["printed"] == NOT_PRINTED for row in some) else AGREES
        decisive = _decisive(some)
        about = {key: some[0][key] for key in ("says", "where", "core")}
        line = {"claim": name, **about, "its own tables": _contradiction(wrong) if wrong else own}
        shown = decisive or wrong or some[0]
        printed = shown["printed_effect"]
        line |= {"printed effect": "" if math.isnan(printed) else f"{printed:+g}", "measured": said}
        line |= {"effect": _effect(decisive) if decisive else "", "comparisons": str(len(some))}
        lines.append(line)
    return lines


def _decisive(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The measured comparison that gives a claim its verdict; None without one."""
    said = claim_verdict(rows)
    return next((row for row in rows if row["verdict"] == said and not math.isnan(row["effect"])), None)


def _column(row: Mapping[str, Any]) -> str:
    """The column of a comparison's first cell."""
    return str(row["that"]).split()[0].rpartition(":")[2]


def _contradiction(row: Mapping[str, Any]) -> str:
    """How the cells of a paper speak against it."""
    said = f"said {row['said']}, " if row["said"] else ""
    return f"contradict: {said}the cells give {row['printed_effect']:g}"


def _effect(row: Mapping[str, Any]) -> str:
    """An effect with its interval, and the column that it is in."""
    column = _column(row)
    digits = 3 if column == "PCC" else 1
    return f"{row['effect']:+.{digits}f} [{row['low']:+.{digits}f}, {row['high']:+.{digits}f}] {column}"
