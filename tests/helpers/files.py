"""Reference values, and where the real data sets may be."""

import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


def shared_data(name: str) -> Path:
    """The folder of a real data set, or a skip that says what was missing."""
    root = Path(os.environ.get("QREPRO_SHARED", Path(__file__).parents[2] / ".." / "shared")) / "data" / name
    if not root.is_dir():
        pytest.skip(f"{name}: not found; set QREPRO_SHARED to the folder that holds data/{name}")
    return root.resolve()
