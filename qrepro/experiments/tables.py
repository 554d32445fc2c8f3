"""The papers' tables again: every cell as printed and, beside it, what the runs of a results folder measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from qrepro.experiments.run_index import PAPERS_OWN, RunIndex, Setting, table_files
from qrepro.papers.sheet import Paper, read_paper
from qrepro.papers.tables import missing_rows, read_table, regenerate, table_markdown
from qrepro.recipe.load import profiles
from qrepro.records.run_folder import RunFolder
from qrepro.records.tables import write_csv, write_markdown

SMALLER = "data, backbone, image size and schedule are smaller than the paper's; only directions can be compared"
FORMATS = ("csv", "markdown", "both")


@dataclass(frozen=True)
class WrittenTable:
    """A table that was written.

    Attributes:
        path: its file.
        measured: how many of its trainable rows have results.
        trainable: rows with a recipe.
    """

    path: Path
    measured: int
    trainable: int

    def __str__(self) -> str:
        return f"{self.path}: {self.measured} of {self.trainable} trained rows measured"


def write_tables(
    which: str | None = None,
    settings: Sequence[Setting] | None = None,
    *,
    results: Path,
    out: Path,
    form: Literal["csv", "markdown", "both"] = "both",
) -> list[WrittenTable]:
    """Write each table in each setting.

    Args:
        which: a paper, one of its tables (`gfl/table1a`), or a folder or CSV file; None: all.
        settings: on what rows were trained; None: the papers' own, and every profile that has results.
        results: folder of the runs.
        out: folder to write to.
        form: which files are written.

    Raises:
        ValueError: an unknown table or form.
    """
    if form not in FORMATS:
        raise ValueError(f"--format {form}: allowed are {', '.join(FORMATS)}")
    index, written = RunIndex(results), []
    smaller = [name for name in profiles() if name not in PAPERS_OWN and name in index.profiles]
    for source in table_files(which):
        printed, paper = read_table(source), read_paper(source.parent)
        for setting in settings or [Setting(), *map(Setting, smaller)]:
            measured = _Measured.of(printed, index, setting)
            if measured.runs or settings or setting == Setting():
                written.append(_write(source.stem, printed, paper, measured, form, out))
    return written


@dataclass(frozen=True)
class _Measured:
    """The runs behind a table in one setting.   stale: rows whose runs are of an earlier recipe; notes: departures."""

    setting: Setting
    runs: dict[str, list[RunFolder]]
    stale: list[str]
    notes: list[str]

    @classmethod
    def of(cls, printed: pd.DataFrame, index: RunIndex, setting: Setting) -> _Measured:
        """Look each row up by what it trains."""
        chosen: dict[str, list[RunFolder]] = {}
        stale: list[str] = []
        notes: dict[str, None] = {}
        first: dict[tuple[str, str], str] = {}  # (hash, rule) -> the row that shows it
        trainable = printed[printed["recipe"] != ""].to_dict("records")
        for row in trainable if index.profiles else []:  # of no runs at all none is a row's
            recipe = setting.recipe(row)
            runs, old = index.of(recipe)
            if not runs:
                continue
            shown = first.setdefault((recipe.hash, row["rule"]), row["row"])
            if shown != row["row"]:  # a small profile has one backbone for all
                notes[f"{row['row']} is the same training as {shown} here: left empty"] = None
                continue
            chosen[row["row"]] = runs
            if old:
                stale.append(row["row"])
                notes[f"{row['row']} is stale: its recipe has changed since (it is {recipe.hash} now)"] = None
            notes |= dict.fromkeys(f"{recipe.name}: {text}" for text in recipe.card.departures)
            if recipe.profile not in PAPERS_OWN:
                notes[f"profile {setting.label}: {SMALLER}"] = None
        return cls(setting, chosen, stale, list(notes))


def _write(stem: str, printed: pd.DataFrame, paper: Paper, measured: _Measured, form: str, out: Path) -> WrittenTable:
    """Write one table in one setting."""
    label = measured.setting.label if measured.setting.suffix else ""
    frame = regenerate(printed, measured.runs, label or _own_profile(printed), measured.stale)
    target = out / paper.name / f"{stem}{measured.setting.suffix}"
    csv, text = target.with_name(f"{target.name}.csv"), target.with_name(f"{target.name}.md")
    if form != "markdown":
        write_csv(frame, csv)
    if form != "csv":
        about = paper.table(stem)
        title = f"{paper.short}, {stem.replace('table', 'table ')}{f': {about.shows}' if about.shows else ''}"
        notes = measured.notes
        if about.measured_on == "test-dev":
            notes = [
                "printed values are of test-dev, whose ground truth is not public; measured ones of val2017",
                *notes,
            ]
        write_markdown(table_markdown(frame, f"{title} ({measured.setting.label})", notes), text)
    trainable = set(printed["row"][printed["recipe"] != ""])
    done = trainable - set(missing_rows(frame))
    return WrittenTable(text if form == "markdown" else csv, len(done), len(trainable))


def _own_profile(printed: pd.DataFrame) -> str:
    """The profile that the rows of a table name themselves."""
    return " ".join(dict.fromkeys(printed["profile"][printed["profile"] != ""])) if "profile" in printed else ""
