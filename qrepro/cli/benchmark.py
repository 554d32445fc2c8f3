"""`qrepro benchmark`: where the time of a detector goes, or how long the analyses take on a set of val2017's size."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qrepro.cli import options as o

if TYPE_CHECKING:
    from qrepro.experiments.timing import Setting
    from qrepro.recipe import Recipe

ALPHAS = [f"{tenth / 10:g}" for tenth in range(11)]
RUN, TARGET = "run", "written"
DETECTORS, ANALYSES = "detectors (with RECIPES)", "analyses (without RECIPES)"  # groups of options in --help

_of_detectors, _of_analyses = (partial(typer.Option, rich_help_panel=panel) for panel in (DETECTORS, ANALYSES))


@dataclass(frozen=True)
class Task:
    """A command on the made-up files, and how many seconds it may take at full size on two cores."""

    name: str
    arguments: list[str]
    aim: float


def tasks(engine: str | None) -> list[Task]:
    """What is timed, in a folder that holds truths.json, a.json, b.json and a run."""
    files = ["--annotations", "truths.json", "--out", TARGET]
    rules = [part for alpha in ALPHAS for kind in ("power", "oracle-power") for part in ("--rule", f"{kind}-{alpha}")]
    moments = ["--statistics", "pearson,concordance,bias,slope"]
    chosen = ["--engine", engine] if engine else []
    return [
        Task("analyze ap", ["analyze", "ap", "--detections", "a.json", *files, *chosen], 2.5),
        Task("rescore by 22 rules", ["rescore", RUN, *rules, "--out", TARGET, *chosen], 240),
        Task("analyze pcc", ["analyze", "pcc", RUN, *moments, "--out", TARGET], 5),
        Task("analyze pcc, all statistics", ["analyze", "pcc", RUN, "--out", TARGET], 60),
        Task("analyze compare", ["analyze", "compare", "a.json", "b.json", "--draws", "1000", *files], 40),
        Task("analyze calibration", ["analyze", "calibration", "--detections", "a.json", *files], 15),
        Task("analyze lrp", ["analyze", "lrp", "--detections", "a.json", *files], 5),
    ]


def benchmark(
    context: typer.Context,
    recipes: Annotated[
        list[str] | None, typer.Argument(help="Detectors to time, by name or YAML file; none: the analyses.")
    ] = None,
    profile: Annotated[str, _of_detectors("--profile", "-p", help="Profile of the recipes.")] = "coco",
    overrides: Annotated[
        list[str] | None, _of_detectors("--set", help="Override of a recipe value; repeatable.")
    ] = None,
    batch: Annotated[int, _of_detectors("--batch", min=1, help="Pictures of a training step.")] = 2,
    size: Annotated[
        str | None, _of_detectors("--size", help="Of made-up pictures, such as 800x1333; else the recipe's.")
    ] = None,
    objects: Annotated[int, _of_detectors("--objects", min=0, help="On a made-up picture.")] = 8,
    candidates: Annotated[
        int, _of_detectors("--candidates", min=0, help="Scores above the threshold, of a picture.")
    ] = 2000,
    steps: Annotated[int, _of_detectors("--steps", min=1, help="Steps that are measured.")] = 10,
    warm_up: Annotated[int, _of_detectors("--warm-up", min=0, help="Steps before these.")] = 2,
    data: Annotated[
        Path | None, _of_detectors("--data", help="Data set whose training pictures are read; else made up.")
    ] = None,
    device: Annotated[
        str | None, _of_detectors("--device", help="cpu, cuda or cuda:N; else a GPU where there is one.")
    ] = None,
    scale: Annotated[float, _of_analyses("--scale", min=1e-4, help="Size of the set; 1: that of val2017.")] = 1.0,
    repeat: Annotated[int, _of_analyses("--repeat", min=1, help="Times that each command runs.")] = 3,
    only: Annotated[list[str] | None, _of_analyses("--only", help="Part of a task's name; repeatable.")] = None,
    engine: Annotated[
        str | None, _of_analyses("--engine", help="hotcoco or pycocotools; else hotcoco where it is installed.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the table.")] = o.RESULTS / "benchmark",
) -> None:
    """Median and spread of the parts of a training step and of inference, or of the analyses as whole processes.

    Several detectors take turns, so that the ratio of each to the first does not hang on what else the machine does.

    The analyses get 500,000 detections, 5 million candidates and pairs.
    """
    _refuse(context, ANALYSES if recipes else DETECTORS)
    if not recipes:
        _analyses(scale, repeat, only, engine, out)
        return
    from qrepro.experiments.timing import Setting
    from qrepro.recipe import resolve

    setting = Setting(batch=batch, objects=objects, candidates=candidates, steps=steps, warm_up=warm_up)
    chosen = [resolve(name, profile, overrides or []) for name in recipes]
    _detectors(chosen, setting, picture_size(size), data, device, out)


def _detectors(
    recipes: list[Recipe],
    setting: Setting,
    size: tuple[int, int] | None,
    data: Path | None,
    device: str | None,
    out: Path,
) -> None:
    """Time recipes, turn by turn."""
    from qrepro.cli import show
    from qrepro.engine.distributed import pick
    from qrepro.experiments.timing import take_turns, time_inference, time_training
    from qrepro.papers.tables import write_rows

    place = pick(device)
    names = ", ".join(recipe.name for recipe in recipes)
    show.console.print(f"timing {names} on {place}", highlight=False, soft_wrap=True)
    rows = take_turns([time_training(recipe, place, setting, size, data) for recipe in recipes], setting)
    rows += take_turns([time_inference(recipe, place, setting, size) for recipe in recipes], setting)
    show.table(rows, "parts of a training step and of inference", digits=3)
    for path in write_rows(rows, out / "detectors.csv", title="benchmark of detectors"):
        typer.echo(path)


def _analyses(scale: float, repeat: int, only: list[str] | None, engine: str | None, out: Path) -> None:
    """Time the analyses on a made-up set."""
    from qrepro.cli import show
    from qrepro.papers.tables import write_rows

    every = tasks(engine)
    wanted = [task for task in every if not only or any(part in task.name for part in only)]
    if not wanted:
        raise ValueError(f"--only {only}: no such task; there are {', '.join(task.name for task in every)}")
    with tempfile.TemporaryDirectory(prefix="qrepro-benchmark-") as folder:
        show.console.print(f"making a set of {scale:g} times val2017 in {folder}")
        # in a process of its own: the peak memory of a process starts at that of the one that started it
        make = f"from qrepro.cli.benchmark import make_files; make_files({folder!r}, {scale!r})"
        subprocess.run([sys.executable, "-c", make], check=True)
        rows = [_row(task, Path(folder), repeat, scale) for task in wanted]
    show.table(rows, "whole processes", digits=2)
    for path in write_rows(rows, out / "analyses.csv", title="benchmark of the analyses"):
        typer.echo(path)


def _refuse(context: typer.Context, panel: str) -> None:
    """Raise `ValueError` for an option that was given and belongs to the other benchmark."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if getattr(option, "rich_help_panel", None) == panel and source and source.name == "COMMANDLINE":
            raise ValueError(f"{option.opts[0]}: belongs to the benchmark of the {panel}")


