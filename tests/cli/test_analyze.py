"""`qrepro analyze` on the files of other detectors, and `rescore`: what a user types, gets, and is told."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.commands import SETTINGS, run
from qrepro.cli.experiments import show_evaluation
from qrepro.experiments.evaluation import write_evaluation
from qrepro.experiments.synthetic import Size, make_detections, make_ground_truth, write_detections, write_ground_truth
from qrepro.metrics.calibration import D_ECE, calibration_rows
from qrepro.metrics.coco_ap import ap_metrics, evaluate_ap
from qrepro.metrics.lrp import lrp_rows
from qrepro.metrics.voc_ap import voc_rows
from qrepro.recipe.axes import resolve
from qrepro.records.run_folder import RunFolder
from qrepro.records.score_rule import Rule

SIZE = Size(images=25, objects=120, classes=4, detections=900)


@pytest.fixture(scope="module")
def ground_truth():
    return make_ground_truth(SIZE)


@pytest.fixture(scope="module")
def found(ground_truth):
    return make_detections(SIZE, ground_truth)


@pytest.fixture(scope="module")
def files(tmp_path_factory, ground_truth, found):
    folder = tmp_path_factory.mktemp("files")
    write_ground_truth(ground_truth, folder / "ground_truth.json")
    for seed, name in enumerate("ab"):
        write_detections(make_detections(SIZE, ground_truth, seed), folder / f"{name}.json")
    (folder / "a.json.gz").write_bytes(gzip.compress((folder / "a.json").read_bytes()))
    found.drop(columns="iou_truth").to_parquet(folder / "a.parquet")
    return folder


def table(folder, name):
    return pd.read_csv(folder / f"{name}.csv")


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.parquet"])
@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_ap_of_a_file(capsys, tmp_path, files, ground_truth, found, name, engine):
    code, out, err = run(
        capsys, "analyze", "ap", files / name, "--annotations", files / "ground_truth.json", "--out",
        tmp_path, "--engine", engine, "--thresholds", "0.3:0.5:0.1", "--per-class", "--curves", "--voc",
    )  # fmt: skip
    assert (code, err) == (0, "")
    rows = table(tmp_path, "ap")
    assert len(rows) == 1 and rows["sizes"].tolist() == ["32/96"]
    assert "S, M, L: area below 32², 32² to 96², above 96² px² of the original image." in out
    expected = ap_metrics(evaluate_ap(ground_truth, found, [0.3, 0.4, 0.5], engine="pycocotools"))
    for metric, value in expected.items():
        assert rows[metric][0] == pytest.approx(value, rel=1e-9), metric
    assert len(table(tmp_path, "ap_classes")) == 4
    assert f"{expected['AP40']:.1f}" in out
    (curve,) = tmp_path.glob("precision_recall-*.csv")
    points = pd.read_csv(curve)
    assert len(points) == 3 * 101
    assert 100 * points["precision"][:101].mean() == pytest.approx(expected["AP30"])
    pascal = table(tmp_path, "ap_voc").drop(columns=["run", "rule"])
    expected = pd.DataFrame(voc_rows(ground_truth, found, [0.3, 0.4, 0.5], sizes=(32, 96)))
    pd.testing.assert_frame_equal(pascal, expected, check_dtype=False, rtol=1e-9)
    assert "are at IoU 0.5" in out


@pytest.mark.parametrize("sizes, sides", [("passd", (64, 192)), ("20,50.5", (20, 50.5))])
def test_ap_by_sizes_of_ones_own(capsys, tmp_path, files, ground_truth, found, sizes, sides):
    code, _, err = run(
        capsys, "analyze", "ap", files / "a.json", "--annotations", files / "ground_truth.json", "--out",
        tmp_path, "--voc", "--sizes", sizes,
    )  # fmt: skip
    assert (code, err) == (0, "")
    expected = ap_metrics(evaluate_ap(ground_truth, found, engine="pycocotools", sizes=sides))
    ((_, row),) = table(tmp_path, "ap").iterrows()
    assert [row[f"AP{size}"] for size in "SML"] == pytest.approx([expected[f"AP{size}"] for size in "SML"])
    assert row["APS"] != pytest.approx(ap_metrics(evaluate_ap(ground_truth, found))["APS"])
    pascal = table(tmp_path, "ap_voc")
    assert pascal["mAPM"].tolist() == pytest.approx([row["mAPM"] for row in voc_rows(ground_truth, found, sizes=sides)])
    assert set(pascal["sizes"]) == {row["sizes"]} == {"{:g}/{:g}".format(*sides)}
    assert f"S, M, L: area below {sides[0]:g}²" in (tmp_path / "ap_voc.md").read_text()


def test_a_class_without_truth_is_named(capsys, tmp_path, files, found):
    content = json.loads((files / "ground_truth.json").read_text())
    gone = content["categories"][1]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != gone["id"]]
    (tmp_path / "less.json").write_text(json.dumps(content))
    code, out, _ = run(
        capsys, "analyze", "ap", files / "a.json", "--annotations", tmp_path / "less.json", "--out",
        tmp_path,
    )  # fmt: skip
    assert code == 0
    assert f"Without ground truth, so in no mean: {gone['name']}." in out
    assert table(tmp_path, "ap")["n_classes"].tolist() == [3]


def test_quality_is_used_where_present(capsys, tmp_path, files, found):
    for name, estimates in (("a.parquet", {"quality u", "score"}), ("a.json", {"score"})):
        code, _, err = run(
            capsys, "analyze", "pcc", files / name, "--annotations", files / "ground_truth.json", "--out",
            tmp_path, "--by", "size",
        )  # fmt: skip
        assert code == 0, err
        rows = table(tmp_path, "pcc")
        assert set(rows["estimate"]) == estimates
        assert set(rows["iou"]) == {"IoU_eval"}
        assert (rows["images"] <= SIZE.images).all()
    assert set(table(tmp_path, "pcc_by_size")["size"]) == {"small", "medium", "large"}


def test_calibration_and_lrp_of_a_file(capsys, tmp_path, files, ground_truth, found):
    given = [files / "a.json", "--annotations", files / "ground_truth.json", "--out", tmp_path]
    code, _, err = run(capsys, "analyze", "calibration", *given, "--score-thr", "0.2", "--bins", "5")
    assert code == 0, err
    rows = table(tmp_path, "calibration").set_index("metric")
    metric = type(D_ECE)(**{**vars(D_ECE), "score_thr": 0.2, "bins": 5})
    (expected,) = calibration_rows(ground_truth, found, [metric])
    assert rows["value"]["D-ECE"] == pytest.approx(expected["value"])
    assert set(rows["score_thr"].astype(float)) == {0.2}
    assert rows["bins"].tolist() == ["5", "5", "5", "one per detection"]
    assert (tmp_path / "reliability-D-ECE.svg").is_file()
    code, out, err = run(capsys, "analyze", "lrp", *given, "--tau", "0.6")
    assert code == 0, err
    mean = table(tmp_path, "lrp").iloc[-1]
    assert mean["value"] == pytest.approx(lrp_rows(ground_truth, found, 0.6)[-1]["value"])
    assert "tau 0.6" in out


def test_detections_after_nms_are_ranked_again_and_said_to_be(capsys, tmp_path, files):
    code, out, err = run(
        capsys, "analyze", "oracle", files / "a.json", "--annotations", files / "ground_truth.json",
        "--alpha", "0.5", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    rows = table(tmp_path, "oracle")
    assert rows["rule"].tolist() == ["as scored", "iou_eval", "iou_eval-power-0.5", "iou_truth", "iou_truth-power-0.5"]
    assert set(rows["stage"]) == {"post-NMS"} and "post-NMS" in out
    assert rows["AP"][1] > rows["AP"][0]


def test_two_files_are_compared_in_pairs(capsys, tmp_path, files):
    given = ["--annotations", files / "ground_truth.json", "--out", tmp_path, "--draws", "50"]
    code, out, err = run(capsys, "analyze", "compare", files / "a.json", files / "b.json", *given)
    assert code == 0, err
    rows = table(tmp_path, "compare").set_index("metric")
    assert rows["difference"]["AP"] == pytest.approx(rows["b"]["AP"] - rows["a"]["AP"])
    assert (rows["low"] <= rows["high"]).all() and set(rows["draws"]) == {50}
    assert "pearson of score over detections" in rows.index
    assert "a: a.json" in out
    code, _, err = run(capsys, "analyze", "compare", files / "a.json", files / "a.json", *given)
    assert code == 0, err
    assert table(tmp_path, "compare")["difference"].abs().max() == 0


@pytest.mark.parametrize(
    "change, said",
    [
        ({"image_id": 999}, "detections[3]"),
        ({"category_id": 999}, "detections[3]"),
        ({"score": "high"}, "detections[3]"),
        ({"bbox": [0, 0, -1, 5]}, "detections[3]"),
        ({"bbox": [0, 0, 5]}, "detections[3]"),
    ],
)
def test_a_wrong_record_is_named(capsys, tmp_path, files, change, said):
    records = json.loads((files / "a.json").read_text())
    records[3].update(change)
    (tmp_path / "wrong.json").write_text(json.dumps(records))
    code, _, err = run(
        capsys, "analyze", "ap", tmp_path / "wrong.json", "--annotations", files / "ground_truth.json",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "wrong.json" in err and said in err
    assert not (tmp_path / "out").exists()


def test_scores_beyond_one_are_a_warning_for_ap(capsys, tmp_path, files):
    records = json.loads((files / "a.json").read_text())
    records[0]["score"] = 3.5
    (tmp_path / "high.json").write_text(json.dumps(records))
    given = [tmp_path / "high.json", "--annotations", files / "ground_truth.json", "--out", tmp_path]
    code, _, err = run(capsys, "analyze", "ap", *given)
    assert code == 0
    assert err.startswith("warning: ") and err.count("\n") == 1 and "3.5" in err
    code, _, err = run(capsys, "analyze", "calibration", *given)
    assert code == 2 and "[0, 1]" in err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["ap", "FILE"], "a result file needs its ground truth"),
        (["ap", "--annotations", "TRUTHS"], "belongs to result files"),
        (["ap", "RUNS", "FILE", "--annotations", "TRUTHS"], "no evaluated run"),
        (["ap", "TRUTHS", "--annotations", "FILE"], "FILE"),
        (["ap", "NONE", "--annotations", "TRUTHS"], "no such file"),
        (["ap", "FILE", "--annotations", "TRUTHS", "--thresholds", "0.5:x"], "--thresholds"),
        (["ap", "FILE", "--annotations", "TRUTHS", "--thresholds", "1.5"], "(0, 1]"),
        (["ap", "FILE", "--annotations", "TRUTHS", "--engine", "fast"], "hotcoco"),
        (["ap", "FILE", "--annotations", "TRUTHS", "--sizes", "voc"], "--sizes voc: allowed are coco"),
        (["ap", "FILE", "--annotations", "TRUTHS", "--sizes", "64"], "such as 64,192"),
        (["ap", "FILE", "--annotations", "TRUTHS", "--sizes", "192,64"], "two increasing sides in px"),
        (["pcc", "FILE", "--annotations", "TRUTHS", "--over", "positives"], "--over positives"),
        (["pcc", "FILE", "--annotations", "TRUTHS", "--by", "colour"], "class or size"),
        (["pcc", "FILE", "--annotations", "TRUTHS", "--statistics", "pcc"], "pearson"),
        (["lrp", "FILE", "--annotations", "TRUTHS", "--tau", "1"], "tau"),
        (["calibration", "FILE", "--annotations", "TRUTHS", "--pooling", "some"], "pooling"),
        (["compare", "FILE", "FILE"], "a result file needs its ground truth"),
        (["compare", "FILE", "FILE", "--annotations", "TRUTHS", "--interval", "wide"], "centred"),
        (["compare", "FILE", "FILE", "--annotations", "TRUTHS", "--rule-a", "class"], "no score rules"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(capsys, tmp_path, files, arguments, said):
    places = {
        "FILE": files / "a.json",
        "TRUTHS": files / "ground_truth.json",
        "NONE": files / "none.json",
        "RUNS": tmp_path,
    }
    code, _, err = run(capsys, "analyze", *[places.get(a, a) for a in arguments], "--out", tmp_path / "out")
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert str(places.get(said, said)) in err


def test_an_evaluation_on_voc_holds_its_map_by_passds_sizes(capsys, tmp_path, ground_truth, found):
    recipe = resolve("iou_aware/grad_r50", "bccd")
    evaluation = write_evaluation(
        tmp_path, [(Rule(), found)], recipe, ground_truth, {"split": "test", "images": SIZE.images}, None
    )
    written = json.loads((tmp_path / "metrics.json").read_text())["voc"]
    assert written == {"class": voc_rows(ground_truth, found, sizes=(64, 192))}
    show_evaluation(evaluation)
    out = capsys.readouterr().out
    assert "VOC mAP" in out and f"{written['class'][0]['mAPS']:.1f}" in out and "sizes 64/192" in out


def make_matches(folder, recipe, **counts):
    """An evaluated run with matches of ground truths of sides 10, 30 and 60 px."""
    path = folder / recipe / "shapes" / "seed0"
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"recipe": recipe, "profile": "shapes", "seed": 0}))
    (path / "metrics.json").write_text(json.dumps({"split": "val", "images": 2, "rules": {}}))
    if counts:
        known = {"image_id": 1, "category_id": 1, "x1": 0.0, "y1": 0.0, "x2": 9.0, "y2": 9.0}
        pd.DataFrame({**known, "side": [10.0, 30.0, 60.0], **counts}).to_parquet(path / "assignments.parquet")
    return path


def test_matches_against_scale(capsys, tmp_path):
    make_matches(tmp_path, "p/two", initial=[0, 2, 4], adjusted=[6, 6, 6])
    make_matches(tmp_path, "p/one", initial=[0, 2, 4], adjusted=[np.nan] * 3)
    code, out, err = run(capsys, "analyze", "matches", "--results", tmp_path, "--bins", "3")
    assert (code, err) == (0, "")
    folder = tmp_path / "analysis"
    rows = table(folder, "matches")
    assert rows["matched"].tolist() == [0, 2, 4, 0, 2, 4, 6, 6, 6]
    assert rows["side_max"].tolist() == [20, 40, 60] * 3
    spread = table(folder, "matches_evenness")
    assert list(zip(spread["run"].str[:5], spread["boxes"], spread["variation"], strict=True)) == [
        ("p/one", "initial", pytest.approx((2 / 3) ** 0.5)),
        ("p/two", "initial", pytest.approx((2 / 3) ** 0.5)),
        ("p/two", "adjusted", 0),
    ]
    assert "0.816" in out and (folder / "matches_evenness.md").is_file()
    for kind in ("png", "svg", "csv"):
        assert len(list(folder.glob(f"matches-p-*-shapes-seed-0.{kind}"))) == 2
    for bins, edges in (("0,15,60", [15, 60]), ("quantile:2", [30, 60])):
        code, _, err = run(capsys, "analyze", "matches", tmp_path / "p" / "one", "--bins", bins, "--out", tmp_path)
        assert (code, err) == (0, "") and table(tmp_path, "matches")["side_max"].tolist() == edges


def test_runs_without_matches_are_named(capsys, tmp_path):
    old = make_matches(tmp_path, "p/old")
    code, _, err = run(capsys, "analyze", "matches", old)
    assert code == 2 and err == f"error: {old / 'assignments.parquet'}: no such file; evaluate the run again\n"
    make_matches(tmp_path, "p/new", initial=[1, 1, 1])
    code, out, _ = run(capsys, "analyze", "matches", tmp_path, "--out", tmp_path / "out")
    assert code == 0 and "Left out, evaluate again: p/old / shapes / seed 0.\n" in out
    assert set(table(tmp_path / "out", "matches")["run"]) == {"p/new / shapes / seed 0"}


@pytest.mark.parametrize(
    "bins, said",
    [
        ("many", "--bins many: must look like 16, quantile:16 or 0,32,96,320"),
        ("octave:4", "--bins octave:4: must look like"),
        ("0,x", "--bins 0,x: must look like"),
        ("0", "at least 1, got 0"),
        ("60,20", "two or more increasing numbers of px"),
        ("100,200", "none of 3 objects has a side from 100 to 200 px"),
    ],
)
def test_bins_that_are_none(capsys, tmp_path, bins, said):
    make_matches(tmp_path, "p/a", initial=[1, 1, 1])
    code, _, err = run(capsys, "analyze", "matches", tmp_path, "--bins", bins, "--out", tmp_path / "out")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert not (tmp_path / "out").exists()


OWN_RULE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Weighted:
    weight: float
    uses_quality = True

    def __call__(self, log_class, log_quality):
        return self.weight * log_class + (1 - self.weight) * log_quality
"""


