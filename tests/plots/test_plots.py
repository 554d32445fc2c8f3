"""Figures: what is drawn is what was given, the same twice, and nothing leaks into matplotlib's global state."""

import math
import subprocess
import sys
from itertools import chain, combinations, pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.font_manager import FontProperties
from matplotlib.patches import StepPatch
from matplotlib.textpath import TextPath
from scipy import stats

from qrepro.metrics.coco_ap import APResult, ap_metrics
from qrepro.metrics.correlation import grouped_rows
from qrepro.metrics.oracle import alpha_rows
from qrepro.metrics.positives_by_scale import matched_rows
from qrepro.plots import (
    ap_by_threshold,
    ap_vs_alpha,
    before_and_after,
    claimed_effects,
    class_vs_iou_score,
    correlation_by_group,
    difference_interval,
    estimate_vs_iou,
    iou_gradient,
    label_histograms,
    loss_curves,
    matched_boxes,
    perturbation,
    precision_recall,
    qfl_curves,
    quality_loss_curves,
    reliability,
    score_vs_iou,
    side_distributions,
    speed_accuracy,
    target_histogram,
    top1_vs_iou,
)
from qrepro.plots.style import LINES, STYLE, fold, line_style, shades, text_width

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
    assert "bias −0.25, n = 3" in ax.get_title(loc="left")


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


def test_points_above_the_range_stay_in_sight_and_a_panel_without_points_says_so():
    inside, empty = score_vs_iou({"a": ([0.1, 0.5], [0.3, 1.5]), "none": ([], [])}).figure.axes
    assert inside.get_ylim()[1] > 1.5 and inside.get_ylim() == empty.get_ylim() and inside.get_xlim() == (-0.02, 1.02)
    assert empty.get_title(loc="left") == "none\nr = –, ρ = –, n = 0"
    assert [text.get_text() for text in empty.texts] == ["no points"] and not inside.texts


def test_a_panel_of_unequal_vectors_is_named():
    with pytest.raises(ValueError, match=r"panel 'b': iou_eval \(2,\), score \(3,\) must be equally long vectors"):
        score_vs_iou({"a": (IOU, SCORE), "b": ([0.1, 0.2], [0.1, 0.2, 0.3])})
    with pytest.raises(ValueError, match=r"panel 'a': iou has 1 of 2 values that are not finite"):
        top1_vs_iou({"a": ([0.1, 0.2], [0.1, math.nan])})
    with pytest.raises(ValueError, match=r"panel 'a': top1 has 1 of 2 values that are not finite"):
        top1_vs_iou({"a": ([0.1, math.inf], [0.1, 0.2])})


def test_top1_against_iou():
    plot = top1_vs_iou({"gfl": ([0.31, 0.33, 0.9], [0.5, 0.7, 1.0])})
    (ax,) = plot.figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "top-1 probability, mean of four sides",
        "true IoU of the decoded box",
    )
    assert plot.points.to_numpy().tolist() == [["gfl", 0.31, 0.5], ["gfl", 0.33, 0.7], ["gfl", 0.9, 1.0]]
    line = next(line for line in ax.lines if line.get_label() == "mean IoU")
    assert line.get_xydata().ravel().tolist() == pytest.approx([0.32, 0.6, 0.9, 1.0])


# object: rows 0, 3 (an IoU at the threshold counts); background: rows 1, 2, 4, of which 1 and 2 reach a quality of 0.9
CLASS, QUALITY, TRUE = [0.9, 0.1, 0.2, 0.8, 0.3], [0.95, 0.92, 0.9, 0.85, 0.3], [0.8, 0.1, 0.2, 0.5, 0.49]


def offsets(collection):
    return np.asarray(collection.get_offsets()).tolist()


