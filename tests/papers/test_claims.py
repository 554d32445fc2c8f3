"""Claims as inequalities of cells: parsed, held against printed tables, and put to runs whose answer is known."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qrepro.papers.claims import Cell, Tables, parse, printed_row, read_claims
from qrepro.papers.sheet import Paper, Table, read_paper
from qrepro.papers.verdicts import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    NOT_MEASURABLE,
    NOT_RUN,
    Measured,
    Sampler,
    claim_lines,
    claim_verdict,
    measured_row,
)
from qrepro.recipe import recipe_root
from qrepro.records.run_folder import read_run
from qrepro.statistics.bootstrap import Resampled
from qrepro.statistics.intervals import combined_row, compare_rows

TABLE = """row,AP,AP50,hours,PCC,recipe,profile,overrides,rule
a,40.2,58.0,8.2,0.634,p/a,coco,,class
b,41.1,58.0,8.2,0.660,p/b,coco,,class
b-wide,41.0,,9.0,,p/b,coco,x=1,class
cited,41.4,59.0,14.4,,,,,
"""
PAPERS = ("iou_aware", "gfl", "gflv2", "vfnet", "passd")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "table1.csv").write_text(TABLE)
    return tmp_path


def claims_of(folder, text: str):
    (folder / "claims.yaml").write_text(text)
    return read_claims(folder)


def printed(folder, that: str, said=None):
    row = printed_row(parse(that, "table1", said), Tables(folder))
    return row["printed_effect"], row["printed"]


def test_what_the_cells_say(folder):
    assert printed(folder, "b:AP > a:AP") == (0.9, "agrees")
    assert printed(folder, "a:AP > b:AP") == (-0.9, "contradicts")
    assert printed(folder, "b:AP > a:AP", "0.9") == (0.9, "agrees")
    assert printed(folder, "b:AP > a:AP", "1") == (0.9, "agrees")  # rounds to it
    assert printed(folder, "b:AP > a:AP", "1.0") == (0.9, "contradicts")
    assert printed(folder, "b:PCC > a:PCC", "+0.26") == (0.026, "contradicts")
    assert printed(folder, "b:PCC > a:PCC", "0.026") == (0.026, "agrees")
    assert printed(folder, "b:AP50 > a:AP50") == (0.0, "contradicts")
    assert printed(folder, "b:AP50 >= a:AP50") == (0.0, "agrees")
    assert printed(folder, "b:AP > a:AP", "0.5..0.8") == (0.9, "contradicts")
    assert printed(folder, "b:AP > a:AP", "0.5..0.9") == (0.9, "agrees")
    effect, verdict = printed(folder, "cited:hours > b:hours", "65%")
    assert effect == pytest.approx(100 * (14.4 / 8.2 - 1), abs=1e-6) and verdict == "contradicts"
    assert printed(folder, "cited:hours > b:hours", "76%")[1] == "agrees"
    assert printed(folder, "table1/b:AP - a:AP > table1/cited:AP - table1/b:AP + 0.5", "0.1") == (0.1, "agrees")


def test_what_has_not_been_printed_is_not_judged(folder):
    effect, verdict = printed(folder, "b-wide:AP50 > a:AP50")
    assert math.isnan(effect) and verdict == "not printed"


def test_a_pattern_is_every_other_row_with_a_number(folder):
    text = "- {name: best, says: b is best., table: table1, checks: [{that: 'b:%s > %s:%s'}]}"
    (claim,) = claims_of(folder, text % ("AP50", "*", "AP50"))
    assert [one.text for one in claim.comparisons] == ["b:AP50 > a:AP50", "b:AP50 > cited:AP50"]
    (claim,) = claims_of(folder, text % ("AP", "b*", "AP"))
    assert [one.text for one in claim.comparisons] == ["b:AP > b-wide:AP"]
    assert (claim.name, claim.core, claim.where) == ("best", False, "")


@pytest.mark.parametrize(
    "entry, message",
    [
        ("- 3", "claim number 1: must be a mapping"),
        ("- {name: x, says: y, chekcs: []}", "claim x: 'chekcs' is unknown, allowed: name, says"),
        ("- {name: x, says: y}", "claim x: checks is missing"),
        ("- {name: x, says: y, checks: [{than: 1}]}", "a check must be"),
        ("- {name: x, says: y, table: table1, checks: [{that: 'a:AP b:AP'}]}", "must have one > or >="),
        ("- {name: x, says: y, table: table1, checks: [{that: 'a:AP b:AP > 3'}]}", "must be terms parted by"),
        ("- {name: x, says: y, checks: [{that: 'a:AP > b:AP'}]}", "'a:AP' in .* must be a number, row:column or"),
        (
            "- {name: x, says: y, table: table1, checks: [{that: 'aa:AP > b:AP'}]}",
            "table1 has no row 'aa'; it has a, b",
        ),
        ("- {name: x, says: y, table: table1, checks: [{that: 'a:Ap > b:AP'}]}", "table1 has no column 'Ap'"),
        ("- {name: x, says: y, table: table2, checks: [{that: 'a:AP > b:AP'}]}", r"table2\.csv: no such file"),
        (
            "- {name: x, says: y, table: table1, checks: [{that: 'a:PCC > cited:PCC'}]}",
            "cited:PCC is not a number, and no run can",
        ),
        (
            "- {name: x, says: y, table: table1, checks: [{that: '*:AP > b:AP'}]}",
            r"\* must be the only term of the right",
        ),
        ("- {name: x, says: y, table: table1, checks: [{that: 'a:AP > z*:AP'}]}", r"no other row matches z\*"),
        ("- {name: x, says: y, table: table1, checks: [{that: 'a:AP > b:AP', said: many}]}", "must look like 0.7"),
        ("{name: x}", r"claims\.yaml: must be a list, got dict"),
        ("- {name: x, says: y, table: table1, checks: [{that: 'a:AP > 1'}]}\n" * 2, "claim x occurs twice"),
        ("- [", "broken YAML"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(folder, entry, message):
    with pytest.raises(ValueError, match=message) as error:
        claims_of(folder, entry)
    assert "\n" not in str(error.value) and "claims.yaml" in str(error.value)


def test_the_papers_make_the_claims_that_were_collected():
    claims = {paper: read_claims(recipe_root() / paper) for paper in PAPERS}
    for paper, least in zip(PAPERS, (12, 12, 12, 8, 8), strict=True):
        assert len(claims[paper]) >= least and 2 <= sum(claim.core for claim in claims[paper]) <= 4
    assert read_claims(recipe_root() / "parts") == []


def test_slips_of_the_papers_are_found():
    """Those that were noticed when the papers were read, no others."""
    wrong = set()
    for paper in PAPERS:
        tables = Tables(recipe_root() / paper)
        for claim in read_claims(recipe_root() / paper):
            if any(printed_row(one, tables)["printed"] != "agrees" for one in claim.comparisons):
                wrong.add(f"{paper}/{claim.name}")
    assert wrong == {
        "iou_aware/test-dev-ap",  # 1.7-1.9 is 1.6-1.9
        "gflv2/correlation-over-gflv1",  # 0.26 is 0.026
        "gflv2/hours-of-reppointsv2",  # 65 % is 76 %
        "gflv2/top-of-the-efficient",  # BorderDet has 41.4
        "passd/larger-input-on-coco",  # improved "by" 35.3
        "passd/better-at-every-threshold",  # a tie at 0.6
        "passd/gap-grows-deformable",
        "passd/fewer-boxes-than-one-stage",
        "passd/light-backbone-at-fixed-iou",
    }


# ----------------------------------------------------------------------------------------------------------------- runs


def run_of(root: Path, name: str, seed: int, found: float, estimate=None):
    """20 images with one ground truth each.

    `found` of them have a perfect detection, all others one beside its ground truth.
    """
    path = root / name / f"seed{seed}"
    (path / "detections").mkdir(parents=True)
    info = {"recipe": name, "profile": "shapes", "seed": seed, "hash": name, "commit": "c0"}
    (path / "run.json").write_text(json.dumps(info))
    truth = {"category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 0}
    content = {"images": [{"id": i, "width": 200, "height": 200} for i in range(20)]}
    content |= {"categories": [{"id": 1, "name": "x"}], "annotations": [{"image_id": i, **truth} for i in range(20)]}
    (path / "ground_truth.json").write_text(json.dumps(content))
    shift = np.where(np.arange(20) < found, 0.0, 100.0)
    boxes = pd.DataFrame({"image_id": range(20), "category_id": 1, "x1": shift, "y1": shift})
    boxes = boxes.assign(x2=shift + 50, y2=shift + 50, score=np.linspace(0.9, 0.1, 20))
    boxes.to_parquet(path / "detections" / "class.parquet")
    (path / "metrics.json").write_text(json.dumps({"split": "val", "images": 20, "rules": {"class": {}}}))
    if estimate is not None:
        positives = boxes.assign(level=0, class_score=estimate, quality=math.nan, iou=np.tile([0.2, 0.8], 10))
        positives.drop(columns="score").to_parquet(path / "positives.parquet")
    return read_run(path)


def judged(folder, that: str, behind: dict[str, Measured | None], said=None):
    def find(cell: Cell) -> Measured | None:
        return behind[cell.row]

    return measured_row(parse(that, "table1", said), find, Sampler(draws=200))


def test_effects_intervals_and_verdicts(folder, tmp_path):
    poor, fair, good = (run_of(tmp_path, name, 0, n) for name, n in (("poor", 2), ("fair", 9), ("good", 18)))
    behind = {"a": Measured((poor,), "class"), "b": Measured((good,), "class"), "b-wide": Measured((fair,), "class")}
    row = judged(folder, "b:AP > a:AP", behind)
    # recalls 0, 0.01 ... up to 18/20 and 2/20 are reached, at precision 1
    assert row["effect"] == pytest.approx(100 * (91 - 11) / 101) and row["verdict"] == HOLDS
    assert 0 < row["low"] < row["effect"] < row["high"] and (row["seeds"], row["images"]) == ("0", "20")
    assert row["runs"] == "good@c0 poor@c0"
    assert judged(folder, "a:AP > b:AP", behind)["verdict"] == FAILS
    assert judged(folder, "a:AP50 > b:AP", behind)["verdict"] == FAILS  # at every threshold alike
    assert judged(folder, "b:AP50 - b:AP75 > a:AP50 - a:AP75", behind)["effect"] == 0
    assert judged(folder, "b:mAP > a:mAP", behind)["effect"] == pytest.approx(row["effect"])
    assert judged(folder, "b:mAPS > a:mAPS", behind)["effect"] == pytest.approx(row["effect"])  # 50 px is small there
    assert judged(folder, "b:APS > a:APS", behind)["verdict"] == NOT_MEASURABLE  # and medium in COCO
    summed = judged(folder, "b:AP - a:AP > 10", behind)
    assert summed["effect"] == pytest.approx(row["effect"] - 10)
    assert summed["low"] == pytest.approx(row["low"] - 10)
    near = {**behind, "a": Measured((run_of(tmp_path, "near", 0, 8),), "class")}
    assert judged(folder, "b-wide:AP > a:AP", near)["verdict"] in (INCONCLUSIVE, HOLDS)


def test_without_runs_there_is_no_verdict(folder, tmp_path):
    run = run_of(tmp_path, "a", 0, 9)
    behind = {
        "a": Measured((run,), "class"),
        "b": Measured((), "class"),
        "cited": None,
        "b-wide": Measured((run,), "class"),
    }
    assert judged(folder, "b:AP > a:AP", behind)["verdict"] == NOT_RUN
    assert judged(folder, "a:AP > cited:AP", behind)["verdict"] == NOT_MEASURABLE
    assert judged(folder, "a:hours > b:hours", behind)["verdict"] == NOT_MEASURABLE
    assert judged(folder, "a:AP > b-wide:AP", behind)["verdict"] == NOT_MEASURABLE  # the same training
    assert judged(folder, "a:PCC > 0", behind)["verdict"] == NOT_RUN  # no positives were stored
    assert math.isnan(judged(folder, "b:AP > a:AP", behind)["effect"])


def test_correlations_are_those_of_the_rule_of_the_row(folder, tmp_path):
    right, wrong = np.tile([0.2, 0.8], 10), np.tile([0.8, 0.2], 10)
    runs = {name: run_of(tmp_path, name, 0, 9, score) for name, score in (("a", wrong), ("b", right))}
    behind = {name: Measured((run,), "class") for name, run in runs.items()}
    row = judged(folder, "b:PCC > a:PCC", behind)
    assert row["effect"] == pytest.approx(2) and row["verdict"] == HOLDS


def resampled(values, ids=(1, 2, 3)):
    return Resampled({"AP": np.asarray(values, float)}, np.asarray(ids), 0)


def test_a_difference_of_two_sides_is_that_of_the_comparison():
    random = np.random.default_rng(0)
    a, b = ([resampled([v, *random.normal(v, 1, 500)]) for v in (m, m + 1)] for m in (30, 33))
    row = combined_row([(1.0, b, "AP"), (-1.0, a, "AP")])
    (other,) = compare_rows(b, a)  # whose first side draws its seeds first, as here
    assert row["value"] == -other["difference"] == 3
    assert (row["low"], row["high"]) == pytest.approx((-other["high"], -other["low"]))
    assert row["p_value"] == other["p_value"] and row["seeds"] == "resampled"


def test_terms_of_the_same_runs_share_their_seeds():
    """Two metrics that differ by a constant in every run: their difference has no spread, however seeds are drawn."""
    values = np.array([10.0, *np.random.default_rng(0).normal(10, 2, 300)])
    runs = [Resampled({"AP50": values + s, "AP75": values + s - 4}, np.arange(3), 0) for s in (0, 5)]
    row = combined_row([(1.0, runs, "AP50"), (-1.0, runs, "AP75")], constant=1.0)
    assert (row["value"], row["low"], row["high"]) == pytest.approx((5, 5, 5))
    with pytest.raises(ValueError, match="the same images"):
        combined_row([(1.0, runs, "AP50"), (-1.0, [resampled(values, (7, 8, 9))], "AP")])


def test_the_worst_comparison_decides():
    def rows(*verdicts):
        return [{"verdict": verdict} for verdict in verdicts]

    assert claim_verdict(rows(HOLDS, NOT_MEASURABLE)) == HOLDS
    assert claim_verdict(rows(HOLDS, INCONCLUSIVE)) == INCONCLUSIVE
    assert claim_verdict(rows(INCONCLUSIVE, NOT_RUN, HOLDS)) == NOT_RUN
    assert claim_verdict(rows(NOT_RUN, FAILS, HOLDS)) == FAILS
    assert claim_verdict(rows(NOT_MEASURABLE)) == NOT_MEASURABLE
    about = {"claim": "c", "says": "s", "where": "w", "core": "core", "said": "0.26", "printed": "contradicts"}
    about |= {"printed_effect": 0.026, "that": "b:PCC > a:PCC", "verdict": INCONCLUSIVE}
    (line,) = claim_lines([{**about, "effect": 0.0161, "low": -0.01, "high": 0.0451}])
    assert line["its own tables"] == "contradict: said 0.26, the cells give 0.026"
    assert (line["measured"], line["effect"]) == (INCONCLUSIVE, "+0.016 [-0.010, +0.045] PCC")


# --------------------------------------------------------------------------------------------------------------- sheets


def test_sheets_of_papers(tmp_path):
    assert read_paper(tmp_path) == Paper(tmp_path.name, tmp_path.name, tmp_path.name)
    sheet = tmp_path / "paper.yaml"
    sheet.write_text("{title: T, short: S, tables: {table1: {shows: x, measured_on: test-dev}}}")
    paper = read_paper(tmp_path)
    assert (paper.short, paper.table("table1"), paper.table("table2")) == ("S", Table("x", "test-dev"), Table())
    for text, message in (
        ("{titel: T}", "'titel' is unknown, allowed: arxiv, short"),
        ("{tables: {table1: {show: x}}}", "tables.table1: must be"),
        ("{tables: {table1: {measured_on: train}}}", "measured_on: must be one of val2017"),
        ("[]", "must be a dict, got list"),
    ):
        sheet.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_paper(tmp_path)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_has_its_line_in_the_sheet(paper):
    found = read_paper(recipe_root() / paper)
    stems = {path.stem for path in (recipe_root() / paper).glob("*.csv")}
    assert set(found.tables) == stems and all(table.shows for table in found.tables.values())
    assert found.title and found.short and found.venue and found.arxiv[:4].isdigit()
