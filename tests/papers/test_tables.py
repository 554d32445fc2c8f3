"""A paper's table beside measured values, solved by hand."""

import json

import pandas as pd
import pytest

from qrepro.papers.tables import metric_columns, missing_rows, read_table, regenerate, table_markdown
from qrepro.records.run_folder import read_run
from qrepro.records.tables import display, is_number, write_csv, write_markdown, write_rows

PRINTED = """row,origin,model,alpha,AP,AP50,APS,PCC,params_m,fps,recipe,profile,overrides,rule
cited,cited,SSD | 512,,28.80,,10.9,,,8,,,,
plain,trained,RetinaNet,1.0,35.6,55.5,20.0,,,,p/plain,coco,,class
aware,trained,IoU-aware,0.5,37.3,54.4,20.4,0.6,,9,p/aware,coco,alpha=0.5,power-0.5
"""


@pytest.fixture
def printed(tmp_path):
    path = tmp_path / "table9.csv"
    path.write_text(PRINTED)
    return read_table(path)


def make_run(folder, seed, rules, info=None, quality=(0.04, 0.16, 0.81)):
    """Positives whose score by power-0.5, sqrt(p u) with p = 1/4, is 0.1, 0.2, 0.45: exactly their IoU."""
    path = folder / f"seed{seed}"
    path.mkdir(parents=True)
    info = {"recipe": "p/x", "profile": "shapes", "seed": seed, "hash": "0123456789ab", "commit": "c" * 40} | (
        info or {}
    )
    (path / "run.json").write_text(json.dumps(info))
    if rules is not None:
        (path / "metrics.json").write_text(json.dumps({"split": "val", "images": 40, "rules": rules}))
    columns = {name: 0.0 for name in ("image_id", "category_id", "level", "x1", "y1", "x2", "y2")}
    positives = pd.DataFrame({**columns, "class_score": 0.25, "quality": quality, "iou": [0.1, 0.2, 0.45]})
    positives.to_parquet(path / "positives.parquet")
    return read_run(path)


def test_metrics_are_told_from_settings(printed):
    assert metric_columns(list(printed)) == ["AP", "AP50", "APS", "PCC", "params_m"]
    others = ["APPLE", "mAPX", "AP5x", "AR", "mAR100", "alpha", "AP100", "AR100", "AP52.5", "mAP", "mAP60", "mAPS"]
    assert metric_columns(others) == ["AP100", "AR100", "AP52.5", "mAP", "mAP60", "mAPS"]


def test_two_seeds_one_seed_and_none(tmp_path, printed):
    metrics = {"AP50": 50.0, "APS": 1.0}
    about = {s: {"device": "CPU, 2 threads", "created": f"2026-11-2{s // 4}T10:00:00+00:00"} for s in (4, 0)}
    plain = [make_run(tmp_path / "plain", s, {"class": {"AP": 30.0 + s, **metrics}}, about[s]) for s in (4, 0)]
    aware = make_run(tmp_path / "aware", 0, {"power-0.50": {"AP": 33.25, "AP50": 52.0}}, {"parameters": 36_330_000})
    frame = regenerate(printed, {"plain": plain, "aware": [aware]}, "shapes", ["aware"])
    assert frame["row"].tolist() == ["cited", "plain", "aware"]
    cited, baseline, measured = frame.to_dict("records")
    assert cited["AP"] == "28.80" and pd.isna(cited["AP_measured"]) and cited["seeds"] == "" and cited["profile"] == ""
    assert (baseline["AP"], baseline["AP_measured"]) == ("35.6", 32.0)
    assert baseline["AP_sd"] == pytest.approx(8**0.5) and baseline["AP50_measured"] == 50 and baseline["AP50_sd"] == 0
    assert (baseline["seeds"], baseline["profile"], baseline["images"]) == ("0 4", "shapes", "40")
    assert baseline["hash"] == "0123456789ab" and baseline["rule"] == "class" and baseline["recipe"] == "p/plain"
    assert measured["AP_measured"] == 33.25 and pd.isna(measured["AP_sd"]) and pd.isna(measured["APS_measured"])
    assert measured["PCC_measured"] == pytest.approx(1) and measured["params_m_measured"] == pytest.approx(36.33)
    assert measured["fps"] == "9" and measured["overrides"] == "alpha=0.5"
    assert (baseline["stale"], measured["stale"], cited["stale"]) == ("", "stale", "")
    assert (baseline["device"], baseline["date"], baseline["split"]) == (
        "CPU, 2 threads",
        "2026-11-20 2026-11-21",
        "val",
    )
    assert missing_rows(frame) == []


