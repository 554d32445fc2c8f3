"""Batches of images and padded ground truths, in an order that depends on the seed and the step alone.

Nothing random is kept between batches: each sample brings the seed of its own augmentation. A run that starts at step N
therefore sees what an uninterrupted one saw from there on, whatever the number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2.functional import pil_to_tensor

from qrepro.data.annotations import Annotations
from qrepro.data.transforms import Compose, Normalise, Resize, ResizeExact, Sample, Transform
from qrepro.ground_truth import GroundTruthBatch

Key = tuple[int, int]  # index of a sample, seed of its augmentation


@dataclass(frozen=True)
class Batch:
    """What one step works on.

    Attributes:
        images: (B, 3, H, W) float32, normalised, padded at the right and bottom with zeros.
        ground_truth: Ground truths in input pixels.
        sizes: (B, 2) height, width of each image inside its padding.
        scale: (B, 2) input pixels per original pixel, x and y.
        index: (B,) position in the annotations.
    """

    images: Tensor
    ground_truth: GroundTruthBatch
    sizes: Tensor
    scale: Tensor
    index: Tensor

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Batch:
        """The batch on a device."""
        images = self.images.to(device, non_blocking=True, memory_format=memory_format)
        return replace(self, images=images, ground_truth=self.ground_truth.to(device), sizes=self.sizes.to(device))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; called by the loader for copies to a GPU."""
        ground_truth = GroundTruthBatch(
            *(t.pin_memory() for t in (self.ground_truth.boxes, self.ground_truth.labels, self.ground_truth.valid))
        )
        return replace(self, images=self.images.pin_memory(), ground_truth=ground_truth, sizes=self.sizes.pin_memory())


