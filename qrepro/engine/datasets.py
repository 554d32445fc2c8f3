"""The data of a recipe: its splits, opened and checked, and their images with the recipe's transforms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Dataset

from qrepro.data.annotations import Annotations, concatenate, subset
from qrepro.data.loader import ImageDataset, Key, in_order
from qrepro.data.sets import read_split
from qrepro.data.transforms import TRANSFORMS, Flip, Normalise, Resize, ResizeExact, Sample
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


def training_images(recipe: Recipe, root: Path) -> ImageDataset:
    """The recipe's training data with its augmentation."""
    annotations = concatenate([open_split(recipe, root, split) for split in recipe.data.train])
    transforms = [part.build(TRANSFORMS) for part in recipe.image.train]
    return ImageDataset(
        annotations, transforms, Normalise(mean=recipe.image.mean, std=recipe.image.std), recipe.data.cache
    )


@dataclass(frozen=True)
class View:
    """The images of a split in one size. mirrored: left and right exchanged."""

    images: ImageDataset
    mirrored: bool = False


@dataclass(frozen=True)
class Views(Dataset[tuple[Sample, int, tuple[int, int]]]):
    """The views of the images of a split, one view after the other; never empty."""

    views: list[View]

    def __getitem__(self, key: Key) -> tuple[Sample, int, tuple[int, int]]:
        """As of `ImageDataset`, of view number index // images."""
        view, index = divmod(key[0], len(self.views[0].images))
        return self.views[view].images[index, key[1]]

    def order(self, batch: int) -> list[list[Key]]:
        """Batches of all images in one view, or of one image each, its views in turn.

        Several views of images of different sizes have no common frame but that of one image.
        """
        count = len(self.views[0].images)
        if len(self.views) == 1:
            return in_order(count, batch)
        return [[(view * count + index, 0)] for index in range(count) for view in range(len(self.views))]


def evaluation_views(recipe: Recipe, annotations: Annotations) -> Views:
    """What evaluation sees: the images with the recipe's evaluation transforms, or its views of each."""
    normalise = Normalise(mean=recipe.image.mean, std=recipe.image.std)
    augmented = recipe.image.tta
    if augmented is None:
        transforms = [part.build(TRANSFORMS) for part in recipe.image.eval]
        return Views([View(ImageDataset(annotations, transforms, normalise, cache=False))])
    found = []
    for short in augmented.short:
        resize = Resize(short=short, long=max(augmented.long, short))
        found.append(View(ImageDataset(annotations, [resize], normalise, cache=False)))
        if augmented.flip:
            mirror = Flip(probability=1.0)
            found.append(View(ImageDataset(annotations, [resize, mirror], normalise, cache=False), mirrored=True))
    return Views(found)


def evaluation_size(recipe: Recipe) -> tuple[int, int]:
    """Height and width of the largest wide image that the recipe's evaluation transforms give."""
    for part in reversed(recipe.image.eval):
        transform = part.build(TRANSFORMS)
        if isinstance(transform, ResizeExact):
            return transform.height, transform.width
        if isinstance(transform, Resize):
            largest = [side if isinstance(side, int) else max(side) for side in (transform.short, transform.long)]
            return largest[0], largest[1]
    raise ValueError(f"recipe {recipe.name}: its evaluation does not resize, so a size must be given")
