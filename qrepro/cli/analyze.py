"""`qrepro analyze ap | pcc | oracle | plot`: on run folders, or on the detections of any other detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qrepro.cli import options as o

if TYPE_CHECKING:
    import pandas as pd

    from analysis.runs import Run
    from analysis.truths import Truths

app = typer.Typer(
    help="Analyses of finished evaluations; tables as CSV and markdown, figures as PNG, SVG and CSV.",
    no_args_is_help=True,
)

Runs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUN]...", help="Run folders, or folders that hold some. [default: all in RESULTS]"),
]
Results = Annotated[Path, typer.Option("--results", help="Folder of the runs.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write to. [default: RESULTS/analysis]")]
Detections = Annotated[
    Path | None, typer.Option("--detections", help="COCO result file (.json, .json.gz) or Parquet of any detector.")
]
Annotations = Annotated[
    Path | None, typer.Option("--annotations", help="COCO annotation file that the detections belong to.")
]


@app.command("ap")
def ap(
    runs: Runs = None,
    detections: Detections = None,
    annotations: Annotations = None,
    engine: Annotated[str | None, typer.Option("--engine", help="hotcoco or pycocotools.")] = None,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """AP at every threshold, by size, and VOC mAP."""
    from analysis.summary import metric_rows, summarise

    if foreign := _foreign(detections, annotations, runs):
        name, truths, frame = foreign
        summaries = {name: summarise(truths, [("as scored", frame)], engine)}
    else:
        summaries = {run.name: run.metrics for run in chosen(runs, results)}
    _write([row for name, summary in summaries.items() for row in metric_rows(name, summary)], "ap", results, out)


@app.command("pcc")
def pcc(
    runs: Runs = None,
    detections: Detections = None,
    annotations: Annotations = None,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Correlation of estimated and true IoU: of positives for runs, of score and IoU_eval for detections."""
    from analysis.summary import detection_correlation, positive_correlation

    if foreign := _foreign(detections, annotations, runs):
        rows = detection_correlation(*foreign)
    else:
        rows = [row for run in chosen(runs, results) for row in positive_correlation(run)]
    _write(rows, "pcc", results, out, digits=3)


@app.command("oracle")
def oracle(runs: Runs = None, results: Results = o.RESULTS, out: Out = None) -> None:
    """AP against alpha, with the estimate and with the true IoU; evaluate with --oracle-iou --alpha first."""
    from analysis.oracle import alpha_rows

    rows = [{"run": run.name, **row} for run in chosen(runs, results) for row in alpha_rows(run.metrics["rules"])]
    _write(rows, "oracle", results, out)


@app.command("plot")
def plot(
    runs: Runs = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Points drawn of each cloud.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample.")] = 0,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Confidence against IoU_eval side by side, estimate against IoU, AP against alpha, losses; one set a profile."""
    from analysis.figures import figures

    for stem, drawn in figures(chosen(runs, results), sample, seed).items():
        for path in drawn.save((out or results / "figures") / stem):
            typer.echo(path)


def chosen(paths: list[Path] | None, results: Path) -> list[Run]:
    """Evaluated runs in the folders that were named, or in all of the results."""
    from analysis.runs import find_runs

    found = [run for path in paths or [results] for run in find_runs(path)]
    runs = [run for run in found if run.evaluated]
    if not runs:
        where = ", ".join(str(path) for path in paths or [results])
        raise ValueError(f"{where}: no evaluated run ({len(found)} without metrics.json); `qrepro eval` makes one")
    return runs


def _foreign(
    detections: Path | None, annotations: Path | None, runs: list[Path] | None
) -> tuple[str, Truths, pd.DataFrame] | None:
    """Name, ground truth and detections of another detector, where its files were given."""
    from analysis.detections import read_detections
    from analysis.truths import read_truths

    if detections is None and annotations is None:
        return None
    if detections is None or annotations is None or runs:
        raise ValueError("--detections and --annotations belong together, and exclude run folders")
    truths = read_truths(annotations)
    return detections.name, truths, read_detections(detections, truths)


def _write(rows: list[dict[str, Any]], name: str, results: Path, out: Path | None, digits: int = 1) -> None:
    """Rows on the screen, as CSV and as markdown."""
    from analysis.tables import write_rows
    from qrepro.cli import show

    show.table(rows, digits=digits)
    for path in write_rows(rows, (out or results / "analysis") / f"{name}.csv", title=f"analyze {name}"):
        typer.echo(path)
