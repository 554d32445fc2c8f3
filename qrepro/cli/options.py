"""Options that several commands share: each is declared once, and means the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qrepro.metrics.detection_sets import Sources

RESULTS = Path("results")

# -- experiments ---------------------------------------------------------------------------------------------

Recipe = Annotated[str, typer.Argument(help="Recipe name (see `qrepro recipes list`) or YAML file.")]
RecipeOrRun = Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="Recipe name, YAML file, or run folder.")]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        help="Data and schedule: coco, voc (the papers' own), bccd, shapes, coco_mini, or a YAML file.",
    ),
]
AnyProfile = Annotated[
    str | None,
    typer.Option("--profile", "-p", help="Data and schedule, such as shapes. \\[default: the paper's own]"),
]
DataDir = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data set. \\[default: $QREPRO_DATA/NAME or data/NAME]")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override of a recipe value, such as schedule.batch=8; repeatable.")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Length of the whole schedule in optimiser steps.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of whatever is random here.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:N. \\[default: a GPU where there is one]")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=0, help="Processes that read images. \\[default: none for cached data, else 2 a device]"
    ),
]
Results = Annotated[Path, typer.Option("--results", help="Folder of the run folders.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")]
Checkpoint = Annotated[Path | None, typer.Option("--checkpoint", help="Weights. \\[default: the last ones of the run]")]

# -- evaluation ----------------------------------------------------------------------------------------------

OracleIoU = Annotated[
    bool, typer.Option("--oracle-iou", help="Also rank by the true IoU of each box in place of its estimate.")
]
Alphas = Annotated[
    list[str] | None,
    typer.Option("--alpha", help="Alphas of p^a u^(1-a): 0.5, 0.3,0.5 or first:last:step; repeatable."),
]
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        help="Score rule: class, product, power-ALPHA or module:Class, also behind oracle[-WHAT][@WHERE][+zero]-; "
        "where results are read also `all`; repeatable. \\[default: the recipe's own]",
    ),
]
Engine = Annotated[
    str | None, typer.Option("--engine", help="hotcoco or pycocotools. \\[default: hotcoco where it is installed]")
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split of the data set. \\[default: the profile's; of a VOC folder test, val or all]"),
]

# -- analyses ------------------------------------------------------------------------------------------------

Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[RUN|FILE]...",
        help="Run folders, folders that hold some, or result files of any detector (COCO .json, .json.gz, Parquet, or "
        "MMDetection's folder of JSON files). \\[default: all runs in RESULTS]",
    ),
]
RunPaths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUN]...", help="Run folders, or folders that hold some. \\[default: all in RESULTS]"),
]
Annotations = Annotated[
    Path | None,
    typer.Option("--annotations", help="Ground truth of result files: COCO file (.json, .json.gz) or VOC folder."),
]
Classes = Annotated[
    str | None, typer.Option("--classes", help="Classes of a VOC folder in the order of their ids: A,B,C.")
]
ClassesFrom = Annotated[
    int | None,
    typer.Option(
        "--classes-from",
        min=0,
        max=1,
        help="Result files count the categories of the annotations from 0 or 1. \\[default: they have their ids]",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Where this command writes. \\[default: in RESULTS or RUN]")]
ScoreThr = Annotated[
    float | None, typer.Option("--score-thr", help="Score threshold: boxes of a score below it are left out.")
]
MaxDets = Annotated[int, typer.Option("--max-dets", min=1, help="Detections per image (and class) that count.")]
Tau = Annotated[float | None, typer.Option("--tau", help="IoU of a true positive.")]
Draws = Annotated[int, typer.Option("--draws", min=10, help="Draws of the bootstrap over images.")]
Number = Annotated[int, typer.Option("--number", min=1, help="Images that are drawn.")]
Images = Annotated[Path | None, typer.Option("--images", help="Folder of the images of the ground truth.")]
Size = Annotated[str | None, typer.Option("--size", help="Height x width of images in pixels, such as 800x1333.")]

# -- tables and claims ---------------------------------------------------------------------------------------

Which = Annotated[
    str | None,
    typer.Argument(metavar="[PAPER[/TABLE]]", help="Such as vfnet or vfnet/oracle, or a folder. \\[default: all]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def sources(
    paths: list[Path] | None,
    annotations: Path | None,
    split: str | None,
    classes: str | None,
    classes_from: int | None,
    results: Path,
) -> Sources:
    """What the analyses are of, from their options."""
    from qrepro.metrics.detection_sets import Sources

    return Sources(paths or (), results, annotations, split, classes.split(",") if classes else None, classes_from)


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


def alphas(texts: list[str] | None) -> list[float]:
    """Numbers of every `--alpha`."""
    return [alpha for text in texts or [] for alpha in numbers(text, "--alpha")]


def image_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of `800x1333`."""
    if text is None:
        return None
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(f"--size {text}: must look like 800x1333, height x width in pixels")
    return int(height), int(width)


def area_sides(text: str, option: str) -> tuple[float, float]:
    """The two sides in px that part small, medium and large objects: by name, or as LOW,HIGH."""
    from qrepro.metrics.area_ranges import SIZES, areas

    try:
        low, high = SIZES[text] if text in SIZES else map(float, text.split(","))
        areas((low, high))
    except ValueError:
        allowed = f"{', '.join(SIZES)} or two increasing sides in px, such as 64,192"
        raise ValueError(f"{option} {text}: allowed are {allowed}") from None
    return low, high


def scale_bins(text: str, option: str) -> Callable[[Any], Any]:
    """How sides of objects are parted into bins of scale, as a function of the sides that gives the edges."""
    from qrepro.metrics.positives_by_scale import quantile_edges, regular_edges

    ways = {"": regular_edges, "quantile": quantile_edges}
    way, _, number = text.rpartition(":")
    try:
        if "," in text:
            edges = [float(part) for part in text.split(",")]
            return lambda side: edges
        return partial(ways[way], bins=int(number))
    except (KeyError, ValueError):
        raise ValueError(f"{option} {text}: must look like 16, quantile:16 or 0,32,96,320") from None


def key_values(texts: list[str] | None, option: str) -> dict[str, str]:
    """Pairs of `key=value,key=value`."""
    pairs = {}
    for part in (part for text in texts or [] for part in text.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ValueError(f"{option} {part}: must look like partition=gpu,gpus_per_node=8")
        pairs[key.strip()] = value.strip()
    return pairs
