"""`qrepro reproduce PAPER/TABLE`: train and evaluate what the rows of a table need, then write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from qrepro.cli import options as o


@dataclass(frozen=True)
class Training:
    """One model that rows of a table share. rules: that these rows are ranked by; rows: their slugs."""

    choice: o.Choice
    rules: list[str]
    rows: list[str]


def reproduce(
    which: Annotated[str, typer.Argument(metavar="PAPER[/TABLE]", help="Such as vfnet/oracle.")],
    profile: o.Profile = "coco",
    rows: Annotated[list[str] | None, typer.Option("--rows", help="These rows only: A,B; repeatable.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seeds; repeatable. \\[default: 0]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be trained.")] = False,
    data: o.DataDir = None,
    device: o.Device = None,
    workers: o.Workers = None,
    out: o.Out = o.RESULTS,
) -> None:
    """Train and evaluate what a table's rows need and is not there yet, and write the table.

    Rows that share a model share its training; a stopped training is continued.
    """
    from qrepro.cli import show
    from qrepro.cli.tables import table_files, write_tables

    wanted = [name for text in rows or [] for name in text.split(",")]
    trainings = plan(table_files(which), profile, wanted, seed or [0], data, out)
    state = [{"training": t.choice.run.path, "rows": ", ".join(t.rows), "state": _state(t)} for t in trainings]
    show.table([{**entry, "training": str(entry["training"])} for entry in state], f"{which} on {profile}")
    if dry_run:
        return
    for training in trainings:
        carry_out(training.choice, training.rules, device=device, workers=workers)
    for path, measured, count in write_tables(which, [profile], "both", out, out / "tables"):
        typer.echo(f"{path}: {measured} of {count} trained rows measured")


def plan(
    files: list[Path],
    profile: str,
    wanted: list[str],
    seeds: list[int],
    data: Path | None,
    out: Path,
) -> list[Training]:
    """The different trainings behind the rows of some tables, all rows for none wanted, in the order of these."""
    from analysis.tables import read_table
    from qrepro.quality import Rule
    from qrepro.recipe.parts import nearest

    rows = [row for file in files for row in read_table(file).to_dict("records") if row["recipe"]]
    known = [row["row"] for row in rows]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--rows {unknown[0]}: no row that was trained{nearest(unknown[0], known)}")
    found: dict[tuple[str, int], Training] = {}
    for row in rows:
        if wanted and row["row"] not in wanted:
            continue
        for seed in seeds:
            choice = o.choose(row["recipe"], profile, row["overrides"].split(), None, seed, data, out)
            training = found.setdefault((choice.recipe.hash, seed), Training(choice, [], []))
            rule = Rule.parse(row["rule"]).name
            training.rules.extend([rule] if rule not in training.rules else [])
            training.rows.append(row["row"])
    return list(found.values())


def carry_out(choice: o.Choice, rules: list[str], *, device: str | None = None, workers: int | None = None) -> None:
    """Train a recipe unless that is done, from its last checkpoint where there is one, and evaluate it by the rules."""
    from qrepro.cli import show
    from qrepro.cli.evaluate import evaluate_choice
    from qrepro.cli.train import train_choice

    progress = choice.run.progress(choice.recipe, choice.seed)
    if progress == "trained":
        show.console.print(f"{choice.recipe.name}: already trained, {choice.run.path}", soft_wrap=True)
    else:
        resume = progress == "begun"
        train_choice(choice, resume=resume, overwrite=not resume, device=device, workers=workers)
    there = choice.run.rules() if choice.run.judged() else []
    if set(rules) - set(there):
        evaluate_choice(choice, names=list(dict.fromkeys([*rules, *there])), device=device, workers=workers)


def _state(training: Training) -> str:
    """What is to be done."""
    run = training.choice.run
    progress = run.progress(training.choice.recipe, training.choice.seed)
    if progress != "trained":
        return {"nothing": "to be trained", "begun": "to be continued"}[progress]
    return "done" if run.judged() and not set(training.rules) - set(run.rules()) else "to be evaluated"
