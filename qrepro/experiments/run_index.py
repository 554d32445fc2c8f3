"""Rows of the papers' tables as experiments: the recipe behind a row, and the runs of it that are there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qrepro.experiments.experiment import all_overrides, file_name
from qrepro.papers.sheet import read_paper
from qrepro.recipe import Recipe, read_recipe, recipe_root
from qrepro.recipe.load import profiles
from qrepro.records.kinds import nearest
from qrepro.records.run_folder import RunFolder, find_runs

PAPERS_OWN = ("coco", "voc")  # profiles that are the papers' own settings


@dataclass(frozen=True)
class Setting:
    """On what rows are trained, and how.

    Attributes:
        profile: None for the paper's own, which each row names.
        changes: overrides of every row's recipe, such as a shorter schedule.
    """

    profile: str | None = None
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, profile: str | None, overrides: Sequence[str] | None = None, steps: int | None = None) -> Setting:
        """The setting of a profile and overrides; the profile is checked here, an override where it meets a recipe."""
        if profile and not profile.endswith((".yaml", ".yml")) and profile not in profiles():
            raise ValueError(f"profile {profile!r} is unknown{nearest(profile, profiles())}")
        return cls(profile or None, tuple(all_overrides(overrides, steps)))

    @property
    def label(self) -> str:
        """What tables and reports call it."""
        return "+".join([Path(self.profile).stem if self.profile else "the paper's own", *self.changes])

    @property
    def suffix(self) -> str:
        """What names of files end in: nothing for the paper's own; a digest where the changes are many."""
        name = file_name(self.label)
        if len(name) > 100:
            name = f"{Path(self.profile or 'own').stem}+{hashlib.sha256(self.label.encode()).hexdigest()[:12]}"
        return "" if self == Setting() else f"-{name}"

    def recipe(self, row: Mapping[Any, Any]) -> Recipe:
        """The recipe of a row that was trained, as it is read: its parts are not held against their axes."""
        return _recipe(row["recipe"], self.profile or row["profile"], (*row["overrides"].split(), *self.changes))


@cache
def _recipe(name: str, profile: str, overrides: tuple[str, ...]) -> Recipe:
    return read_recipe(name, profile, overrides)


class RunIndex:
    """The evaluated runs of a results folder, found by what they trained and not by where they lie."""

    def __init__(self, root: Path) -> None:
        runs = [run for run in find_runs(root) if run.evaluated] if Path(root).is_dir() else []
        self.by_hash: dict[tuple[str, str], list[RunFolder]] = {}
        self.by_name: dict[tuple[str, str, tuple[str, ...]], list[RunFolder]] = {}
        self.profiles = {run.profile for run in runs}
        for run in runs:
            self.by_hash.setdefault((run.hash, run.profile), []).append(run)
            overrides = tuple(sorted(run.card.get("overrides", ())))
            self.by_name.setdefault((run.recipe, run.profile, overrides), []).append(run)

    def of(self, recipe: Recipe) -> tuple[list[RunFolder], bool]:
        """Runs of a recipe, one a seed, and whether they are stale: trained when the recipe had other values."""
        if recipe.profile not in self.profiles:
            return [], False
        if runs := self.by_hash.get((recipe.hash, recipe.profile)):
            return sorted(runs, key=lambda run: run.seed), False
        older = self.by_name.get((recipe.name, recipe.profile, tuple(sorted(recipe.overrides))), [])
        newest = {run.seed: run for run in sorted(older, key=lambda run: str(run.card.get("created", "")))}
        return [newest[seed] for seed in sorted(newest)], bool(newest)


def table_files(which: str | None) -> list[Path]:
    """The printed tables of a paper, one of them, or all; a folder or CSV file outside of the recipes is taken too."""
    if which and which.endswith(".csv") and Path(which).is_file():
        return [Path(which)]
    outside = Path(which) if which and Path(which).is_dir() and any(Path(which).glob("*.csv")) else None
    files = outside.glob("*.csv") if outside else recipe_root().glob("*/*.csv")
    known = {f"{path.parent.name}/{path.stem}": path for path in sorted(files)}
    found = [p for name, p in known.items() if which is None or outside or which in (name, name.split("/")[0])]
    if not found:
        names = [*known, *{n.split("/")[0] for n in known}]
        raise ValueError(f"table {which!r} is unknown{nearest(which or '', names)}")
    order = {folder: list(read_paper(folder).tables) for folder in {path.parent for path in found}}
    places = {path: order[path.parent].index(path.stem) if path.stem in order[path.parent] else 99 for path in found}
    return sorted(found, key=lambda path: (path.parent, places[path], path.stem))
