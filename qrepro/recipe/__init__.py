"""A recipe: one trained detector as data.

`load` reads it and `schema` says what it may hold, without torch; `axes` holds its parts against the detector's axes,
`build` turns it into these parts, `describe` counts what they are made of.
"""

from qrepro.recipe.load import names, read_recipe, recipe_root
from qrepro.recipe.schema import Recipe

__all__ = ["Recipe", "names", "read_recipe", "recipe_root"]