def test_class_score_against_quality_separates_object_and_background():
    plot = class_vs_iou_score({"a": (CLASS, QUALITY, TRUE), "joint": (CLASS, CLASS, TRUE)})
    separate, joint = plot.figure.axes
    found, background = [c for c in separate.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    assert offsets(found) == [[0.9, 0.95], [0.8, 0.85]]
    assert offsets(background) == [[0.1, 0.92], [0.2, 0.9], [0.3, 0.3]]
    r, rho = stats.pearsonr(CLASS, QUALITY).statistic, stats.spearmanr(CLASS, QUALITY).statistic
    numbers = f"r = {r:.2f}, ρ = {rho:.2f}, n = 5".replace("-", "−")
    assert separate.get_title(loc="left") == f"a\n{numbers}\nbackground with quality ≥ 0.9: 66.7%"
    assert joint.get_title(loc="left").startswith("joint\nr = 1.00, ρ = 1.00, n = 5")
    assert joint.get_title(loc="left").endswith(": 0.0%")
    columns = ["panel", "class_score", "quality", "iou", "background_below"]
    assert plot.points.columns.tolist() == columns and plot.points["iou"].tolist() == TRUE * 2
    (legend,) = plot.figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["object (true IoU ≥ 0.5)", "background (true IoU < 0.5)", "quality = class score"]


def test_class_score_against_quality_coloured_by_iou():
    plot = class_vs_iou_score({"a": (CLASS, QUALITY, TRUE)}, colour="iou", threshold=0.1, high=0.5)
    panel, bar = plot.figure.axes
    (cloud,) = panel.collections
    assert cloud.get_array().tolist() == TRUE and cloud.get_clim() == (0, 1)
    assert bar.get_ylabel() == "true IoU" and bar.get_ylim() == (0, 1)
    assert panel.get_title(loc="left").endswith("background with quality ≥ 0.5: –")  # no IoU is below 0.1
    luminance = [mpl.colors.rgb_to_hsv(shade[:3])[2] for shade in shades(10)]
    assert luminance[0] < luminance[-1]
    with pytest.raises(ValueError, match='colour must be "object" or "iou", got \'hit\''):
        class_vs_iou_score({"a": (CLASS, QUALITY, TRUE)}, colour="hit")


def test_the_share_of_background_is_that_of_all_points():
    quality = np.r_[np.full(900, 0.95), np.full(100, 0.2)]
    plot = class_vs_iou_score({"a": (np.linspace(0, 1, 1000), quality, np.zeros(1000))}, sample=10)
    assert plot.figure.axes[0].get_title(loc="left").endswith(": 90.0%") and len(plot.points) == 10


BINS = [
    {"low": 0.0, "high": 0.5, "n": 8, "mean_confidence": 0.25, "observed": 0.5, "gap": -0.25},
    {"low": 0.5, "high": 0.75, "n": 0, "mean_confidence": math.nan, "observed": math.nan, "gap": math.nan},
    {"low": 0.75, "high": 1.0, "n": 1200, "mean_confidence": 0.875, "observed": 0.375, "gap": 0.5},
]


def rectangles(bars):
    return [(bar.get_x(), bar.get_width(), bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars]


def test_reliability_draws_what_was_observed_and_the_gap_to_the_confidence():
    plot = reliability({"a\nD-ECE 0.5": BINS, "b": BINS[:1]})
    upper, other, lower, _ = plot.figure.axes
    observed, gap = upper.containers
    assert rectangles(observed) == [(0, 0.5, 0, 0.5), (0.75, 0.25, 0, 0.375)]  # the empty bin stays white
    assert rectangles(gap) == [(0, 0.5, 0.5, 0.25), (0.75, 0.25, 0.375, 0.875)]  # from observed to mean confidence
    (diagonal,) = upper.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert rectangles(lower.containers[0]) == [(0, 0.5, 0, 8), (0.75, 0.25, 0, 1200)]
    assert lower.get_yscale() == "log" and lower.get_ylim()[0] < 1 and lower.get_ylim()[1] > 1200
    assert upper.get_title(loc="left") == "a\nD-ECE 0.5" and other.get_title(loc="left") == "b"
    assert len(plot.points) == 4 and plot.points.columns.tolist() == ["panel", *BINS[0]]


def test_reliability_of_nothing_and_of_mixed_rows():
    upper, lower = reliability({"none": []}).figure.axes
    assert [text.get_text() for text in upper.texts] == ["no detections"] and not lower.patches
    with pytest.raises(ValueError, match=r"panel 'a': two bins start at 0.75; give rows of one metric and class"):
        reliability({"a": [*BINS, BINS[2]]})
    with pytest.raises(ValueError, match=r"panel 'a': rows lack gap; they have low"):
        reliability({"a": [{key: value for key, value in BINS[0].items() if key != "gap"}]})
    with pytest.raises(ValueError, match="at least one panel"):
        reliability({})


def test_precision_recall_is_the_mean_of_the_classes_with_ground_truth():
    recall = [0.0, 0.5, 1.0]
    precision = np.array([[1.0, -1.0, 0.8], [0.6, -1.0, 0.4], [0.2, -1.0, 0.0]])  # the second class has no ground truth
    plot = precision_recall(recall, {"IoU 0.50": precision, "mean": [0.5, 0.5, 0.2], "none": np.full((3, 2), -1)})
    (ax,) = plot.figure.axes
    lines = {line.get_label().replace("\u00a0", " "): line for line in ax.lines}
    assert list(lines) == ["IoU 0.50: AP 50.0", "mean: AP 40.0", "none: AP –"]  # (0.9 + 0.5 + 0.1) / 3, 1.2 / 3
    drawn = lines["IoU 0.50: AP 50.0"].get_xydata()
    assert drawn.ravel().tolist() == pytest.approx([0, 0.9, 0.5, 0.5, 1, 0.1])
    assert np.isnan(lines["none: AP –"].get_ydata()).all()
    assert plot.points["n_classes"].tolist() == [2] * 3 + [1] * 3 + [0] * 3


def test_the_area_is_the_ap_of_the_same_array():
    precision = RNG.random((2, 101, 3, 4, 1))
    precision[:, :, 1] = -1
    recall = np.zeros((2, 3, 4, 1))
    result = APResult(precision, recall, (0.5, 0.75), (1, 2, 3), ("a", "b", "c"), (100,), "hotcoco")
    lines = {f"IoU {t:g}": precision[i, :, :, 0, -1] for i, t in enumerate(result.thresholds)}
    (ax,) = precision_recall(np.linspace(0, 1, 101), lines, graded=True).figure.axes
    metrics = ap_metrics(result)
    names = [line.get_label().replace("\u00a0", " ") for line in ax.lines]
    assert names == [f"IoU 0.5: AP {metrics['AP50']:.1f}", f"IoU 0.75: AP {metrics['AP75']:.1f}"]


@pytest.mark.parametrize(
    "recall, lines, message",
    [
        ([0, 1], {}, "at least one line"),
        ([0, 1], {"a": [1, 1, 1]}, r"line 'a': precision \(3,\) for 2 recalls"),
        ([0, 1], {"a": [1]}, r"line 'a': precision \(1,\) for 2 recalls"),
        ([0, 1], {"a": np.ones((2, 1, 1))}, r"line 'a': precision \(2, 1, 1\) for 2 recalls"),
        ([0, 1.1], {"a": [1, 1]}, r"recall must be a vector of numbers in \[0, 1\]"),
        ([], {"a": []}, r"recall must be a vector of numbers in \[0, 1\], at least one, got shape \(0,\)"),
    ],
)
def test_precision_recall_refuses(recall, lines, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(recall, lines)


def test_ap_by_threshold_draws_every_line_and_names_its_mean():
    plot = ap_by_threshold([0.5, 0.75, 0.9], {"a": [60.0, 40.0, 20.0], "b": [50.0, math.nan, 10.0]})
    (ax,) = plot.figure.axes
    lines = {line.get_label().replace("\u00a0", " "): line.get_xydata().tolist() for line in ax.lines}
    assert lines["a: mean 40.0"] == [[0.5, 60], [0.75, 40], [0.9, 20]]
    assert lines["b: mean 30.0"][0] == [0.5, 50] and math.isnan(lines["b: mean 30.0"][1][1])
    assert (
        plot.points["AP"].tolist()[:3] == [60, 40, 20] and plot.points["iou_threshold"].tolist() == [0.5, 0.75, 0.9] * 2
    )
    with pytest.raises(ValueError, match=r"line 'a': \(2,\) values for 3 thresholds"):
        ap_by_threshold([0.5, 0.6, 0.7], {"a": [1, 2]})
    with pytest.raises(ValueError, match=r"thresholds must be increasing numbers, at least one, got \[0.5, 0.5\]"):
        ap_by_threshold([0.5, 0.5], {"a": [1, 2]})
    with pytest.raises(ValueError, match="at least one line"):
        ap_by_threshold([0.5], {})


def test_the_loss_of_the_quality_alone():
    steps = pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "class": [0.9, 0.6, 0.3]})
    plot = quality_loss_curves({"gfl": steps, "other": steps.drop(columns="class")}, term="class", smooth=3)
    (ax,) = plot.figure.axes
    assert ax.get_title(loc="left") == "class term" and plot.points["run"].unique().tolist() == ["gfl"]
    (mean,) = [line for line in ax.lines if line.get_label() == "gfl"]
    assert mean.get_ydata().tolist() == pytest.approx([0.75, 0.6, 0.45])
    with pytest.raises(ValueError, match="no log has values of the term 'quality'; columns: class, loss, step"):
        quality_loss_curves({"gfl": steps})
    with pytest.raises(ValueError, match="no log has values of the term 'quality'"):
        quality_loss_curves({"gfl": steps.assign(quality=math.nan)})
    with pytest.raises(ValueError, match="smooth must be at least 1, got 0"):
        loss_curves({"gfl": steps}, smooth=0)


def outlines(ax):
    """Values and edges of the outlined histograms, without the filled copy of the first."""
    return [(p.get_data().values.tolist(), p.get_data().edges.tolist()) for p in ax.patches if not p.get_fill()]


def test_label_histograms_share_the_positives_among_bins():
    # four bins: [0, .25) holds 2 of 6, [.25, .5) and [.5, .75) one each, [.75, 1] two, both of them 1
    plot = label_histograms({"IoU": [0.0, 0.1, 0.25, 0.5, 1.0, 1.0], "centerness": [0.2]}, bins=4, below=0.5)
    (ax,) = plot.figure.axes
    (iou, edges), (centerness, _) = outlines(ax)
    assert iou == pytest.approx([2 / 6, 1 / 6, 1 / 6, 2 / 6]) and edges == [0, 0.25, 0.5, 0.75, 1]
    assert centerness == [1, 0, 0, 0]
    names = ax.get_legend_handles_labels()[1]  # 0.5 itself is not below 0.5
    assert names == ["IoU: 50.0% below 0.5 (6 positives)", "centerness: 100.0% below 0.5 (1 positives)"]
    assert plot.points["n"].tolist() == [2, 1, 1, 2, 1, 0, 0, 0]
    (filled,) = [patch for patch in ax.patches if patch.get_fill()]  # the first, so that two differ in grey
    assert isinstance(filled, StepPatch) and filled.get_data().values.tolist() == iou


def test_label_histograms_of_nothing_and_of_what_is_no_label():
    plot = label_histograms({"none": []}, bins=2)
    assert plot.figure.axes[0].get_legend_handles_labels()[1] == ["none: – below 0.4 (0 positives)"]
    assert plot.points["n"].tolist() == [0, 0] and plot.points["share"].isna().all()
    for wrong, limits in (([-0.1, 0.5], "-0.1 to 0.5"), ([0.5, 1.2], "0.5 to 1.2")):
        with pytest.raises(ValueError, match=rf"labels 'IoU' must lie in \[0, 1\], got {limits}"):
            label_histograms({"IoU": wrong})
    with pytest.raises(ValueError, match="IoU has 1 of 2 values that are not finite"):
        label_histograms({"IoU": [0.5, math.nan]})
    with pytest.raises(ValueError, match="at least one kind of label"):
        label_histograms({})
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        label_histograms({"IoU": [0.5]}, bins=0)


def test_target_histogram_counts_what_lies_outside_the_axis():
    # below 0: 1; [0, 1): 2; [1, 2): 1; [2, 3): 2; from 3 on: 2. Above n = 2: 2.5, 3 and 7, not 2 itself
    targets = [-0.5, 0.0, 0.99, 1.0, 2.0, 2.5, 3.0, 7.0]
    plot = target_histogram({"ATSS": targets}, n=2, width=1, upper=3)
    (ax,) = plot.figure.axes
    assert outlines(ax) == [([2 / 8, 1 / 8, 2 / 8], [0, 1, 2, 3])]
    assert ax.get_legend_handles_labels()[1] == ["ATSS: 37.50% above 2 (8 targets)"]
    assert plot.points["n"].tolist() == [1, 2, 1, 2, 2] and plot.points["share"].sum() == 1
    assert plot.points["low"].tolist() == [-math.inf, 0, 1, 2, 3] and plot.points["high"].tolist()[-1] == math.inf
    (mark,) = ax.lines
    assert mark.get_xdata() == [2, 2]


def test_target_histogram_without_range_and_with_wrong_bins():
    plot = target_histogram({"a": [0.5]}, n=None, width=0.4, upper=1)
    (ax,) = plot.figure.axes
    assert not ax.lines and ax.get_legend_handles_labels()[1] == ["a (1 targets)"]
    assert ax.get_xlim()[1] == pytest.approx(1.2)  # the bin that holds `upper` is whole
    for width in (0, 2):
        with pytest.raises(ValueError, match=f"width must be above 0 and at most upper = 1, got {width}"):
            target_histogram({"a": [0.5]}, width=width, upper=1)
    with pytest.raises(ValueError, match="at least one kind of target"):
        target_histogram({})


def test_quality_focal_loss_against_hand_values():
    plot = qfl_curves(label=0.5, betas=(0, 1, 2))
    values = plot.points.assign(at=(200 * plot.points["score"]).round()).set_index(["beta", "at"])["loss"]
    cross = 1.5 * math.log(2) - 0.5 * math.log(1.5)  # at 1/4: -1/2 log 3/4 - 1/2 log 1/4 = 2 log 2 - 1/2 log 3
    assert cross == pytest.approx(2 * math.log(2) - math.log(3) / 2)
    for beta, factor in ((0, 1), (1, 1 / 4), (2, 1 / 16)):
        assert values[beta, 50] == pytest.approx(factor * cross)
        assert values[beta, 150] == pytest.approx(factor * cross)  # the same at 3/4
    assert values[0, 100] == pytest.approx(math.log(2)) and abs(values[2, 100]) < 1e-12
    (ax,) = plot.figure.axes
    lines = [line for line in ax.lines if line.get_label().startswith("β")]
    assert [line.get_label() for line in lines] == ["β = 0 (cross entropy)", "β = 1", "β = 2"]
    assert lines[2].get_ydata().tolist() == plot.points.loc[plot.points["beta"] == 2, "loss"].tolist()


@pytest.mark.parametrize("label", [0.0, 0.2, 0.83, 1.0])
def test_quality_focal_loss_is_least_at_its_label(label):
    points = qfl_curves(label, betas=(0, 0.5, 2)).points
    for _, curve in points.groupby("beta"):
        assert abs(curve["score"][curve["loss"].idxmin()] - label) <= 0.005 + 1e-12  # the step of the scores


def test_quality_focal_loss_refuses():
    with pytest.raises(ValueError, match=r"label must lie in \[0, 1\], got 1.5"):
        qfl_curves(1.5)
    for betas in ((), (1, -1)):
        with pytest.raises(ValueError, match="betas must be numbers of at least 0"):
            qfl_curves(0.5, betas)


def descent(loss_gradient, outputs, feature, steps=6000, rate=0.4):
    """Weights (outputs, 2) of a linear head that gradient descent from zero reaches."""
    weights = np.zeros((outputs, 2))
    for _ in range(steps):
        weights -= rate * np.outer(loss_gradient(weights @ feature), feature)
    return weights


def test_perturbation_is_that_of_heads_fitted_by_descent():
    feature, n, target, mass = np.array([0.6, 0.8]), 4, 1.25, 0.9
    wanted = np.array([0.1 / 3, 0.75 * 0.9, 0.25 * 0.9, 0.1 / 3, 0.1 / 3])  # three quarters on bin 1, a quarter on 2

    def softmax(z):
        exponential = np.exp(z - z.max())
        return exponential / exponential.sum()

    dirac = descent(lambda output: output - target, 1, feature)
    general = descent(lambda z: softmax(z) - wanted, n + 1, feature)
    assert (dirac @ feature).item() == pytest.approx(target) and softmax(general @ feature) == pytest.approx(wanted)
    plot = perturbation([target], tuple(feature), norm=0.2, n=n, mass=mass)
    points = plot.points.set_index(["head", "angle"])["change"]
    for angle in (-180, -130, -90, 0, 37, 90, 180):
        turn = np.radians(angle)
        across = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        moved = feature + 0.2 * across @ feature  # the feature has norm 1
        assert points["Dirac delta", angle] == pytest.approx(abs((dirac @ moved).item() - target), abs=1e-9)
        change = (softmax(general @ moved) - wanted) @ np.arange(n + 1)
        assert points["General", angle] == pytest.approx(abs(change), abs=1e-9)
    lines = {line.get_label(): line.get_ydata() for line in plot.figure.axes[0].lines}
    assert lines["General, y = 1.25"].tolist() == points["General"].tolist()


def test_perturbation_of_the_paper_and_where_its_claim_ends():
    def largest(mass):
        return perturbation(mass=mass).points.groupby(["head", "target"])["change"].max()

    dirac = largest(0.99)["Dirac delta"]
    assert dirac.tolist() == pytest.approx(
        [1.5 * 0.1 / math.sqrt(2), 2.5 * 0.1 / math.sqrt(2), 3.5 * 0.1 / math.sqrt(2)]
    )
    assert (largest(0.97)["General"] < dirac).all() and largest(0.96)["General"][1.5] > dirac[1.5]
    ends = perturbation(targets=(0, 16)).points
    assert (
        np.isfinite(ends["change"]).all() and ends.query("head == 'Dirac delta' and target == 0")["change"].max() == 0
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"feature": (0.0, 0.0)}, "feature must not be zero"),
        ({"mass": 1.0}, r"mass must lie in \(0, 1\) and n be at least 2, got 1 and 16"),
        ({"n": 1, "targets": (0.5,)}, "got 0.99 and 1"),
        ({"targets": (1.5, 16.5)}, r"targets must lie in \[0, 16\], at least one, got \[1.5, 16.5\]"),
        ({"targets": ()}, "at least one"),
    ],
)
def test_perturbation_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        perturbation(**change)


