"""From a checkpoint of another project to a run folder that evaluation takes like one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qrepro.engine import checkpoint
from qrepro.engine.card import run_card
from qrepro.interop.config import read_config
from qrepro.interop.export import read_exported
from qrepro.interop.mmdet import Imported, convert
from qrepro.interop.unpickle import ExternalCheckpoint, read_external
from qrepro.interop.zoo import digest
from qrepro.recipe.axes import network_hash
from qrepro.records.run_folder import RunFolder


def import_checkpoint(
    file: Path, folder: Path, recipe: str | None = None, overrides: list[str] | None = None, *, overwrite: bool = False
) -> Imported:
    """Convert a checkpoint, and write the run folder unless there is one.

    Args:
        file: Checkpoint of another project, or a safetensors file of `qrepro export`, which says itself what it is.
        folder: Run folder to be written.
        recipe: Name of the recipe that it is, in place of the recognised one.
        overrides: Changes `a.b=c` of the recipe's values.
        overwrite: Whether a run in the folder is replaced.

    Raises:
        ValueError: A file that is not readable or not safe, a detector that is not known, a recipe that does not fit,
            and a folder that holds a run.
    """
    run = RunFolder(folder)
    if run.last.exists() and not overwrite:
        raise ValueError(f"{folder}: holds a run already; --overwrite replaces it, --out names another folder")
    external = read_external(file)
    if "values" in external.meta:  # which `qrepro export` writes
        if recipe or overrides:
            raise ValueError(f"{file}: says itself what it is, --recipe and --set are for files of other projects")
        imported, version = Imported(*read_exported(file), []), ""
    else:
        imported, version = _converted(file, external, recipe, overrides)
    made = imported.recipe
    content = {
        "recipe": made.name,
        "profile": made.profile,
        "hash": made.hash,
        "model_hash": network_hash(made),
        "seed": 0,
        "step": 0,
        "model": imported.state,
        "average": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    run.clear()
    origin = {"file": file.name, "sha256": digest(file), "mmdet_version": version}
    run.write_card(run_card(made, 0, imported=origin, steps=0))
    checkpoint.save(run.last, content)
    return imported


def _converted(
    file: Path, external: ExternalCheckpoint, recipe: str | None, overrides: list[str] | None
) -> tuple[Imported, str]:
    """A checkpoint of another project, and the version of MMDetection that wrote it."""
    meta = external.meta
    text, version = meta.get("config") or meta.get("cfg") or "", str(meta.get("mmdet_version") or "")
    try:
        config = read_config(text) if isinstance(text, str) else {}
        imported = convert(external.state, config, version, recipe, overrides, class_names(meta))
    except ValueError as error:
        raise ValueError(f"checkpoint {file}: {error}") from error
    imported.unused.extend(external.unused)
    return imported, version


def class_names(meta: Mapping[str, Any]) -> list[str]:
    """Names of classes in the order of the outputs, empty where a file names none (MMDetection 2 and 3 do)."""
    dataset = meta.get("dataset_meta")
    names = meta.get("CLASSES") or (
        dataset.get("classes") or dataset.get("CLASSES") if isinstance(dataset, dict) else None
    )
    return list(names) if isinstance(names, tuple | list) and all(isinstance(name, str) for name in names) else []
