"""Correlation rows against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.correlation import binned_rows, correlation_rows


def test_hand_case():
    """e = 0, 0.5, 1 and t = 0.2, 0.2, 0.8: cov = 0.15, var e = 0.25, var t = 0.12; ranks 1 2 3 and 1.5 1.5 3."""
    (row,) = correlation_rows([0, 0.5, 1], [0.2, 0.2, 0.8], bands=[(0, 1)])
    assert row == pytest.approx({
        "iou_min": 0, "iou_max": 1, "n": 3, "pearson": 0.15 / math.sqrt(0.25 * 0.12), "spearman": math.sqrt(3) / 2,
        "mean_estimate": 0.5, "mean_iou": 0.4, "bias": 0.1, "slope": 0.6,
    })  # fmt: skip


def test_agrees_with_scipy_with_ties_in_every_band():
    rng = np.random.default_rng(0)
    iou = rng.random(500).round(2)
    estimate = np.clip(iou + rng.normal(0, 0.2, 500), 0, 1).round(1)
    rows = correlation_rows(estimate, iou, bands=[(0, 1), (0.5, 1), (0.2, 0.4)])
    assert sum(row["n"] == 500 for row in rows) == 1
    for row in rows:
        keep = (iou >= row["iou_min"]) & (iou <= row["iou_max"])
        e, t = estimate[keep], iou[keep]
        assert row["n"] == keep.sum()
        assert row["pearson"] == pytest.approx(stats.pearsonr(e, t).statistic, abs=1e-12)
        assert row["spearman"] == pytest.approx(stats.spearmanr(e, t).statistic, abs=1e-12)
        assert row["slope"] == pytest.approx(stats.linregress(e, t).slope, abs=1e-12)


def test_both_ends_of_a_band_belong_to_it():
    iou = [0.49, 0.5, 0.75, 0.76]
    assert [row["n"] for row in correlation_rows(iou, iou, bands=[(0.5, 0.75), (0.75, 1), (0.8, 1)])] == [2, 2, 0]


def test_undefined_values_are_nan_not_zero():
    pairs = ([], []), ([0.5], [0.7]), ([0.5] * 3, [0, 0.5, 1])
    none, single, constant = (correlation_rows(e, t, [(0, 1)])[0] for e, t in pairs)
    for row in (none, single, constant):
        assert math.isnan(row["pearson"]) and math.isnan(row["spearman"]) and math.isnan(row["slope"])
    assert math.isnan(none["mean_iou"]) and math.isnan(none["bias"])
    assert single["bias"] == pytest.approx(-0.2) and constant["bias"] == 0


def test_a_perfect_estimate_and_one_that_is_half_of_it():
    iou = np.linspace(0, 1, 11)
    perfect, half = (correlation_rows(e, iou, [(0, 1)])[0] for e in (iou, iou / 2))
    assert (perfect["pearson"], perfect["slope"], perfect["bias"]) == pytest.approx((1, 1, 0))
    assert (half["pearson"], half["spearman"], half["slope"], half["bias"]) == pytest.approx((1, 1, 2, -0.25))


@pytest.mark.parametrize("estimate, iou, message", [
    ([0.5], [0.5, 0.6], r"\(1,\) and iou \(2,\)"),
    ([[0.5]], [[0.5]], "equally long vectors"),
    ([0.5, math.nan], [0.5, 0.5], "estimate has 1 of 2 values that are not finite"),
    ([0.5], [math.inf], "iou has 1 of 1"),
])  # fmt: skip
def test_bad_input_is_refused(estimate, iou, message):
    for function in (correlation_rows, binned_rows):
        with pytest.raises(ValueError, match=message):
            function(estimate, iou)


def test_bins_by_hand():
    rows = binned_rows([0, 0.24, 0.25, 1, 1.2], [0.1, 0.3, 0.5, 0.9, 0.9], bins=4)
    assert [tuple(row.values()) for row in rows] == [
        pytest.approx((0, 0.25, 2, 0.12, 0.2)),
        pytest.approx((0.25, 0.5, 1, 0.25, 0.5)),
        pytest.approx((0.75, 1, 1, 1, 0.9)),
    ]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        binned_rows([0.5], [0.5], bins=0)
