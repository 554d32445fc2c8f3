"""Correlation rows against scipy, by hand, and against derivatives taken numerically from the definitions."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qrepro.metrics.correlation import STATISTICS, binned_rows, correlation_rows, grouped_rows, size_labels

pytestmark = pytest.mark.filterwarnings("error")
ALL = [(-math.inf, math.inf)]
BY_Z = STATISTICS[:4]


def noisy(seed, n=60, images=7, digits=1):
    """Pairs with many ties on both sides, in images of unequal size."""
    rng = np.random.default_rng(seed)
    iou = rng.random(n).round(digits)
    image = rng.choice(images, n, p=np.arange(1, images + 1) / (images * (images + 1) / 2))
    return np.clip(iou + rng.normal(0, 0.2, n) + image / 50, 0, 1).round(digits), iou, image


def ends(row, name):
    return row[f"{name}_low"], row[f"{name}_high"]


def test_hand_case():
    """e = 0, 0.5, 1 and t = 0.2, 0.2, 0.8: cov = 0.15, var e = 0.25, var t = 0.12; ranks 1 2 3 and 1.5 1.5 3.

    Of the three pairs of pairs two agree and one is tied in t: tau-b = 2 / sqrt(3 * 2). Divided by n rather than n - 1,
    cov = 0.1, var e = 1/6, var t = 0.08, hence concordance = 0.2 / (1/6 + 0.08 + 0.1^2). The errors -0.2, 0.3, 0.2 have
    the mean 0.1.
    """
    (row,) = correlation_rows([0, 0.5, 1], [0.2, 0.2, 0.8], [(0, 1)], image=["a", "b", "a"], intervals=False)
    assert row == pytest.approx({
        "iou_min": 0, "iou_max": 1, "n": 3, "images": 2, "mean_estimate": 0.5, "mean_iou": 0.4,
        "pearson": 0.15 / math.sqrt(0.25 * 0.12), "spearman": math.sqrt(3) / 2, "kendall": 2 / math.sqrt(6),
        "concordance": 0.2 / (1 / 6 + 0.08 + 0.01), "bias": 0.1, "slope": 0.6,
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
        assert row["kendall"] == pytest.approx(stats.kendalltau(e, t).statistic, abs=1e-12)
        assert row["slope"] == pytest.approx(stats.linregress(e, t).slope, abs=1e-12)
        assert row["bias"] == pytest.approx((e - t).mean(), abs=1e-12)


small = st.integers(-3, 3).map(float)
wide = st.floats(-1, 1, width=32)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.lists(st.tuples(side, other), max_size=40) for side in (small, wide) for other in (small, wide)))
def test_rank_correlations_agree_with_scipy_on_any_pairs(pairs):
    e, t = np.array(pairs).reshape(-1, 2).T
    (row,) = correlation_rows(e, t, ALL)
    if len(set(e)) < 2 or len(set(t)) < 2:
        assert math.isnan(row["spearman"]) and math.isnan(row["kendall"])
    else:
        assert row["spearman"] == pytest.approx(stats.spearmanr(e, t).statistic, abs=1e-12)
        assert row["kendall"] == pytest.approx(stats.kendalltau(e, t).statistic, abs=1e-12)


@pytest.mark.parametrize("digits", [2, 9])
def test_kendall_of_more_pairs_than_are_merged_at_once(digits):
    rng = np.random.default_rng(digits)
    iou = rng.random(150_000).round(digits)
    estimate = (iou + rng.normal(0, 0.3, len(iou))).round(digits)
    (row,) = correlation_rows(estimate, iou, statistics=["kendall"], bands=[(0, 1)])
    assert row["kendall"] == pytest.approx(stats.kendalltau(estimate, iou).statistic, abs=1e-12)


def test_both_ends_of_a_band_belong_to_it():
    iou = [0.49, 0.5, 0.75, 0.76]
    rows = correlation_rows(iou, iou, bands=[(0.5, 0.75), (0.75, 1), (0.8, 1), (0.5, 0.5)], image=[4, 4, 9, 9])
    assert [(row["n"], row["images"]) for row in rows] == [(2, 2), (2, 1), (0, 0), (1, 1)]


def test_undefined_values_are_nan_not_zero():
    pairs = ([], []), ([0.5], [0.7]), ([0.5] * 3, [0, 0.5, 1]), ([0.1] * 3, [0.1, 0.2, 0.9]), ([0, 1, 0.5], [0.3] * 3)
    pairs += (([0, 1e-200, 0], [0, 0.5, 1]),)  # the square of 1e-200 is 0
    for e, t in pairs:
        (row,) = correlation_rows(e, t, [(0, 1)])
        for name in ("pearson", "spearman", "kendall", "concordance", "slope"):
            assert all(math.isnan(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
        assert math.isnan(row["images"])
    none, single, constant = (correlation_rows(e, t, [(0, 1)])[0] for e, t in pairs[:3])
    assert math.isnan(none["mean_iou"]) and math.isnan(none["bias"])
    assert single["bias"] == pytest.approx(-0.2) and math.isnan(single["bias_low"])
    assert constant["bias"] == 0 and constant["bias_high"] > 0


def test_a_perfect_estimate_and_one_that_is_half_of_it():
    """Half of it: with v = var iou = 0.1, concordance = v / (v/4 + v + 0.25^2)."""
    iou = np.linspace(0, 1, 11)
    perfect, half, opposite = (correlation_rows(e, iou, [(0, 1)])[0] for e in (iou, iou / 2, 1 - iou))
    assert [perfect[name] for name in STATISTICS] == pytest.approx([1, 1, 1, 1, 0, 1])
    assert [half[name] for name in STATISTICS] == pytest.approx([1, 1, 1, 0.1 / 0.1875, -0.25, 2])
    assert [opposite[name] for name in STATISTICS] == pytest.approx([-1, -1, -1, -1, 0, -1])
    for row in (perfect, half, opposite):
        assert all(math.isnan(end) for name in ("pearson", "spearman", "kendall", "slope") for end in ends(row, name))


def weighted(name, e, t, w):
    """A statistic of pairs that carry weights, by its definition over all pairs of pairs."""

    def correlation(x, y):
        x, y = x - w @ x, y - w @ y
        return w @ (x * y) / math.sqrt((w @ (x * x)) * (w @ (y * y)))

    w = w / w.sum()
    over_e, over_t = (np.sign(v[:, None] - v) for v in (e, t))
    mean_e, mean_t = w @ e, w @ t
    var_e, var_t, cov = w @ (e - mean_e) ** 2, w @ (t - mean_t) ** 2, w @ ((e - mean_e) * (t - mean_t))
    return {
        "pearson": lambda: cov / math.sqrt(var_e * var_t),
        "spearman": lambda: correlation(over_e @ w, over_t @ w),
        "kendall": lambda: w @ (over_e * over_t) @ w / math.sqrt((w @ over_e**2 @ w) * (w @ over_t**2 @ w)),
        "concordance": lambda: 2 * cov / (var_e + var_t + (mean_e - mean_t) ** 2),
        "bias": lambda: mean_e - mean_t,
        "slope": lambda: cov / var_e,
    }[name]()


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("clustered", [True, False])
@pytest.mark.parametrize("seed, digits, level", [(0, 1, 0.95), (1, 1, 0.5), (2, 6, 0.99)])
def test_intervals_are_those_of_the_numerical_infinitesimal_jackknife(name, clustered, seed, digits, level):
    """Every cluster's weight is moved by +-h; no formula of an influence is used."""
    e, t, image = noisy(seed, digits=digits)
    (row,) = correlation_rows(e, t, ALL, image=image if clustered else None, level=level)
    assert row["interval"] == ("image" if clustered else "independent") and row["level"] == level
    cluster = image if clustered else np.arange(len(e))
    names, h = np.unique(cluster), 1e-5
    moved = [[weighted(name, e, t, 1 + side * (cluster == c)) for side in (h, -h)] for c in names]
    derivative = np.diff(moved, axis=1)[:, 0] / (2 * h)
    reach = math.sqrt(len(names) / (len(names) - 1) * (derivative**2).sum())
    reach *= stats.t.ppf((1 + level) / 2, len(names) - 1)
    value = weighted(name, e, t, np.ones(len(e)))
    expected = value - reach, value + reach
    if name in BY_Z:
        # the chain rule for z = atanh, by numbers too
        slope_z = (math.atanh(value + h) - math.atanh(value - h)) / (2 * h)
        expected = tuple(math.tanh(math.atanh(value) + side * reach * slope_z) for side in (-1, 1))
    assert row[name] == pytest.approx(value, abs=1e-12)
    assert ends(row, name) == pytest.approx(expected, abs=1e-7)


