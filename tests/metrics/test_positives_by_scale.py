"""Boxes matched to a ground truth against its scale: bins and averages by hand, and what the figure draws."""

import math

import numpy as np
import pandas as pd
import pytest

from helpers.run_folders import CLASS, make_run
from qrepro.metrics.positives_by_scale import evenness_rows, matched_rows, quantile_edges, regular_edges, stage_counts
from qrepro.plots import matched_boxes
from qrepro.records.run_folder import find_runs
from qrepro.report.figures import figures, scales
from qrepro.report.page import build_report

SIDE = [10, 100, 30, 20, 40]
COUNTS = {"initial": [0, 9, 4, 1, 5], "adjusted": [4, 0, 6, 6, 6]}
EDGES = [0, 20, 40, 60, 80]


def test_bins_by_hand():
    """[0, 20) holds 10; [20, 40) holds 30 and 20; [40, 60) holds 40; [60, 80] none; 100 lies beyond."""
    rows = matched_rows(SIDE, COUNTS, EDGES)
    frame = pd.DataFrame(rows)
    assert frame["boxes"].tolist() == ["initial"] * 3 + ["adjusted"] * 3
    assert frame[["side_min", "side_max", "n", "side"]][:3].to_numpy().tolist() == [
        [0, 20, 1, 10], [20, 40, 2, 25], [40, 60, 1, 40],
    ]  # fmt: skip
    assert frame["matched"].tolist() == [0, 2.5, 5, 4, 6, 6]
    assert frame["normalised"].tolist() == pytest.approx([0, 1, 2, 0.75, 1.125, 1.125])
    initial, adjusted = evenness_rows(rows)
    assert initial == pytest.approx(
        {
            "boxes": "initial",
            "ground_truth": 4,
            "bins": 3,
            "per_object": 2.5,
            "per_bin": 2.5,
            "variation": math.sqrt(2 / 3),
        }
    )
    assert (adjusted["per_object"], adjusted["per_bin"]) == pytest.approx((5.5, 16 / 3))
    assert adjusted["variation"] == pytest.approx(math.sqrt((0.25**2 + 2 * 0.125**2) / 3))


def test_the_last_edge_belongs_to_the_last_bin_and_every_other_to_the_bin_above():
    rows = matched_rows([0, 10, 20], {"initial": [1, 2, 3]}, [0, 10, 20])
    assert [(row["n"], row["matched"]) for row in rows] == [(1, 1), (2, 2.5)]


def test_as_many_everywhere_is_even_and_none_anywhere_is_undefined():
    (even,) = evenness_rows(matched_rows(SIDE, {"initial": [3] * 5}, EDGES))
    assert (even["per_bin"], even["variation"]) == (3, 0)
    rows = matched_rows(SIDE, {"initial": [0] * 5}, EDGES)
    assert [row["matched"] for row in rows] == [0, 0, 0] and all(math.isnan(row["normalised"]) for row in rows)
    assert math.isnan(evenness_rows(rows)[0]["variation"])


def test_variation_knows_no_scale():
    rng = np.random.default_rng(0)
    side, counts = 300 * rng.random(500), rng.poisson(4, 500)
    one, ten = evenness_rows(matched_rows(side, {"initial": counts, "adjusted": 10 * counts}, regular_edges(side, 9)))
    assert ten["variation"] == pytest.approx(one["variation"]) and ten["per_bin"] == pytest.approx(10 * one["per_bin"])
    rows = matched_rows(side, {"initial": counts}, regular_edges(side, 9))
    assert np.mean([row["normalised"] for row in rows]) == pytest.approx(1)
    assert np.std([row["normalised"] for row in rows]) == pytest.approx(one["variation"])


def test_regular_bins_begin_at_zero_and_quantiles_hold_equally_many():
    assert regular_edges([30, 80, 50], 4).tolist() == [0, 20, 40, 60, 80]
    assert len(regular_edges([30.0])) == 17
    side = np.random.default_rng(0).lognormal(4, 1, 1200)
    rows = matched_rows(side, {"initial": np.ones(1200)}, quantile_edges(side, 12))
    assert [row["n"] for row in rows] == [100] * 12
    assert quantile_edges([5, 5, 5, 5, 9], 4).tolist() == [5, 9]  # four of five share the lower three edges