@pytest.fixture(scope="module")
def stored(trained, data, tmp_path_factory):
    """The IoU-aware run evaluated with candidates above a floor that is low enough for some of the rules."""
    run_folder = next(trained.glob("iou_aware/grad_r50*/shapes/seed0"))
    copy = tmp_path_factory.mktemp("stored") / "seed0"
    shutil.copytree(run_folder, copy)
    from qrepro.cli import main

    rules = [part for name in ("class", "product", "power-0.3", "oracle-product") for part in ("--rule", name)]
    floors = ["--save-candidates", "--stored-thr", "0.0005"]
    with pytest.raises(SystemExit) as left:
        main(["eval", str(copy), "--data", str(data), "--device", "cpu", *rules, *floors])
    assert not left.value.code
    return copy


def test_rescoring_equals_the_evaluation(capsys, tmp_path, stored):
    rules = [part for name in ("class", "product", "power-0.3", "oracle-product") for part in ("--rule", name)]
    code, out, err = run(capsys, "rescore", stored, *rules)
    assert code == 0, err
    here = stored / "rescored" / "as-evaluated"
    metrics, again = (json.loads((folder / "metrics.json").read_text()) for folder in (stored, here))
    certain = [rule for rule, count in again["certain"].items() if count == again["images"]]
    assert {"class", "product", "oracle-product"} <= set(certain)  # their floor 0.0005 lies below the threshold 0.001
    for rule in certain:
        pd.testing.assert_frame_equal(
            pd.read_parquet(here / "detections" / f"{rule}.parquet"),
            pd.read_parquet(stored / "detections" / f"{rule}.parquet"),
        )
        assert again["rules"][rule] == metrics["rules"][rule]
    for rule in set(again["certain"]) - set(certain):
        assert f"{rule}: in " in out


