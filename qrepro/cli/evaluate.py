"""`qrepro eval`: one pass, every rule asked for, AP beside AP with the true IoU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qrepro.cli import options as o

if TYPE_CHECKING:
    from qrepro.quality import Rule


def evaluate(
    recipe: Annotated[str, typer.Argument(help="Recipe name, YAML file, or the folder of a run.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Weights to evaluate. [default: the run's last.pt]")
    ] = None,
    oracle: Annotated[
        bool, typer.Option("--oracle-iou", help="Also rank by the true IoU of each box in place of its estimate.")
    ] = False,
    alpha: Annotated[
        list[str] | None,
        typer.Option("--alpha", help="Alphas of p^a u^(1-a): 0.5, 0.3,0.5 or first:last:step; repeatable."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="class, product, power-ALPHA, or oracle- before the last two; repeatable."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split to evaluate on. [default: the profile's]")] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="hotcoco or pycocotools. [default: hotcoco where it is installed]")
    ] = None,
    profile: o.Profile = "coco",
    data: o.DataDir = None,
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    workers: o.Workers = None,
    out: o.Out = o.RESULTS,
) -> None:
    """Evaluate a trained recipe: detections and metrics by every scoring rule, from one network pass."""
    choice = o.choose(recipe, profile, overrides, steps, seed, data, out)
    evaluate_choice(
        choice,
        checkpoint=checkpoint,
        oracle=oracle,
        alphas=alpha,
        names=rule,
        split=split,
        engine=engine,
        device=device,
        workers=workers,
    )


def evaluate_choice(
    choice: o.Choice,
    *,
    checkpoint: Path | None = None,
    oracle: bool = False,
    alphas: list[str] | None = None,
    names: list[str] | None = None,
    split: str | None = None,
    engine: str | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> None:
    """Predict, write detections, positives and metrics into the run folder, and print the table."""
    from analysis.ap import choose_engine
    from analysis.summary import summarise
    from analysis.truths import read_truths
    from qrepro.cli import show
    from qrepro.engine.atomic import write_text
    from qrepro.engine.checkpoint import restore_detector
    from qrepro.engine.distributed import pick
    from qrepro.engine.pictures import open_split
    from qrepro.engine.predict import predict, write_frame, write_truths

    recipe, run = choice.recipe, choice.run
    engine = choose_engine(engine)
    rules = asked_rules(recipe.quality.kind != "none", recipe.score, oracle, alphas or [], names or [])
    weights = checkpoint or run.last
    if not weights.is_file():
        raise ValueError(
            f"checkpoint {weights}: no such file; train it with `qrepro train {recipe.name} --profile {recipe.profile}`"
        )
    detector, step = restore_detector(recipe, weights)
    annotations = open_split(recipe, choice.data, split or recipe.data.eval)
    with show.counting("evaluating", len(annotations)) as report:
        outputs = predict(
            recipe,
            detector,
            annotations,
            rules,
            device=pick(device),
            workers=o.reading_processes(recipe, workers),
            report=report,
        )
    detections, positives = outputs.frames()
    folder = run.path if split in (None, recipe.data.eval) else run.path / f"split-{split.replace('/', '-')}"
    if not run.card.exists():
        run.write_card(recipe, choice.seed, checkpoint=str(weights))
    write_truths(annotations, folder / "truths.json")
    write_frame(positives, folder / "positives.parquet")
    for stale in (folder / "detections").glob("*.parquet"):
        stale.unlink()  # of an earlier evaluation, perhaps of other weights
    for name, frame in detections.items():
        write_frame(frame, folder / "detections" / f"{name}.parquet")
    metrics = {
        "recipe": recipe.name,
        "profile": recipe.profile,
        "split": annotations.name,
        "images": len(annotations),
        "checkpoint": str(weights),
        "step": step,
        **summarise(read_truths(folder / "truths.json"), detections, engine),
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1))
    show.ap_table(metrics["rules"], f"{recipe.name} on {annotations.name}, {len(annotations)} images, {engine}")
    if recipe.data.format == "voc":
        shown = {f"{rule}, {kind}": values for rule, kinds in metrics["voc"].items() for kind, values in kinds.items()}
        show.ap_table(shown, "VOC mAP")
    show.console.print(f"wrote {folder}", soft_wrap=True)


def asked_rules(estimates: bool, own: str, oracle: bool, alphas: list[str], names: list[str]) -> list[Rule]:
    """The scoring rules to evaluate, without repeats: those named, or the class score and the detector's own.

    estimates: whether the detector has a quality of its own; own: the recipe's rule; oracle: each power and product
    also with the true IoU.
    """
    from qrepro.quality import Rule

    powers = [Rule("power", a) for text in alphas for a in parse_alphas(text)]
    asked = [Rule.parse(name) for name in names]
    if not asked:
        asked = [Rule(), Rule.parse(own), *([Rule("product")] if estimates else [])]
    if estimates:
        asked += powers
    elif powers and not oracle:
        raise ValueError(
            "--alpha: this detector has no quality estimate; with --oracle-iou the alphas weigh the true IoU"
        )
    if oracle:
        asked += [Rule(r.kind, r.alpha, oracle=True) for r in [Rule("product"), *asked, *powers] if r.kind != "class"]
    if not estimates and (needless := [r.name for r in asked if not r.oracle and r.kind != "class"]):
        raise ValueError(f"--rule {needless[0]}: this detector has no quality estimate")
    return list(dict.fromkeys(asked))


def parse_alphas(text: str) -> list[float]:
    """Alphas of `0.5`, `0.3,0.5` or `first:last:step`, both ends included."""
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        first, last, step = (float(part) for part in text.split(":"))
        if step <= 0 or last < first:
            raise ValueError
        return [round(first + i * step, 6) for i in range(int((last - first) / step + 1e-6) + 1)]
    except ValueError:
        raise ValueError(f"--alpha {text}: must look like 0.5, 0.3,0.5 or 0.3:1.0:0.1") from None
