"""Groups of commands: called without a command they print their help, which is no error."""

from __future__ import annotations

from typing import Any

import typer


def group(help: str, **options: Any) -> typer.Typer:
    """A group of commands."""
    app = typer.Typer(help=help, invoke_without_command=True, **options)

    @app.callback()
    def bare(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    return app
