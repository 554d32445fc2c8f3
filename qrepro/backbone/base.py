"""Base class of the backbones: pretrained weights, frozen stages, frozen norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from qrepro.backbone.weights import load_weights

NOT_PRETRAINED = ("num_batches_tracked", ".offset.weight", ".offset.bias")  # endings that a weight file may lack


class Backbone(nn.Module):
    """A network from images to feature maps; a subclass builds it and then calls `settle`.

    Attributes:
        channels: Channels of the maps that `forward` returns, finest first.
        fresh: Prefixes of the names of further entries that a weight file may lack: they then keep their initial
            values.
        weights: Pretrained weights that the recipe names, None to train from scratch.
        frozen_norm: Batch norms keep their stored statistics.
    """

    channels: tuple[int, ...]
    fresh: tuple[str, ...] = ()
    weights: str | None
    frozen_norm: bool

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, each (B, channels, H / stride, W / stride), finest first, of images (B, 3, H, W)."""
        raise NotImplementedError

    def settle(
        self, stages: Iterable[Sequence[nn.Module]], weights: str | None, frozen_stages: int, frozen_norm: bool
    ) -> None:
        """Freeze stages and norms, and note the weights for `load_pretrained`.

        Args:
            stages: Modules of each stage, from the image on.
            weights: None (from scratch), `torchvision/<name>`, `timm/<name>` or a local file (see `load_weights`).
            frozen_stages: Number of stages, from the first on, whose weights are not trained.
            frozen_norm: Freeze the statistics of all batch norms.
        """
        self.weights, self.frozen_norm = weights, frozen_norm
        self._frozen = [module for stage in list(stages)[:frozen_stages] for module in stage]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode, except that frozen stages and frozen norms stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def load_pretrained(self) -> None:
        """Load the weights that the recipe names.

        Raises:
            ValueError: They cannot be had, lack entries of this backbone or have other shapes.
        """
        if self.weights is None:
            return
        entries, state = self.state_dict(), self.translated(load_weights(self.weights))
        missing = [k for k in entries if not (k in state or k.endswith(NOT_PRETRAINED) or k.startswith(self.fresh))]
        if missing:
            raise ValueError(
                f"backbone.weights {self.weights}: lacks {len(missing)} entries of this backbone, e.g. {missing[0]}"
            )
        wrong = [k for k, v in entries.items() if k in state and state[k].shape != v.shape]
        if wrong:
            have, want = tuple(state[wrong[0]].shape), tuple(entries[wrong[0]].shape)
            raise ValueError(f"backbone.weights {self.weights}: {wrong[0]} is {have}, this backbone has {want}")
        self.load_state_dict({k: v for k, v in state.items() if k in entries}, strict=False)

    def translated(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Entries of a weight file under this backbone's names, and in its shapes."""
        return state
