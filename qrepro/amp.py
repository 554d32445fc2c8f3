"""What stays in float32 when a network runs in mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def unmixed(device: str) -> AbstractContextManager[Any]:
    """Mixed precision off, on devices that know it (the shape-only `meta` does not)."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