DIFFERENCES = [
    {"metric": "AP", "difference": 1.25, "low": 0.5, "high": 2.0, "p_value": 0.0004},
    {"metric": "AP50", "difference": -0.5, "low": -1.5, "high": 0.25, "p_value": 0.04},
    {"metric": "APL", "difference": -2.0, "low": -3.0, "high": -1.0, "p_value": 0.002},
    {"metric": "APM", "difference": 0.5, "low": 0.0, "high": 1.0, "p_value": math.nan},
    {"metric": "AR", "difference": 0.75, "low": math.nan, "high": math.nan, "p_value": 0.3},
    {"metric": "APS", "difference": math.nan, "low": math.nan, "high": math.nan, "p_value": math.nan},
]


def test_difference_interval_draws_and_writes_every_row():
    plot = difference_interval(DIFFERENCES)
    (ax,) = plot.figure.axes
    zero, *drawn = ax.lines
    assert zero.get_xdata() == [0, 0]
    intervals, dots = drawn[::2], drawn[1::2]
    assert [line.get_xdata().tolist() for line in intervals[:3]] == [[0.5, 2], [-1.5, 0.25], [-3, -1]]
    assert [dot.get_xdata().item() for dot in dots[:5]] == [1.25, -0.5, -2, 0.5, 0.75]
    filled = [dot.get_markerfacecolor() != "white" for dot in dots]
    assert filled == [True, False, True, False, False, False]  # an interval that ends at zero does not exclude it
    assert [text.get_text() for text in ax.texts] == [
        "+1.25 [+0.50, +2.00], p < 0.001",
        "−0.50 [−1.50, +0.25], p = 0.04",
        "−2.00 [−3.00, −1.00], p = 0.002",
        "+0.50 [+0.00, +1.00]",
        "+0.75, p = 0.3",
        "undefined",
    ]
    places = [line.get_ydata()[0] for line in intervals]
    assert places == sorted(places) and ax.yaxis_inverted() and ax.get_yticks().tolist() == places  # the first on top
    assert [label.get_text() for label in ax.get_yticklabels()] == ["AP", "AP50", "APL", "APM", "AR", "APS"]
    pd.testing.assert_frame_equal(plot.points, pd.DataFrame(DIFFERENCES))


