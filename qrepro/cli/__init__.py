"""The command line: one noun or verb each. Commands parse, call and print; heavy imports are inside them."""

from __future__ import annotations

from typing import Annotated

import typer

from qrepro.cli import analyze, benchmark, data, experiments, recipes, tables, zoo
from qrepro.cli.failure import guarded

app = typer.Typer(
    name="qrepro",
    help="How well does a dense object detector know how good its own boxes are?",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(experiments.demo)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.command("train")(experiments.train)
app.command("eval")(experiments.evaluate)
app.command("rescore")(experiments.rescore)
app.command("export")(experiments.export)
app.command("import")(experiments.import_)
app.add_typer(zoo.app, name="zoo")
app.add_typer(analyze.app, name="analyze")
app.command("benchmark")(benchmark.benchmark)
app.command("reproduce")(tables.reproduce)
app.command("tables")(tables.tables)
app.command("claims")(tables.claims)
app.command("report")(tables.report)


@app.callback()
def bare(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """How well does a dense object detector know how good its own boxes are?"""
    if version:
        from qrepro import __version__

        typer.echo(f"qrepro {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0 done, 2 the input is wrong, 1 the run failed."""
    raise SystemExit(guarded(lambda: app(arguments, standalone_mode=False)))
