"""Runs made before the package was rebuilt give the numbers that they gave then: tables, claims, analyses, figures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.commands import run
from helpers.files import GOLDEN
from qrepro.recipe.load import read_recipe

EARLIER = GOLDEN / "earlier"
RENAMED = {  # columns then: columns now
    "floor": "score_thr",
    "classes_with_truth": "classes_with_gt",
    "truths": "ground_truth",
    "per_truth": "per_object",
    "truth": "replaced",
}
WORDS = {  # text then: text now
    "with the assigned truth": "with the assigned ground truth",
    "not seen": "inconclusive",
}
SETTING = ["-p", "shapes", "--steps", "60"]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The runs with the hashes that their recipes have now, and these by the earlier ones."""
    root, now = tmp_path_factory.mktemp("earlier") / "results", {}
    shutil.copytree(EARLIER / "runs", root)
    for path in root.rglob("run.json"):
        card = json.loads(path.read_text())
        now[card["hash"]] = card["hash"] = read_recipe(card["recipe"], "shapes", card["overrides"]).hash
        path.write_text(json.dumps(card))
    return root, now


def assert_same(path: Path, made: Path, hashes: dict[str, str]) -> None:
    """Every value of a table, for renamed columns, words and hashes; overrides are spelt in the words of today."""
    then = pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns=RENAMED)
    now = pd.read_csv(made, dtype=str, keep_default_na=False)
    assert list(now) == list(then) and len(now) == len(then), path.name
    for name in set(then) - {"overrides"}:
        old, new = (pd.to_numeric(frame[name], errors="coerce").to_numpy(float) for frame in (then, now))
        number = ~np.isnan(old)
        np.testing.assert_allclose(new[number], old[number], rtol=2e-5, atol=1e-9, err_msg=f"{path.name}: {name}")
        texts = then[name][~number].replace(WORDS)
        for old_hash, new_hash in hashes.items():
            texts = texts.str.replace(old_hash, new_hash)
        lists = [frame.str.split(" ").map(sorted) if name == "runs" else frame for frame in (now[name][~number], texts)]
        assert lists[0].tolist() == lists[1].tolist(), f"{path.name}: {name}"  # runs are in the order of their hashes


@pytest.mark.parametrize(
    "command, folder, count",
    [
        (["tables", *SETTING], "tables", 37),
        (["claims", *SETTING, "--draws", "50"], "claims", 5),
        (["analyze", "ap", "--voc", "--per-class"], "analysis", 3),
        (["analyze", "pcc", "--by", "size", "--over", "positives"], "analysis", 2),
        (["analyze", "oracle"], "analysis", 1),
        (["analyze", "calibration"], "analysis", 1),
        (["analyze", "lrp"], "analysis", 1),
        (["analyze", "matches"], "analysis", 8),
        (["analyze", "distributions"], "analysis", 7),
        (["analyze", "plot"], "figures", 13),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_numbers_are_those_of_before(capsys, tmp_path, results, command, folder, count):
    root, hashes = results
    code, _, err = run(capsys, *command, "--results", root, "--out", tmp_path)
    assert code == 0, err
    expected = EARLIER / "outputs" / folder
    made = [path for path in tmp_path.rglob("*.csv") if (expected / path.relative_to(tmp_path)).is_file()]
    for path in made:
        assert_same(expected / path.relative_to(tmp_path), path, hashes)
    assert len(made) == count