def test_a_stage_that_the_detector_lacks_is_left_out():
    frame = pd.DataFrame({"side": [1.0, 2.0], "initial": [3, 0]})
    for adjusted in (None, [math.nan, math.nan], pd.array([None, None], dtype="Int64")):
        given = frame if adjusted is None else frame.assign(adjusted=adjusted)
        assert {name: values.tolist() for name, values in stage_counts(given).items()} == {"initial": [3, 0]}
    both = stage_counts(frame.assign(adjusted=[7.0, 5.0]))
    assert list(both) == ["initial", "adjusted"] and both["adjusted"].tolist() == [7, 5]


@pytest.mark.parametrize("values", [[1, -1], [1.5, 2], [1, math.nan]])
def test_what_is_no_count_is_refused(values):
    with pytest.raises(ValueError, match=r"matches\[[01]\]: adjusted must be a count, got"):
        stage_counts(pd.DataFrame({"initial": [1, 1], "adjusted": values}))


@pytest.mark.parametrize("edges", [[], [5], [5, 5], [9, 3], [0, math.nan]])
def test_edges_that_are_no_bins_are_refused(edges):
    with pytest.raises(ValueError, match="two or more increasing numbers of px, got"):
        matched_rows(SIDE, COUNTS, edges)


def test_bins_of_nothing_are_refused():
    with pytest.raises(ValueError, match="none of 5 objects has a side from 200 to 300 px"):
        matched_rows(SIDE, COUNTS, [200, 300])
    with pytest.raises(ValueError, match=r"initial \(4,\) and side \(5,\) must be equally long"):
        matched_rows(SIDE, {"initial": [1, 2, 3, 4]}, EDGES)
    for make in (regular_edges, quantile_edges):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            make(SIDE, 0)
        for side in ([], [0.0, 0.0], [1.0, math.nan], [3.0, -1.0]):
            with pytest.raises(ValueError, match=f"sides above 0, got {len(side)} objects"):
                make(side, 3)


def test_the_figure_draws_counts_and_what_they_are_over_their_average():
    rows = matched_rows(SIDE, COUNTS, EDGES)
    plot = matched_boxes(rows, "detector", "Split test.")
    left, right = plot.figure.axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.lines if not line.is_dashed()}
    assert curves == {
        "initial boxes: 2.5 on average, variation 0.82": [[10, 0], [25, 2.5], [40, 5]],
        "boxes after the first step: 5.3 on average, variation 0.18": [[10, 4], [25, 6], [40, 6]],
    }
    assert [line.get_ydata()[0] for line in left.lines if line.is_dashed()] == pytest.approx([2.5, 16 / 3])
    drawn = [list(line.get_ydata()) for line in right.lines]
    assert drawn == [pytest.approx(values) for values in ([0, 1, 2], [0.75, 1.125, 1.125], [1, 1])]
    assert right.lines[2].is_dashed() and right.lines[2].get_label() == "average over bins"
    assert plot.points.to_dict("records") == rows
    assert plot.caption.startswith("Split test. Mean number of boxes") and "hold 1 to 2 ground truths" in plot.caption
    assert "px" in left.get_xlabel() and left.get_xlim()[0] == left.get_ylim()[0] == right.get_ylim()[0] == 0
    with pytest.raises(ValueError, match="at least one row"):
        matched_boxes([])


def test_figures_and_report_show_the_first_seed_that_counted(tmp_path):
    for seed in (0, 1, 2):
        path = make_run(tmp_path, "passd/ours", seed, {"class": CLASS})
        if seed:
            truth = {"image_id": 1, "category_id": 1, "x1": 0, "y1": 0, "x2": 9, "y2": 9}
            pd.DataFrame({**truth, "side": [10.0, 16.0], "initial": [seed, 3]}).to_parquet(path / "assignments.parquet")
    make_run(tmp_path, "passd/old", 0, {"class": CLASS})
    runs = find_runs(tmp_path)
    (plot,) = scales(runs)
    assert plot.points["matched"].tolist() == [1, 3] and plot.points["side_max"].tolist() == [11, 16]
    assert plot.caption.startswith("Ground truths of the evaluation images, split val.")
    drawn = figures(runs)
    assert {name for name in drawn if "matches" in name} == {"shapes/matches"}
    assert (
        build_report(tmp_path, tmp_path / "out").read_text().count("Positives against the scale of the ground truth")
        >= 1
    )
    with pytest.raises(FileNotFoundError, match=r"seed0/assignments\.parquet: no such file; evaluate the run again"):
        runs[0].assignments  # noqa: B018
