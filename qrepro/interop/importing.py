"""From a checkpoint of another project to a run folder that evaluation takes like one of ours."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qrepro.engine import checkpoint
from qrepro.engine.run import Run
from qrepro.interop.config import read_config
from qrepro.interop.mmdet import Imported, convert
from qrepro.interop.unpickle import read_foreign


def import_checkpoint(
    file: Path, folder: Path, recipe: str | None = None, overrides: list[str] | None = None, *, overwrite: bool = False
) -> Imported:
    """Convert a checkpoint, and write the run folder unless there is one.

    Raises `ValueError` for a file that is not readable or not safe, a detector that is not known, a recipe that does
    not fit, and a folder that holds a run.
    """
    run = Run(folder)
    if run.card.exists() and not overwrite:
        raise ValueError(f"{folder}: holds a run already; --overwrite replaces it, --out names another folder")
    foreign = read_foreign(file)
    meta = foreign.meta
    text, version = meta.get("config") or meta.get("cfg") or "", meta.get("mmdet_version") or ""
    try:
        config = read_config(text) if isinstance(text, str) else {}
        imported = convert(foreign.state, config, str(version), recipe, overrides)
    except ValueError as error:
        raise ValueError(f"checkpoint {file}: {error}") from error
    imported.left.extend(foreign.left)
    made = imported.recipe
    content = {
        "recipe": made.name,
        "profile": made.profile,
        "hash": made.hash,
        "model_hash": made.model_hash,
        "seed": 0,
        "step": 0,
        "model": imported.state,
        "average": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    run.clear()
    origin = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "mmdet_version": version}
    run.write_card(made, 0, imported=origin, steps=0)
    checkpoint.save(run.last, content)
    return imported
