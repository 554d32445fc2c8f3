"""`qrepro recipes list | show | describe`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from qrepro.cli import options as o
from qrepro.cli.help import group

app = group("What can be trained.")


@app.command("list")
def list_(
    paper: Annotated[str | None, typer.Option("--paper", help="Recipes of one paper only.")] = None,
    as_json: o.AsJson = False,
) -> None:
    """Names, what they are, and the rows of the papers' tables that they make."""
    from qrepro.cli.terminal import terminal
    from qrepro.recipe import names, read_recipe

    rows = []
    for name in names(paper):
        card = read_recipe(name).card
        made = [f"table {row.table} {row.row}" for row in card.paper]
        rows.append({"recipe": name, "summary": card.summary, "rows": made})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        terminal.table([{**row, "rows": "; ".join(row["rows"])} for row in rows])


@app.command("show")
def show(
    recipe: o.Recipe,
    profile: o.Profile = "coco",
    overrides: o.Overrides = None,
    filled: Annotated[bool, typer.Option("--filled", help="With the default of every option; needs torch.")] = False,
) -> None:
    """The merged YAML: everything that the recipe, its profile and the overrides say."""
    import yaml

    if filled:
        from qrepro.recipe import axes

        values = axes.filled(axes.resolve(recipe, profile, overrides or []))
    else:
        from qrepro.recipe import read_recipe

        values = read_recipe(recipe, profile, overrides or []).values()
    typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120), nl=False)


@app.command("describe")
def describe(
    recipe: o.Recipe,
    profile: o.Profile = "coco",
    overrides: o.Overrides = None,
    as_json: o.AsJson = False,
) -> None:
    """Parameters, multiply-adds, levels and priors of an image, and the departures from the paper."""
    from qrepro.cli.terminal import terminal
    from qrepro.recipe.axes import resolve
    from qrepro.recipe.describe import facts

    resolved = resolve(recipe, profile, overrides or [])
    found = facts(resolved)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    terminal.table([{"fact": name, "value": str(value)} for name, value in found.items()], resolved.card.summary)
    for departure in resolved.card.departures:
        terminal.message(f"departure: {departure}")
