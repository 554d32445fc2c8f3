"""`qrepro eval`: one pass, every rule asked for, AP beside AP with the true IoU."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qrepro.cli import options as o

if TYPE_CHECKING:
    import pandas as pd

    from qrepro.quality import Rule
    from qrepro.recipe import Recipe
    from qrepro.records.ground_truth import Truths


def evaluate(
    recipe: Annotated[str, typer.Argument(help="Recipe name, YAML file, or the folder of a run.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Weights to evaluate. \\[default: the run's last.pt]")
    ] = None,
    oracle: o.OracleIoU = False,
    alpha: o.Alphas = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            help="class, product or power-ALPHA; with truth in the place of an output: oracle[-WHAT][@WHERE][+zero]- "
            "before it, WHAT iou, centerness, box, class or class_iou, WHERE nearest or positives (the assigner's), "
            "+zero: scores that are not overwritten become 0. Repeatable.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Split to evaluate on. \\[default: the profile's]")
    ] = None,
    save_candidates: Annotated[
        bool, typer.Option("--save-candidates", help="Store candidates before NMS for `qrepro rescore`.")
    ] = False,
    floor: Annotated[float, typer.Option("--floor", help="Store candidates of a class score above this.")] = 0.001,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Store at most so many candidates an image; 0 for all.")
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
        store=(floor, limit) if save_candidates else None,
        export=export,
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
    store: tuple[float, int] | None = None,
    export: bool = False,
    engine: str | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> None:
    """Predict, write detections, positives and metrics into the run folder, and print the table.

    store: floor of class score and limit an image (0: none) of the candidates to store; export: write the file for
    COCO's evaluation server too.
    """
    from qrepro.cli import show
    from qrepro.engine.candidates import Floor
    from qrepro.engine.checkpoint import restore_detector
    from qrepro.engine.datasets import open_split
    from qrepro.engine.distributed import pick
    from qrepro.engine.predict import predict, write_frame, write_truths
    from qrepro.interop.export import write_submission
    from qrepro.metrics.coco_ap import choose_engine
    from qrepro.records.ground_truth import read_truths

    recipe, run = choice.recipe, choice.run
    engine = choose_engine(engine)
    rules = asked_rules(recipe.estimates, recipe.score, oracle, alphas or [], names or [])
    if export and recipe.score not in [asked.name for asked in rules]:
        raise ValueError(f"--export: the recipe's own rule {recipe.score} is not among those asked for")
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
            store=Floor(store[0], store[1] or None) if store else None,
            report=report,
        )
    folder = run.folder(split, recipe)
    if not run.card.exists():
        run.write_card(recipe, choice.seed, checkpoint=str(weights))
    about = {"checkpoint": str(weights), "step": step}
    if outputs.stored:
        outputs.stored.write(folder / "candidates.parquet")
    elif not _same_weights(folder / "metrics.json", about):
        (folder / "candidates.parquet").unlink(missing_ok=True)
    write_truths(annotations, folder / "truths.json")
    write_frame(outputs.positives, folder / "positives.parquet")
    write_frame(outputs.matches, folder / "matches.parquet")
    (folder / "distributions.parquet").unlink(missing_ok=True)
    if outputs.distributions is not None:
        write_frame(outputs.distributions, folder / "distributions.parquet")
    about |= {"split": annotations.name, "images": len(annotations)}
    if export:
        zipped = write_submission(folder, split or recipe.data.eval, recipe.name, outputs.detections[recipe.score])
        show.console.print(f"wrote {zipped} for COCO's evaluation server", soft_wrap=True, highlight=False)
    publish(folder, outputs.detections.items(), recipe, read_truths(folder / "truths.json"), about, engine)


def publish(
    folder: Path,
    detections: Iterable[tuple[str, pd.DataFrame]],
    recipe: Recipe,
    truths: Truths,
    about: dict[str, Any],
    engine: str | None,
) -> None:
    """Write detections by rule and their metrics into a folder, in place of earlier ones, and print the table."""
    from qrepro.cli import show
    from qrepro.engine.predict import write_frame
    from qrepro.metrics.summary import summarise
    from qrepro.records.atomic import write_text

    written = set()

    def writing() -> Iterator[tuple[str, pd.DataFrame]]:
        for name, frame in detections:
            path = folder / "detections" / f"{name}.parquet"
            write_frame(frame, path)
            written.add(path)
            yield name, frame

    voc = recipe.data.format == "voc"
    summary = summarise(truths, writing(), engine, voc)
    for stale in set((folder / "detections").glob("*.parquet")) - written:
        stale.unlink()  # of an earlier evaluation, perhaps of other weights
    metrics = {"recipe": recipe.name, "profile": recipe.profile, **about, **summary}
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1))
    title = f"{recipe.name} on {about['split']}, {about['images']} images, {summary['engine']}"
    show.ap_table(summary["rules"], title)
    if voc:
        show.table([{"rule": name, **row} for name, rows in summary["voc"].items() for row in rows], "VOC mAP")
    show.console.print(f"wrote {folder}", soft_wrap=True)


def _same_weights(metrics: Path, about: dict[str, Any]) -> bool:
    """Whether the metrics of a folder are of the same weights."""
    if not metrics.is_file():
        return False
    before = json.loads(metrics.read_text(encoding="utf-8"))
    return all(before.get(name) == value for name, value in about.items())


def asked_rules(estimates: bool, own: str, oracle: bool, alphas: list[str], names: list[str]) -> list[Rule]:
    """The scoring rules to evaluate, without repeats: those named, or the class score and the detector's own.

    estimates: whether the detector has a quality of its own; own: the recipe's rule; oracle: each power and product
    also with the true IoU.
    """
    from qrepro.quality import Oracle, Rule

    powers = [Rule("power", a) for text in alphas for a in o.numbers(text, "--alpha")]
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
        blended = [r for r in [Rule("product"), *asked, *powers] if r.kind != "class" and not r.oracle]
        asked += [Rule(r.kind, r.alpha, Oracle()) for r in blended]
    if not estimates and (needless := [r.name for r in asked if r.needs_estimate]):
        raise ValueError(f"--rule {needless[0]}: this detector has no quality estimate")
    return list(dict.fromkeys(asked))
