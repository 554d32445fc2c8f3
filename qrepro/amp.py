"""Mixed precision (torch.amp): what stays in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def unmixed(device: str) -> AbstractContextManager[object]:
    """Context that computes in the precision of its inputs, by switching autocast off.

    Args:
        device: Type of a device. Of one without autocast (the shape-only `meta`) the context does nothing.
    """
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
