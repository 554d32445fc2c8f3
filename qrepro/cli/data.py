"""`qrepro data make | download | check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Data sets: the embedded one, the public ones, and what is wrong with yours.", no_args_is_help=True
)


@app.command("make")
def make(
    name: Annotated[str, typer.Argument(help="shapes")],
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    train: Annotated[int, typer.Option("--train", min=1, help="Training pictures.")] = 1200,
    val: Annotated[int, typer.Option("--val", min=1, help="Validation pictures.")] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds make equal files.")] = 0,
) -> None:
    """Paint the embedded data set, as an ordinary COCO data set on disk."""
    from qrepro.data.shapes import make_shapes

    if name != "shapes":
        raise ValueError(f"data set {name!r} cannot be made, allowed: shapes (`qrepro data download` fetches others)")
    make_shapes(folder, train, val, seed)
    typer.echo(f"{folder}: {train} training and {val} validation pictures, seed {seed}")


@app.command("download")
def download(
    name: Annotated[str, typer.Argument(help="coco, voc or bccd")],
    folder: Annotated[Path, typer.Argument(help="Where to unpack it.")],
    mirror: Annotated[
        str | None, typer.Option("--mirror", help="Address of a server that has the same archives.")
    ] = None,
) -> None:
    """Download COCO 2017, VOC 2007/2012 or BCCD; an interrupted download is continued, a finished one checked."""
    from qrepro.cli import show
    from qrepro.data.download import download as fetch_set

    with show.transfers() as progress:
        fetch_set(name, folder, mirror, progress)  # type: ignore[arg-type]  # the name is checked there
    typer.echo(f"{folder}: {name} is complete")


@app.command("check")
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set, or a COCO annotation file.")],
    pictures: Annotated[bool, typer.Option(help="Open every picture.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Counts and every defect: zero-area boxes, unknown ids, broken or missing pictures, wrong sizes."""
    from qrepro.cli import show
    from qrepro.data.check import check as examine
    from qrepro.data.check import find_sets

    reports = [(label, examine(annotations, pictures)) for label, annotations in find_sets(path)]
    if as_json:
        typer.echo(json.dumps([{"set": label, **asdict(report)} for label, report in reports], indent=1))
        return
    counts = ("images", "empty", "objects", "ignored", "small", "medium", "large")
    show.table(
        [{"set": label, **{c: getattr(r, c) for c in counts}, "defects": len(r.defects)} for label, r in reports]
    )
    for label, report in reports:
        classes = ", ".join(f"{name} {count}" for name, count in report.per_class.items())
        show.console.print(f"{label}: {classes}", soft_wrap=True, highlight=False)
        for defect in report.defects:
            show.console.print(f"  {defect.where}: {defect.what}", soft_wrap=True, highlight=False, markup=False)
