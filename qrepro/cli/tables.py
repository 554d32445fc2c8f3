"""`qrepro tables` and `qrepro report`: what was measured, beside what was printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qrepro.cli import options as o
from qrepro.cli.rows import PAPERS_OWN, Runs, Setting, setting, table_files

if TYPE_CHECKING:
    import pandas as pd

    from qrepro.papers.sheet import Paper
    from qrepro.records.run_folder import Run


SMALLER = "data, backbone, picture size and schedule are smaller than the paper's; only directions can be compared"


def tables(
    which: Annotated[
        str | None,
        typer.Argument(metavar="[PAPER[/TABLE]]", help="Such as iou_aware or iou_aware/table3, or a folder of CSVs."),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile", "-p", help="One file a profile; repeatable. \\[default: the paper's own, and all with results]"
        ),
    ] = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    kind: Annotated[str, typer.Option("--format", help="csv, markdown or both.")] = "both",
    results: Annotated[Path, typer.Option("--results", help="Folder of the runs.")] = o.RESULTS,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to. \\[default: RESULTS/tables]")] = None,
) -> None:
    """Regenerate the papers' tables: every cell as printed and, beside it, what was measured here."""
    asked = [setting(name, overrides, steps) for name in profile or [""]] if profile or overrides or steps else None
    for written in write_tables(which, asked, kind, results, out or results / "tables"):
        typer.echo(written)


@dataclass(frozen=True)
class Written:
    """A table that was written. measured: how many of its trainable rows have results."""

    path: Path
    measured: int
    trainable: int

    def __str__(self) -> str:
        return f"{self.path}: {self.measured} of {self.trainable} trained rows measured"


def write_tables(
    which: str | None, settings: list[Setting] | None, kind: str, results: Path, out: Path
) -> list[Written]:
    """Write each table in each setting; without settings, in the paper's own and in every profile that has results."""
    from qrepro.papers.sheet import read_paper
    from qrepro.papers.tables import read_table
    from qrepro.recipe.load import profiles

    if kind not in ("csv", "markdown", "both"):
        raise ValueError(f"--format {kind}: allowed are csv, markdown, both")
    runs, written = Runs(results), []
    for source in table_files(which):
        printed, paper = read_table(source), read_paper(source.parent)
        for asked in settings or [Setting(), *(Setting(name) for name in profiles() if name not in PAPERS_OWN)]:
            found = _Measured.of(printed, runs, asked)
            if found.runs or settings or asked == Setting():
                written.append(_write(source.stem, printed, paper, found, kind, out))
    return written


@dataclass(frozen=True)
class _Measured:
    """The runs behind a table in one setting. stale: rows whose runs are of an earlier recipe; notes: what deviates."""

    setting: Setting
    runs: dict[str, list[Run]]
    stale: list[str]
    notes: list[str]

    @classmethod
    def of(cls, printed: pd.DataFrame, there: Runs, asked: Setting) -> _Measured:
        """Look each row up by what it trains."""
        chosen: dict[str, list[Run]] = {}
        stale: list[str] = []
        notes: dict[str, None] = {}
        first: dict[tuple[str, str], str] = {}  # (hash, rule) -> the row that shows it
        for row in printed[printed["recipe"] != ""].to_dict("records"):
            recipe = asked.recipe(row)
            found, old = there.of(recipe)
            if not found:
                continue
            shown = first.setdefault((recipe.hash, row["rule"]), row["row"])
            if shown != row["row"]:  # a small profile has one backbone for all
                notes[f"{row['row']} is the same training as {shown} here: left empty"] = None
                continue
            chosen[row["row"]] = found
            if old:
                stale.append(row["row"])
                notes[f"{row['row']} is stale: its recipe has changed since (it is {recipe.hash} now)"] = None
            notes |= dict.fromkeys(f"{recipe.name}: {text}" for text in recipe.card.deviations)
            if recipe.profile not in PAPERS_OWN:
                notes[f"profile {asked.label}: {SMALLER}"] = None
        return cls(asked, chosen, stale, list(notes))


def _write(stem: str, printed: pd.DataFrame, paper: Paper, found: _Measured, kind: str, out: Path) -> Written:
    """Write one table in one setting."""
    from qrepro.papers.tables import missing_rows, regenerate, write_csv, write_markdown

    label = found.setting.label if found.setting.suffix else ""
    frame = regenerate(printed, found.runs, label or _own(printed), found.stale)
    target = out / paper.name / f"{stem}{found.setting.suffix}"
    csv, text = target.with_name(f"{target.name}.csv"), target.with_name(f"{target.name}.md")
    if kind != "markdown":
        write_csv(frame, csv)
    if kind != "csv":
        about = paper.table(stem)
        title = f"{paper.short}, {stem.replace('table', 'table ')}{f': {about.shows}' if about.shows else ''}"
        notes = found.notes
        if about.measured_on == "test-dev":
            notes = ["printed values are of test-dev, whose truths are not public; measured ones of val2017", *notes]
        write_markdown(frame, text, f"{title} ({found.setting.label})", notes)
    trainable = set(printed["row"][printed["recipe"] != ""])
    done = trainable - set(missing_rows(frame))
    return Written(text if kind == "markdown" else csv, len(done), len(trainable))


def _own(printed: pd.DataFrame) -> str:
    """The profile that the rows of a table name themselves."""
    return " ".join(dict.fromkeys(printed["profile"][printed["profile"] != ""])) if "profile" in printed else ""


def report(
    results: Annotated[Path, typer.Option("--results", help="Folder of the runs.")] = o.RESULTS,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to. \\[default: RESULTS/report]")] = None,
) -> None:
    """One self-contained HTML page of everything in the results."""
    from qrepro.report.page import build_report

    target = out or results / "report"
    typer.echo(build_report(results, target))
