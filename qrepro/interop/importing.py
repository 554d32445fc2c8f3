"""From a checkpoint of another project to a run folder that evaluation takes like one of ours."""

from __future__ import annotations

from pathlib import Path

from qrepro.engine import checkpoint
from qrepro.engine.run import Run
from qrepro.interop.config import read_config
from qrepro.interop.export import read_exported
from qrepro.interop.mmdet import Imported, convert
from qrepro.interop.unpickle import read_foreign
from qrepro.interop.zoo import digest


def import_checkpoint(
    file: Path, folder: Path, recipe: str | None = None, overrides: list[str] | None = None, *, overwrite: bool = False
) -> Imported:
    """Convert a checkpoint, and write the run folder unless there is one.

    file: of another project, or a safetensors file of `qrepro export`, which says itself what it is.
    Raises `ValueError` for a file that is not readable or not safe, a detector that is not known, a recipe that does
    not fit, and a folder that holds a run.
    """
    run = Run(folder)
    if run.last.exists() and not overwrite:
        raise ValueError(f"{folder}: holds a run already; --overwrite replaces it, --out names another folder")
    if file.suffix == ".safetensors":
        if recipe or overrides:
            raise ValueError(f"{file}: says itself what it is, --recipe and --set are for files of other projects")
        imported, version = Imported(*read_exported(file), []), ""
    else:
        imported, version = _converted(file, recipe, overrides)
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
    origin = {"file": file.name, "sha256": digest(file), "mmdet_version": version}
    run.write_card(made, 0, imported=origin, steps=0)
    checkpoint.save(run.last, content)
    return imported


def _converted(file: Path, recipe: str | None, overrides: list[str] | None) -> tuple[Imported, str]:
    """A checkpoint of another project, and the version of MMDetection that wrote it."""
    foreign = read_foreign(file)
    meta = foreign.meta
    text, version = meta.get("config") or meta.get("cfg") or "", str(meta.get("mmdet_version") or "")
    try:
        config = read_config(text) if isinstance(text, str) else {}
        imported = convert(foreign.state, config, version, recipe, overrides)
    except ValueError as error:
        raise ValueError(f"checkpoint {file}: {error}") from error
    imported.left.extend(foreign.left)
    return imported, version
