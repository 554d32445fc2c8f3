"""`qrepro claims`: do the papers' tables bear out what they say, and do runs?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qrepro.cli import options as o
from qrepro.cli.rows import Runs, Setting, setting, table_files

if TYPE_CHECKING:
    from qrepro.papers.claims import Cell, Claim, Tables
    from qrepro.papers.verdicts import Measured
    from qrepro.records.run_folder import Run


def claims(
    which: Annotated[
        str | None,
        typer.Argument(metavar="[PAPER]", help="Such as gfl, or a folder with claims.yaml. \\[default: all]"),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", help="On what: bccd, shapes, ... \\[default: the paper's own]"),
    ] = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    core: Annotated[bool, typer.Option("--core", help="Only the claims that carry a paper.")] = False,
    draws: Annotated[int, typer.Option("--draws", min=10, help="Of the bootstrap over images and seeds.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results: Annotated[Path, typer.Option("--results", help="Folder of the runs.")] = o.RESULTS,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to. \\[default: RESULTS/claims]")] = None,
) -> None:
    """Check each claim of the papers against their own tables, then against runs, with intervals of 95 %."""
    import pandas as pd

    from qrepro.cli import show
    from qrepro.papers.sheet import read_paper
    from qrepro.papers.tables import write_csv, write_markdown
    from qrepro.papers.verdicts import claim_lines, effect_rows
    from qrepro.plots import claimed_effects

    asked = setting(profile, overrides, steps)
    everything, there = [], Runs(results)
    for folder in claim_folders(which):
        paper = read_paper(folder)
        rows = claim_rows(folder, asked, there, core=core, draws=draws)
        everything += rows
        target = (out or results / "claims") / f"{folder.name}{asked.suffix}.csv"
        lines = claim_lines(rows)
        write_csv(pd.DataFrame(rows), target)
        title = f"{paper.short}: what it claims ({asked.label})"
        write_markdown(pd.DataFrame(lines), target.with_suffix(".md"), title, _notes(rows))
        if not as_json:
            brief = [{key: line[key] for key in line if key not in ("says", "where", "core")} for line in lines]
            show.table(brief, f"{paper.short} ({asked.label}), {len(lines)} claims")
            show.console.print(f"wrote {target}", soft_wrap=True, highlight=False)
    if measured := effect_rows(everything):
        figure = claimed_effects(measured, f"Claims, measured on {asked.label}.")
        figure.save((out or results / "claims") / "figures" / f"effects{asked.suffix}")
    if as_json:
        clean = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in everything
        ]
        typer.echo(json.dumps(clean, indent=1))


def claim_rows(
    folder: Path, asked: Setting, there: Runs, *, core: bool = False, draws: int = 1000
) -> list[dict[str, Any]]:
    """One row per comparison of each claim of a folder: as printed, and as measured in a setting."""
    from qrepro.papers.claims import Tables, printed_row, read_claims
    from qrepro.papers.verdicts import Sampler, measured_row

    tables, sampler = Tables(folder), Sampler(draws)
    found = [claim for claim in read_claims(folder) if claim.core or not core]
    if not found:
        raise ValueError(f"{folder}: no claims{' are marked as core' if core else ''}")
    find = _finder(tables, there, asked)
    return [
        {**_about(claim, asked), "that": one.text, **printed_row(one, tables), **measured_row(one, find, sampler)}
        for claim in found
        for one in claim.comparisons
    ]


def claim_folders(which: str | None) -> list[Path]:
    """Folders of papers that make claims."""
    folders = list(dict.fromkeys(path.parent for path in table_files(which)))
    if not (found := [folder for folder in folders if (folder / "claims.yaml").is_file()]):
        raise ValueError(f"{which}: has no claims.yaml")
    return found


def _finder(tables: Tables, there: Runs, asked: Setting) -> Callable[[Cell], Measured | None]:
    """Runs of a cell: None for a row that nobody trains here."""
    from qrepro.metrics.oracle import same_rule
    from qrepro.papers.verdicts import Measured

    def find(cell: Cell) -> Measured | None:
        row = tables.row(cell)
        if not row.get("recipe"):
            return None
        runs, stale = there.of(asked.recipe(row))
        usable: list[Run] = [] if stale else runs
        return Measured(tuple(run for run in usable if same_rule(run.rules, row["rule"])), row["rule"])

    return find


def _about(claim: Claim, asked: Setting) -> dict[str, Any]:
    """What a row says of its claim."""
    core = "core" if claim.core else ""
    about = {"paper": claim.paper, "setting": asked.label, "claim": claim.name, "core": core}
    return {**about, "says": claim.says, "where": claim.where}


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader of the file has to know."""
    from qrepro.papers.verdicts import MAP_NOTE, READING

    notes = [
        f"measured: {READING}",
        "its own tables: whether the inequality is true in the paper's own cells, and their difference rounds to what "
        "is said.",
    ]
    return [*notes, f"{MAP_NOTE}."] if any("mAP" in row["that"] for row in rows) else notes