def test_the_same_runs_give_the_same_bytes_and_missing_rows_are_named(tmp_path, printed):
    runs = {"plain": [make_run(tmp_path, 0, {"class": {"AP": 100 / 3}})]}
    frame = regenerate(printed, runs, "bccd")
    assert list(zip(frame["row"], frame["profile"], strict=True)) == [("cited", ""), ("plain", "bccd"), ("aware", "")]
    assert missing_rows(frame) == ["aware"]
    again = regenerate(printed, {"plain": [read_run(tmp_path / "seed0")]}, "bccd")
    for one, other, write in (
        ("a.csv", "b.csv", write_csv),
        ("a.md", "b.md", lambda frame, path: write_markdown(table_markdown(frame), path)),
    ):
        assert write(frame, tmp_path / one).read_bytes() == write(again, tmp_path / other).read_bytes()


def test_runs_without_the_rule_or_evaluation_do_not_count(tmp_path, printed):
    other = make_run(tmp_path / "a", 0, {"product": {"AP": 1.0}})
    waiting = make_run(tmp_path / "b", 0, None)
    frame = regenerate(printed, {"plain": [other, waiting]})
    assert frame["seeds"].tolist() == ["", "", ""] and missing_rows(frame) == ["plain", "aware"]


def test_no_pcc_by_a_rule_that_needs_an_estimate_without_one(tmp_path, printed):
    run = make_run(tmp_path, 0, {"power-0.5": {"AP": 1.0}}, quality=(float("nan"),) * 3)
    assert pd.isna(regenerate(printed, {"aware": [run]})["PCC_measured"]).all()


VOC_TABLE = """row,mAP,mAPS,mAPM,mAPL,mAP50,mAP60,mAP80,recipe,rule
ours,81.0,56.5,79.4,87.5,81.0,75.9,47.3,p/x,power-1
theirs,80.0,,,,,,,p/y,class
"""


def voc_run(folder):
    """Sides 60 (S), 100 (M) and 100 (M, difficult); a hit of S at IoU 0.75, a miss of M, a hit of M at IoU 1."""
    run = make_run(folder, 0, {"power-1.0": {"AP": 1.0, "AP50": 2.0, "APS": 3.0}})
    corners = [(0, 0, 60), (200, 0, 100), (400, 0, 100)]
    ground_truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [x, y, side, side], "iscrowd": int(x == 400)}
            for x, y, side in corners
        ],
    }
    (run.path / "ground_truth.json").write_text(json.dumps(ground_truth))
    rows = [(0, 0, 60, 45, 0.9), (600, 0, 700, 100, 0.8), (200, 0, 300, 100, 0.7)]
    found = pd.DataFrame(rows, columns=["x1", "y1", "x2", "y2", "score"]).assign(image_id=1, category_id=1)
    (run.path / "detections").mkdir()
    found.to_parquet(run.path / "detections" / "power-1.0.parquet")
    return run


def test_map_columns_are_vocs_of_the_detections_by_the_rule_of_the_row(tmp_path):
    """11 points: (recall, precision) (1/2, 1), (1, 2/3) up to IoU 0.75, of which 6 recalls reach 1; above, (1/2, 1/2).

    S: its one ground truth found. M: a miss, then its one ground truth found.
    """
    (tmp_path / "table1.csv").write_text(VOC_TABLE)
    frame = regenerate(read_table(tmp_path / "table1.csv"), {"ours": [voc_run(tmp_path)]})
    ours, theirs = frame.to_dict("records")
    both, one = 100 * (6 + 5 * 2 / 3) / 11, 100 * 6 / 11 / 3
    expected = {"mAP": both, "mAPS": 100, "mAPM": 50, "mAP50": both, "mAP60": both, "mAP80": one}
    assert {name: ours[f"{name}_measured"] for name in expected} == pytest.approx(expected)
    assert pd.isna(ours["mAPL_measured"]) and pd.isna(theirs["mAP_measured"]) and ours["mAP"] == "81.0"
    text = table_markdown(frame)
    assert f"81.0 / {both:.1f}" in text
    assert text.endswith(
        "- Not run: theirs.\n- mAP: PASCAL VOC's, at IoU 0.5 (mAP60: at IoU 0.6, and so on), 11-point as for VOC2007. "
        "S, M, L: area below 64², 64² to 192², above 192² px² of the original image. The paper says neither which "
        "average nor which image: both are a choice made here.\n"
    )


def test_no_map_without_stored_detections_and_no_note_where_no_column_is_vocs(tmp_path, printed):
    run = make_run(tmp_path, 0, {"class": {"AP": 1.0}})
    frame = regenerate(printed.assign(mAP="80.0"), {"plain": [run]})
    assert pd.isna(frame["mAP_measured"]).all() and frame["AP_measured"][1] == 1
    assert "VOC" not in table_markdown(regenerate(printed, {"plain": [run]}))