class ImageDataset(Dataset[tuple[Sample, int, tuple[int, int]]]):
    """Images of a split with their training targets (ignored objects left out)."""

    def __init__(
        self, annotations: Annotations, transforms: Sequence[Transform], normalise: Normalise, cache: bool
    ) -> None:
        first = transforms[0]
        fixed = isinstance(first, ResizeExact) or (isinstance(first, Resize) and first.fixed)
        self.annotations = annotations
        # Only what comes out the same every time may be kept: the decoded image and a fixed first resize.
        self.first = Compose(transforms=transforms[:1] if fixed else ())
        self.rest = Compose(transforms=[*transforms[1 if fixed else 0 :], normalise])
        self.kept: dict[int, Sample] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: Key) -> tuple[Sample, int, tuple[int, int]]:
        """The transformed sample, its index and the (height, width) of its image file."""
        index, seed = key
        image = self.annotations.images[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sample = self.rest(self._opened(index))
        return sample, index, (image.height, image.width)

    def _opened(self, index: int) -> Sample:
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        objects = self.annotations.objects[index]
        boxes, labels = objects.boxes[~objects.ignore], objects.labels[~objects.ignore]
        sample = self.first(Sample(self._read(index), torch.from_numpy(boxes), torch.from_numpy(labels)))
        if self.kept is not None:
            self.kept[index] = sample
        return sample

    def _read(self, index: int) -> Tensor:
        """(3, H, W) uint8 RGB."""
        image = self.annotations.images[index]
        try:
            with PILImage.open(image.file) as opened:
                pixels: Tensor = pil_to_tensor(opened.convert("RGB"))
        except FileNotFoundError:
            raise ValueError(f"{image.file}: file is missing (image {image.id} of {self.annotations.name})") from None
        except (OSError, SyntaxError, PILImage.DecompressionBombError) as error:
            raise ValueError(f"{image.file}: broken image: {error} (`qrepro data check` lists them all)") from error
        if pixels.shape[1:] != (image.height, image.width):
            came, said = tuple(pixels.shape[1:]), (image.height, image.width)
            raise ValueError(f"{image.file}: height and width are {came}, the annotations say {said}")
        return pixels


def collate(samples: Sequence[tuple[Sample, int, tuple[int, int]]], pad: int) -> Batch:
    """A batch of samples, sides padded to the largest and to a multiple of `pad`."""
    sizes = torch.tensor([s.image.shape[-2:] for s, _, _ in samples])
    height, width = (int(-(-side // pad) * pad) for side in sizes.amax(0).tolist())
    images = torch.stack(
        [F.pad(s.image, (0, width - s.image.shape[2], 0, height - s.image.shape[1])) for s, _, _ in samples]
    )
    most = max(len(s.labels) for s, _, _ in samples)
    boxes = torch.stack([F.pad(s.boxes, (0, 0, 0, most - len(s.boxes))) for s, _, _ in samples])
    labels = torch.stack([F.pad(s.labels, (0, most - len(s.labels))) for s, _, _ in samples])
    valid = torch.arange(most) < torch.tensor([len(s.labels) for s, _, _ in samples])[:, None]
    scale = (sizes / torch.tensor([original for _, _, original in samples])).flip(-1)
    return Batch(images, GroundTruthBatch(boxes, labels, valid), sizes, scale, torch.tensor([i for _, i, _ in samples]))


class Steps(Sampler[list[Key]]):
    """The samples of steps `start` to `stop`, this rank's share of each batch of `batch` over all ranks.

    Every epoch is a permutation of its own; the last batch of each group is filled up from the group's beginning.

    Args:
        groups: (N,) group of each sample; a batch holds samples of one group only (upright and wide images apart waste
            less padding).
        batch: Samples of a batch, over all ranks.
        start: First step.
        stop: Step after the last one.
        seed: Seed of the order and of the samples.
        rank: Index of this process.
        world: Number of processes.
    """

    def __init__(
        self, groups: NDArray[np.int64], batch: int, start: int, stop: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.groups, self.batch, self.start, self.stop, self.seed = groups, batch, start, stop, seed
        self.share = slice(rank * batch // world, (rank + 1) * batch // world)

    @staticmethod
    def per_epoch(groups: NDArray[np.int64], batch: int) -> int:
        """Steps that one epoch takes."""
        return int(sum(-(-np.bincount(groups) // batch)))

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = self.per_epoch(self.groups, self.batch)
        epoch, batches = -1, np.zeros((0, self.batch), np.int64)
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                batches = self._epoch(epoch)
            seeds = np.random.SeedSequence([self.seed, step]).generate_state(self.batch).tolist()
            yield list(zip(batches[step % per_epoch].tolist(), seeds, strict=True))[self.share]

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """(steps, batch) indices of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.groups))
        batches = []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            count = -(-len(members) // self.batch)
            batches.append(np.resize(members, (count, self.batch)))  # repeats from the beginning
        return rng.permutation(np.concatenate(batches))


def aspect_groups(annotations: Annotations) -> NDArray[np.int64]:
    """(N,) 1 for images wider than high."""
    return np.array([int(i.width > i.height) for i in annotations.images], dtype=np.int64)


def in_order(count: int, batch: int) -> list[list[Key]]:
    """All samples once, in the order of the annotations; what evaluation iterates over."""
    return [[(i, 0) for i in range(first, min(first + batch, count))] for first in range(0, count, batch)]


def loader(
    images: Dataset[Any], steps: Sampler[list[Key]] | list[list[Key]], pad: int, workers: int, pin: bool
) -> DataLoader[Batch]:
    """Batches of samples, such as those of `ImageDataset`, for the given steps."""
    return DataLoader(images, batch_sampler=steps, num_workers=workers, collate_fn=_Collate(pad), pin_memory=pin)


@dataclass(frozen=True)
class _Collate:
    """`collate` with its padding bound, in a form that worker processes can unpickle."""

    pad: int

    def __call__(self, samples: Sequence[tuple[Sample, int, tuple[int, int]]]) -> Batch:
        return collate(samples, self.pad)
