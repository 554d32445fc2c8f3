"""Do the papers' tables bear out what they say, and do runs?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qrepro.experiments.run_index import RunIndex, Setting, table_files
from qrepro.papers.claims import Cell, Claim, Tables, printed_row, read_claims
from qrepro.papers.sheet import read_paper
from qrepro.papers.verdicts import MAP_NOTE, READING, Measured, Sampler, claim_lines, effect_rows, measured_row
from qrepro.records.run_folder import RunFolder
from qrepro.records.score_rule import find_rule
from qrepro.records.tables import markdown, write_csv, write_markdown


@dataclass(frozen=True)
class CheckedPaper:
    """The claims of one paper, checked.

    Attributes:
        title: what is checked, and on what.
        rows: one per comparison of each claim.
        lines: one per claim, for reading.
        path: the CSV that was written.
    """

    title: str
    rows: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    path: Path


ANY_SETTING = Setting()


def check_claims(
    which: str | None = None,
    setting: Setting = ANY_SETTING,
    *,
    results: Path,
    out: Path,
    core: bool = False,
    draws: int = 1000,
) -> list[CheckedPaper]:
    """Hold each claim against its paper's own tables and against runs, and write both, with a figure of the effects.

    Args:
        which: a paper, or a folder with claims.yaml; None: all.
        setting: on what the rows were trained.
        results: folder of the runs.
        out: folder to write to.
        core: only the claims that carry a paper.
        draws: of the bootstrap over images and seeds.

    Raises:
        ValueError: no claims, or a claim that names an unknown cell.
    """
    index, checked = RunIndex(results), []
    for folder in claim_folders(which):
        paper = read_paper(folder)
        rows = claim_rows(folder, setting, index, core=core, draws=draws)
        lines, path = claim_lines(rows), out / f"{folder.name}{setting.suffix}.csv"
        write_csv(pd.DataFrame(rows), path)
        title = f"{paper.short}: what it claims ({setting.label})"
        write_markdown(markdown(pd.DataFrame(lines), title, _notes(rows)), path.with_suffix(".md"))
        checked.append(CheckedPaper(f"{paper.short} ({setting.label}), {len(lines)} claims", rows, lines, path))
    if measured := effect_rows([row for paper in checked for row in paper.rows]):
        from qrepro.plots import claimed_effects  # only now: matplotlib takes a second

        figure = claimed_effects(measured, f"Claims, measured on {setting.label}.")
        figure.save(out / "figures" / f"effects{setting.suffix}")
    return checked


def claim_rows(
    folder: Path, setting: Setting, index: RunIndex, *, core: bool = False, draws: int = 1000
) -> list[dict[str, Any]]:
    """One row per comparison of each claim of a folder: as printed, and as measured in a setting."""
    tables, sampler = Tables(folder), Sampler(draws)
    claims = [claim for claim in read_claims(folder) if claim.core or not core]
    if not claims:
        raise ValueError(f"{folder}: no claims{' are marked as core' if core else ''}")
    find = _finder(tables, index, setting)
    return [
        {
            **_about(claim, setting),
            "that": comparison.text,
            **printed_row(comparison, tables),
            **measured_row(comparison, find, sampler),
        }
        for claim in claims
        for comparison in claim.comparisons
    ]


def claim_folders(which: str | None) -> list[Path]:
    """Folders of papers that make claims."""
    folders = list(dict.fromkeys(path.parent for path in table_files(which)))
    if not (found := [folder for folder in folders if (folder / "claims.yaml").is_file()]):
        raise ValueError(f"{which}: has no claims.yaml")
    return found


def _finder(tables: Tables, index: RunIndex, setting: Setting) -> Callable[[Cell], Measured | None]:
    """Runs of a cell: None for a row that nobody trains here."""

    def find(cell: Cell) -> Measured | None:
        row = tables.row(cell)
        if not row.get("recipe"):
            return None
        if not index.profiles:
            return Measured((), row["rule"])
        runs, stale = index.of(setting.recipe(row))
        usable: list[RunFolder] = [] if stale else runs
        return Measured(tuple(run for run in usable if find_rule(run.rules, row["rule"])), row["rule"])

    return find


def _about(claim: Claim, setting: Setting) -> dict[str, Any]:
    """What a row says of its claim."""
    core = "core" if claim.core else ""
    about = {"paper": claim.paper, "setting": setting.label, "claim": claim.name, "core": core}
    return {**about, "says": claim.says, "where": claim.where}


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader of the file has to know."""
    notes = [
        f"measured: {READING}",
        "its own tables: whether the inequality is true in the paper's own cells, and their difference rounds to what "
        "is said.",
    ]
    return [*notes, f"{MAP_NOTE}."] if any("mAP" in row["that"] for row in rows) else notes
