"""`qrepro zoo list | fetch | evaluate`: the published detectors that `qrepro import` reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qrepro.cli import options as o

app = typer.Typer(help="Detectors that others have published.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="As `qrepro zoo list` names it.")]
Folder = Annotated[Path | None, typer.Option("--to", help="Folder of files. \\[default: $QREPRO_DATA/zoo or data/zoo]")]


COLUMNS = ("AP", "AP50", "AP75", "APS", "APM", "APL")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Names, reported AP, and where they are published."""
    from qrepro.cli import show
    from qrepro.interop.zoo import published

    rows = [asdict(model) for model in published()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    columns = ("name", "source", "arxiv", "row", "AP", "sha256")
    show.table([{column: row[column] for column in columns} for row in rows], f"{len(rows)} published detectors")


@app.command("fetch")
def fetch(name: Name, to: Folder = None) -> None:
    """Download one, continue where it was cut, and check it."""
    from qrepro.cli import show
    from qrepro.interop.zoo import digest, fetch_model, named

    model = named(name)
    with show.transfers() as progress:
        file = fetch_model(model, to or o.data_folder("zoo", None), progress)
    checked = "as published" if model.sha256 else "none was published to compare with"
    show.console.print(f"{file}: SHA-256 {digest(file)}, {checked}", soft_wrap=True)


@app.command("evaluate")
def evaluate(
    name: Name,
    data: o.DataDir = None,
    to: Folder = None,
    out: o.Out = o.RESULTS,
    device: o.Device = None,
    workers: o.Workers = None,
) -> None:
    """Fetch, import, and evaluate with the oracle; the row of the table beside the reported one."""
    from qrepro.cli import show
    from qrepro.cli.evaluate import evaluate_choice
    from qrepro.interop.importing import import_checkpoint
    from qrepro.interop.zoo import fetch_model, named, reported
    from qrepro.metrics.summary import headline_rows
    from qrepro.records.run_folder import load_run

    model = named(name)
    with show.transfers() as progress:
        file = fetch_model(model, to or o.data_folder("zoo", None), progress)
    folder = out / "imported" / o.file_name(model.name)
    if not (folder / "last.pt").exists():
        import_checkpoint(file, folder)
    choice = o.choose(str(folder), data=data)
    evaluate_choice(choice, oracle=True, device=device, workers=workers)
    own = choice.run.metrics()["rules"][choice.recipe.score]
    printed = reported(model)
    show.table(
        [
            {"of": "reported", **{column: printed.get(column, "") for column in COLUMNS}, "row": model.row or "-"},
            {"of": "measured", **{column: f"{own[column]:.1f}" for column in COLUMNS}, "row": model.row or "-"},
        ],
        f"{name}: what its authors report on val2017, and what it has here",
    )
    show.table(headline_rows([load_run(folder)]), "How good are the boxes ranked, and how good could they be?")
