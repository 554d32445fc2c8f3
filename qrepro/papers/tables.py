"""A paper's table again: what is printed beside what was measured, with the trace of every number.

The tidy frame of `regenerate` is the only source of both files: the CSV is the frame at full precision, the markdown
its rounded view. No number is typed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qrepro.metrics.area_ranges import column_sides, size_note
from qrepro.metrics.summary import score_correlation
from qrepro.metrics.voc_ap import voc_rows
from qrepro.records.columns import Column
from qrepro.records.run_folder import RunFolder
from qrepro.records.score_rule import find_rule
from qrepro.records.tables import MISSING, cell, markdown

GIVEN = ("recipe", "overrides", "rule")
TRACES = [*GIVEN, "profile", "seeds", "hash", "commit", "device", "date", "split", "images", "stale"]
MEASURED, SPREAD = "_measured", "_sd"
_VOC_AVERAGE = "11-point"
VOC_NOTE = (
    f"PASCAL VOC's, at IoU 0.5 (mAP60: at IoU 0.6, and so on), {_VOC_AVERAGE} as for VOC2007. "
    f"{size_note(column_sides(Column('mAP')))}. The paper says neither which average nor which image: both are a "
    "choice made here."
)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a printed or a regenerated table: text exactly as in the file, `_measured` and `_sd` columns as floats."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV table: {error}") from None
    for name in frame:
        if str(name).endswith((MEASURED, SPREAD)):
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame


def metric_columns(columns: Sequence[str]) -> list[str]:
    """Those columns of a printed table that a run can measure: AP and AR families, VOC's mAP family, PCC, params_m."""
    return [name for name in columns if Column.of(name) or name in _OTHERS]


def regenerate(
    printed: pd.DataFrame, runs: Mapping[str, Sequence[RunFolder]], profile: str = "", stale: Collection[str] = ()
) -> pd.DataFrame:
    """Put measured values beside the printed ones.

    Unit: percent for the AP and AR families, the value itself for PCC, millions for params_m. PCC is that of the true
    IoU with the score of the true class by the rule of the row, over all positives (GFLv2, table 6). mAP... is VOC's,
    whatever the data set, of the stored detections: see VOC_NOTE. The same runs give the same frame: nothing of here
    and now is in it.

    Args:
        printed: A paper's table of strings: row, origin, settings, metrics, and of TRACES recipe, overrides, rule.
        runs: Finished runs, one per seed, by row, all of one profile. Runs that were not evaluated by the rule of the
            row are left out; with none left, the row counts as not run.
        profile: What the runs were trained on, for the trace.
        stale: Rows whose runs are of an earlier recipe.

    Returns:
        One line per row, with
            row, origin, settings: as printed;
            <metric>: the printed string;
            <metric>_measured: mean over seeds;
            <metric>_sd: standard deviation over seeds (n - 1); empty for one seed;
            TRACES: of every measured value in the line recipe, overrides, rule, profile, seeds, hash, commit, device
                and date of the training, split and number of images, and "stale".

    Raises:
        ValueError: A table without a column `row` or with a row twice, runs of a row that it does not have or that has
            no rule, or two runs of one seed.
    """
    if "row" not in printed:
        raise ValueError(f"printed table: column 'row' is missing; present: {', '.join(printed.columns)}")
    if printed["row"].duplicated().any():
        raise ValueError(f"printed table: row {printed['row'][printed['row'].duplicated()].iloc[0]!r} occurs twice")
    unknown = sorted(set(runs) - set(printed["row"]))
    if unknown:
        raise ValueError(f"runs are given for row {unknown[0]!r}; the table has {', '.join(printed['row'])}")
    metrics = metric_columns([str(name) for name in printed if name not in TRACES])
    lines: list[dict[str, Any]] = []
    for values in printed.to_dict("records"):
        record = {str(name): value for name, value in values.items()}
        some = runs.get(record["row"], ())
        usable = _with_rule(some, record) if some else []
        lines.append(_line(record, metrics, usable, profile, "stale" if record["row"] in stale else ""))
    return pd.DataFrame(lines)


def missing_rows(frame: pd.DataFrame) -> list[str]:
    """Slugs of the trainable rows (those with a recipe) of a regenerated table for which no run exists."""
    return frame["row"][(frame["recipe"] != "") & (frame["seeds"] == "")].tolist()


def printed_beside_measured(frame: pd.DataFrame) -> pd.DataFrame:
    """A regenerated table as text for reading, metrics as "printed / measured ± sd".

    The profile stands beside the row, so that a measured value is not taken for one on the paper's data, and so does
    "stale"; columns that are empty throughout are left out, and hashes are cut to seven characters.
    """
    merged = [str(name).removesuffix(MEASURED) for name in frame if str(name).endswith(MEASURED)]
    shown: dict[str, list[str]] = {}
    for name in map(str, frame.columns):
        if name in merged:
            trio = zip(frame[name], frame[name + MEASURED], frame[name + SPREAD], strict=True)
            shown[name] = [_merged_cell(name, *cells) for cells in trio]
        elif not any(name == metric + suffix for metric in merged for suffix in (MEASURED, SPREAD)):
            shown[name] = [cell(name, value) for value in frame[name]]
    for name in ("hash", "commit"):
        if name in shown:
            shown[name] = [" ".join(part[:7] for part in value.split()) for value in shown[name]]
    order = [name for name in ("row", "stale", "profile", "seeds") if name in shown]
    shown = {name: shown[name] for name in dict.fromkeys([*order, *shown]) if any(shown[name])}
    return pd.DataFrame(shown, dtype=str)


