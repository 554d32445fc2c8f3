"""Which trainings the rows of tables need, what each still lacks, what that will cost, and carrying it out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from qrepro.engine.distributed import DistributedContext, choose_device
from qrepro.experiments.cost import known_speeds, training_steps
from qrepro.experiments.evaluation import evaluate
from qrepro.experiments.experiment import Experiment, data_folder, open_experiment, run_path
from qrepro.experiments.jobs import Failed, Job, run_on_slurm, run_parallel, run_sequential
from qrepro.experiments.run_index import Setting, table_files
from qrepro.experiments.tables import WrittenTable, write_tables
from qrepro.experiments.training import is_first_process, train, training_progress
from qrepro.papers.tables import read_table
from qrepro.recipe import Recipe
from qrepro.recipe.axes import check
from qrepro.records.kinds import nearest
from qrepro.records.run_folder import LAST, RunFolder, find_runs
from qrepro.records.score_rule import Rule
from qrepro.reporter import SILENT, Reporter

NO_DATA = "no data"


@dataclass(frozen=True)
class PlannedTraining:
    """One detector that rows of tables share.

    Attributes:
        experiment: what is trained.
        rules: that these rows are ranked by.
        rows: table and slug of each.
    """

    experiment: Experiment
    rules: list[Rule] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """What is to be done."""
        if not self.experiment.data.is_dir():
            return NO_DATA
        progress = training_progress(self.experiment)
        if progress != "trained":
            return {"nothing": "to be trained", "begun": "to be continued"}[progress]
        return "to be evaluated" if self.missing_rules else "done"

    @property
    def missing_rules(self) -> list[Rule]:
        """Rules that the newest weights have not been evaluated by."""
        evaluated = evaluated_rules(self.experiment.run)
        return [rule for rule in self.rules if rule not in evaluated]


@dataclass(frozen=True)
class Plan:
    """The trainings behind some tables, what is to be done of each, and what that will take.

    Attributes:
        title: which tables, on what.
        trainings: in the order of the tables.
        states: of each.
        seconds: of each, on one device; NaN where the number of steps is unknown.
        source: where the speeds come from.
    """

    title: str
    trainings: list[PlannedTraining]
    states: list[str]
    seconds: list[float]
    source: str

    def rows(self, results: Path) -> list[dict[str, Any]]:
        """For reading, one row per training."""
        return [
            {
                "training": training_name(training, results),
                "rows": ", ".join(training.rows),
                "rules": str(len(training.rules)),
                "state": state,
                "steps": str(training_steps(training.experiment.recipe) or "?"),
                "batch": str(training.experiment.recipe.schedule.batch),
                "time": duration(seconds),
            }
            for training, state, seconds in zip(self.trainings, self.states, self.seconds, strict=True)
        ]

    @property
    def summary(self) -> str:
        """How much there is to do."""
        count = sum(len(training.rows) for training in self.trainings)
        return (
            f"{len(self.trainings)} trainings for {count} rows; {duration(sum(self.seconds))} one after another on one "
            f"device ({self.source}; what is begun is counted whole)"
        )


def make_plan(
    which: str | None,
    setting: Setting,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    data: Path | None = None,
    results: Path,
    device: str | None = None,
) -> Plan:
    """What the rows of tables need.

    Args:
        which: a paper, one of its tables, or a folder or CSV file; None: all.
        setting: on what rows are trained.
        rows: only these; empty: all.
        seeds: of each training.
        data: folder of the data set; None: see `data_folder`.
        results: folder of the runs.
        device: that the trainings will run on.

    Raises:
        ValueError: an unknown table or row.
    """
    trainings = planned_trainings(table_files(which), setting, rows, seeds, data, results)
    states = [training.state for training in trainings]  # which reads a checkpoint of each
    context = DistributedContext(0, 1, choose_device(device))
    runs = find_runs(results) if results.is_dir() else []
    speeds = known_speeds(runs, context.device, context.name)
    waiting = ("done", "to be evaluated")
    seconds = [
        0.0 if state in waiting else speeds.seconds(training.experiment.recipe)
        for training, state in zip(trainings, states, strict=True)
    ]
    return Plan(f"{which or 'all papers'} on {setting.label}", trainings, states, seconds, speeds.source)


def planned_trainings(
    files: Iterable[Path],
    setting: Setting,
    wanted: Sequence[str],
    seeds: Sequence[int],
    data: Path | None,
    results: Path,
) -> list[PlannedTraining]:
    """The different trainings behind the rows of some tables, all rows for none wanted, in the order of these.

    A training that is there already is taken by what it trained, under whatever name: the small profiles make recipes
    of a paper the same that differ in backbone or schedule only.
    """
    rows = [
        {**row, "place": f"{file.stem}/{row['row']}"}
        for file in files
        for row in read_table(file).to_dict("records")
        if row["recipe"]
    ]
    known = [row["row"] for row in rows]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--rows {unknown[0]}: no row that was trained{nearest(unknown[0], known)}")
    runs = find_runs(results) if results.is_dir() else []
    there = {(run.hash, run.profile, run.seed): run for run in runs if (run.path / LAST).is_file()}
    planned: dict[tuple[str, int], PlannedTraining] = {}
    for row in rows:
        if wanted and row["row"] not in wanted:
            continue
        recipe = setting.recipe(row)
        for seed in seeds:
            if (recipe.hash, seed) not in planned:
                run = there.get((recipe.hash, recipe.profile, seed))
                planned[recipe.hash, seed] = PlannedTraining(_experiment(recipe, seed, data, results, run))
            training = planned[recipe.hash, seed]
            rule = Rule.parse(row["rule"])
            training.rules.extend([rule] if rule not in training.rules else [])
            training.rows.append(row["place"])
    return list(planned.values())


def carry_out(
    experiment: Experiment,
    rules: Sequence[Rule],
    *,
    device: str | None = None,
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> None:
    """Train a recipe unless that is done, from its last checkpoint where there is one, and evaluate it by the rules."""
    progress = training_progress(experiment)
    if progress == "trained":
        reporter.message(f"{experiment.recipe.name}: already trained, {experiment.run.path}")
    else:
        resume = progress == "begun"
        train(experiment, resume=resume, overwrite=not resume, device=device, workers=workers, reporter=reporter)
    if not is_first_process():
        return  # of a training in several processes the first one evaluates
    run = RunFolder(experiment.run.path)  # whose card the training may have written anew
    evaluated = evaluated_rules(run)
    if any(rule not in evaluated for rule in rules):
        every = list(dict.fromkeys([*rules, *evaluated]))
        evaluation = evaluate(experiment, every, device=device, workers=workers, reporter=reporter)
        reporter.message(f"wrote {evaluation.folder}")


def evaluated_rules(run: RunFolder) -> list[Rule]:
    """Rules that the newest weights of a run have been evaluated by."""
    return [Rule.parse(name) for name in run.metrics["rules"]] if run.evaluated and run.up_to_date else []


def reproduce(
    which: str | None,
    setting: Setting,
    plan: Plan,
    *,
    results: Path,
    jobs: int = 1,
    slurm: dict[str, str] | None = None,
    device: str | None = None,
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> list[WrittenTable]:
    """Carry a plan out, then write the tables.

    Args:
        which: the paper or table of the plan; None: all.
        setting: on what its rows are trained.
        plan: what is to be done.
        results: folder of the runs.
        jobs: trainings at a time, on the GPUs in turn.
        slurm: options of submitit: a job a training.
        device: `cpu`, `cuda` or `cuda:N`; None: a GPU where there is one.
        workers: processes that read images.
        reporter: is told of it; it must be picklable where several jobs run.

    Raises:
        Failed: a training failed; the others were done, and the tables written.
        ValueError: trainings were left out because their data set is not there.
    """
    todo = [
        Job(
            training_name(training, results),
            partial(_job, training, workers, reporter),
            training.experiment.run.path / "output.txt",
        )
        for training, state in zip(plan.trainings, plan.states, strict=True)
        if state not in ("done", NO_DATA)
    ]
    if slurm:
        errors = run_on_slurm(todo, results / "jobs", slurm, reporter.message, device)
    elif jobs > 1:
        errors = run_parallel(todo, jobs, device, reporter.message)
    else:
        errors = run_sequential(todo, device, reporter.message)
    written = write_tables(which, [setting], results=results, out=results / "tables")
    for table in written:
        reporter.message(str(table))
    if errors:
        name, reason = next(iter(errors.items()))
        raise Failed(f"{len(errors)} of {len(todo)} trainings failed, the first is {name}: {reason}")
    missing = [t for t, state in zip(plan.trainings, plan.states, strict=True) if state == NO_DATA]
    if missing:
        folders = ", ".join(dict.fromkeys(str(training.experiment.data) for training in missing))
        count = len(plan.trainings)
        raise ValueError(f"{len(missing)} of {count} trainings were left out: no data folder {folders}")
    return written


def _job(training: PlannedTraining, workers: int | None, reporter: Reporter, device: str | None) -> None:
    """A training as a job."""
    carry_out(training.experiment, training.rules, device=device, workers=workers, reporter=reporter)


def _experiment(recipe: Recipe, seed: int, data: Path | None, results: Path, run: RunFolder | None) -> Experiment:
    """A training under the name of its recipe, or the run folder that holds it."""
    if run:
        return open_experiment(str(run.path), data=data)
    check(recipe, f"recipe {recipe.name} (profile {recipe.profile})")
    folder = RunFolder(run_path(results, recipe, seed))
    return Experiment(recipe, folder, data_folder(recipe.data.name, data), seed)


def training_name(training: PlannedTraining, results: Path) -> str:
    """What a training is called: its run folder in the results."""
    path = training.experiment.run.path
    return (path.relative_to(results) if path.is_relative_to(results) else path).as_posix()


def duration(seconds: float) -> str:
    """Time as a person says it, in two digits or more; a dash for none, a question mark for unknown."""
    if not seconds or math.isnan(seconds):
        return "?" if seconds else "-"
    units = [(1, "s"), (60, "min"), (3600, "h"), (86_400, "days"), (365 * 86_400, "years")]
    size, name = next((unit for unit in reversed(units) if seconds >= 1.5 * unit[0]), units[0])
    return f"{seconds / size:.{int(seconds < 10 * size)}f} {name}"
