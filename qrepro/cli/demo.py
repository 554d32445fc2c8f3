"""`qrepro demo`: the whole path in minutes on the embedded data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qrepro.cli import options as o

RECIPES = (
    "gfl/atss_none",
    "gfl/atss_iou",
    "gflv2/gflv2",
)  # learn the painted set in minutes; RetinaNet needs longer for as much
ALPHAS = ["0.1:0.9:0.1"]


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of results.")] = o.RESULTS,
    data: o.DataDir = None,
    device: o.Device = None,
) -> None:
    """Make data, train ATSS without and with an IoU branch, and GFLv2; evaluate with the oracle; tables and report."""
    from qrepro.cli import show
    from qrepro.cli.evaluate import asked_rules
    from qrepro.cli.reproduce import carry_out
    from qrepro.cli.tables import write_tables
    from qrepro.data.shapes import make_shapes
    from qrepro.metrics.summary import headline_rows
    from qrepro.records.run_folder import load_run
    from qrepro.report.figures import figures
    from qrepro.report.page import build_report

    choices = [o.choose(name, "shapes", data=data, out=out) for name in RECIPES]
    make_shapes(choices[0].data)
    for choice in choices:
        rules = asked_rules(choice.recipe.estimates, choice.recipe.score, oracle=True, alphas=ALPHAS, names=[])
        carry_out(choice, [rule.name for rule in rules], device=device)
    runs = [load_run(choice.run.path) for choice in choices]
    for stem, drawn in figures(runs).items():
        drawn.save(out / "figures" / stem)
    written = write_tables(None, None, "both", out, out / "tables")
    page = build_report(out, out / "report")
    show.table(headline_rows(runs), "How good are the boxes ranked, and how good could they be?")
    show.console.print(f"tables: {len(written)} in {out / 'tables'}, figures in {out / 'figures'}", soft_wrap=True)
    show.console.print(f"report: {page}", soft_wrap=True)
