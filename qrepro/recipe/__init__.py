"""A recipe: one trained model as data. `load` reads it, `build` turns it into parts."""

from qrepro.recipe.load import checked, names, recipe_root, resolve
from qrepro.recipe.schema import Recipe

__all__ = ["Recipe", "checked", "names", "recipe_root", "resolve"]
