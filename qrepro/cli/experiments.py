"""`qrepro train`, `eval`, `rescore`, `demo`, `export`, `import`: one experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from qrepro.cli import options as o

if TYPE_CHECKING:
    from qrepro.experiments.evaluation import Evaluation


def demo(results: o.Results = o.RESULTS, data: o.DataDir = None, device: o.Device = None) -> None:
    """Make data, train ATSS without and with an IoU branch, and GFLv2; evaluate with the oracle; tables and report."""
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.demo import demo

    demo(results=results, data=data, device=device, reporter=terminal)


def train(
    recipe: o.Recipe,
    profile: o.Profile = "coco",
    data: o.DataDir = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    seed: o.Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")] = False,
    overwrite: o.Overwrite = False,
    device: o.Device = None,
    workers: o.Workers = None,
    results: o.Results = o.RESULTS,
) -> None:
    """Train a recipe. On several GPUs: torchrun --nproc-per-node K -m qrepro train ..."""
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.experiment import open_experiment
    from qrepro.experiments.training import train

    experiment = open_experiment(recipe, profile, overrides or (), steps=steps, seed=seed, data=data, results=results)
    train(experiment, resume=resume, overwrite=overwrite, device=device, workers=workers, reporter=terminal)


def evaluate(
    recipe: o.RecipeOrRun,
    checkpoint: o.Checkpoint = None,
    oracle: o.OracleIoU = False,
    alpha: o.Alphas = None,
    rule: o.Rules = None,
    split: o.Split = None,
    save_candidates: Annotated[
        bool, typer.Option("--save-candidates", help="Store candidates before NMS for `qrepro rescore`.")
    ] = False,
    stored_thr: Annotated[
        float, typer.Option("--stored-thr", help="Store candidates of a class score above this.")
    ] = 0.001,
    stored_limit: Annotated[
        int, typer.Option("--stored-limit", min=0, help="Store at most so many candidates an image; 0 for all.")
    ] = 10_000,
    export: Annotated[
        bool, typer.Option("--export", help="Write the file that COCO's server takes, by the recipe's own rule.")
    ] = False,
    engine: o.Engine = None,
    profile: o.Profile = "coco",
    data: o.DataDir = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    workers: o.Workers = None,
    results: o.Results = o.RESULTS,
) -> None:
    """Evaluate a trained recipe: detections and metrics by every score rule, from one network pass."""
    from qrepro.cli.terminal import terminal
    from qrepro.engine.candidates import CandidateFilter
    from qrepro.experiments.evaluation import evaluate
    from qrepro.experiments.experiment import open_experiment

    evaluation = evaluate(
        open_experiment(recipe, profile, overrides or (), steps=steps, seed=seed, data=data, results=results),
        rule or (),
        alphas=o.alphas(alpha),
        oracle=oracle,
        checkpoint=checkpoint,
        split=split,
        keep_candidates=CandidateFilter(stored_thr, stored_limit or None) if save_candidates else None,
        submission=export,
        engine=engine,
        device=device,
        workers=workers,
        reporter=terminal,
    )
    show_evaluation(evaluation)


def rescore(
    run: Annotated[Path, typer.Argument(help="Run folder that was evaluated with --save-candidates.")],
    oracle: o.OracleIoU = False,
    alpha: o.Alphas = None,
    rule: o.Rules = None,
    score_thr: o.ScoreThr = None,
    nms: Annotated[
        float | None, typer.Option("--nms", min=0, max=1, help="IoU above which boxes suppress each other.")
    ] = None,
    soft: Annotated[str | None, typer.Option("--soft", help="Soft-NMS: linear or gaussian.")] = None,
    sigma: Annotated[float | None, typer.Option("--sigma", help="Sigma of Gaussian Soft-NMS.")] = None,
    max_per_img: Annotated[int | None, typer.Option("--max-per-img", min=1, help="Detections an image.")] = None,
    nms_pre: Annotated[int | None, typer.Option("--nms-pre", min=1, help="Candidates a pyramid level.")] = None,
    split: o.Split = None,
    engine: o.Engine = None,
    out: o.Out = None,
) -> None:
    """Rank stored candidates again: what --score-thr and the like leave open is as in the recipe.

    The result equals that of `qrepro eval` wherever nothing that was not stored could rank; it says where not.
    """
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.experiment import open_experiment
    from qrepro.experiments.rescoring import rescore

    changes: dict[str, Any] = {"score_thr": score_thr, "iou_thr": nms, "suppression": soft, "sigma": sigma}
    changes |= {"max_per_img": max_per_img, "nms_pre": nms_pre}
    evaluation = rescore(
        open_experiment(str(run)),
        rule or (),
        alphas=o.alphas(alpha),
        oracle=oracle,
        postprocess={name: value for name, value in changes.items() if value is not None},
        split=split,
        engine=engine,
        out=out,
        reporter=terminal,
    )
    show_evaluation(evaluation)


def export(
    run: o.RecipeOrRun,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="safetensors: the weights that are evaluated, with the recipe; coco: detections as a COCO result "
            "list; torch (.pt2), onnx: the network up to class, box and quality outputs and decoded boxes.",
        ),
    ],
    out: o.Out = None,
    rule: o.Rules = None,
    split: o.Split = None,
    size: o.Size = None,
    checkpoint: o.Checkpoint = None,
    profile: o.Profile = "coco",
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    seed: o.Seed = 0,
    results: o.Results = o.RESULTS,
) -> None:
    """Write a run's weights, detections or network for other programs, checked against our own before it is there."""
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.experiment import open_experiment
    from qrepro.experiments.exporting import Format, export

    if out and len(rule or ()) > 1:
        raise ValueError(f"--out {out}: is one file, --rule names {len(rule or ())}")
    side = o.image_size(size)
    experiment = open_experiment(run, profile, overrides or (), steps=steps, seed=seed, results=results)
    form = cast(Format, to)  # checked there
    for name in rule or (None,):
        terminal.message(export(experiment, form, out, rule=name, split=split, size=side, checkpoint=checkpoint))


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint of MMDetection 2 or 3, GFocalV2 or VarifocalNet, or .safetensors of `qrepro export`."
        ),
    ],
    recipe: Annotated[str | None, typer.Option("--recipe", help="What it is. \\[default: recognised]")] = None,
    overrides: o.Overrides = None,
    out: o.Out = None,
    overwrite: o.Overwrite = False,
    results: o.Results = o.RESULTS,
) -> None:
    """Read a checkpoint of another project, executing nothing in it, so that `qrepro eval` can rank its boxes."""
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.experiment import file_name
    from qrepro.interop.importing import import_checkpoint

    folder = out or results / "imported" / file_name(file.stem)
    imported = import_checkpoint(file, folder, recipe, overrides, overwrite=overwrite)
    terminal.message(f"{file}: {imported.recipe.name}, hash {imported.recipe.hash}")
    for change in imported.recipe.overrides:
        terminal.message(f"  set {change}")
    if imported.unused:
        terminal.message(f"  not used: {', '.join(imported.unused)}")
    terminal.message(f"wrote {folder}; next: qrepro eval {folder} --oracle-iou --data COCO")


def show_evaluation(evaluation: Evaluation) -> None:
    """The table of an evaluation, and where it lies."""
    from qrepro.cli.terminal import ap_table, terminal

    ap_table(evaluation.metrics["rules"], evaluation.title)
    if voc := evaluation.metrics["voc"]:
        terminal.table([{"rule": name, **row} for name, rows in voc.items() for row in rows], "VOC mAP")
    terminal.message(f"wrote {evaluation.folder}")