def test_difference_interval_refuses():
    with pytest.raises(ValueError, match="difference_interval needs at least one row"):
        difference_interval([])
    with pytest.raises(ValueError, match="difference_interval: rows lack name; they have metric"):
        difference_interval(DIFFERENCES, name="name")
    with pytest.raises(ValueError, match="metric 'AP': low 3 is above high 2"):
        difference_interval([{**DIFFERENCES[0], "low": 3.0}])


def claimed(claim, column, printed, effect, verdict):
    about = {"paper": "p", "claim": claim, "column": column, "printed_effect": printed}
    return {**about, "effect": effect, "low": effect - 1, "high": effect + 1, "verdict": verdict}


def test_claimed_effects_has_a_panel_for_each_unit():
    rows = [
        claimed("a", "AP", 1.5, 2.0, "holds"),
        claimed("b", "PCC", 0.3, -3.0, "does not hold"),
        claimed("c", "mAP50", np.nan, 0.5, "inconclusive"),
    ]
    plot = claimed_effects(rows, "On shapes.")
    points, correlations = plot.figure.axes
    assert (points.get_xlabel(), correlations.get_xlabel()) == ("effect in AP points", "effect in Pearson correlation")
    zero, *drawn = points.lines
    assert zero.get_xdata() == [0, 0] and [line.get_xdata().tolist() for line in drawn] == [
        [1, 3],
        [2],
        [1.5],
        [-0.5, 1.5],
        [0.5],
    ]
    assert [label.get_text() for label in points.get_yticklabels()] == ["p: a (AP)", "p: c (mAP50)"]
    assert [line.get_xdata().tolist() for line in correlations.lines[1:]] == [[-4, -2], [-3], [0.3]]
    colours = {line.get_color() for line in correlations.lines[1:3]}
    assert len(colours) == 1 and colours != {drawn[0].get_color()} and points.yaxis_inverted()
    (legend,) = plot.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["holds", "inconclusive", "does not hold", "printed"]
    assert plot.caption.startswith("On shapes. Lines: 95 %") and len(plot.points) == 3
    with pytest.raises(ValueError, match="claimed_effects needs at least one row"):
        claimed_effects([])


