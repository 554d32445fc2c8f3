"""A results folder that the tests of commands share."""

from pathlib import Path

import pytest

from helpers.commands import SETTINGS
from qrepro.cli import main


@pytest.fixture(scope="session")
def data(shapes) -> Path:
    return shapes


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data) -> Path:
    """A results folder with a plain and an IoU-aware run, both evaluated."""
    out = tmp_path_factory.mktemp("results")
    for name in ("retinanet_r50", "grad_r50"):
        common = [name, "-p", "shapes", "--data", str(data), "--results", str(out), "--device", "cpu", *SETTINGS]
        common += ["--set", "postprocess.score_thr=0.001"]
        for command in (["train"], ["eval", "--oracle-iou", "--alpha", "0.3:0.5:0.1"]):
            with pytest.raises(SystemExit) as left:
                main([*command, *common])
            assert not left.value.code
    return out
