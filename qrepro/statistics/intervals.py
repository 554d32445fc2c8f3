"""Is one run better than another, or luckier with its images? Intervals and p-values of a paired bootstrap.

Both runs are measured on the same draws of images (`qrepro.statistics.bootstrap`), so that what makes an image hard for both
cancels in the difference: the method of Everingham et al., "Assessing the significance of performance differences on
the PASCAL VOC challenges via bootstrapping" (2013). Runs of several training seeds stand for their side together.

AP is optimistic on a small set: the interpolated precision takes maxima, the more so the fewer objects a class has. A
draw repeats images, so it holds fewer different ones and is more optimistic still. On a made-up set of val2017's size
the observed AP of 50.0 lay *below* the middle 95 % of its own draws, 50.1 ... 51.5. The draws are therefore moved so
that their mean is the observed value ("centred": the width and shape of the percentile interval, around the value of
the standard one; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). Such an interval is for the AP
that another set of as many images would give, which is what a printed AP is; "percentile" leaves the draws in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from qrepro.metrics.coco_ap import threshold_name
from qrepro.metrics.matching import Matches
from qrepro.statistics.bootstrap import ap_draws, draw_weights, moment_draws

INTERVALS = ("centred", "percentile")
SEEDS = ("resampled", "fixed")


@dataclass(frozen=True, eq=False)
class Resampled:
    """Metrics of one run on its images and on draws of them.

    values: name -> (1 + draws,) on the images themselves, then on each draw; nan where undefined.
    image_ids: (n,) the images drawn from.
    seed: of the draws: equal seeds and images give equal draws.
    truths, classes: number of truths that count, and of classes that have one; None where a metric uses neither.
    """

    values: dict[str, np.ndarray]
    image_ids: np.ndarray
    seed: int
    truths: int | None = None
    classes: int | None = None

    @property
    def draws(self) -> int:
        """Number of draws."""
        return len(next(iter(self.values.values()))) - 1


def resample_ap(
    matches: Matches, image_ids: ArrayLike, draws: int = 1000, seed: int = 0, name: str = "AP"
) -> Resampled:
    """AP in percent, mean over the thresholds and at each of them: AP, AP50, ... AP95.

    matches: of one run, at the thresholds and in the area range wanted.
    image_ids: (n,) `truths.images["id"]`.   draws, seed: see `draw_weights`.
    name: of the mean, to tell area ranges apart: "APS" gives APS, APS50, ...
    """
    ids = _unique_ids(image_ids)
    if len(ids) != matches.images:
        raise ValueError(f"{len(ids)} image ids are given for matches of {matches.images} images")
    ap = ap_draws(matches, _with_observed(draw_weights(len(ids), draws, seed)))
    single = {name + threshold_name(value).removeprefix("AP"): ap[:, t] for t, value in enumerate(matches.thresholds)}
    classes = len(np.unique(matches.truth_category))
    return Resampled({name: ap.mean(axis=1), **single}, ids, seed, len(matches.truth_category), classes)


def resample_moments(
    image_id: ArrayLike, estimate: ArrayLike, iou: ArrayLike, image_ids: ArrayLike, draws: int = 1000, seed: int = 0
) -> Resampled:
    """Pearson (PCC) and concordance correlation, bias and slope of estimated and true IoU; see `moment_draws`.

    image_id, estimate, iou: (N,) one pair per box or positive location.
    image_ids: (n,) all images of the run, those without a pair too.   draws, seed: see `draw_weights`.
    """
    ids = _unique_ids(image_ids)
    owners = np.asarray(image_id)
    rows = pd.Index(ids).get_indexer(pd.Index(owners))
    if (rows < 0).any():
        first = int(np.argmax(rows < 0))
        raise ValueError(f"pair {first} belongs to image {owners[first]}, which is not among the {len(ids)} images")
    weights = _with_observed(draw_weights(len(ids), draws, seed))
    return Resampled(moment_draws(rows, estimate, iou, weights), ids, seed)


def compare_rows(
    a: Sequence[Resampled],
    b: Sequence[Resampled],
    level: float = 0.95,
    interval: str = "centred",
    seeds: str | None = None,
) -> list[dict[str, Any]]:
    """One row per metric: how much `b` differs from the baseline `a`.

    a, b: the runs of each side, one per training seed, resampled with one seed and number of draws over the same images
        in the same order, and with the same truths.
    level: of the intervals, in (0, 1).
    interval: "centred" moves the draws of a value so that their mean is the observed value; "percentile" leaves them.
        The interval goes from their (1 - level) / 2 to their (1 + level) / 2 quantile.
    seeds: what a draw does with the runs of a side. "fixed": it takes the mean of all, so that the interval is for
        these very networks; "resampled": it takes as many with replacement, on each side for itself, so that the
        interval is for networks trained anew (images and seeds as crossed factors: Owen, The pigeonhole bootstrap,
        Ann. Appl. Stat. 1, 2007). S seeds hold (S - 1) / S of the variance between seeds: few make it too narrow.
        None: resampled where a side has more than one run.
    Returns rows of
        metric;   a, a_low, a_high, b, b_low, b_high: observed values, means over seeds, each with its own interval;
        difference, low, high: b - a with its interval, paired;
        p_value: two-sided, of no difference: 2 min(P(d <= 0), P(d >= 0)) over the draws d of the difference, moved as
            for the interval, each P as (1 + count) / (1 + draws); at most 1;
        draws, undefined: number of draws, and of those left out because the difference was undefined;
        level, interval, seed, seeds: the options;   seeds_a, seeds_b: runs of each side;
        images, classes: what was drawn from; classes nan for correlations.
    Units are those of the metrics: percent for AP.
    """
    _check_options(level, interval, seeds)
    _check_paired(a, b)
    seeds = seeds or _default_seeds(a, b)
    sides = [_pooled(runs, seeds, part) for part, runs in enumerate((a, b), start=1)]
    rows = []
    for metric in a[0].values:
        first, second = (side[metric] for side in sides)
        difference = second - first
        placed = _placed(difference, interval)
        row: dict[str, Any] = {"metric": metric}
        for name, values in (("a", first), ("b", second)):
            low, high = _limits(_placed(values, interval), level)
            row |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
        low, high = _limits(placed, level)
        row |= {"difference": float(difference[0]), "low": low, "high": high, "p_value": _p_value(placed)}
        row |= _origin(a[0], len(placed), level, interval, seeds)
        rows.append(row | {"seeds_a": len(a), "seeds_b": len(b)})
    return rows


def interval_rows(
    runs: Sequence[Resampled], level: float = 0.95, interval: str = "centred", seeds: str | None = None
) -> list[dict[str, Any]]:
    """One row per metric of one side alone: metric, value, low, high, runs (its number of seeds), and as compare_rows.

    runs, level, interval, seeds: see `compare_rows`.
    """
    _check_options(level, interval, seeds)
    _check_paired(runs)
    seeds = seeds or _default_seeds(runs)
    rows = []
    for metric, values in _pooled(runs, seeds, 1).items():
        placed = _placed(values, interval)
        low, high = _limits(placed, level)
        row = {"metric": metric, "value": float(values[0]), "low": low, "high": high}
        rows.append(row | _origin(runs[0], len(placed), level, interval, seeds) | {"runs": len(runs)})
    return rows


def combined_row(
    terms: Sequence[tuple[float, Sequence[Resampled], str]],
    constant: float = 0.0,
    level: float = 0.95,
    interval: str = "centred",
    seeds: str | None = None,
) -> dict[str, Any]:
    """A weighted sum of metrics of several sides: value, low, high, p_value (of the sum being 0), and as compare_rows.

    terms: (weight, runs of a side, metric). Terms of the very same runs take the same seeds in a draw, so that two
        thresholds of one network stay paired.
    constant: added to the sum.   level, interval, seeds: see `compare_rows`.
    """
    _check_options(level, interval, seeds)
    _check_paired(*([_only(run, metric) for run in runs] for _, runs, metric in terms))
    sides = [tuple(id(run) for run in runs) for _, runs, _ in terms]
    parts = {side: part for part, side in enumerate(dict.fromkeys(sides), start=1)}
    seeds = seeds or _default_seeds(*(runs for _, runs, _ in terms))
    total = np.full(1 + terms[0][1][0].draws, constant)
    for (weight, runs, metric), side in zip(terms, sides, strict=True):
        total = total + weight * _pooled(runs, seeds, parts[side])[metric]
    placed = _placed(total, interval)
    low, high = _limits(placed, level)
    row = {"value": float(total[0]), "low": low, "high": high, "p_value": _p_value(placed)}
    return row | _origin(terms[0][1][0], len(placed), level, interval, seeds)


def _only(run: Resampled, metric: str) -> Resampled:
    """A run with one metric, under a name that all sides share, and without what only some metrics count."""
    return Resampled({"": run.values[metric]}, run.image_ids, run.seed)


def _with_observed(weights: np.ndarray) -> np.ndarray:
    """Weights with a column of ones before them: every image once."""
    return np.insert(weights, 0, 1, axis=1)


def _pooled(runs: Sequence[Resampled], seeds: str, part: int) -> dict[str, np.ndarray]:
    """(1 + draws,) per metric: mean over the runs of a side, on draws over those that the draw takes.

    part: 1 or 2, the side; each has random numbers of its own, other than those of the images.
    """
    random = np.random.default_rng([runs[0].seed, part])
    taken = np.tile(np.arange(len(runs))[:, None], 1 + runs[0].draws)
    if seeds == "resampled":
        taken[:, 1:] = random.integers(len(runs), size=(len(runs), runs[0].draws))
    return {
        name: np.take_along_axis(np.stack([run.values[name] for run in runs]), taken, axis=0).mean(axis=0)
        for name in runs[0].values
    }


def _placed(values: np.ndarray, interval: str) -> np.ndarray:
    """Draws without the undefined ones, moved to where the interval wants them. values: (1 + draws,)."""
    observed, draws = values[0], values[1:]
    draws = draws[~np.isnan(draws)]
    if np.isnan(observed) or not len(draws):
        return draws[:0]
    return draws + (observed - draws.mean()) if interval == "centred" else draws


def _limits(draws: np.ndarray, level: float) -> tuple[float, float]:
    """Both ends of the interval; nan without draws."""
    if not len(draws):
        return math.nan, math.nan
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _p_value(draws: np.ndarray) -> float:
    """Two-sided p-value of 0; nan without draws."""
    if not len(draws):
        return math.nan
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (1 + len(draws)))


def _origin(run: Resampled, defined: int, level: float, interval: str, seeds: str) -> dict[str, Any]:
    """What a row says about how it came about."""
    return {
        "level": level,
        "interval": interval,
        "draws": run.draws,
        "undefined": run.draws - defined,
        "seed": run.seed,
        "seeds": seeds,
        "images": len(run.image_ids),
        "classes": math.nan if run.classes is None else run.classes,
    }


def _default_seeds(*sides: Sequence[Resampled]) -> str:
    """Resampled where there is a choice."""
    return SEEDS[0] if any(len(runs) > 1 for runs in sides) else SEEDS[1]


def _unique_ids(image_ids: ArrayLike) -> np.ndarray:
    """Image ids as a vector without repetition."""
    ids = np.asarray(image_ids)
    repeated = pd.Index(ids).duplicated()
    if repeated.any():
        raise ValueError(f"image id {ids[repeated][0]} occurs twice among the {len(ids)} images")
    return ids


def _check_options(level: float, interval: str, seeds: str | None) -> None:
    """Refuse options that do not exist."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if interval not in INTERVALS:
        raise ValueError(f"interval must be one of {', '.join(INTERVALS)}, got {interval!r}")
    if seeds is not None and seeds not in SEEDS:
        raise ValueError(f"seeds must be one of {', '.join(SEEDS)}, got {seeds!r}")


def _check_paired(*sides: Sequence[Resampled]) -> None:
    """Refuse runs that were not measured on the same draws, saying which and how they differ."""
    if not all(sides):
        raise ValueError("every side needs at least one run")
    first = sides[0][0]
    for run in (run for runs in sides for run in runs):
        _check_same_images(first.image_ids, run.image_ids)
        for what, ours, theirs in (
            ("draws", first.draws, run.draws),
            ("seed of the draws", first.seed, run.seed),
            ("metrics", ", ".join(first.values), ", ".join(run.values)),
            ("truths", first.truths, run.truths),
        ):
            if ours != theirs:
                raise ValueError(f"runs can be paired only with the same {what}, got {ours} and {theirs}")


def _check_same_images(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Refuse image sets that differ, or have another order."""
    if np.array_equal(ours, theirs):
        return
    only = [np.setdiff1d(first, second) for first, second in ((ours, theirs), (theirs, ours))]
    if not any(map(len, only)):
        raise ValueError("runs can be paired only with their images in the same order; the orders differ")
    excess = " and ".join(f"{len(ids)} only in one (first {ids[0]})" for ids in only if len(ids))
    raise ValueError(f"runs can be paired only on the same images, got {len(ours)} and {len(theirs)}: {excess}")