def group(name, pearson, n=7):
    return {"group": name, "n": n, "pearson": pearson, "pearson_low": pearson - 0.1, "pearson_high": pearson + 0.1}


def test_correlation_by_group_orders_by_the_first_run():
    rows = [group("cat", 0.5, 1234), group("dog", math.nan, 1), group("cow", 0.75)]
    (ax,) = correlation_by_group({"a": rows}).figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["cow (7)", "cat (1,234)", "dog (1): undefined"]
    places = dict(zip(["cow", "cat", "dog"], ax.get_yticks(), strict=True))
    (dots,) = ax.lines
    drawn = {
        name: x for name, (x, y) in zip(["cat", "dog", "cow"], dots.get_xydata(), strict=True) if y == places[name]
    }
    assert drawn["cat"] == 0.5 and drawn["cow"] == 0.75 and math.isnan(drawn["dog"])
    (intervals,) = ax.collections
    spans = [[*segment[:, 0], segment[0, 1]] for segment in intervals.get_segments() if len(segment)]
    assert np.array(spans) == pytest.approx(np.array([[0.4, 0.6, places["cat"]], [0.65, 0.85, places["cow"]]]))
    assert ax.yaxis_inverted() and not ax.figure.legends
    (kept,) = correlation_by_group({"a": rows}, ordered=True).figure.axes
    assert [text.get_text()[:3] for text in kept.get_yticklabels()] == ["cat", "dog", "cow"]