def test_the_interval_of_the_bias_is_students():
    """Independent pairs: of the errors. Images of equal size: of their mean errors."""
    e, t, _ = noisy(3)
    image = np.arange(60) % 12
    alone, clustered = (correlation_rows(e, t, ALL, image=given)[0] for given in (None, image))
    assert ends(alone, "bias") == pytest.approx(stats.ttest_1samp(e - t, 0).confidence_interval())
    means = (e - t).reshape(5, 12).mean(axis=0)
    assert ends(clustered, "bias") == pytest.approx(stats.ttest_1samp(means, 0).confidence_interval(0.95))


def test_two_images_have_an_interval_and_one_has_none():
    """Mean errors 0.1 and 0.3: half their difference, 0.1, times tan(0.475 pi), Student's 97.5 % at one degree."""
    e, t = [0.1, 0.1, 0.5, 0.6], [0, 0, 0.2, 0.3]
    two, one = (correlation_rows(e, t, image=image)[0] for image in ([1, 1, 2, 2], [1, 1, 1, 1]))
    reach = 0.1 * math.tan(0.475 * math.pi)
    assert ends(two, "bias") == pytest.approx((0.2 - reach, 0.2 + reach))
    assert all(math.isnan(end) for name in STATISTICS for end in ends(one, name))


