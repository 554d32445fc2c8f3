"""`qrepro benchmark`: where the time of a detector goes, or how long the analyses take on a set of val2017's size."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from qrepro.cli import options as o

DETECTORS, ANALYSES = "detectors (with RECIPES)", "analyses (without RECIPES)"  # groups of options in --help

_of_detectors, _of_analyses = (partial(typer.Option, rich_help_panel=panel) for panel in (DETECTORS, ANALYSES))


def benchmark(
    context: typer.Context,
    recipes: Annotated[
        list[str] | None, typer.Argument(help="Detectors to time, by name or YAML file; none: the analyses.")
    ] = None,
    profile: o.Profile = "coco",
    overrides: o.Overrides = None,
    batch: Annotated[int, _of_detectors("--batch", min=1, help="Images of a training step.")] = 2,
    size: o.Size = None,
    objects: Annotated[int, _of_detectors("--objects", min=0, help="Objects of a synthetic image.")] = 8,
    candidates: Annotated[
        int, _of_detectors("--candidates", min=0, help="Scores above the score threshold, of an image.")
    ] = 2000,
    timed_steps: Annotated[int, _of_detectors("--timed-steps", min=1, help="Steps that are measured.")] = 10,
    warm_up: Annotated[int, _of_detectors("--warm-up", min=0, help="Steps before these.")] = 2,
    data: o.DataDir = None,
    device: o.Device = None,
    scale: Annotated[float, _of_analyses("--scale", min=1e-4, help="Size of the set; 1: that of val2017.")] = 1.0,
    repeat: Annotated[int, _of_analyses("--repeat", min=1, help="Times that each command runs.")] = 3,
    only: Annotated[list[str] | None, _of_analyses("--only", help="Part of a task's name; repeatable.")] = None,
    engine: o.Engine = None,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Median and spread of the parts of a training step and of inference, or of the analyses as whole processes.

    Several detectors are timed interleaved, so that the ratio of each to the first does not hang on what else the
    machine does; images are synthetic unless --data names a data set.

    The analyses get 500,000 detections, 5 million candidates and pairs.
    """
    from qrepro.cli.terminal import terminal
    from qrepro.records.tables import write_rows

    _refuse(context, ("scale", "repeat", "only", "engine") if recipes else _DETECTOR_OPTIONS, bool(recipes))
    target = out or results / "benchmark"
    if recipes:
        from qrepro.engine.distributed import choose_device
        from qrepro.experiments.timing import TimingSetup, time_detectors
        from qrepro.recipe.axes import resolve

        setup = TimingSetup(batch=batch, objects=objects, candidates=candidates, steps=timed_steps, warm_up=warm_up)
        chosen = [resolve(name, profile, overrides or []) for name in recipes]
        place = choose_device(device)
        terminal.message(f"timing {', '.join(recipe.name for recipe in chosen)} on {place}")
        rows = time_detectors(chosen, place, setup, o.image_size(size), data)
        name, title, digits = "detectors", "parts of a training step and of inference", 3
    else:
        from qrepro.experiments.benchmark import benchmark_analyses

        rows = benchmark_analyses(scale=scale, repeat=repeat, only=only or (), engine=engine, reporter=terminal)
        name, title, digits = "analyses", "whole processes", 2
    terminal.table(rows, title, digits)
    for path in write_rows(rows, target / f"{name}.csv", title=f"benchmark of {name}"):
        terminal.message(str(path))


_DETECTOR_OPTIONS = (
    *("profile", "overrides", "batch", "size", "objects", "candidates", "timed_steps", "warm_up", "data", "device"),
)


def _refuse(context: typer.Context, names: tuple[str, ...], detectors: bool) -> None:
    """Raise `ValueError` for an option that was given and belongs to the other benchmark."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source and source.name == "COMMANDLINE":
            raise ValueError(
                f"{option.opts[0]}: belongs to the benchmark of the {ANALYSES if detectors else DETECTORS}"
            )
