"""`qrepro rescore`: any rule and any suppression from stored candidates, without the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qrepro.cli import options as o

if TYPE_CHECKING:
    import pandas as pd

    from qrepro.engine.candidates import Stored
    from qrepro.postprocess import PostProcess
    from qrepro.quality import Rule


def rescore(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was evaluated with --save-candidates.")],
    oracle: o.OracleIoU = False,
    alpha: o.Alphas = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="class, product, power-ALPHA, oracle-product ...; repeatable.")
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", min=0, max=1, help="On the fused score.")] = None,
    nms: Annotated[float | None, typer.Option("--nms", min=0, max=1, help="IoU above which boxes compete.")] = None,
    soft: Annotated[str | None, typer.Option("--soft", help="Soft-NMS: linear or gaussian.")] = None,
    sigma: Annotated[float | None, typer.Option("--sigma", help="Of Gaussian Soft-NMS.")] = None,
    keep: Annotated[int | None, typer.Option("--keep", min=1, help="Detections an image.")] = None,
    per_level: Annotated[int | None, typer.Option("--per-level", min=1, help="Candidates a pyramid level.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Split that was evaluated. \\[default: the profile's]")
    ] = None,
    engine: o.Engine = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to. \\[default: RUN/rescored/SETTINGS]")
    ] = None,
) -> None:
    """Rank stored candidates again: what --threshold and the like leave open is as in the recipe.

    The result equals that of `qrepro eval` wherever nothing below the stored floor could rank; it says where not.
    """
    import torch

    from qrepro.cli import show
    from qrepro.cli.evaluate import asked_rules, publish
    from qrepro.engine.candidates import Stored
    from qrepro.recipe import checked
    from qrepro.recipe.build import build_postprocess
    from qrepro.recipe.load import merge
    from qrepro.records.ground_truth import read_truths

    torch.set_num_threads(1)  # a picture's candidates are few: sharing them out costs three times their work
    choice = o.choose(str(run))
    folder = choice.run.folder(split, choice.recipe)
    stored = Stored.read(folder / "candidates.parquet")
    rules = asked_rules(stored.has_estimate, choice.recipe.score, oracle, alpha or [], rule or [])
    changes = {"threshold": threshold, "nms": nms, "suppression": soft, "sigma": sigma, "keep": keep}
    changes = {name: value for name, value in {**changes, "per_level": per_level}.items() if value is not None}
    recipe = checked(merge(choice.recipe.values(), {"postprocess": changes}), "rescore")
    postprocess = build_postprocess(recipe)
    settings = ",".join(f"{name}={value}" for name, value in changes.items()) or "as-evaluated"
    target = out or folder / "rescored" / settings
    truths = read_truths(folder / "truths.json")
    certain: dict[str, int] = {}
    with show.counting("rescoring", len(rules) * len(stored.floors)) as report:
        detections = _ranked(stored, rules, postprocess, certain, report)
        about = {"split": choice.recipe.data.eval if split is None else split, "images": len(stored.floors)}
        about |= {"postprocess": vars(postprocess), "certain": certain}
        publish(target, detections, recipe, truths, about, engine)
    for name, count in certain.items():
        if count < len(stored.floors):
            show.console.print(
                f"{name}: in {len(stored.floors) - count} of {len(stored.floors)} images a candidate below the stored "
                "floor could rank; `qrepro eval` with a lower --floor, or none, settles it",
                soft_wrap=True,
            )


def _ranked(
    stored: Stored,
    rules: list[Rule],
    postprocess: PostProcess,
    certain: dict[str, int],
    report: Callable[[int], None],
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Detections by rule, one after the other; `certain` collects in how many images they are those of `eval`."""
    from qrepro.engine.candidates import rescore as rank

    for rule, found in rank(stored, rules, postprocess, report):
        certain[rule.name] = len(found.certain)
        yield rule.name, found.detections