def test_the_independent_interval_of_pearson_is_near_fishers_on_normal_pairs():
    """Fisher's reach is 1.96 / sqrt(n - 3) on the z scale; the estimated one scatters by about 1 / sqrt(n)."""
    rng = np.random.default_rng(4)
    e = rng.normal(size=20_000)
    t = 0.8 * e + 0.6 * rng.normal(size=20_000)
    (row,) = correlation_rows(e, t, ALL)
    low, high = np.arctanh(ends(row, "pearson"))
    fisher_low, fisher_high = np.arctanh(stats.pearsonr(e, t).confidence_interval())
    assert high - low == pytest.approx(fisher_high - fisher_low, rel=0.03)
    assert (high + low) / 2 == pytest.approx(math.atanh(row["pearson"]), abs=1e-12)


@pytest.mark.parametrize("times", [2, 5])
def test_pairs_repeated_within_their_images_change_nothing_but_the_interval_that_ignores_images(times):
    e, t, image = noisy(5)
    again = [np.tile(v, times) for v in (e, t, image)]
    once, more = (correlation_rows(*v[:2], image=v[2])[0] for v in ((e, t, image), again))
    assert (more.pop("n"), once.pop("n")) == (60 * times, 60)
    assert (more.pop("interval"), once.pop("interval")) == ("image", "image")
    assert more == pytest.approx(once, rel=1e-9)
    once, more = (correlation_rows(*v[:2])[0] for v in ((e, t), again))
    for name in STATISTICS:
        narrow, wide = (high - low for low, high in (ends(more, name), ends(once, name)))
        assert narrow < 0.8 * wide


def test_rows_depend_neither_on_the_order_of_pairs_nor_on_the_names_of_images():
    e, t, image = noisy(6)
    order = np.random.default_rng(6).permutation(60)
    rows = correlation_rows(e, t, image=image)
    shuffled = correlation_rows(e[order], t[order], image=[f"{1000 - i}.jpg" for i in image[order]])
    for row, other in zip(rows, shuffled, strict=True):
        assert other == pytest.approx(row, nan_ok=True)


