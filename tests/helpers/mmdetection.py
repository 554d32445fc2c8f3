"""State dicts under MMDetection's names, with entries that follow from the names."""

import zlib

import numpy as np
import torch


def by_name(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The entry of a state dict that the reference's rule makes from its name."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("running_var"):
        return 1 + 0.2 * r.abs()
    if name.endswith("running_mean"):
        return 0.1 * r
    if len(shape) >= 2:
        return r * (1 / r[0].numel()) ** 0.5
    if name.endswith(("weight", "scale")):
        return 0.5 + 0.05 * r
    logits = {f"bbox_head.{layer}.bias" for layer in ("retina_cls", "atss_cls", "gfl_cls", "conv_cls")}
    return 0.05 * r + (-2 if name in logits else 0)


def state_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: by_name(name, shape) for name, shape in shapes.items()}


def shapes_of(ref: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    pairs = zip(ref["names"].tolist(), ref["shapes"].tolist(), strict=True)
    return {name: tuple(int(n) for n in text.strip("()").split(",") if n.strip()) for name, text in pairs}
