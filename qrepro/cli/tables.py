"""`qrepro tables`, `claims`, `reproduce`, `report`: what was measured, beside what was printed."""

from __future__ import annotations

import json
import math
from typing import Annotated, Literal, cast

import typer

from qrepro.cli import options as o


def tables(
    which: o.Which = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile", "-p", help="Data and schedule, repeatable. \\[default: the paper's own, and all with results]"
        ),
    ] = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    form: Annotated[str, typer.Option("--format", help="csv, markdown or both.")] = "both",
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Regenerate the papers' tables: every cell as printed and, beside it, what was measured here."""
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.run_index import Setting
    from qrepro.experiments.tables import write_tables

    asked = bool(profile or overrides or steps)
    settings = [Setting.of(name, overrides, steps) for name in profile or (None,)] if asked else None
    target = out or results / "tables"
    allowed = cast(Literal["csv", "markdown", "both"], form)  # checked there
    for table in write_tables(which, settings, results=results, out=target, form=allowed):
        terminal.message(str(table))


def claims(
    which: Annotated[
        str | None,
        typer.Argument(metavar="[PAPER]", help="Such as gfl, or a folder with claims.yaml. \\[default: all]"),
    ] = None,
    profile: o.AnyProfile = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    core: Annotated[bool, typer.Option("--core", help="Only the claims that carry a paper.")] = False,
    draws: o.Draws = 1000,
    as_json: o.AsJson = False,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Check each claim of the papers against their own tables, then against runs, with intervals of 95 %."""
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.claims import check_claims
    from qrepro.experiments.run_index import Setting

    setting = Setting.of(profile, overrides, steps)
    checked = check_claims(which, setting, results=results, out=out or results / "claims", core=core, draws=draws)
    if as_json:
        rows = [row for paper in checked for row in paper.rows]
        clean = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
        typer.echo(json.dumps(clean, indent=1))
        return
    for paper in checked:
        brief = [{k: v for k, v in line.items() if k not in ("says", "where", "core")} for line in paper.lines]
        terminal.table(brief, paper.title)
        terminal.message(f"wrote {paper.path}")


def reproduce(
    which: o.Which = None,
    profile: o.AnyProfile = None,
    rows: Annotated[list[str] | None, typer.Option("--rows", help="These rows only: A,B; repeatable.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="Seeds of the trainings; repeatable. \\[default: 0]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trainings at a time, on the GPUs in turn.")] = 1,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            help="Submit a job a training: partition=P,gpus_per_node=8,tasks_per_node=8,timeout_min=1440, ... as "
            "submitit knows them; cluster=local tries it without Slurm. Repeatable.",
        ),
    ] = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    data: o.DataDir = None,
    device: o.Device = None,
    workers: o.Workers = None,
    results: o.Results = o.RESULTS,
) -> None:
    """Train and evaluate what the rows of tables need and is not there yet, and write the tables.

    Rows that share a detector share its training; a stopped training is continued; a failed one does not stop the
    others.
    """
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.plan import make_plan, reproduce
    from qrepro.experiments.run_index import Setting

    wanted = [name for text in rows or [] for name in text.split(",")]
    options = o.key_values(slurm, "--slurm")
    setting = Setting.of(profile, overrides, steps)
    plan = make_plan(which, setting, rows=wanted, seeds=seed or [0], data=data, results=results, device=device)
    terminal.table(plan.rows(results), plan.title)
    terminal.message(plan.summary)
    if not dry_run:
        reproduce(
            which,
            setting,
            plan,
            results=results,
            jobs=jobs,
            slurm=options,
            device=device,
            workers=workers,
            reporter=terminal,
        )


def report(results: o.Results = o.RESULTS, out: o.Out = None) -> None:
    """One self-contained HTML page of everything in the results."""
    from qrepro.cli.terminal import terminal
    from qrepro.report.page import build_report

    terminal.message(str(build_report(results, out or results / "report")))
