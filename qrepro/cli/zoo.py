"""`qrepro zoo list | fetch | evaluate`: the published detectors that `qrepro import` reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qrepro.cli import options as o
from qrepro.cli.help import group

app = group("Detectors that others have published.")
Name = Annotated[str, typer.Argument(help="As `qrepro zoo list` names it.")]
Folder = Annotated[Path | None, typer.Option("--to", help="Folder of files. \\[default: $QREPRO_DATA/zoo or data/zoo]")]


@app.command("list")
def list_(as_json: o.AsJson = False) -> None:
    """Names, reported AP, and where they are published."""
    from qrepro.cli.terminal import terminal
    from qrepro.interop.zoo import published

    rows = [asdict(model) for model in published()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    columns = ("name", "source", "arxiv", "row", "AP", "sha256")
    terminal.table([{column: row[column] for column in columns} for row in rows], f"{len(rows)} published detectors")


@app.command("fetch")
def fetch(name: Name, to: Folder = None) -> None:
    """Download one, continue where it was cut, and check it."""
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.experiment import data_folder
    from qrepro.interop.zoo import digest, fetch_model, named

    model = named(name)
    with terminal.transfers() as progress:
        file = fetch_model(model, to or data_folder("zoo"), progress)
    checked = "as published" if model.sha256 else "none was published to compare with"
    terminal.message(f"{file}: SHA-256 {digest(file)}, {checked}")


@app.command("evaluate")
def evaluate(
    name: Name,
    data: o.DataDir = None,
    to: Folder = None,
    device: o.Device = None,
    workers: o.Workers = None,
    results: o.Results = o.RESULTS,
) -> None:
    """Fetch, import, and evaluate with the oracle; the row of the table beside the reported one."""
    from qrepro.cli.experiments import show_evaluation
    from qrepro.cli.terminal import terminal
    from qrepro.experiments.published import evaluate_published
    from qrepro.metrics.summary import headline_rows
    from qrepro.records.run_folder import read_run

    published = evaluate_published(
        name, data=data, files=to, results=results, device=device, workers=workers, reporter=terminal
    )
    show_evaluation(published.evaluation)
    terminal.table(published.rows, f"{name}: what its authors report on val2017, and what it has here")
    runs = [read_run(published.experiment.run.path)]
    terminal.table(headline_rows(runs), "How good are the boxes ranked, and how good could they be?")
