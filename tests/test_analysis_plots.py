"""Figures: what is drawn is what was given, the same twice, and nothing leaks into matplotlib's global state."""

import math
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.oracle import alpha_rows
from analysis.plots import ap_vs_alpha, estimate_vs_iou, iou_gradient, loss_curves, score_vs_iou

RNG = np.random.default_rng(0)
IOU = RNG.random(300)
SCORE = np.clip(IOU + RNG.normal(0, 0.2, 300), 0, 1)
RULES = {
    "class": {"AP": 35.0}, "product": {"AP": 37.0}, "power-0.5": {"AP": 37.5}, "power-0.8": {"AP": 36.0},
    "oracle-power-0.2": {"AP": 49.0},
}  # fmt: skip


def test_a_panel_draws_the_sample_and_titles_it_with_the_correlation_of_all():
    plot = score_vs_iou({"a": (IOU, SCORE), "b": (IOU[:50], IOU[:50])}, sample=100, seed=3, about="After NMS.")
    drawn = plot.points[plot.points["panel"] == "a"]
    assert len(drawn) == 100 and len(plot.points) == 150
    pairs = set(zip(IOU, SCORE, strict=True))
    assert len({*zip(drawn["iou_eval"], drawn["score"], strict=True)} & pairs) == 100  # true pairs, none twice
    first, second = plot.figure.axes
    r, rho = stats.pearsonr(IOU, SCORE).statistic, stats.spearmanr(IOU, SCORE).statistic
    assert first.get_title(loc="left") == f"a\nr = {r:.2f}, ρ = {rho:.2f}, n = 300"
    assert second.get_title(loc="left") == "b\nr = 1.00, ρ = 1.00, n = 50"
    assert np.asarray(first.collections[0].get_offsets()).tolist() == drawn[["iou_eval", "score"]].to_numpy().tolist()
    assert plot.caption.startswith("After NMS. 100 detections per panel at most, drawn with seed 3")


def test_the_sample_depends_on_the_seed_alone():
    panels = {"a": (IOU, SCORE)}
    same, again, other = (score_vs_iou(panels, sample=50, seed=seed).points for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(same, again)
    assert not same.equals(other)


def test_the_mean_line_of_estimates():
    estimate, iou = [0.11, 0.13, 0.52], [0.2, 0.4, 0.9]
    (ax,) = estimate_vs_iou({"a": (estimate, iou)}).figure.axes
    line = next(line for line in ax.lines if line.get_label() == "mean IoU")
    assert line.get_xydata().ravel().tolist() == pytest.approx([0.12, 0.3, 0.52, 0.9])
    assert "bias -0.25, n = 3" in ax.get_title(loc="left")


def test_a_figure_needs_panels_and_a_sample():
    with pytest.raises(ValueError, match="at least one panel"):
        score_vs_iou({})
    with pytest.raises(ValueError, match="sample must be at least 1, got 0"):
        score_vs_iou({"a": (IOU, SCORE)}, sample=0)


def test_alpha_sweep_draws_means_over_seeds_beside_the_baseline():
    higher = {name: {"AP": values["AP"] + 2} for name, values in RULES.items()}
    plot = ap_vs_alpha([alpha_rows(RULES), alpha_rows(higher)])
    (ax,) = plot.figure.axes
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["class score alone: 36.0"].get_ydata() == [36, 36]
    estimated = next(c for c in ax.containers if c.get_label() == "estimated IoU: best 38.5 at α = 0.5")
    assert estimated.lines[0].get_xydata().tolist() == [[0.5, 38.5], [0.8, 37.0]]
    low_high = estimated.lines[2][0].get_segments()[0]
    assert low_high.tolist() == [[0.5, 37.5], [0.5, 39.5]]
    assert any(c.get_label() == "true IoU (oracle): best 50.0 at α = 0.2" for c in ax.containers)
    assert lines["estimated IoU, product: 38.0"].get_xydata().tolist() == [[0.5, 38.0]]
    assert len(plot.points) == 10 and plot.points["sweep"].tolist() == [0] * 5 + [1] * 5


def test_a_detector_without_estimate_has_only_its_baseline():
    (ax,) = ap_vs_alpha([alpha_rows({"class": {"AP": 35.0}})]).figure.axes
    assert [line.get_label() for line in ax.lines] == ["class score alone: 35.0"] and not ax.containers
    assert not ap_vs_alpha([]).points.size


def test_loss_curves_have_one_panel_per_term_that_occurs():
    steps = pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "lr": 0.1})
    aware = steps.assign(quality=[0.7, math.nan, 0.5])
    plot = loss_curves({"plain": steps, "aware": aware}, smooth=3)
    assert [ax.get_title(loc="left") for ax in plot.figure.axes] == ["total loss", "quality term"]
    means = [line for line in plot.figure.axes[0].lines if line.get_label() == "plain"]
    assert means[0].get_ydata().tolist() == [2.5, 2.0, 1.5]
    quality = plot.points.query("term == 'quality'")
    assert quality[["run", "step", "value"]].to_numpy().tolist() == [["aware", 1, 0.7], ["aware", 3, 0.5]]


def test_gradient_is_that_of_binary_cross_entropy():
    points = iou_gradient().points
    u, t, step = points["u"].to_numpy(), 0.3, 1e-6

    def loss(target):
        return -target * np.log(u) - (1 - target) * np.log(1 - u)

    assert points["gradient"].to_numpy() == pytest.approx(
        (loss(t + step) - loss(t - step)) / (2 * step), rel=1e-6, abs=1e-6
    )
    assert points["gradient"][points["u"] > 0.501].max() < 0


def test_saved_files_are_of_their_kind_and_the_same_twice(tmp_path):
    paths = []
    for folder in ("one", "two"):
        paths.append(score_vs_iou({"a": (IOU, SCORE)}).save(tmp_path / folder / "fig.4"))
    assert [path.name for path in paths[0]] == ["fig.4.png", "fig.4.svg", "fig.4.csv"]
    assert paths[0][0].read_bytes().startswith(b"\x89PNG") and b"<svg" in paths[0][1].read_bytes()[:600]
    assert len(pd.read_csv(paths[0][2])) == 300
    for first, second in zip(*paths, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_global_state_of_matplotlib_is_left_alone():
    before = dict(mpl.rcParams)
    iou_gradient().render("png")
    assert dict(mpl.rcParams) == before
    code = (
        "import sys, analysis.plots as p; p.iou_gradient().render('svg'); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
