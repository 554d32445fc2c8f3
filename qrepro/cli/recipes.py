"""`qrepro recipes list | show | describe`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from qrepro.cli import options as o

app = typer.Typer(help="What can be trained.", no_args_is_help=True)


@app.command("list")
def list_(
    paper: Annotated[str | None, typer.Option("--paper", help="Of one paper only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Names, what they are, and the rows of the papers' tables that they make."""
    from qrepro.cli import show
    from qrepro.recipe import names, resolve

    rows = []
    for name in names(paper):
        card = resolve(name).card
        made = [f"table {p.table} {p.row}" for p in card.paper]
        rows.append({"recipe": name, "summary": card.summary, "rows": made})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        show.table([{**row, "rows": "; ".join(row["rows"])} for row in rows])


@app.command("show")
def show_(recipe: str, profile: o.Profile = "coco", overrides: o.Overrides = None) -> None:
    """The merged YAML, every value filled in."""
    import yaml

    from qrepro.recipe import resolve

    values = resolve(recipe, profile, overrides or []).values()
    typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120), nl=False)


@app.command("describe")
def describe(
    recipe: str,
    profile: o.Profile = "coco",
    overrides: o.Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Parameters, multiply-adds, levels and priors of an image, and what deviates from the paper."""
    from qrepro.cli import show
    from qrepro.recipe import resolve
    from qrepro.recipe.describe import facts

    resolved = resolve(recipe, profile, overrides or [])
    found = facts(resolved)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    show.table([{"fact": name, "value": str(value)} for name, value in found.items()], resolved.card.summary)
    for deviation in resolved.card.deviations:
        show.console.print(f"deviation: {deviation}", soft_wrap=True)
