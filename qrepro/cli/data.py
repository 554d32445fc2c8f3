"""`qrepro data make | download | check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer

from qrepro.cli import options as o
from qrepro.cli.help import group

app = group("Data sets: the embedded one, the public ones, and what is wrong with yours.")


@app.command("make")
def make(
    name: Annotated[str, typer.Argument(help="shapes")],
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    train: Annotated[int, typer.Option("--train", min=1, help="Training images.")] = 1200,
    val: Annotated[int, typer.Option("--val", min=1, help="Validation images.")] = 300,
    seed: o.Seed = 0,
) -> None:
    """Paint the embedded data set, as an ordinary COCO data set on disk."""
    from qrepro.data.shapes import make_shapes

    if name != "shapes":
        raise ValueError(f"data set {name!r} cannot be made, allowed: shapes (`qrepro data download` fetches others)")
    make_shapes(folder, train, val, seed)
    typer.echo(f"{folder}: {train} training and {val} validation images, seed {seed}")


@app.command("download")
def download(
    name: Annotated[str, typer.Argument(help="coco, voc or bccd")],
    folder: Annotated[Path, typer.Argument(help="Where to unpack it.")],
    mirror: Annotated[
        str | None, typer.Option("--mirror", help="Address of a server that has the same archives.")
    ] = None,
) -> None:
    """Download COCO 2017, VOC 2007/2012 or BCCD; an interrupted download is continued, a finished one checked."""
    from qrepro.cli.terminal import terminal
    from qrepro.data.download import Name, download

    with terminal.transfers() as progress:
        download(cast(Name, name), folder, mirror, progress)  # checked there
    typer.echo(f"{folder}: {name} is complete")


@app.command("check")
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set, or a COCO annotation file.")],
    images: Annotated[bool, typer.Option(help="Open every image.")] = True,
    as_json: o.AsJson = False,
) -> None:
    """Counts and every defect: zero-area boxes, unknown ids, broken or missing images, wrong sizes."""
    from qrepro.cli.terminal import terminal
    from qrepro.data.check import check, find_sets

    reports = [(label, check(annotations, images)) for label, annotations in find_sets(path)]
    if as_json:
        typer.echo(json.dumps([{"set": label, **asdict(report)} for label, report in reports], indent=1))
        return
    counts = ("images", "empty", "objects", "ignored", "small", "medium", "large")
    terminal.table(
        [{"set": label, **{c: getattr(r, c) for c in counts}, "defects": len(r.defects)} for label, r in reports]
    )
    for label, report in reports:
        classes = ", ".join(f"{name} {count}" for name, count in report.per_class.items())
        terminal.message(f"{label}: {classes}")
        for defect in report.defects:
            terminal.message(f"  {defect.where}: {defect.what}")
