"""The training of an experiment, with what is said about it and the validation that it asks for."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

from qrepro.data.annotations import write_ground_truth
from qrepro.detector import Detector
from qrepro.engine import checkpoint
from qrepro.engine.datasets import open_split
from qrepro.engine.predict import predict
from qrepro.engine.train import train as train_recipe
from qrepro.experiments.experiment import Experiment, loader_processes
from qrepro.metrics.coco_ap import ap_metrics, evaluate_ap
from qrepro.records.ground_truth import read_ground_truth
from qrepro.records.run_folder import GROUND_TRUTH
from qrepro.reporter import SILENT, Reporter

TrainingProgress = Literal["nothing", "begun", "trained"]


def is_first_process() -> bool:
    """Whether this process writes files and talks to the user: of several that torchrun starts, one does."""
    return os.environ.get("RANK", "0") == "0"


def train(
    experiment: Experiment,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> None:
    """Train an experiment into its run folder.

    Args:
        experiment: what is trained.
        resume: continue from the run's last checkpoint; on a CPU it ends in the same bits as an uninterrupted run.
        overwrite: replace a run that is there.
        device: `cpu`, `cuda` or `cuda:N`; None: a GPU where there is one.
        workers: processes that read images; None: see `loader_processes`.
        reporter: is told of the training by the first process.

    Raises:
        ValueError: unusable input, before anything is written.
        qrepro.engine.train.Diverged: a loss is no longer finite.
        qrepro.engine.interrupt.Stopped: a signal asked for the end; the run was saved.
    """
    recipe, run = experiment.recipe, experiment.run
    first = is_first_process()
    if resume and not run.last.exists():
        raise ValueError(f"--resume: {run.last} does not exist; leave --resume out to start")
    if first:
        reporter.message(f"{recipe.name} on {recipe.profile}, seed {experiment.seed}, hash {recipe.hash} -> {run.path}")
        if note := _scaled_rate(experiment):
            reporter.message(note)
    with reporter.training(recipe.name) if first else nullcontext(lambda record: None) as log:
        train_recipe(
            recipe,
            experiment.data,
            run,
            seed=experiment.seed,
            device=device,
            resume=resume,
            overwrite=overwrite,
            workers=loader_processes(recipe, workers),
            report=log,
            validate=_validation(experiment, workers) if recipe.schedule.evaluate_every else None,
        )
    if first:
        reporter.message(f"trained: {run.last}")


def training_progress(experiment: Experiment) -> TrainingProgress:
    """How far this recipe has been trained with this seed in the run folder."""
    run = experiment.run
    if not run.last.exists():
        return "nothing"
    content = checkpoint.load(run.last)
    if (content["hash"], content["seed"]) != (experiment.recipe.hash, experiment.seed):
        return "nothing"
    return "trained" if content["step"] == run.card.get("steps") else "begun"


def _scaled_rate(experiment: Experiment) -> str:
    """What the linear rule makes of the learning rate, where the batch is not the one that it is meant for."""
    schedule = experiment.recipe.schedule
    optimiser = schedule.optimiser
    if schedule.batch == optimiser.lr_batch:
        return ""
    rate = schedule.scaled(optimiser.lr)
    return f"lr {optimiser.lr:g} for batch {optimiser.lr_batch} -> {rate:g} for batch {schedule.batch} (linear rule)"


def _validation(experiment: Experiment, workers: int | None) -> Callable[[Detector], float]:
    """AP of a detector by the recipe's own rule, for the choice of the best checkpoint."""
    recipe, rule = experiment.recipe, experiment.recipe.rule
    annotations = open_split(recipe, experiment.data, recipe.data.eval)

    def validate(detector: Detector) -> float:
        device = next(detector.parameters()).device
        processes = loader_processes(recipe, workers)
        predictions = predict(recipe, detector, annotations, [rule], device=device, workers=processes)
        file = experiment.run.path / GROUND_TRUTH
        write_ground_truth(annotations, file)
        return ap_metrics(evaluate_ap(read_ground_truth(file), predictions.detections[rule]))["AP"]

    return validate
