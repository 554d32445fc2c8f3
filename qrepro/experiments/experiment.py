"""An experiment: a recipe, the data that it is trained on, a seed, and the run folder that holds it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qrepro.records.run_folder import RunFolder

if TYPE_CHECKING:
    from qrepro.recipe import Recipe

RESULTS = Path("results")


@dataclass(frozen=True)
class Experiment:
    """What is trained and evaluated.

    Attributes:
        recipe: held against its axes.
        run: where its results are.
        data: folder of the data set.
        seed: of initialisation, data order and augmentation.
    """

    recipe: Recipe
    run: RunFolder
    data: Path
    seed: int


def open_experiment(
    name: str,
    profile: str = "coco",
    overrides: Sequence[str] = (),
    *,
    steps: int | None = None,
    seed: int = 0,
    data: Path | None = None,
    results: Path = RESULTS,
) -> Experiment:
    """The experiment of a recipe, or of a run folder, which then says profile, overrides and seed itself.

    Args:
        name: of a recipe or of its YAML file, or the path of a run folder.
        profile: on what, and how long.
        overrides: of recipe values, `a.b=c`.
        steps: length of the whole schedule; None: the profile's.
        seed: of initialisation, data order and augmentation.
        data: folder of the data set; None: see `data_folder`.
        results: folder of run folders.

    Raises:
        ValueError: the recipe, profile or an override is unknown or wrong; in one line.
    """
    from qrepro.recipe.axes import checked, resolve

    run, results = RunFolder(Path(name)), Path(results)
    if run.has_card:
        recipe = checked(run.card["values"], str(run.path))
        return Experiment(recipe, run, data_folder(recipe.data.name, data), run.seed)
    try:
        recipe = resolve(str(name), profile, all_overrides(overrides, steps))
    except ValueError:
        if run.path.is_dir() and len(run.path.parts) > 2:  # no name of a recipe, which has two at most
            raise ValueError(f"{name}: a folder, and no run (it has no run.json)") from None
        raise
    return Experiment(recipe, RunFolder(run_path(results, recipe, seed)), data_folder(recipe.data.name, data), seed)


def all_overrides(overrides: Sequence[str] | None, steps: int | None) -> list[str]:
    """Overrides with that of the length of the schedule."""
    return [*(overrides or []), *([f"schedule.shorten={steps}"] if steps else [])]


def run_path(results: Path, recipe: Recipe, seed: int) -> Path:
    """`<results>/<recipe>[+overrides]/<profile>/seed<k>`: a variant never passes for the recipe itself."""
    suffix = ",".join(re.sub(r"[^\w.=-]+", "_", text) for text in recipe.variant)
    if len(suffix) > 100:
        suffix = recipe.hash
    return results / (recipe.name + (f"+{suffix}" if suffix else "")) / recipe.profile / f"seed{seed}"


def data_folder(name: str, given: Path | None = None) -> Path:
    """Where a data set lies: where it is said to, else in $QREPRO_DATA/NAME or data/NAME."""
    return Path(given) if given else Path(os.environ.get("QREPRO_DATA", "data")) / name


def loader_processes(recipe: Recipe, workers: int | None) -> int:
    """Processes that read images: none where images are kept in memory, because each process would keep its own."""
    if workers is not None:
        return workers
    return 0 if recipe.data.cache else 2


def file_name(text: str) -> str:
    """Text as part of a file name: no slashes, spaces or other characters that file systems dislike."""
    return re.sub(r"[^\w.+@-]+", "-", text)
