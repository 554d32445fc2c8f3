"""`qrepro reproduce PAPER/TABLE`: train and evaluate what the rows of a table need, then write it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qrepro.cli import options as o
from qrepro.cli.rows import Setting, setting, table_files

if TYPE_CHECKING:
    from qrepro.recipe import Recipe

NO_DATA = "no data"


@dataclass(frozen=True)
class Training:
    """One model that rows of tables share. rules: that these rows are ranked by; rows: table and slug of each."""

    choice: o.Choice
    rules: list[str]
    rows: list[str]

    @property
    def state(self) -> str:
        """What is to be done."""
        run = self.choice.run
        if not self.choice.data.is_dir():
            return NO_DATA
        progress = run.progress(self.choice.recipe, self.choice.seed)
        if progress != "trained":
            return {"nothing": "to be trained", "begun": "to be continued"}[progress]
        return "done" if run.judged() and not set(self.rules) - set(run.rules()) else "to be evaluated"


def reproduce(
    which: Annotated[
        str | None,
        typer.Argument(metavar="[PAPER[/TABLE]]", help="Such as vfnet or vfnet/oracle, or a folder. \\[default: all]"),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", help="On what: bccd, shapes, coco_mini, ... \\[default: the paper's own]"),
    ] = None,
    rows: Annotated[list[str] | None, typer.Option("--rows", help="These rows only: A,B; repeatable.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seeds; repeatable. \\[default: 0]")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trainings side by side, on the GPUs in turn.")] = 1,
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
    out: o.Out = o.RESULTS,
) -> None:
    """Train and evaluate what the rows of tables need and is not there yet, and write the tables.

    Rows that share a model share its training; a stopped training is continued; a failed one does not stop the others.
    """
    from qrepro.cli import show
    from qrepro.cli.tables import write_tables
    from qrepro.experiments.jobs import Failed, Job, in_turn, on_slurm, side_by_side

    wanted = [name for text in rows or [] for name in text.split(",")]
    options = pairs(slurm or [])
    asked = setting(profile, overrides, steps)
    trainings = plan(table_files(which), asked, wanted, seed or [0], data, out)
    states = [(training, training.state) for training in trainings]  # which reads a checkpoint of each
    _say_plan(states, f"{which or 'all papers'} on {asked.label}", device, out)
    if dry_run:
        return
    todo = [
        Job(_name(training, out), partial(_carry_out, training, workers), training.choice.run.path / "output.txt")
        for training, state in states
        if state not in ("done", NO_DATA)
    ]
    missing = [str(training.choice.data) for training, state in states if state == NO_DATA]
    if options:
        errors = on_slurm(todo, out / "jobs", options, typer.echo, device)
    elif jobs > 1:
        errors = side_by_side(todo, jobs, device, typer.echo)
    else:
        errors = in_turn(todo, device, typer.echo)
    for written in write_tables(which, [asked], "both", out, out / "tables"):
        show.console.print(str(written), soft_wrap=True, highlight=False)
    if errors:
        name, reason = next(iter(errors.items()))
        raise Failed(f"{len(errors)} of {len(todo)} trainings failed, the first is {name}: {reason}")
    if missing:
        folders = ", ".join(dict.fromkeys(missing))
        raise ValueError(f"{len(missing)} of {len(trainings)} trainings were left out: no data folder {folders}")


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Options of `--slurm key=value,key=value`."""
    found = {}
    for part in (part for text in texts for part in text.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ValueError(f"--slurm {part}: must look like partition=gpu,gpus_per_node=8")
        found[key.strip()] = value.strip()
    return found


def plan(
    files: list[Path], asked: Setting, wanted: list[str], seeds: list[int], data: Path | None, out: Path
) -> list[Training]:
    """The different trainings behind the rows of some tables, all rows for none wanted, in the order of these.

    A training that is there already is taken by what it trained, under whatever name: the small profiles make recipes
    of a paper the same that differ in backbone or schedule only.
    """
    from qrepro.papers.tables import read_table
    from qrepro.quality import Rule
    from qrepro.recipe.parts import nearest
    from qrepro.records.run_folder import find_runs

    rows = [
        {**row, "place": f"{file.stem}/{row['row']}"}
        for file in files
        for row in read_table(file).to_dict("records")
        if row["recipe"]
    ]
    known = [row["row"] for row in rows]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--rows {unknown[0]}: no row that was trained{nearest(unknown[0], known)}")
    runs = find_runs(out) if out.is_dir() else []
    there = {(run.info.get("hash"), run.profile, run.seed): run.path for run in runs if run.has("last.pt")}
    found: dict[tuple[str, int], Training] = {}
    for row in rows:
        if wanted and row["row"] not in wanted:
            continue
        recipe = asked.recipe(row)
        for seed in seeds:
            if (recipe.hash, seed) not in found:
                path = there.get((recipe.hash, recipe.profile, seed))
                found[recipe.hash, seed] = Training(_choice(recipe, seed, data, out, path), [], [])
            training = found[recipe.hash, seed]
            rule = Rule.parse(row["rule"]).name
            training.rules.extend([rule] if rule not in training.rules else [])
            training.rows.append(row["place"])
    return list(found.values())


def _choice(recipe: Recipe, seed: int, data: Path | None, out: Path, path: Path | None) -> o.Choice:
    """A training under the name of its recipe, or the run folder that holds it."""
    from qrepro.engine.run import Run, folder

    if path:
        return o.choose(str(path), data=data)
    return o.Choice(recipe, Run(folder(out, recipe, seed)), o.data_folder(recipe.data.name, data), seed)


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
    if os.environ.get("RANK", "0") != "0":
        return  # of a training in several processes the first one evaluates
    there = choice.run.rules() if choice.run.judged() else []
    if set(rules) - set(there):
        evaluate_choice(choice, names=list(dict.fromkeys([*rules, *there])), device=device, workers=workers)


def _carry_out(training: Training, workers: int | None, device: str | None) -> None:
    """A training as a job."""
    carry_out(training.choice, training.rules, device=device, workers=workers)


def _name(training: Training, out: Path) -> str:
    """What a training is called: its folder of results."""
    path = training.choice.run.path
    return (path.relative_to(out) if path.is_relative_to(out) else path).as_posix()


def _say_plan(states: Sequence[tuple[Training, str]], title: str, device: str | None, out: Path) -> None:
    """Print what is to be done, and how long it will take."""
    from qrepro.cli import show
    from qrepro.engine.distributed import Place, pick
    from qrepro.experiments.cost import measured, steps

    place = Place(0, 1, pick(device))
    speeds = measured([card.parent for card in sorted(out.rglob("run.json"))], place.device, place.name)
    rows, seconds = [], 0.0
    for training, state in states:
        recipe = training.choice.recipe
        took = 0.0 if state in ("done", "to be evaluated") else speeds.seconds(recipe)
        seconds += took
        rows.append(
            {
                "training": _name(training, out),
                "rows": ", ".join(training.rows),
                "rules": str(len(training.rules)),
                "state": state,
                "steps": str(steps(recipe) or "?"),
                "batch": str(recipe.schedule.batch),
                "time": duration(took),
            }
        )
    show.table(rows, title)
    count = sum(len(training.rows) for training, _ in states)
    show.console.print(
        f"{len(states)} trainings for {count} rows; {duration(seconds)} one after another on one device "
        f"({speeds.source}; what is begun is counted whole)",
        soft_wrap=True,
        highlight=False,
    )


def duration(seconds: float) -> str:
    """Time as a person says it, in two digits or more; a dash for none."""
    if not seconds or math.isnan(seconds):
        return "?" if seconds else "-"
    units = [(1, "s"), (60, "min"), (3600, "h"), (86_400, "days"), (365 * 86_400, "years")]
    size, name = next((unit for unit in reversed(units) if seconds >= 1.5 * unit[0]), units[0])
    return f"{seconds / size:.{int(seconds < 10 * size)}f} {name}"
