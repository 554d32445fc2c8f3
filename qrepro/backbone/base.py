"""What all backbones share: weights from elsewhere, frozen stages, frozen norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from torch import Tensor, nn

from qrepro.backbone.weights import load_weights

NOT_PRETRAINED = ("num_batches_tracked", ".offset.weight", ".offset.bias")  # endings that a weight file may lack


class Backbone(nn.Module):
    """A network from images to feature maps; a subclass builds it and then calls `settle`.

    channels: of the maps that forward returns, finest first.
    fresh: beginnings of the names of further entries that a weight file may lack: they then stay as they are.
    """

    channels: tuple[int, ...]
    fresh: tuple[str, ...] = ()

    def settle(
        self, stages: Iterable[list[nn.Module]], weights: str | None, frozen_stages: int, frozen_norm: bool
    ) -> None:
        """Freeze the first `frozen_stages` of `stages`, and with `frozen_norm` the statistics of all batch norms.

        weights: null (from scratch), `torchvision/<name>`, `timm/<name>` or a local file (see `load_weights`).
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
        """Fill in the weights that the recipe names; raises `ValueError` when they cannot be had."""
        if self.weights is None:
            return
        own, state = self.state_dict(), self.translated(load_weights(self.weights))
        missing = [k for k in own if not (k in state or k.endswith(NOT_PRETRAINED) or k.startswith(self.fresh))]
        if missing:
            raise ValueError(
                f"backbone.weights {self.weights}: lacks {len(missing)} entries of this backbone, e.g. {missing[0]}"
            )
        wrong = [k for k, v in own.items() if k in state and state[k].shape != v.shape]
        if wrong:
            have, want = tuple(state[wrong[0]].shape), tuple(own[wrong[0]].shape)
            raise ValueError(f"backbone.weights {self.weights}: {wrong[0]} is {have}, this backbone has {want}")
        self.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)

    def translated(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A weight file's entries under this backbone's names, and in its shapes."""
        return state