def picture_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of `800x1333`."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise ValueError(f"--size {text}: must look like 800x1333, height x width in pixels")
    return int(found[1]), int(found[2])


def make_files(root: str, scale: float) -> None:
    """Two result files, their truths, and a run with ten times as many candidates and positives."""
    from qrepro.engine.candidates import COLUMNS, Stored
    from qrepro.engine.predict import write_frame
    from qrepro.engine.run import Run
    from qrepro.experiments.synthetic import Size, make_detections, make_truths, write_detections, write_truths
    from qrepro.recipe import resolve

    folder, size = Path(root), Size().scaled(scale)
    truths = make_truths(size)
    write_truths(truths, folder / "truths.json")
    for seed, name in enumerate(("a", "b")):
        write_detections(make_detections(size, truths, seed), folder / f"{name}.json")

    run, recipe = Run(folder / RUN), resolve("grad_r50", "coco")
    run.write_card(recipe, 0)
    write_truths(truths, run.path / "truths.json")
    frame = make_detections(Size(size.images, size.objects, size.classes, 10 * size.detections), truths)
    frame = frame.rename(columns={"score": "class_score"}).sort_values("image_id", kind="stable", ignore_index=True)
    single = [name for name in frame if name not in ("image_id", "category_id")]
    frame = frame.astype(dict.fromkeys(single, "float32"))
    place = frame.groupby("image_id").cumcount()
    frame = frame.assign(level=(place % 5).astype("int8"), location=place.astype("int32"))
    floors = dict.fromkeys(truths.images["id"].tolist(), 0.001)
    Stored(frame[COLUMNS], floors).write(run.path / "candidates.parquet")
    write_frame(frame.rename(columns={"iou_truth": "iou"}).drop(columns="location"), run.path / "positives.parquet")
    metrics = {"split": "made up", "images": size.images, "rules": {}}
    (run.path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def _row(task: Task, folder: Path, repeat: int, scale: float) -> dict[str, Any]:
    """Median and spread of a task."""
    from qrepro import __version__

    times, peaks = zip(*(_measure(task.arguments, folder) for _ in range(repeat)), strict=True)
    return {
        "task": task.name,
        "median_s": statistics.median(times),
        "least_s": min(times),
        "most_s": max(times),
        "peak_mb": max(peaks),
        "aim_s": task.aim if scale == 1 else None,
        "repeats": repeat,
        "scale": scale,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "qrepro": __version__,
    }


def _measure(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak resident MB of one run of a command, in a process of its own."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "qrepro", *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read().decode(errors="replace").strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments[:2])} failed: {said.splitlines()[-1] if said else process.returncode}")
    kilobytes = usage.ru_maxrss / 1024 if sys.platform == "darwin" else usage.ru_maxrss
    return time.perf_counter() - start, kilobytes / 1024
