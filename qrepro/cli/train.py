"""`qrepro train`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from qrepro.cli import options as o

if TYPE_CHECKING:
    from qrepro.detector import Detector


def train(
    recipe: Annotated[str, typer.Argument(help="Name (see `qrepro recipes list`) or YAML file.")],
    profile: o.Profile = "coco",
    data: o.DataDir = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    seed: o.Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    device: o.Device = None,
    workers: o.Workers = None,
    out: o.Out = o.RESULTS,
) -> None:
    """Train a recipe. On several GPUs: torchrun --nproc-per-node K -m qrepro train ..."""
    choice = o.choose(recipe, profile, overrides, steps, seed, data, out)
    train_choice(choice, resume=resume, overwrite=overwrite, device=device, workers=workers)


def train_choice(
    choice: o.Choice,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    workers: int | None = None,
) -> None:
    """Train what was chosen, reporting to the terminal of the first process."""
    import os
    from contextlib import nullcontext

    from qrepro.cli import show
    from qrepro.engine.train import train as run_training

    recipe, values = choice.recipe, choice.recipe.schedule
    first = os.environ.get("RANK", "0") == "0"
    if resume and not choice.run.last.exists():
        raise ValueError(f"--resume: {choice.run.last} does not exist; leave --resume out to start")
    if first:
        show.console.print(
            f"{recipe.name} on {recipe.profile}, seed {choice.seed}, hash {recipe.hash} -> {choice.run.path}",
            soft_wrap=True,
        )
        if (batch := values.batch) != (meant := values.optimiser.lr_batch):
            lr = values.optimiser.lr
            show.console.print(f"lr {lr:g} for batch {meant} -> {lr * batch / meant:g} for batch {batch} (linear rule)")
    with show.training(recipe.name) if first else nullcontext(lambda record: None) as report:
        run_training(
            recipe,
            choice.data,
            choice.run,
            seed=choice.seed,
            device=device,
            resume=resume,
            overwrite=overwrite,
            workers=o.reading_processes(recipe, workers),
            report=report,
            evaluate=_judge(choice, workers) if values.evaluate_every else None,
        )
    if first:
        show.console.print(f"trained: {choice.run.last}", soft_wrap=True)


def _judge(choice: o.Choice, workers: int | None) -> Callable[[Detector], float]:
    """AP of a model by the recipe's own rule, for the choice of the best checkpoint."""
    from qrepro.engine.datasets import open_split
    from qrepro.engine.predict import predict, write_truths
    from qrepro.metrics.coco_ap import ap_metrics, evaluate
    from qrepro.quality import Rule
    from qrepro.records.ground_truth import read_truths

    recipe = choice.recipe
    annotations = open_split(recipe, choice.data, recipe.data.eval)
    rule = Rule.parse(recipe.score)

    def judge(model: Detector) -> float:
        device = next(model.parameters()).device
        outputs = predict(
            recipe, model, annotations, [rule], device=device, workers=o.reading_processes(recipe, workers)
        )
        truths = choice.run.path / "truths.json"
        write_truths(annotations, truths)
        return ap_metrics(evaluate(read_truths(truths), outputs.detections[rule.name]))["AP"]

    return judge
