"""`qrepro import FILE`: a detector that someone else trained, as a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qrepro.cli import options as o


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint of MMDetection 2 or 3, GFocalV2 or VarifocalNet, or .safetensors of `qrepro export`."
        ),
    ],
    recipe: Annotated[str | None, typer.Option("--recipe", help="What it is. \\[default: recognised]")] = None,
    changes: o.Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder. \\[default: results/imported/FILE]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
) -> None:
    """Read a foreign checkpoint, executing nothing in it, so that `qrepro eval` can rank its boxes by every rule."""
    from qrepro.cli import show
    from qrepro.interop.importing import import_checkpoint

    folder = out or o.RESULTS / "imported" / o.file_name(file.stem)
    imported = import_checkpoint(file, folder, recipe, changes, overwrite=overwrite)
    show.console.print(f"{file}: {imported.recipe.name}, hash {imported.recipe.hash}", soft_wrap=True)
    for change in imported.recipe.overrides:
        show.console.print(f"  set {change}", soft_wrap=True, markup=False)
    if imported.left:
        show.console.print(f"  not used: {', '.join(imported.left)}", soft_wrap=True, markup=False)
    show.console.print(f"wrote {folder}; next: qrepro eval {folder} --oracle-iou --data COCO", soft_wrap=True)
