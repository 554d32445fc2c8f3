"""Layers that backbones, necks and heads share."""

from qrepro.layers.deformable import FLOPS, Deformable

__all__ = ["FLOPS", "Deformable"]
