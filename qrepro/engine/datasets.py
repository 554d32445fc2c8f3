"""The data of a recipe: its splits, opened and checked, and their pictures with the recipe's transforms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Dataset

from qrepro.data.annotations import Annotations, concatenate, subset
from qrepro.data.loader import Key, Pictures, in_order
from qrepro.data.sets import read_split
from qrepro.data.transforms import TRANSFORMS, Flip, Normalise, Resize, Sample
from qrepro.recipe.schema import Recipe


def open_split(recipe: Recipe, root: Path, split: str) -> Annotations:
    """A split of the recipe's data set, its classes checked against the recipe's."""
    data = recipe.data
    names = data.classes if isinstance(data.classes, list) else None
    annotations = read_split(data.format, root, split, names, data.one_based)
    if len(annotations.classes) != data.class_count:
        raise ValueError(
            f"{annotations.name}: {len(annotations.classes)} classes, profile {recipe.profile} has {data.class_count}"
        )
    return subset(annotations, data.limit) if data.limit else annotations


def training_pictures(recipe: Recipe, root: Path) -> Pictures:
    """The recipe's training data with its augmentation."""
    annotations = concatenate([open_split(recipe, root, split) for split in recipe.data.train])
    transforms = [part.build(TRANSFORMS) for part in recipe.image.train]
    return Pictures(annotations, transforms, Normalise(mean=recipe.image.mean, std=recipe.image.std), recipe.data.cache)


@dataclass(frozen=True)
class View:
    """The pictures of a split in one size. mirrored: left and right exchanged."""

    pictures: Pictures
    mirrored: bool = False


@dataclass(frozen=True)
class Views(Dataset[tuple[Sample, int, tuple[int, int]]]):
    """The views of the pictures of a split, one view after the other; never empty."""

    views: list[View]

    def __getitem__(self, key: Key) -> tuple[Sample, int, tuple[int, int]]:
        """As of `Pictures`, of view number index // pictures."""
        view, index = divmod(key[0], len(self.views[0].pictures))
        return self.views[view].pictures[index, key[1]]

    def order(self, batch: int) -> list[list[Key]]:
        """Batches of all pictures in one view, or of one picture each, its views in turn.

        Several views of pictures of different sizes have no common frame but that of one picture.
        """
        count = len(self.views[0].pictures)
        if len(self.views) == 1:
            return in_order(count, batch)
        return [[(view * count + index, 0)] for index in range(count) for view in range(len(self.views))]


def evaluation_views(recipe: Recipe, annotations: Annotations) -> Views:
    """What evaluation sees: the pictures with the recipe's evaluation transforms, or its views of each."""
    normalise = Normalise(mean=recipe.image.mean, std=recipe.image.std)
    views = recipe.image.views
    if views is None:
        transforms = [part.build(TRANSFORMS) for part in recipe.image.eval]
        return Views([View(Pictures(annotations, transforms, normalise, cache=False))])
    found = []
    for short in views.short:
        resize = Resize(short=short, long=max(views.long, short))
        found.append(View(Pictures(annotations, [resize], normalise, cache=False)))
        if views.flip:
            mirror = Flip(probability=1.0)
            found.append(View(Pictures(annotations, [resize, mirror], normalise, cache=False), mirrored=True))
    return Views(found)