def test_statistics_that_were_not_asked_for_are_left_out():
    (row,) = correlation_rows([0, 0.5, 1], [0.1, 0.5, 0.4], [(0, 1)], statistics=["kendall", "bias"])
    base = ["iou_min", "iou_max", "n", "images", "mean_estimate", "mean_iou"]
    found = ["kendall", "kendall_low", "kendall_high", "bias", "bias_low", "bias_high"]
    assert list(row) == [*base, *found, "interval", "level"]


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Bivariate normal pairs in 60 images of 6, half of each variance and of the covariance shared by an image.

    rho = 0.6, sd 0.2 and 0.1, means 0.5 and 0.6, so that spearman = 6/pi asin(rho/2), kendall = 2/pi asin(rho),
    concordance = 2 rho 0.02 / (0.04 + 0.01 + 0.01), slope = rho 0.1 / 0.2. Of 500 intervals at 95 % a share of 0.95 +-
    0.01 (one standard error) covers; the linearisation itself may miss by one percent at 60 images.
    """
    truth = (0.6, 6 / math.pi * math.asin(0.3), 2 / math.pi * math.asin(0.6), 0.024 / 0.06, -0.1, 0.3)
    rng, draws, image = np.random.default_rng(7), 500, np.repeat(np.arange(60), 6)
    covered = {"image": np.zeros(6), "independent": np.zeros(6)}
    for _ in range(draws):
        first, second = (rng.normal(size=60)[image] + rng.normal(size=360) for _ in range(2))
        e, t = 0.5 + 0.2 * first / math.sqrt(2), 0.6 + 0.1 * (0.6 * first + 0.8 * second) / math.sqrt(2)
        for given_image in (image, None):
            (row,) = correlation_rows(e, t, ALL, image=given_image)
            inside = [
                low <= v <= high for v, (low, high) in zip(truth, (ends(row, s) for s in STATISTICS), strict=True)
            ]
            covered[row["interval"]] += np.array(inside) / draws
    assert (np.abs(covered["image"] - 0.95) < 0.04).all(), covered
    assert (covered["independent"] < 0.88).all(), covered


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


@pytest.mark.parametrize("options, message", [
    ({"image": [1]}, r"image \(1,\) must be as long as estimate and iou \(2,\)"),
    ({"image": [1, math.nan]}, "image is missing for 1 of 2 pairs"),
    ({"image": ["a", None]}, "image is missing for 1 of 2 pairs"),
    ({"statistics": ["pearson", "pcc"]}, "'pcc' is not one of pearson, spearman, kendall, concordance, bias, slope"),
    ({"level": 95}, r"level must lie in \(0, 1\), got 95"),
    ({"level": 0}, "got 0"),
    ({"bands": [(0.75, 0.5)]}, r"band \(0.75, 0.5\).*must not be above"),
])  # fmt: skip
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        correlation_rows([0.5, 0.6], [0.5, 0.6], **options)
    with pytest.raises(ValueError, match=message):
        grouped_rows([0.5, 0.6], [0.5, 0.6], {"class": ["a", "b"]}, **options)


def test_a_group_has_the_rows_of_its_own_pairs():
    e, t, image = noisy(8, n=300, images=20)
    category = np.random.default_rng(8).choice(["dog", "cat", "ant"], 300)
    size = pd.Categorical(np.where(t > 0.7, "small", "large"), ["small", "medium", "large"], ordered=True)
    bands = [(0, 1), (0.5, 1)]
    rows = grouped_rows(e, t, {"size": size, "class": category}, bands, image=image)
    labels = [(row["size"], row["class"], row["iou_min"]) for row in rows]
    assert labels == [(s, c, b) for s in ("small", "large") for c in ("ant", "cat", "dog") for b in (0, 0.5)]
    assert list(rows[0])[:4] == ["size", "class", "iou_min", "iou_max"]
    for index, (s, c, _) in enumerate(labels):
        keep = (size == s) & (category == c)
        (alone,) = correlation_rows(e[keep], t[keep], [bands[index % 2]], image=image[keep])
        assert rows[index] == pytest.approx({"size": s, "class": c, **alone}, nan_ok=True)


def test_labels_of_a_filtered_column_go_by_position():
    frame = pd.DataFrame({"class": [7, 3, 7, 3], "e": [0.1, 0.2, 0.3, 0.4]}, index=[10, 30, 20, 0])
    rows = grouped_rows(frame["e"], frame["e"], {"class": frame["class"]}, [(0, 1)])
    assert [(row["class"], row["mean_estimate"]) for row in rows] == [(3, pytest.approx(0.3)), (7, pytest.approx(0.2))]


@pytest.mark.parametrize("by, message", [
    ({}, "no labels"),
    ({"class": [1]}, "1 labels 'class' for 2 pairs"),
    ({"class": ["a", None]}, "1 of 2 labels 'class' are missing"),
])  # fmt: skip
def test_bad_labels_are_refused(by, message):
    with pytest.raises(ValueError, match=message):
        grouped_rows([0.5, 0.6], [0.5, 0.6], by)


def test_sizes_are_cocos():
    sizes = size_labels([0, 1023.9, 1024, 9215.9, 9216, 1e12])
    assert list(sizes) == ["small", "small", "medium", "medium", "large", "large"]
    assert list(sizes.categories) == ["small", "medium", "large"] and sizes.ordered
    for bad in (-1, math.nan):
        with pytest.raises(ValueError, match=r"at least 0 px\^2, got .* \(1 of 2"):
            size_labels([5, bad])


def test_bins_by_hand():
    """Errors of the first bin: -0.1 and -0.06, of mean -0.08 and squares 2 * 0.02^2."""
    rows = binned_rows([0, 0.24, 0.25, 1, 1.2, -0.1], [0.1, 0.3, 0.5, 0.9, 0.9, 0.9], bins=4)
    assert [tuple(row.values()) for row in rows] == [
        pytest.approx((0, 0.25, 2, 0.12, 0.2, -0.08, math.sqrt(2) * 0.02)),
        pytest.approx((0.25, 0.5, 1, 0.25, 0.5, -0.25, math.nan), nan_ok=True),
        pytest.approx((0.75, 1, 1, 1, 0.9, 0.1, math.nan), nan_ok=True),
    ]
    names = ["estimate_min", "estimate_max", "n", "mean_estimate", "mean_iou", "mean_error", "sd_error"]
    assert list(rows[0]) == names and binned_rows([], []) == []
    with pytest.raises(ValueError, match="at least 1, got 0"):
        binned_rows([0.5], [0.5], bins=0)
