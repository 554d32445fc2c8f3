"""Bootstrap: re-weighting against pycocotools on sets with repeated images, and intervals against a known truth."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, linregress, norm, pearsonr

from helpers.detection_cases import make_detections, make_ground_truth, random_case
from qrepro.metrics.coco_ap import ap_metrics, evaluate_ap
from qrepro.metrics.matching import AREAS, Matches, match
from qrepro.records.ground_truth import GroundTruth
from qrepro.statistics.bootstrap import (
    Resampled,
    ap_draws,
    draw_weights,
    moment_draws,
    resample_ap,
    resample_moments,
)
from qrepro.statistics.intervals import compare_rows, interval_rows


def judge(ground_truth, found):
    """(areas, T) AP in percent by pycocotools, nan where no class has ground truth."""
    precision = evaluate_ap(ground_truth, found, engine="pycocotools").precision[..., -1]  # (T, R, K, A)
    defined = np.where(precision > -1, precision, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mean of nothing
        return 100 * np.nanmean(defined, axis=(1, 2)).T


def repeated(ground_truth, found, weights):
    """The set with every image as often as its weight, copies under new ids."""
    ids = np.repeat(ground_truth.images["id"].to_numpy(), weights)
    copies = pd.DataFrame({"image_id": ids, "copy": np.arange(1, len(ids) + 1)})
    images = ground_truth.images.set_index("id").loc[ids].reset_index().assign(id=copies["copy"])
    frames = []
    for frame in (ground_truth.annotations, found):
        joined = copies.merge(frame, on="image_id", sort=False)
        frames.append(joined.drop(columns="image_id").rename(columns={"copy": "image_id"}))
    return GroundTruth(images, ground_truth.categories, frames[0]), frames[1]


def world(random, images, skills, classes=1):
    """Matches at IoU 0.5 of one detector per skill: 3 ground truths an image on average, unequally hard images.

    A detector finds a ground truth with probability 1 / (1 + exp(-2 x)), x the ease of object and image plus the skill,
    and scores it x plus noise; false positives (2 an image) score about -1. All share the ground truths and their ease.
    """
    count = random.poisson(3 * random.gamma(4, 1 / 4, images))
    owner = np.repeat(np.arange(images), count)
    label = random.integers(0, classes, len(owner))
    ease = random.normal(0, 1, images)[owner] + random.normal(0, 1, len(owner))
    found = []
    for skill in skills:
        x = ease + skill + random.normal(0, 0.5, len(owner))
        hit = np.flatnonzero(random.random(len(owner)) < 1 / (1 + np.exp(-2 * x)))
        false = np.repeat(np.arange(images), random.poisson(2, images))
        score = np.concatenate([x[hit] + random.normal(0, 1, len(hit)), random.normal(-1, 1, len(false))])
        image, gt = np.concatenate([owner[hit], false]), np.concatenate([hit, np.full(len(false), -1)])
        category = np.concatenate([label[hit], random.integers(0, classes, len(false))])
        order = np.lexsort((-score, category))
        gt = gt[None, order]
        found.append(
            Matches(
                thresholds=(0.5,),
                row=np.arange(len(order)),
                category=category[order],
                image=image[order],
                score=score[order],
                gt=gt,
                iou=1.0 * (gt >= 0),
                ignored=np.zeros(gt.shape, bool),
                gt_category=label,
                gt_image=owner,
                categories=classes,
                images=images,
            )
        )
    return found


def by_metric(rows):
    return {row["metric"]: row for row in rows}


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_unweighted_ap_is_that_of_pycocotools(seed):
    """Crowds, equal scores, empty images, classes without ground truth; in every area range."""
    ground_truth, found = random_case(seed)
    ones = np.ones((len(ground_truth.images), 1), int)
    ap = [ap_draws(match(ground_truth, found, area=area), ones)[0] for area in AREAS.values()]
    np.testing.assert_allclose(ap, judge(ground_truth, found), rtol=0, atol=1e-10)  # percent: 1e-12 of 1


@given(st.integers(0, 10**6), st.data())
@settings(max_examples=40, deadline=None)
def test_weighting_an_image_repeats_it(seed, data):
    ground_truth, found = random_case(seed)
    found["score"] = np.random.default_rng(seed).permutation(len(found)) / max(len(found), 1)
    n = len(ground_truth.images)
    weights = data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n).filter(any))
    column = np.array(weights)[:, None]
    ap = [ap_draws(match(ground_truth, found, area=area), column)[0] for area in AREAS.values()]
    np.testing.assert_allclose(ap, judge(*repeated(ground_truth, found, weights)), rtol=0, atol=1e-10)


def test_many_draws_at_once_are_the_draws_one_by_one_and_as_repeated_sets():
    """A set of hundreds of boxes, so that all 101 recalls matter, and more draws than are worked on at once."""
    random = np.random.default_rng(0)
    n, g = 30, 400
    corner, side = random.integers(0, 300, (g, 2)), random.integers(10, 60, (g, 2))
    owner, label = random.integers(1, n + 1, g), random.integers(1, 4, g)
    ground_truth = make_ground_truth(
        range(1, n + 1), [1, 2, 3], np.column_stack([owner, label, corner, corner + side, random.random(g) < 0.05])
    )
    pick = random.integers(0, g, 1500)
    moved = np.column_stack([corner, corner + side])[pick] + random.normal(0, 3, (1500, 4))
    boxes = np.concatenate([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], axis=1)
    found = make_detections(np.column_stack([owner[pick], label[pick], boxes, random.permutation(1500) / 1500]))
    matches = match(ground_truth, found)
    weights = draw_weights(n, 150, seed=3)
    ap = ap_draws(matches, weights)
    assert ap.shape == (150, 10) and 20 < ap.mean() < 80
    for d in (0, 63, 64, 149):
        np.testing.assert_array_equal(ap[d], ap_draws(matches, weights[:, [d]])[0])
        np.testing.assert_allclose(ap[d], judge(*repeated(ground_truth, found, weights[:, d]))[0], rtol=0, atol=1e-10)


def test_a_recall_that_falls_on_a_grid_value_is_compared_as_pycocotools_does():
    """57 of 100 objects: linspace(0, 1, 101)[57] is above 0.57 in its last bit, so 0 ... 0.56 are reached: 57 of 101.

    58 of 100 reach 0 ... 0.58, 59 of 101, since linspace(0, 1, 101)[58] is 0.58.
    """
    ground_truth = make_ground_truth([1], [1], [(1, 1, 20 * i, 0, 20 * i + 10, 10, 0) for i in range(100)])
    boxes = ground_truth.annotations[["image_id", "category_id", "x1", "y1", "x2", "y2"]]
    for hits, reached in ((57, 57), (58, 59), (100, 101)):
        found = boxes.iloc[:hits].assign(score=np.linspace(0.9, 0.1, hits))
        expected = pytest.approx(100 * reached / 101, rel=1e-14)
        assert judge(ground_truth, found)[0, 0] == expected
        assert ap_draws(match(ground_truth, found), np.ones((1, 1), int))[0, 0] == expected


def test_classes_without_a_drawn_truth_leave_the_mean():
    """Class 1 in image 1, found; class 2 in image 2, missed; class 3 without ground truth.

    Both drawn: (100 + 0) / 2. Only image 1: 100. Only image 2: 0. None: undefined.
    """
    ground_truth = make_ground_truth([1, 2], [1, 2, 3], [(1, 1, 0, 0, 10, 10, 0), (2, 2, 0, 0, 10, 10, 0)])
    found = make_detections([(1, 1, 0, 0, 10, 10, 0.5), (2, 3, 0, 0, 10, 10, 0.9)])
    ap = ap_draws(match(ground_truth, found, [0.5]), [[1, 2, 0, 0], [1, 0, 2, 0]])
    assert ap[:, 0] == pytest.approx([50, 100, 0, math.nan], nan_ok=True)


def test_draws_are_multinomial():
    """Of 3 images, 27 equally likely samples: 3 of (3,0,0) kind, 3 of one each ... by number of different images."""
    weights = draw_weights(3, 5400, seed=1)
    assert weights.shape == (3, 5400) and (weights.sum(axis=0) == 3).all()
    different = np.bincount((weights > 0).sum(axis=0), minlength=4)
    # one image only: 3 of 27; two: 3 pairs x 6; all three: 3! = 6
    assert different[0] == 0 and chisquare(different[1:], [600, 3600, 1200]).pvalue > 1e-3
    assert chisquare(weights.sum(axis=1)).pvalue > 1e-3
    np.testing.assert_array_equal(draw_weights(3, 10, seed=1), weights[:, :10])
    assert (draw_weights(3, 10, seed=2) != weights[:, :10]).any()


@given(st.integers(0, 10**6), st.sampled_from([0.0, 3.0, -1e5]))
@settings(max_examples=40, deadline=None)
def test_moments_are_those_of_repeated_pairs(seed, offset):
    random = np.random.default_rng(seed)
    image = random.integers(0, 6, 40)
    iou = random.random(40)
    estimate = 0.5 * iou + random.normal(0, 0.3, 40) + offset
    iou = iou + offset / 2
    weights = random.integers(0, 4, (6, 3))
    moments = moment_draws(image, estimate, iou, weights)
    for d in range(3):
        e, t = (np.repeat(values, weights[image, d]) for values in (estimate, iou))
        if len(e) < 10:
            continue
        mean_e, mean_t = e.mean(), t.mean()
        expected = {
            "pearson": pearsonr(e, t).statistic,
            "slope": linregress(e, t).slope,
            "bias": mean_e - mean_t,
            "concordance": 2 * ((e - mean_e) * (t - mean_t)).mean() / (e.var() + t.var() + (mean_e - mean_t) ** 2),
        }
        assert {name: values[d] for name, values in moments.items()} == pytest.approx(expected, rel=1e-8)


def test_moments_solved_by_hand():
    """Image 0: (1, 1), (3, 2); image 1: (2, 4). Images drawn once each, (2, 1) and (0, 3) times.

    Once each: means 2 and 7/3; cov = (1 + 6 + 8) / 3 - 14/3 = 1/3; var_e = 14/3 - 4 = 2/3; var_t = 7 - 49/9 = 14/9.
    (2, 1): n 5, means 2 and 2; cov = (2 + 12 + 8) / 5 - 4 = 2/5; var_e = 24/5 - 4 = 4/5; var_t = 26/5 - 4 = 6/5.
    (0, 3): a single value: no correlation, bias -2. (0, 0): nothing.
    """
    moments = moment_draws([0, 0, 1], [1, 3, 2], [1, 2, 4], [[1, 2, 0, 0], [1, 1, 3, 0]])
    nan = math.nan
    expected = {
        "pearson": [(1 / 3) / math.sqrt(28 / 27), 0.4 / math.sqrt(24 / 25), nan, nan],
        "concordance": [(2 / 3) / (2 / 3 + 14 / 9 + 1 / 9), 0.8 / 2, nan, nan],
        "bias": [-1 / 3, 0, -2, nan],
        "slope": [1 / 2, 1 / 2, nan, nan],
    }
    assert set(moments) == set(expected)
    for name, values in expected.items():
        assert moments[name] == pytest.approx(values, rel=1e-12, abs=1e-15, nan_ok=True)


def test_a_constant_side_has_no_correlation_whatever_its_digits():
    random = np.random.default_rng(0)
    image, values = np.repeat([0, 1], 50), random.random(100)
    constant = np.where(image == 0, 0.1, values)
    for first, second in ((constant, values), (values, constant)):
        moments = moment_draws(image, first, second, [[1, 7, 0], [1, 0, 7]])
        for name in ("pearson", "concordance", "slope"):
            np.testing.assert_array_equal(np.isnan(moments[name]), [False, True, False])
        assert not np.isnan(moments["bias"]).any()


def made(values, **fields):
    """A run with one metric, observed value first."""
    arguments = {"values": {"AP": np.array(values, float)}, "image_ids": np.arange(3), "seed": 0} | fields
    return Resampled(**arguments)


def test_rows_solved_by_hand():
    """a = 10 in all draws; b - a = 3 observed and -1, 1, 2, 6 on draws, mean 2: centred they are 0, 2, 3, 7.

    Middle half (25 % to 75 % of 4 draws lies at 0.75 and 2.25 steps): percentile -1 + 0.75 * 2 = 0.5 and
    2 + 0.25 * 4 = 3; centred one more. p: 1 of 4 draws <= 0, either way: 2 (1 + 1) / (1 + 4).
    """
    a, b = made([10, 10, 10, 10, 10], ground_truth=9, classes=2), made([13, 9, 11, 12, 16], ground_truth=9, classes=2)
    (plain,) = compare_rows([a], [b], level=0.5, interval="percentile")
    assert plain == {
        "metric": "AP", "a": 10, "a_low": 10, "a_high": 10, "b": 13, "b_low": 10.5, "b_high": 13,
        "difference": 3, "low": 0.5, "high": 3, "p_value": 0.8, "level": 0.5, "interval": "percentile",
        "draws": 4, "undefined": 0, "seed": 0, "seeds": "fixed", "seeds_a": 1, "seeds_b": 1, "images": 3, "classes": 2,
    }  # fmt: skip
    (centred,) = compare_rows([a], [b], level=0.5)
    moved = {"b_low": 11.5, "b_high": 14, "low": 1.5, "high": 4, "interval": "centred"}
    assert centred == plain | moved
    assert compare_rows([b], [a], level=0.5)[0] | {"low": 0, "high": 0} == centred | {
        "a": 13, "a_low": 11.5, "a_high": 14, "b": 10, "b_low": 10, "b_high": 10,
        "difference": -3, "low": 0, "high": 0,
    }  # fmt: skip
    (alone,) = interval_rows([b], level=0.5)
    assert alone == {
        "metric": "AP", "value": 13, "low": 11.5, "high": 14, "level": 0.5, "interval": "centred", "draws": 4,
        "undefined": 0, "seed": 0, "seeds": "fixed", "runs": 1, "images": 3, "classes": 2,
    }  # fmt: skip


def test_p_value_has_its_floor_and_its_ceiling():
    """No draw of 99 beyond 0: 2 (0 + 1) / (99 + 1); all draws at 0: 1."""
    up = made([5, *np.linspace(4, 6, 99)])
    assert compare_rows([made([0] * 100)], [up])[0]["p_value"] == 0.02
    assert compare_rows([up], [made([0] * 100)])[0]["p_value"] == 0.02
    assert compare_rows([up], [up])[0]["p_value"] == 1


def test_undefined_draws_are_left_out_and_counted():
    a, b = made([1, 1, math.nan, 1, 1]), made([2, 2, 2, math.nan, 2])
    (row,) = compare_rows([a], [b])
    assert (row["undefined"], row["draws"], row["low"], row["high"]) == (2, 4, 1, 1) and math.isnan(row["classes"])
    assert row["p_value"] == 2 / 3  # none of 2 draws at or below 0: 2 (0 + 1) / (2 + 1)
    (empty,) = compare_rows([a], [made([math.nan] * 5)])
    assert empty["undefined"] == 4 and empty["a_low"] == 1
    assert all(math.isnan(empty[name]) for name in ("b", "b_low", "difference", "low", "high", "p_value"))


def test_seeds_are_pooled_fixed_or_resampled():
    """Runs of 0 and 2, the images without influence: mean 1; two runs drawn of two: 0, 1, 2 with 1/4, 1/2, 1/4."""
    draws = 4000
    side = [made([0] * (draws + 1)), made([2] * (draws + 1))]
    (fixed,) = interval_rows(side, seeds="fixed")
    assert (fixed["value"], fixed["low"], fixed["high"], fixed["runs"]) == (1, 1, 1, 2)
    (drawn,) = interval_rows(side, level=0.4, interval="percentile")
    assert (drawn["seeds"], drawn["low"], drawn["high"]) == ("resampled", 1, 1)  # the middle 40 % of 25, 50, 25
    (drawn,) = interval_rows(side, level=0.6, interval="percentile")
    assert (drawn["value"], drawn["low"], drawn["high"]) == (1, 0, 2)
    (row,) = compare_rows(side, side, level=0.8, interval="percentile")
    # difference of two independent pools: -2 ... 2 with 1, 4, 6, 4, 1 of 16; P(d <= 0) = 11/16, twice that is above 1
    assert (row["difference"], row["low"], row["high"], row["p_value"]) == (0, -1, 1, 1)
    assert (row["seeds_a"], row["seeds_b"]) == (2, 2)
    (mixed,) = compare_rows([made([0] * (draws + 1))], side, interval="percentile")
    # P(d <= 0) = 1/4, so p is near 1/2: 4 standard errors of a quarter in 4000 are 0.027, twice as much for p
    assert mixed["seeds"] == "resampled" and mixed["p_value"] == pytest.approx(0.5, abs=0.055)


def test_a_run_without_a_value_leaves_its_side_without_one():
    """Also on those draws that take only the other run."""
    (row,) = interval_rows([made([1] * 21), made([math.nan] * 21)])
    assert row["undefined"] == row["draws"] == 20
    assert all(math.isnan(row[name]) for name in ("value", "low", "high"))


def test_the_seed_of_the_draws_is_that_of_the_pools_too():
    values = np.random.default_rng(0).random((2, 21))
    lows = {interval_rows([made(v, seed=seed) for v in values])[0]["low"] for seed in range(5)}
    assert len(lows) == 5
    assert interval_rows([made(v) for v in values]) == interval_rows([made(v) for v in values])


def test_seeds_are_drawn_apart_from_images():
    """Two runs that go up and down with the images in the opposite way: their mean over fixed seeds stands still."""
    weights = draw_weights(20, 500)[0].astype(float)
    up, down = (made([1, *values], image_ids=np.arange(20)) for values in (weights, 2 - weights))
    (fixed,) = interval_rows([up, down], seeds="fixed")
    (drawn,) = interval_rows([up, down], seeds="resampled", interval="percentile")
    assert (fixed["low"], fixed["high"]) == (1, 1) and drawn["low"] < 0.5 and drawn["high"] > 1.5


def test_resampling_of_runs_keeps_the_observed_value_and_pairs_the_draws():
    random = np.random.default_rng(5)
    a, b = world(random, 60, (0.0, 0.5))
    ids = np.arange(100, 160)
    first, second = (resample_ap(m, ids, draws=80, seed=4) for m in (a, b))
    assert list(first.values) == ["AP", "AP50"] and first.ground_truth == len(a.gt_image) and first.classes == 1
    weights = draw_weights(60, 80, seed=4)
    for run, matches in ((first, a), (second, b)):
        np.testing.assert_array_equal(run.values["AP50"][1:], ap_draws(matches, weights)[:, 0])
        assert run.values["AP"][0] == ap_draws(matches, np.ones((60, 1), int))[0, 0]
    assert list(resample_ap(a, ids, draws=2, name="APS").values) == ["APS", "APS50"]
    row = by_metric(compare_rows([first], [second], interval="percentile"))["AP50"]
    difference = ap_draws(b, weights)[:, 0] - ap_draws(a, weights)[:, 0]
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(difference, [0.025, 0.975])), rel=1e-12)
    assert row["high"] - row["low"] < row["a_high"] - row["a_low"]  # hard images are hard for both


def test_mean_over_thresholds_is_cocos_ap():
    ground_truth, found = random_case(4)
    run = resample_ap(match(ground_truth, found), ground_truth.images["id"], draws=5)
    expected = ap_metrics(evaluate_ap(ground_truth, found, engine="pycocotools"))
    assert list(run.values) == ["AP", *(f"AP{t}" for t in range(50, 100, 5))] and expected["AP"] > 5
    assert {name: values[0] for name, values in run.values.items()} == pytest.approx(
        {name: expected[name] for name in run.values}, rel=1e-12
    )
    assert run.classes == expected["n_classes"]


def test_pairs_belong_to_images_by_id():
    random = np.random.default_rng(0)
    ids = np.array([7, 3, 11, 5])  # 11 has no pair
    image, e, t = np.array([3, 3, 5, 7, 5, 7, 3]), random.random(7), random.random(7)
    run = resample_moments(image, e, t, ids, draws=50, seed=2)
    assert list(run.values) == ["pearson", "concordance", "bias", "slope"] and run.classes is None
    assert run.values["pearson"][0] == pytest.approx(pearsonr(e, t).statistic, rel=1e-12)
    weights = draw_weights(4, 50, seed=2)
    counts = pd.DataFrame(weights, index=ids).loc[image].to_numpy()
    for d in range(10):
        bias = np.average(e - t, weights=counts[:, d]) if counts[:, d].any() else math.nan
        assert run.values["bias"][1 + d] == pytest.approx(bias, abs=1e-12, nan_ok=True)


def test_identical_runs_do_not_differ_and_a_better_one_does():
    a, b = world(np.random.default_rng(2), 400, (0.0, 0.3))
    ids = np.arange(400)
    first, again, better = (resample_ap(m, ids, draws=300) for m in (a, a, b))
    for row in compare_rows([first], [again]):
        assert (row["difference"], row["low"], row["high"], row["p_value"]) == (0, 0, 0, 1)
    for row in compare_rows([first], [better]):
        assert row["low"] > 0 and row["p_value"] == pytest.approx(2 / 301) and row["b"] > row["a"]


REPEATS = 400


def nominal(count, level):
    """Whether a share of the repetitions is `level` up to binomial error (two-sided, 0.1 %)."""
    return binomtest(int(count), REPEATS, level).pvalue > 1e-3


def test_intervals_of_ap_cover_the_value_of_the_population():
    """Two detectors of one world with strong image effects: each interval and that of the difference covers 95 %."""
    skills = (0.0, 0.2)
    huge = world(np.random.default_rng(10**6), 100_000, skills)
    population = [float(ap_draws(m, np.ones((m.images, 1), int))[0, 0]) for m in huge]
    truth = {"a": population[0], "b": population[1], "difference": population[1] - population[0]}
    covered = dict.fromkeys(truth, 0)
    for repeat in range(REPEATS):
        runs = [resample_ap(m, np.arange(200), 200, repeat) for m in world(np.random.default_rng(repeat), 200, skills)]
        row = by_metric(compare_rows(runs[:1], runs[1:]))["AP50"]
        for name, value in truth.items():
            low, high = ("low", "high") if name == "difference" else (f"{name}_low", f"{name}_high")
            covered[name] += row[low] <= value <= row[high]
    assert all(nominal(count, 0.95) for count in covered.values()), covered


def test_equally_good_detectors_differ_significantly_in_a_twentieth_of_cases():
    found = 0
    for repeat in range(REPEATS):
        pair = world(np.random.default_rng(10_000 + repeat), 150, (0.0, 0.0))
        runs = [resample_ap(m, np.arange(150), 200, repeat) for m in pair]
        found += by_metric(compare_rows(runs[:1], runs[1:]))["AP50"]["p_value"] < 0.05
    assert nominal(found, 0.05), found


def test_intervals_of_correlation_cover_the_value_of_the_population():
    """Pairs (e, t) = image effect + own part, each bivariate normal with correlations 0.9 and 0.3, variances 1 and 1.

    Correlation of all: (0.9 + 0.3) / (1 + 1) = 0.6, as are slope (equal variances) and, with equal means, concordance.
    Taken for independent, 1,600 pairs would give an interval of +-1.96 (1 - 0.36) / sqrt(1600) = 0.031, too narrow.
    """
    images, each = 200, 8
    covered = dict.fromkeys(("pearson", "concordance", "slope", "bias"), 0)
    naive = 0
    for repeat in range(REPEATS):
        random = np.random.default_rng(repeat)
        shared = random.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], images)
        own = random.multivariate_normal([0, 0], [[1, 0.3], [0.3, 1]], images * each)
        image = np.repeat(np.arange(images), each)
        e, t = (shared[image] + own).T
        rows = by_metric(interval_rows([resample_moments(image, e, t, np.arange(images), 300, repeat)]))
        for name in covered:
            covered[name] += rows[name]["low"] <= (0 if name == "bias" else 0.6) <= rows[name]["high"]
        half = norm.ppf(0.975) * (1 - 0.36) / math.sqrt(images * each)
        naive += abs(rows["pearson"]["value"] - 0.6) <= half
    assert all(nominal(count, 0.95) for count in covered.values()), covered
    assert naive < 0.85 * REPEATS  # the image effects matter in this test


def test_bad_input_is_refused():
    (matches,) = world(np.random.default_rng(0), 5, (0.0,))
    with pytest.raises(ValueError, match="at least 1 image and 1 draw, got 5 and 0"):
        draw_weights(5, 0)
    for weights in (np.ones(5, int), np.ones((5, 2)), -np.ones((5, 2), int)):
        with pytest.raises(
            ValueError, match=r"weights must be a table \(images, draws\) of integers of 0 or more, got"
        ):
            ap_draws(matches, weights)
    with pytest.raises(ValueError, match="weights have 4 rows, the matches 5 images"):
        ap_draws(matches, np.ones((4, 1), int))
    ones = np.ones((2, 1), int)
    for arguments, message in (
        (([0, 1], [0.5, 0.5], [0.5]), r"equally long vectors, got \(2,\), \(2,\), \(1,\)"),
        (([0, 1], [0.5, math.nan], [0.5, 0.5]), "estimate has 1 of 2 values not finite"),
        (([0, 1], [0.5, 0.5], [math.inf, 0.5]), "iou has 1 of 2 values not finite"),
        (([0, 2], [0.5, 0.5], [0.5, 0.5]), r"image must lie in 0 ... 1, got 0 ... 2"),
        (([-1, 1], [0.5, 0.5], [0.5, 0.5]), r"image must lie in 0 ... 1, got -1 ... 1"),
    ):
        with pytest.raises(ValueError, match=message):
            moment_draws(*arguments, ones)
    with pytest.raises(ValueError, match="4 image ids are given for matches of 5 images"):
        resample_ap(matches, np.arange(4))
    with pytest.raises(ValueError, match="image id 1 occurs twice among the 5 images"):
        resample_ap(matches, [0, 1, 2, 3, 1])
    with pytest.raises(ValueError, match="pair 1 belongs to image 9, which is not among the 2 images"):
        resample_moments([1, 9], [0.5, 0.5], [0.5, 0.5], [1, 2])


def test_runs_that_cannot_be_paired_are_refused():
    run = made([1, 1, 1], ground_truth=4)
    for other, message in (
        (
            {"image_ids": np.array([0, 1, 5, 6])},
            r"got 3 and 4: 1 only in one \(first 2\) and 2 only in one \(first 5\)",
        ),
        ({"image_ids": np.array([0, 1])}, r"got 3 and 2: 1 only in one \(first 2\)$"),
        ({"image_ids": np.array([1, 0, 2])}, "the orders differ"),
        ({"seed": 1}, "same seed of the draws, got 0 and 1"),
        ({"ground_truth": 5}, "same number of objects, got 4 and 5"),
        ({"values": {"AP": np.ones(4)}}, "same draws, got 2 and 3"),
        ({"values": {"APS": np.ones(3)}}, "same metrics, got AP and APS"),
    ):
        different = replace(run, **other)
        for sides in (([run], [different]), ([run, different], [run])):
            with pytest.raises(ValueError, match=message):
                compare_rows(*sides)
        with pytest.raises(ValueError, match=message):
            interval_rows([run, different])
    for options, message in (
        ({"level": 1.0}, r"between 0 and 1, got 1.0"),
        ({"interval": "basic"}, "one of centred, percentile, got 'basic'"),
        ({"seeds": "all"}, "one of resampled, fixed, got 'all'"),
    ):
        for call in (
            lambda **given: compare_rows([run], [run], **given),
            lambda **given: interval_rows([run], **given),
        ):
            with pytest.raises(ValueError, match=message):
                call(**options)
    with pytest.raises(ValueError, match="at least one run"):
        compare_rows([run], [])