def test_contradictions_are_refused(tmp_path, printed):
    twice = [make_run(tmp_path / name, 0, {"class": {"AP": 1.0}}) for name in ("a", "b")]
    for table, runs, message in (
        (printed, {"plain": twice}, "row 'plain': two runs of one seed"),
        (printed, {"other": twice[:1]}, "row 'other'; the table has cited, plain, aware"),
        (printed, {"cited": twice[:1]}, "row 'cited' has runs but its rule is empty"),
        (pd.concat([printed, printed]), {}, "row 'cited' occurs twice"),
        (printed.drop(columns="row"), {}, "column 'row' is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            regenerate(table, runs)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_table(tmp_path / "none.csv")


def test_markdown_shows_printed_beside_measured_in_aligned_columns(tmp_path, printed):
    runs = [make_run(tmp_path, s, {"class": {"AP": 30.0 + s, "AP50": 50.0}}) for s in (0, 1)]
    text = table_markdown(regenerate(printed, {"plain": runs}, "shapes"), "Table 9", ["batch 8 instead of 16"])
    lines = text.splitlines()
    assert lines[0] == "# Table 9" and "*printed / measured*" in lines[2]
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1 and len(table) == 5
    header, rule, cited, plain, aware = (
        [cell.strip() for cell in line.replace(r"\|", "¦")[1:-1].split("|")] for line in table
    )
    at = header.index
    assert header[:3] == ["row", "profile", "seeds"] and plain[:3] == ["plain", "shapes", "0 1"]
    assert (cited[at("model")], cited[at("AP")], cited[at("AP50")], cited[at("fps")]) == (
        "SSD ¦ 512",
        "28.80 / –",
        "",
        "8",
    )
    assert (plain[at("AP")], plain[at("AP50")]) == ("35.6 / 30.5 ± 0.7", "55.5 / 50.0 ± 0.0")
    assert plain[at("commit")] == "ccccccc" and plain[at("hash")] == "0123456" and aware[at("AP")] == "37.3 / –"
    assert rule[at("AP")].endswith("-:") and rule[at("fps")].endswith("-:") and rule[at("model")].endswith("--")
    assert "AP_measured" not in header and "params_m" not in header  # empty throughout
    assert lines[-2:] == ["- Not run: aware.", "- batch 8 instead of 16"]


def test_csv_keeps_what_was_printed_and_full_precision_and_reads_back(tmp_path, printed):
    run = make_run(tmp_path, 0, {"class": {"AP": 100 / 3}})
    frame = regenerate(printed, {"plain": [run]})
    path = write_csv(frame, tmp_path / "out/table9.csv")
    again = read_table(path)
    assert again["AP_measured"][1] == 100 / 3 and again["AP"].tolist() == ["28.80", "35.6", "37.3"]
    assert again["alpha"].tolist() == ["", "1.0", "0.5"]
    assert write_markdown(table_markdown(again), tmp_path / "out/table9.md").read_text() == table_markdown(frame)


def test_rows_of_any_analysis_are_written_twice(tmp_path):
    rows = [
        {"run": "a|b", "n": 3, "pearson": 2 / 3, "AP": 33.333},
        {"run": "c", "n": 40, "pearson": float("nan"), "AP": 5.0},
    ]
    csv, text = write_rows(rows, tmp_path / "deep/pcc.csv", "Correlation", ["val split"])
    assert pd.read_csv(csv).to_dict("list")["pearson"][0] == 2 / 3
    assert text.read_text() == (
        "# Correlation\n\n"
        "| run  |   n | pearson |   AP |\n"
        "| ---- | --: | ------: | ---: |\n"
        "| a\\|b |   3 |   0.667 | 33.3 |\n"
        "| c    |  40 |         |  5.0 |\n\n"
        "- val split\n"
    )
    assert "(no rows)" in write_rows([], tmp_path / "none.csv")[1].read_text()
    with pytest.raises(ValueError, match=r"ends in \.csv"):
        write_rows(rows, tmp_path / "pcc.md")


def test_what_reads_as_a_number():
    for text in ("1", "-0.5", "3e-05", "35.6 / 30.5 ± 0.7", "– / 3.0", "28.80 / –", "–", "54.1 ± 0.2", "41%"):
        assert is_number(text), text
    for text in ("", "ResNet-50", "1x", "yes / no", "0 1 2", "power-0.5", "–/–"):
        assert not is_number(text), text
    assert display(pd.DataFrame({"AP": [float("nan")], "n": [3]})).to_dict("records") == [{"AP": "", "n": "3"}]
