"""A recipe: one trained model as data. `load` reads it, `build` turns it into parts."""

from qrepro.recipe.load import names, recipe_root, resolve
from qrepro.recipe.schema import Recipe

__all__ = ["Recipe", "names", "recipe_root", "resolve"]
