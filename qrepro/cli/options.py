"""Options that several commands share, and the way from them to a recipe, its data and its run folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qrepro.engine.run import Run
    from qrepro.recipe import Recipe

Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        help="On what and how long: coco, voc (the papers' own), bccd, shapes, coco_mini, or a YAML file.",
    ),
]
DataDir = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data set. \\[default: $QREPRO_DATA/NAME or data/NAME]")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override of a recipe value, such as schedule.batch=8; repeatable.")
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Shorten the whole schedule to so many optimiser steps.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of initialisation, data order and augmentation.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:N. \\[default: a GPU where there is one]")
]
Out = Annotated[Path, typer.Option("--out", help="Folder of results.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=0, help="Processes that read pictures. \\[default: none for cached data, else 2 a device]"
    ),
]

OracleIoU = Annotated[
    bool, typer.Option("--oracle-iou", help="Also rank by the true IoU of each box in place of its estimate.")
]
Alphas = Annotated[
    list[str] | None,
    typer.Option("--alpha", help="Alphas of p^a u^(1-a): 0.5, 0.3,0.5 or first:last:step; repeatable."),
]
Engine = Annotated[
    str | None, typer.Option("--engine", help="hotcoco or pycocotools. \\[default: hotcoco where it is installed]")
]

RESULTS = Path("results")


@dataclass(frozen=True)
class Choice:
    """What a command works on."""

    recipe: Recipe
    run: Run
    data: Path
    seed: int


def choose(
    name: str,
    profile: str = "coco",
    overrides: list[str] | None = None,
    steps: int | None = None,
    seed: int = 0,
    data: Path | None = None,
    out: Path = RESULTS,
) -> Choice:
    """The recipe of a name, or of a run folder (which then says profile, overrides and seed itself)."""
    from qrepro.engine.run import Run, folder
    from qrepro.recipe import checked, resolve

    if (Path(name) / "run.json").is_file():
        run = Run(Path(name))
        card = run.read_card()
        recipe = checked(card["values"], str(run.card))
        return Choice(recipe, run, data_folder(recipe.data.name, data), card["seed"])
    changes = [*(overrides or []), *([f"schedule.shorten={steps}"] if steps else [])]
    recipe = resolve(name, profile, changes)
    return Choice(recipe, Run(folder(out, recipe, seed)), data_folder(recipe.data.name, data), seed)


def data_folder(name: str, given: Path | None) -> Path:
    """Where a data set lies."""
    return given or Path(os.environ.get("QREPRO_DATA", "data")) / name


def reading_processes(recipe: Recipe, workers: int | None) -> int:
    """Loader processes: none where pictures are kept in memory, because each process would keep its own."""
    if workers is not None:
        return workers
    return 0 if recipe.data.cache else 2


def numbers(text: str, option: str) -> list[float]:
    """Numbers of `0.5`, `0.3,0.5` or `first:last:step`, both ends included; `option` is named in the message."""
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        first, last, step = (float(part) for part in text.split(":"))
        if step <= 0 or last < first:
            raise ValueError
        return [round(first + i * step, 6) for i in range(int((last - first) / step + 1e-6) + 1)]
    except ValueError:
        raise ValueError(f"{option} {text}: must look like 0.5, 0.3,0.5 or 0.3:1.0:0.1") from None


def file_name(text: str) -> str:
    """Text as part of a file name: no slashes, spaces or other characters that file systems dislike."""
    return re.sub(r"[^\w.+@-]+", "-", text)
