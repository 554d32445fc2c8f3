"""The command line: one noun or verb each. Commands map arguments to calls; heavy imports are inside them."""

from __future__ import annotations

import typer

from qrepro.cli import (
    analyze,
    benchmark,
    claims,
    data,
    demo,
    evaluate,
    export,
    importing,
    recipes,
    reproduce,
    rescore,
    tables,
    train,
    zoo,
)
from qrepro.cli.failure import guarded

app = typer.Typer(
    name="qrepro",
    help="How well does a dense object detector know how good its own boxes are?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("rescore")(rescore.rescore)
app.command("export")(export.export)
app.command("import")(importing.import_)
app.add_typer(zoo.app, name="zoo")
app.add_typer(analyze.app, name="analyze")
app.command("benchmark")(benchmark.benchmark)
app.command("reproduce")(reproduce.reproduce)
app.command("tables")(tables.tables)
app.command("claims")(claims.claims)
app.command("report")(tables.report)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0 done, 2 the input is wrong, 1 the run failed."""
    raise SystemExit(guarded(app, arguments))
