"""The list of published detectors, and fetching them."""

import csv
import re
from dataclasses import replace

import pytest

from qrepro.interop import zoo
from qrepro.interop.zoo import Published, direct, fetch_model, named, published, reported
from qrepro.recipe import recipe_root

ONE = Published("one", "here", "2011.12885", "", "", "41.0", "", "")


def test_the_list_is_sound():
    models = published()
    assert len({model.name for model in models}) == len(models) > 60
    for model in models:
        assert (
            20 < float(model.AP) < 60
            and model.address.startswith("https://")
            and re.fullmatch(r"\d{4}\.\d{5}", model.arxiv)
        )
        if model.source == "MMDetection":  # which puts the digits into the name of the file
            assert re.search(rf"-{model.sha256}\.pth$", model.address) and len(model.sha256) == 8
        if model.row:
            paper = {"2008.13367": "vfnet"}[model.arxiv]
            with (recipe_root() / paper / f"{model.table}.csv").open() as file:
                (row,) = [row for row in csv.DictReader(file) if row["row"] == model.row]
            assert model.source == "MMDetection" or float(row["AP"]) == float(model.AP)


def test_names_that_are_unknown_have_a_nearest():
    assert named("atss_r50_fpn_1x_coco").AP == "39.4"
    with pytest.raises(ValueError, match="did you mean 'atss_r50_fpn_1x_coco'"):
        named("atss_r50_fpn_1x")


def test_a_row_of_a_table_says_more_than_its_ap():
    row = reported(next(model for model in published() if model.row and model.source != "MMDetection"))
    assert {"AP", "AP50", "row", "backbone"} <= row.keys()
    assert reported(replace(ONE, AP="39.4")) == {"AP": "39.4"}


def test_a_file_is_fetched_once_and_checked(tmp_path):
    source, folder = tmp_path / "there.pth", tmp_path / "zoo"
    source.write_bytes(b"weights")
    sha = zoo.digest(source)
    model = replace(ONE, address=source.as_uri(), sha256=sha[:8])
    file = fetch_model(model, folder)
    assert file.read_bytes() == b"weights" and file == folder / "one.pth"
    source.unlink()
    assert fetch_model(model, folder) == file  # not asked for again
    with pytest.raises(ValueError, match=rf"SHA-256 begins {sha[:8]}, published is 00000000") as error:
        fetch_model(replace(model, sha256="00000000"), folder)
    assert not file.exists() and "\n" not in str(error.value)


def test_what_is_no_checkpoint_is_not_kept(tmp_path):
    page = tmp_path / "page"
    page.write_bytes(b"\n<!DOCTYPE html><html>sign in</html>")
    with pytest.raises(ValueError, match="answered with a page instead of one"):
        fetch_model(replace(ONE, address=page.as_uri()), tmp_path / "zoo")
    assert list((tmp_path / "zoo").iterdir()) == []
    with pytest.raises(ValueError, match="no address of one is known"):
        fetch_model(ONE, tmp_path / "zoo")


def test_shared_files_have_a_direct_address():
    shared = "https://drive.google.com/file/d/1aF3Fi5rYeM_qSC-3/view"
    wanted = "https://drive.usercontent.google.com/download?id=1aF3Fi5rYeM_qSC-3&export=download&confirm=t"
    assert direct(shared) == direct(f"{shared}?usp=sharing") == wanted
    assert direct("https://example.org/file/d/x/view") == "https://example.org/file/d/x/view"
