"""Several processes: what `torchrun` says about this one, and how they talk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that work together.

    Attributes:
        rank: Index of this process, 0 for the first.
        world: Number of processes.
        device: Device that this process trains on.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def name(self) -> str:
        """What the device is, such as `NVIDIA H200` or `CPU, 2 threads`."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def any(self, asked: bool) -> bool:
        """Whether any process was asked to stop: a signal reaches them in different steps, and all must end in one."""
        if self.world == 1:
            return asked
        flag = torch.tensor(float(asked), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)


@contextmanager
def process_group(device: str | None) -> Iterator[DistributedContext]:
    """The process group for the duration of a block; a single process makes none.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, or None for a GPU where there is one.

    Yields:
        This process among those of the group.

    Raises:
        ValueError: A device that is not here.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local)
    if world == 1:
        yield DistributedContext(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield DistributedContext(rank, world, chosen)
    finally:
        dist.destroy_process_group()


def choose_device(device: str | None, local: int = 0) -> torch.device:
    """The device of a name; without one, a GPU where there is one.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, or None.
        local: Index of the GPU that is meant where the name has none.

    Raises:
        ValueError: Another name, or a device that is not here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device}: allowed are cpu, cuda, cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {device}: allowed are cpu, cuda, cuda:N")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {device}: this machine has no GPU that torch {torch.__version__} can use")
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"--device {device}: this machine has {torch.cuda.device_count()} GPUs")
        return chosen if chosen.index is not None else torch.device("cuda", local)
    return chosen