def test_correlation_of_several_runs_side_by_side():
    runs = {"a": [group("cat", 0.5), group("cow", 0.75)], "b": [group("dog", 0.1), group("cat", 0.25)]}
    plot = correlation_by_group(runs)
    (ax,) = plot.figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["cow", "cat", "dog"]
    cow, cat, dog = ax.get_yticks()
    first, second = (line.get_xydata() for line in ax.lines)
    assert first[:, 0].tolist() == [0.5, 0.75] and second[:, 0].tolist() == [0.1, 0.25]
    assert first[0, 1] < cat < second[1, 1] and first[1, 1] < cow and second[0, 1] > dog  # the first run above
    assert (first[0, 1] + second[1, 1]) / 2 == pytest.approx(cat)
    assert plot.points[["run", "group"]].to_numpy().tolist() == [["a", "cat"], ["a", "cow"], ["b", "dog"], ["b", "cat"]]


def test_correlation_of_many_classes_is_split_into_columns():
    names = [f"class {index}" for index in range(81)]
    axes = correlation_by_group({"a": [group(name, 1 - index / 81) for index, name in enumerate(names)]}).figure.axes
    labels = [[text.get_text().removesuffix(" (7)") for text in ax.get_yticklabels()] for ax in axes]
    assert [len(some) for some in labels] == [27, 27, 27] and [*chain(*labels)] == names
    assert sum(len(line.get_xdata()) for ax in axes for line in ax.lines) == 81


def test_rows_of_the_correlations_are_drawn_with_and_without_intervals():
    labels = np.where(np.arange(300) < 200, "cat", "dog")
    rows = grouped_rows(SCORE, IOU, {"category": labels}, [(0, 1)])
    bare = grouped_rows(SCORE, IOU, {"category": labels}, [(0, 1)], statistics=["spearman"], intervals=False)
    for value, given_rows, segments in (("pearson", rows, 2), ("spearman", bare, 0)):
        (ax,) = correlation_by_group({"a": given_rows}, name="category", value=value).figure.axes
        (dots,) = ax.lines
        assert dots.get_xdata().tolist() == [row[value] for row in given_rows]
        assert sum(len(segment) > 0 for segment in ax.collections[0].get_segments()) == segments