def test_rescoring_with_other_settings(capsys, stored):
    code, _, err = run(capsys, "rescore", stored, "--rule", "class", "--soft", "gaussian", "--max-per-img", "5")
    assert code == 0, err
    folder = stored / "rescored" / "suppression=gaussian,max_per_img=5"
    found = pd.read_parquet(folder / "detections" / "class.parquet")
    assert found.groupby("image_id").size().max() == 5
    assert (found["score"] <= found["class_score"] + 1e-7).all()
    written = json.loads((folder / "metrics.json").read_text())
    assert written["postprocess"]["suppression"] == "gaussian" and written["postprocess"]["max_per_img"] == 5


def test_the_study_of_candidates_ranks_them_under_every_suppression(tmp_path, stored):
    study = Path(__file__).parents[2] / "analysis" / "candidate_rescoring.py"
    done = subprocess.run([sys.executable, study, stored], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "analysis" / "candidate_rescoring"
    rows = pd.read_csv(folder / "rows.csv")
    assert (
        rows.groupby("suppression").size().tolist() == [25] * 4
    )  # product and 11 alphas, plain and with oracle, and class
    evaluated = json.loads((stored / "metrics.json").read_text())["rules"]["power-0.3"]["AP"]
    same = rows[(rows["suppression"] == "as evaluated") & (rows["rule"] == "power-0.3")]
    assert same["AP"].tolist() == pytest.approx([evaluated])
    done = subprocess.run([sys.executable, study], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == f"error: {study}: takes RUN, got nothing\n"


def test_correlation_over_candidates(capsys, tmp_path, stored):
    code, _, err = run(
        capsys, "analyze", "pcc", stored, "--over", "candidates", "--score-thr", "0.001", "--out", tmp_path
    )
    assert code == 0, err
    rows = table(tmp_path, "pcc")
    candidates = RunFolder(stored).candidates
    above = candidates[candidates["class_score"] > np.float32(0.001)]
    first = rows[(rows["estimate"] == "quality u") & (rows["iou_min"] == 0)].iloc[0]
    assert first["n"] == len(above.drop_duplicates(["image_id", "location"]))
    best = above.sort_values("class_score").drop_duplicates(["image_id", "location"], keep="last")
    assert first["pearson"] == pytest.approx(np.corrcoef(best["quality"], best["iou_truth"])[0, 1])


def test_distributions_of_labels(capsys, tmp_path, stored):
    code, _, err = run(capsys, "analyze", "distributions", stored, "--out", tmp_path)
    assert code == 0, err
    assert {p.name for p in tmp_path.glob("*.png")} == {"labels.png", "labels-1.png"}


def test_a_rule_of_ones_own_ranks_as_ours(capsys, tmp_path, stored, monkeypatch):
    """A class of a module in the current folder, named on the command line: its values are those of power-0.3."""
    (tmp_path / "house_rules.py").write_text(OWN_RULE)
    monkeypatch.chdir(tmp_path)
    own = "house_rules:Weighted,weight=0.3"
    code, _, err = run(capsys, "rescore", stored, "--rule", own, "--rule", "power-0.3", "--out", "out")
    assert code == 0, err
    metrics = json.loads(Path("out", "metrics.json").read_text())["rules"]
    (name,) = set(metrics) - {"power-0.3"}
    assert Rule.parse(name) == Rule.parse(own) and metrics[name] == metrics["power-0.3"]
    frames = [pd.read_parquet(Path("out", "detections", f"{Rule.parse(rule).file_stem}.parquet")) for rule in metrics]
    pd.testing.assert_frame_equal(*frames)
    code, _, err = run(capsys, "rescore", stored, "--rule", "house_rules:Weighted,weigth=0.3", "--out", "other")
    assert code == 2 and "'weigth' is unknown, allowed: weight" in err and err.count("\n") == 1
    assert not Path("other").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--rule", "oracle-box-class"], "needs the dense outputs"),
        (["--soft", "hard-ish"], "suppression"),
        (["--rule", "producd"], "producd"),
        (["--split", "test"], "no stored candidates"),
    ],
)
def test_wrong_input_to_rescore(capsys, stored, arguments, said):
    code, _, err = run(capsys, "rescore", stored, *arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err


def test_oracles_of_vfnet_are_rules_of_eval(capsys, stored, data):
    """Positives with their ground truth's box and class and nothing else.

    Whatever the network says, AP is that of recall.
    """
    copy = stored.parent / "vfnet"
    shutil.copytree(stored, copy)
    names = ["oracle-box+zero-class", "oracle-class-class", "oracle-class_iou+zero-class", "oracle@positives-product"]
    rules = [part for name in names for part in ("--rule", name)]
    code, _, err = run(capsys, "eval", copy, "--data", data, "--device", "cpu", *rules)
    assert code == 0, err
    found = pd.read_parquet(copy / "detections" / "oracle-box+zero-class.parquet")
    assert len(found) and (found["iou_truth"] > 0.9999).all()
    metrics = json.loads((copy / "metrics.json").read_text())["rules"]
    assert set(metrics) == set(names)
    code, _, err = run(capsys, "analyze", "oracle", copy)
    assert code == 0, err


@pytest.fixture(scope="module")
def general(tmp_path_factory, data):
    """A GFL run, evaluated with a threshold that lets boxes of a network without skill through."""
    from qrepro.cli import main

    out = tmp_path_factory.mktemp("general")
    common = ["gfl/gfl", "-p", "shapes", "--data", str(data), "--results", str(out), "--device", "cpu", *SETTINGS]
    for command in ("train", "eval"):
        with pytest.raises(SystemExit) as left:
            main([command, *common, "--set", "postprocess.score_thr=0.001"])
        assert not left.value.code
    return next(out.rglob("metrics.json")).parent


def test_side_distributions_of_a_general_representation(capsys, tmp_path, general, data):
    stored = pd.read_parquet(general / "distributions.parquet")
    assert 1 <= stored.groupby("image_id").size().max() <= 3
    for side in ("left", "top", "right", "bottom"):
        shares = np.stack(stored[side])
        assert shares.shape[1] == 17 and shares.sum(1) == pytest.approx(1, abs=1e-5)
    # the expectation of the left side, in pixels of the image, is where the box begins, if it was not clipped there
    reach = np.stack(stored["left"]) @ np.arange(17) * stored["bin_x"]
    inside = stored["x1"] > 0
    assert (stored["centre_x"] - reach)[inside].to_numpy() == pytest.approx(stored["x1"][inside], abs=1e-2)
    positives = pd.read_parquet(general / "positives.parquet")
    assert positives["top1"].between(1 / 17, 1).all()
    code, out, err = run(
        capsys,
        "analyze",
        "distributions",
        general,
        "--images",
        data / "val",
        "--number",
        "2",
        "--out",
        tmp_path,
    )
    assert code == 0, err
    assert out.count("distribution-") == 6  # two images, three files each
    code, _, err = run(capsys, "analyze", "distributions", general, "--images", tmp_path / "none", "--out", tmp_path)
    assert code == 2 and "no such image" in err


def test_a_detector_without_distributions_says_so(capsys, tmp_path, stored):
    code, _, err = run(capsys, "analyze", "distributions", stored, "--images", tmp_path, "--out", tmp_path)
    assert code == 2 and "kind: general" in err
