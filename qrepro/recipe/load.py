"""Reading recipes: `extends`, profiles, overrides. Mappings merge unless their `kind` changes; lists replace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from qrepro.recipe.parts import explain
from qrepro.recipe.schema import Recipe
from qrepro.records.kinds import nearest
from qrepro.records.yaml_files import load_yaml

FRAGMENTS = ("profiles", "parts")  # folders that hold pieces of recipes, not recipes
SHEETS = ("paper", "claims")  # files beside the recipes of a paper: what it is, and what it claims


def recipe_root() -> Path:
    """The folder of recipes: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def names(paper: str | None = None) -> list[str]:
    """Names of all recipes, such as `iou_aware/grad_r50`, or of one paper's."""
    root = recipe_root()
    found = sorted(f"{p.parent.name}/{p.stem}" for p in root.glob("*/*.yaml"))
    found = [n for n in found if _names_a_recipe(n)]
    if paper is None:
        return found
    papers = {n.split("/")[0] for n in found}
    if paper not in papers:
        raise ValueError(f"paper {paper!r} is unknown{nearest(paper, papers)}")
    return [n for n in found if n.startswith(f"{paper}/")]


def profiles() -> list[str]:
    """Names of all profiles."""
    return sorted(p.stem for p in (recipe_root() / "profiles").glob("*.yaml"))


def read_recipe(name: str, profile: str = "coco", overrides: Iterable[str] = ()) -> Recipe:
    """The recipe `name` on `profile` with `a.b=c` overrides, merged and checked against the schema.

    Its parts are not held against the axes yet, so that no torch is needed: `qrepro.recipe.axes.resolve` does that too.

    What a recipe says under `profiles: {PROFILE: ...}`, how its method adapts to that profile, is laid on top of it.

    Args:
        name: Name as listed by `names`, its last part where that is unique, or the path of a YAML file.
        profile: Name or YAML file of a profile.
        overrides: Changes `a.b=c`, laid on top in their order.

    Raises:
        ValueError: Anything that is unknown, missing or of the wrong type; in one line.
    """
    path = _recipe_file(name)
    values = _read(path, ())
    adapted = values.pop("profiles", {})
    values = merge(values, _read(_profile_file(profile), ()))
    values = merge(values, adapted.get(Path(profile).stem, {}))
    overrides = _last_of_each([overrides] if isinstance(overrides, str) else overrides)
    for text in overrides:
        values = merge(values, _override(text))
    inside = path.is_relative_to(recipe_root())
    identity = {
        "name": path.relative_to(recipe_root()).with_suffix("").as_posix() if inside else f"custom/{path.stem}",
        "profile": Path(profile).stem,
        "overrides": sorted(overrides),
    }
    source = f"recipe {name} (profile {profile}{''.join(f', {o}' for o in overrides)})"
    return validated({**values, **identity}, source)


def _last_of_each(overrides: Iterable[str]) -> list[str]:
    """Overrides without those of a key that a later one sets again: neither a name nor a folder says that they were."""
    last: dict[str, str] = {}
    for text in overrides:
        key = text.partition("=")[0].strip()
        last.pop(key, None)
        last[key] = text
    return list(last.values())


def validated(values: Mapping[str, Any], source: str) -> Recipe:
    """The recipe of complete values, such as `Recipe.values` gives.

    Args:
        values: Values by section.
        source: Beginning of the message of an error.

    Raises:
        ValueError: A value that is unknown, missing or of the wrong type.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{source}: {explain(error, Recipe)}") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping: `over` laid on `base`. A mapping of another `kind` replaces what was there."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other_kind = "kind" in value and value["kind"] != old.get("kind")
            merged[key] = dict(value) if other_kind else merge(old, value)
        else:
            merged[key] = value
    return merged


def _names_a_recipe(name: str) -> bool:
    """Whether a name is of the form PAPER/RECIPE, and not of a piece of recipes or of a sheet beside them."""
    folder, slash, stem = name.partition("/")
    return bool(slash) and "/" not in stem and folder not in (*FRAGMENTS, "..") and stem not in SHEETS


def _recipe_file(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"recipe {name}: no such file")
        return path.resolve()
    named = recipe_root() / f"{name}.yaml"
    if _names_a_recipe(name) and named.is_file():
        return named
    known = names()
    found = [n for n in known if name in (n, n.split("/")[-1])]
    if len(found) != 1:
        if found:
            raise ValueError(f"recipe {name!r} is ambiguous: {', '.join(found)}")
        close = nearest(name, [*known, *(n.split("/")[-1] for n in known)]).split(" (allowed")[0].rstrip(":")
        raise ValueError(f"recipe {name!r} is unknown{close} (`qrepro recipes list` names them all)")
    return recipe_root() / f"{found[0]}.yaml"


def _profile_file(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"profile {name}: no such file")
        return Path(name).resolve()
    if name not in profiles():
        raise ValueError(f"profile {name!r} is unknown{nearest(name, profiles())}")
    return recipe_root() / "profiles" / f"{name}.yaml"


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A YAML file with everything it extends laid under it."""
    if path in seen:
        raise ValueError(f"{path.name}: extends itself, by way of {' -> '.join(p.name for p in seen)}")
    try:
        values = dict(_content(path, path.stat().st_mtime_ns))
    except FileNotFoundError:
        raise ValueError(f"{seen[-1].name}: extends {path}, which does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: broken YAML: {' '.join(str(error).split())}") from error
    parents = values.pop("extends", [])
    merged: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        merged = merge(merged, _read(_parent(parent, path), (*seen, path)))
    return merge(merged, values)


@cache
def _content(path: Path, modified: int) -> dict[str, Any]:
    """The mapping in a YAML file: kept, because the recipes of a paper extend the same few files."""
    values = load_yaml(path.read_bytes())
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe is a mapping, got {type(values).__name__}")
    return values


def _parent(name: str, child: Path) -> Path:
    """A file that is extended: beside the child, or below the folder of recipes."""
    beside = (child.parent / f"{name}.yaml").resolve()
    return beside if beside.is_file() else recipe_root() / f"{name}.yaml"


def _override(text: str) -> dict[str, Any]:
    """`a.b=c` as nested mappings."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {text}: must look like schedule.batch=8")
    try:
        nested = load_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text}: {value!r} is not a YAML value") from error
    for step in reversed(key.strip().split(".")):
        nested = {step: nested}
    override: dict[str, Any] = nested
    return override