def test_correlation_by_group_refuses():
    with pytest.raises(ValueError, match=r"group 'cat': pearson_low 0.9 is above pearson_high 0.6"):
        correlation_by_group({"a": [{**group("cat", 0.5), "pearson_low": 0.9}]})
    for runs in ({}, {"a": []}):
        with pytest.raises(ValueError, match="at least one run with at least one group"):
            correlation_by_group(runs)
    with pytest.raises(ValueError, match="run 'a': group 'cat' occurs twice"):
        correlation_by_group({"a": [group("cat", 0.5), group("cat", 0.6)]})
    with pytest.raises(ValueError, match="run 'b': rows lack spearman"):
        correlation_by_group({"b": [group("cat", 0.5)]}, value="spearman")


@given(st.text(alphabet="abWi_-/+:, 0=\u00a0", max_size=80), st.floats(0.3, 3))
def test_folded_text_fits_and_loses_nothing(text, width):
    lines = fold(text, width).split("\n")
    assert all(text_width(line, 9) <= width or len(line) == 1 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_text_is_folded_behind_separators():
    assert fold("iou_aware/grad_r50: power-0.5", text_width("iou_aware/grad", 9)) == "iou_aware/\ngrad_r50:\npower-0.5"
    assert fold("aaaa bbbb", 0.95 * text_width("aaaa bbbb", 9)) == "aaaa\nbbbb"
    assert fold("a\nb", 1) == "a\nb" and fold("", 1) == ""


@pytest.mark.parametrize("text", ["iou_aware/grad_r50", "WWWW iiii", "α = 0.5, n = 1,234"])
def test_width_of_text_is_that_of_its_outline(text):
    outline = TextPath((0, 0), text, size=9, prop=FontProperties(family="DejaVu Sans")).get_extents().width / 72
    assert text_width(text, 9) == pytest.approx(outline, abs=0.03)


def test_lines_differ_also_in_grey():
    styles = [line_style(index) for index in range(63)]
    assert len({(style["color"], style["marker"]) for style in styles}) == 63
    for first, second in pairwise(styles):
        assert first["linestyle"] != second["linestyle"] and first["color"] != second["color"]
    assert {style["linestyle"] for style in styles} == set(LINES)


LONG = [f"iou_aware/grad_r50+schedule.shorten=40,head.quality.detach=false seed {index}" for index in range(8)]
LOG = pd.DataFrame({"step": range(50), "loss": np.linspace(3, 1, 50), "quality": np.linspace(0.7, 0.4, 50)})
HARD = {
    "clouds": lambda: score_vs_iou({name: (IOU, SCORE) for name in LONG[:4]}),
    "estimates": lambda: estimate_vs_iou({"short": (IOU, SCORE), LONG[0]: (IOU[:1], SCORE[:1]), "none": ([], [])}),
    "top1": lambda: top1_vs_iou({LONG[0]: (IOU, SCORE)}),
    "class": lambda: class_vs_iou_score({name: (IOU, SCORE, IOU) for name in LONG[:2]}),
    "class by iou": lambda: class_vs_iou_score({name: (IOU, SCORE, IOU) for name in LONG[:3]}, colour="iou"),
    "alpha": lambda: ap_vs_alpha([alpha_rows(RULES)], title=LONG[0] + LONG[1]),
    "thresholds": lambda: ap_by_threshold(np.arange(0.5, 1, 0.05), {name: range(10) for name in LONG}, title=LONG[0]),
    "recall": lambda: precision_recall([0, 1], {f"IoU {t:.2f}": [1, 0] for t in np.arange(0.5, 1, 0.05)}, graded=True),
    "recall of runs": lambda: precision_recall([0, 1], {name: [1, 0] for name in LONG}, title=LONG[0] * 2),
    "losses": lambda: loss_curves(dict.fromkeys(LONG, LOG)),
    "one loss": lambda: quality_loss_curves(dict.fromkeys(LONG[:1], LOG[:1])),
    "reliability": lambda: reliability({f"{name}\nD-ECE 0.123": BINS for name in LONG[:4]}),
    "one reliability": lambda: reliability({LONG[0]: BINS}),
    "labels": lambda: label_histograms(dict.fromkeys(LONG, IOU), title=LONG[0]),
    "targets": lambda: target_histogram({LONG[0]: 20 * IOU, "none": []}, title=LONG[0]),
    "differences": lambda: difference_interval([{**row, "metric": LONG[0]} for row in DIFFERENCES], title=LONG[0] * 2),
    "one difference": lambda: difference_interval(DIFFERENCES[:1]),
    "classes": lambda: correlation_by_group({"a": [group(f"{LONG[0]} {i}", 0.5) for i in range(80)]}, title=LONG[0]),
    "sizes": lambda: correlation_by_group({name: [group("small", 0.5), group("large", 0.6)] for name in LONG}),
    "matches": lambda: matched_boxes(
        matched_rows(300 * IOU, {"initial": 9 * SCORE, "adjusted": 20 * SCORE}, range(0, 301, 20)), title=LONG[0] * 2
    ),
    "gradient": iou_gradient,
    "qfl": qfl_curves,
    "perturbation": perturbation,
}


@pytest.mark.parametrize("name", HARD)
def test_nothing_is_cut_off_or_overlaps(name):
    figure = HARD[name]().figure
    with mpl.rc_context(STYLE):
        renderer = FigureCanvasAgg(figure).get_renderer()
        page, drawn = figure.bbox, figure.get_tightbbox(renderer).transformed(figure.dpi_scale_trans)
        boxes = [part.get_tightbbox(renderer).padded(-1) for part in [*figure.axes, *figure.legends]]
        panels = [ax.get_window_extent(renderer) for ax in figure.axes]
    assert page.x0 <= drawn.x0 and drawn.x1 <= page.x1 and page.y0 <= drawn.y0 and drawn.y1 <= page.y1
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert min(panel.height for panel in panels) > 20  # pixels of 1/100 inch: room to draw in


def test_long_titles_and_legends_take_no_room_from_the_panels():
    def height(name):
        figure = ap_by_threshold([0.5, 0.75], {name: [2, 1]}, title=name).figure
        return figure.axes[0].get_window_extent().height

    assert height(" ".join(LONG[:4])) >= height("short")


@pytest.mark.parametrize("name", ["class by iou", "one reliability", "alpha", "differences", "matches", "perturbation"])
def test_the_same_data_give_the_same_file_drawn_once_or_twice(name):
    plot = HARD[name]()
    first = plot.render("svg")
    assert plot.render("svg") == first and HARD[name]().render("svg") == first


def test_names_are_text_and_not_formulas():
    plot = score_vs_iou({"cost $5 or $6_x": (IOU, SCORE)})
    assert plot.figure.axes[0].get_title(loc="left").startswith("cost $5 or $6_x\n")
    assert not plot.figure.axes[0].title.get_parse_math()
    plot.render("png", dpi=50)


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
    code = "import sys, qrepro.plots as p; p.iou_gradient().render('svg'); sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_side_distributions_stand_at_the_pixels_they_mean():
    """Location (40, 30), bins of 8 and 4 px: the left side at 2 bins is x = 24, the bottom at 3 is y = 42."""
    peak = {"left": 2, "top": 1, "right": 4, "bottom": 3}
    sides = {name: np.eye(6)[at] for name, at in peak.items()}
    plot = side_distributions(np.zeros((60, 90, 3), np.uint8), [24, 26, 72, 42], (40, 30), (8, 4), sides)
    certain = plot.points[plot.points["probability"] == 1].set_index("side")["position"]
    assert certain.to_dict() == {"left": 24, "top": 26, "right": 72, "bottom": 42}
    below = plot.figure.axes[2]
    tall = [bar for bar in below.patches if bar.get_height() == 1]
    assert sorted(bar.get_x() + bar.get_width() / 2 for bar in tall) == [24, 72]
    with pytest.raises(ValueError, match="sides must be"):
        side_distributions(np.zeros((6, 9, 3)), [1, 2, 3, 4], (4, 3), (1, 1), {"left": [1.0]})
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        side_distributions(np.zeros((6, 9)), [1, 2, 3, 4], (4, 3), (1, 1), sides)


def test_speed_is_time_per_picture_and_the_variants_of_a_model_are_one_line():
    plot = speed_accuracy({"a": (["big", "small"], [10, 20], [45.0, 40.0]), "b": (["one"], [25], [41.0])})
    assert plot.points["ms"].tolist() == [50, 100, 40]  # in order of time
    assert plot.points["variant"].tolist() == ["small", "big", "one"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in plot.figure.axes[0].lines}
    assert drawn == {"a": [[50, 40], [100, 45]], "b": [[40, 41]]}
    with pytest.raises(ValueError, match="must be positive"):
        speed_accuracy({"a": (["x"], [0.0], [40.0])})


def test_the_best_boxes_before_and_after_suppression_are_named_with_their_scores():
    names = ["x1", "y1", "x2", "y2", "score", "iou"]
    before = pd.DataFrame([[n, n, 40 + n, 30 + n, n / 10, 1 - n / 10] for n in range(1, 7)], columns=names)
    plot = before_and_after(np.zeros((60, 90, 3), np.uint8), [[5, 5, 45, 35]], before, before.iloc[3:4])
    assert plot.points.groupby("panel")["rank"].max().to_dict() == {"before": 6, "after": 1}
    labels = [label for ax in plot.figure.axes for label in ax.get_legend_handles_labels()[1]]
    assert sorted(labels) == [
        "after 1: score 0.40, IoU 0.60",
        "before 1: score 0.60, IoU 0.40",
        "before 2: score 0.50, IoU 0.50",
        "before 3: score 0.40, IoU 0.60",
        "before 4: score 0.30, IoU 0.70",
    ]
    first = next(line for line in plot.figure.axes[0].lines if str(line.get_label()).startswith("before 1"))
    assert first.get_xydata()[[0, 2]].tolist() == [[6, 6], [46, 36]]
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        before_and_after(np.zeros((6, 9)), [[1, 2, 3, 4]], before, before)
