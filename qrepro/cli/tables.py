"""`qrepro tables` and `qrepro report`: what was measured, beside what was printed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qrepro.cli import options as o

if TYPE_CHECKING:
    import pandas as pd

    from analysis.runs import Run
    from qrepro.recipe import Recipe


SMALLER = "data, backbone, picture size and schedule are smaller than the paper's; only directions can be compared"


def tables(
    which: Annotated[
        str | None, typer.Argument(metavar="[PAPER[/TABLE]]", help="Such as iou_aware or iou_aware/table3.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", "-p", help="Results of these profiles only; repeatable. \\[default: all there are]"),
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="csv, markdown or both.")] = "both",
    results: Annotated[Path, typer.Option("--results", help="Folder of the runs.")] = o.RESULTS,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to. \\[default: RESULTS/tables]")] = None,
) -> None:
    """Regenerate the papers' tables: every cell as printed and, beside it, what was measured here."""
    if kind not in ("csv", "markdown", "both"):
        raise ValueError(f"--format {kind}: allowed are csv, markdown, both")
    for path, measured, rows in write_tables(which, profile, kind, results, out or results / "tables"):
        typer.echo(f"{path}: {measured} of {rows} trained rows measured")


def write_tables(
    which: str | None, profile: list[str] | None, kind: str, results: Path, out: Path
) -> list[tuple[Path, int, int]]:
    """Write each table; returns its path, how many of its trainable rows have results, and how many there are."""
    from analysis.tables import missing_rows, read_table, regenerate, write_csv, write_markdown

    written = []
    for source in table_files(which):
        printed = read_table(source)
        runs, notes = _runs_of(printed, results, profile)
        frame = regenerate(printed, runs)
        stem = out / source.parent.name / source.stem
        if kind != "markdown":
            write_csv(frame, stem.with_suffix(".csv"))
        if kind != "csv":
            write_markdown(frame, stem.with_suffix(".md"), f"{source.parent.name}, {source.stem}", notes)
        trainable = set(printed["row"][printed["recipe"] != ""])
        written.append(
            (
                stem.with_suffix(".md" if kind == "markdown" else ".csv"),
                len(trainable - set(missing_rows(frame))),
                len(trainable),
            )
        )
    return written


def table_files(which: str | None) -> list[Path]:
    """The printed tables of a paper, one of them, or all."""
    from qrepro.recipe import recipe_root
    from qrepro.recipe.parts import nearest

    known = {f"{path.parent.name}/{path.stem}": path for path in sorted(recipe_root().glob("*/*.csv"))}
    found = [path for name, path in known.items() if which is None or which in (name, name.split("/")[0])]
    if not found:
        raise ValueError(
            f"table {which!r} is unknown{nearest(which or '', [*known, *{n.split('/')[0] for n in known}])}"
        )
    return found


def _runs_of(
    printed: pd.DataFrame, results: Path, only: list[str] | None
) -> tuple[dict[tuple[str, str], list[Run]], list[str]]:
    """Finished runs by (row, profile), found by what they trained and not by name; and what deviates, for a note."""
    from analysis.runs import find_runs
    from qrepro.recipe.load import profiles

    for name in only or []:
        if name not in profiles():
            raise ValueError(f"profile {name!r} is unknown, allowed: {', '.join(profiles())}")
    done: dict[str, list[Run]] = {}
    for run in find_runs(results) if results.is_dir() else []:
        if run.evaluated:
            done.setdefault(run.info["hash"], []).append(run)
    chosen: dict[tuple[str, str], list[Run]] = {}
    notes: dict[str, None] = {}
    first: dict[tuple[str, str, str], str] = {}  # (profile, hash, rule) -> the row that shows it
    for row in printed[printed["recipe"] != ""].to_dict("records"):
        for profile in only or profiles():
            recipe = _recipe(row["recipe"], profile, row["overrides"])
            found = [run for run in done.get(recipe.hash, []) if run.profile == profile]
            if not found:
                continue
            shown = first.setdefault((profile, recipe.hash, row["rule"]), row["row"])
            if shown != row["row"]:  # a small profile has one backbone for all
                notes[f"profile {profile}: {row['row']} is the same training as {shown}: left empty"] = None
                continue
            chosen[row["row"], profile] = sorted(found, key=lambda run: run.seed)
            notes |= dict.fromkeys(f"{recipe.name}: {text}" for text in recipe.card.deviations)
            if profile not in ("coco", "voc"):
                notes[f"profile {profile}: {SMALLER}"] = None
    return chosen, list(notes)


@cache
def _recipe(name: str, profile: str, overrides: str) -> Recipe:
    """The recipe of a table row on a profile."""
    from qrepro.recipe import resolve

    return resolve(name, profile, overrides.split())


def report(
    results: Annotated[Path, typer.Option("--results", help="Folder of the runs.")] = o.RESULTS,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to. \\[default: RESULTS/report]")] = None,
) -> None:
    """One self-contained HTML page of everything in the results."""
    from analysis.report import build_report

    target = out or results / "report"
    typer.echo(build_report(results, target))
