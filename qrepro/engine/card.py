"""The card of a run: what is trained here, and by what."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision

from qrepro import __version__
from qrepro.recipe.axes import filled
from qrepro.recipe.schema import Recipe


def run_card(recipe: Recipe, seed: int, **more: Any) -> dict[str, Any]:
    """The card of a training.

    `values` is what the recipe says, and alone enough to train it again; `filled` has every default of the code at that
    time beside it, for a reader; `performance` is what made it fast, and is no part of the hash.
    """
    return {
        "recipe": recipe.name,
        "profile": recipe.profile,
        "seed": seed,
        "hash": recipe.hash,
        "overrides": recipe.overrides,
        "performance": recipe.performance,
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "qrepro": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        **more,
        "values": recipe.values(),
        "filled": filled(recipe),
    }


def commit() -> str:
    """Commit of the checkout that this code runs from, `-dirty` with local changes, or `` outside a checkout."""
    here = Path(__file__).parent
    try:
        call = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude", "*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
