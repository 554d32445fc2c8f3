"""Fixtures shared by the tests: reference values, and where the real data sets may be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.files import GOLDEN
from qrepro.data.shapes import make_shapes

if "OMP_NUM_THREADS" not in os.environ:  # two cores, shared among the workers of pytest-xdist
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes that its tests start share them too
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def golden():
    """Loader of a file of MMDetection's reference values: golden("losses")["focal_loss"] is a tensor."""

    def load(name: str) -> dict[str, torch.Tensor]:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "fi"}

    return load


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A small painted data set: 12 training and 6 validation images."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, train=12, val=6)
    return root