def table_markdown(frame: pd.DataFrame, title: str = "", notes: Sequence[str] = ()) -> str:
    """Markdown of a regenerated table: what its cells mean, the table, and notes; rows that were not run are named."""
    lead = (
        "Cells are *printed / measured*: the paper's value, then ours on the table's profile (mean over seeds, "
        f"± standard deviation where there are several); {MISSING} where there is none. AP and AR in percent."
    )
    notes = list(notes)
    if missing := missing_rows(frame):
        notes.insert(0, f"Not run: {', '.join(missing)}.")
    if any(_is_voc(str(name).removesuffix(MEASURED)) for name in frame):
        notes.append(f"mAP: {VOC_NOTE}")
    return markdown(printed_beside_measured(frame), title, notes, lead)


def _with_rule(runs: Sequence[RunFolder], record: Mapping[str, Any]) -> list[RunFolder]:
    """The evaluated runs that hold metrics of the rule of a row, by seed."""
    if not record.get("rule"):
        raise ValueError(f"row {record['row']!r} has runs but its rule is empty")
    usable = [run for run in runs if run.evaluated and _rule_metrics(run, record["rule"]) is not None]
    seeds = [run.seed for run in usable]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"row {record['row']!r}: two runs of one seed: {', '.join(str(run.path) for run in usable)}")
    return sorted(usable, key=lambda run: run.seed)


def _rule_metrics(run: RunFolder, rule: str) -> Mapping[str, Any] | None:
    """Metrics of a rule by its meaning."""
    name = find_rule(run.metrics["rules"], rule)
    return None if name is None else run.metrics["rules"][name]


def _line(
    record: Mapping[str, Any], metrics: Sequence[str], runs: Sequence[RunFolder], profile: str, stale: str
) -> dict[str, Any]:
    """One line of the tidy frame."""
    line: dict[str, Any] = {}
    measured = [_measured(run, record["rule"], metrics) for run in runs]
    for name, value in record.items():
        if name in TRACES:
            continue
        line[name] = value
        if name in metrics:
            values = np.array([some[name] for some in measured])
            line[name + MEASURED] = float(values.mean()) if len(values) else math.nan
            line[name + SPREAD] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    given = {name: record.get(name, "") for name in GIVEN}
    return line | given | _trace(runs, profile, stale)


def _trace(runs: Sequence[RunFolder], profile: str, stale: str) -> dict[str, str]:
    """Where the measured values of a line come from; empty without runs."""
    infos = [run.card for run in runs]
    return {
        "profile": profile if runs else "",
        "seeds": _unique(run.seed for run in runs),
        "hash": _unique(info.get("hash", "") for info in infos),
        "commit": _unique(info.get("commit", "") for info in infos),
        "device": _unique((info.get("device", "unknown") for info in infos), "; "),
        "date": _unique(sorted(str(info.get("created", ""))[:10] for info in infos)),
        "split": _unique(run.metrics["split"] for run in runs),
        "images": _unique(run.metrics["images"] for run in runs),
        "stale": stale if runs else "",
    }


def _unique(values: Iterable[Any], between: str = " ") -> str:
    """Different values in their order."""
    return between.join(dict.fromkeys(text for text in map(str, values) if text))


def _is_voc(name: str) -> bool:
    """Whether a column is of VOC's family."""
    column = Column.of(name)
    return column is not None and column.family == "mAP"


def _measured(run: RunFolder, rule: str, metrics: Sequence[str]) -> dict[str, float]:
    """What a run measures by a rule, by column; NaN for what it does not have."""
    stored = {**(_rule_metrics(run, rule) or {}), **_voc(run, rule, metrics)}
    return {
        name: _OTHERS[name](run, rule) if name in _OTHERS else float(stored.get(name, math.nan)) for name in metrics
    }


def _voc(run: RunFolder, rule: str, metrics: Sequence[str]) -> Mapping[str, Any]:
    """VOC's metrics of the stored detections at the thresholds that columns name; none where no column is VOC's."""
    wanted = [column for name in metrics if (column := Column.of(name)) and column.family == "mAP"]
    name = find_rule(run.rules, rule)
    if not wanted or name is None:
        return {}
    thresholds = [column.threshold for column in wanted if column.threshold is not None]
    rows = voc_rows(run.ground_truth, run.detections(name), thresholds, column_sides(wanted[0]))
    return next(row for row in rows if row["interpolation"] == _VOC_AVERAGE)


def _params(run: RunFolder, rule: str) -> float:
    """Parameters of the model in millions."""
    return float(run.card.get("parameters", math.nan)) / 1e6


_OTHERS: Mapping[str, Callable[[RunFolder, str], float]] = {"PCC": score_correlation, "params_m": _params}


def _merged_cell(name: str, printed: Any, measured: float, spread: float) -> str:
    """Text of one metric: printed / measured ± sd."""
    if not printed and math.isnan(measured):
        return ""
    value = MISSING if math.isnan(measured) else cell(name, measured)
    if not math.isnan(spread):
        value += f" ± {cell(name, spread)}"
    return f"{printed or MISSING} / {value}"
