"""Confidence intervals and p-values of bootstrap draws: of one side, of a difference of two, of a weighted sum.

Two sides are measured on the same draws of images (`qrepro.statistics.bootstrap`), so that what makes an image hard for
both cancels in the difference: the method of Everingham et al., "Assessing the significance of performance differences
on the PASCAL VOC challenges via bootstrapping" (2013). Runs of several training seeds stand for their side together.

AP is optimistic on a small set: the interpolated precision takes maxima, the more so the fewer objects a class has. A
draw repeats images, so it holds fewer different ones and is more optimistic still. On a synthetic set of val2017's size
the observed AP of 50.0 lay *below* the middle 95 % of its own draws, 50.1 ... 51.5. The draws are therefore moved so
that their mean is the observed value ("centred": the width and shape of the percentile interval, around the value of
the standard one; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). Such an interval is for the AP
that another set of as many images would give, which is what a printed AP is; "percentile" leaves the draws in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qrepro.statistics.bootstrap import Resampled

Row = dict[str, float | int | str]

INTERVALS = ("centred", "percentile")
SEEDS = ("resampled", "fixed")


def compare_rows(
    a: Sequence[Resampled],
    b: Sequence[Resampled],
    level: float = 0.95,
    interval: str = "centred",
    seeds: str | None = None,
) -> list[Row]:
    """Compare side `b` with the baseline `a`, metric by metric, on the same draws.

    Args:
        a: Runs of the baseline, one per training seed; all runs are resampled with one seed and number of draws over
            the same images in the same order, and with the same ground truth.
        b: Runs of the other side, likewise.
        level: Level of the intervals, in (0, 1).
        interval: "centred" moves the draws of a value so that their mean is the observed value; "percentile" leaves
            them. The interval goes from their (1 - level) / 2 to their (1 + level) / 2 quantile.
        seeds: How a draw treats the runs of a side. "fixed": it takes the mean of all, so that the interval is for
            these very networks; "resampled": it takes as many with replacement, on each side for itself, so that the
            interval is for networks trained anew (images and seeds as crossed factors: Owen, The pigeonhole bootstrap,
            Ann. Appl. Stat. 1, 2007). S seeds hold (S - 1) / S of the variance between seeds: few make it too narrow.
            None: resampled where a side has more than one run.

    Returns:
        One row per metric, in the unit of the metric (percent for AP), with
            metric;
            a, a_low, a_high, b, b_low, b_high: observed values, means over seeds, each with its own interval;
            difference, low, high: b - a with its interval, paired;
            p_value: two-sided, of no difference: 2 min(P(d <= 0), P(d >= 0)) over the draws d of the difference, moved
                as for the interval, each P as (1 + count) / (1 + draws); at most 1;
            draws, undefined: number of draws, and of those left out because the difference was undefined;
            level, interval, seed, seeds: the options;
            seeds_a, seeds_b: number of runs of each side;
            images, classes: number of images and classes drawn from; classes nan for correlations.

    Raises:
        ValueError: If an option does not exist, a side has no run, or the runs were not measured on the same draws.
    """
    _check_options(level, interval, seeds)
    _check_paired(a, b)
    seeds = seeds or _default_seeds(a, b)
    sides = [_pooled(runs, seeds, part) for part, runs in enumerate((a, b), start=1)]
    rows: list[Row] = []
    for metric in a[0].values:
        first, second = (side[metric] for side in sides)
        difference = second - first
        placed = _placed(difference, interval)
        row: Row = {"metric": metric}
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
) -> list[Row]:
    """Compute the interval of each metric of one side alone.

    Args:
        runs: Runs of the side, one per training seed; as for `compare_rows`.
        level: As for `compare_rows`.
        interval: As for `compare_rows`.
        seeds: As for `compare_rows`.

    Returns:
        One row per metric with metric, value, low, high, runs (the number of seeds), and draws, undefined, level,
        interval, seed, seeds, images and classes as in `compare_rows`.

    Raises:
        ValueError: As `compare_rows`.
    """
    _check_options(level, interval, seeds)
    _check_paired(runs)
    seeds = seeds or _default_seeds(runs)
    rows: list[Row] = []
    for metric, values in _pooled(runs, seeds, 1).items():
        placed = _placed(values, interval)
        low, high = _limits(placed, level)
        row: Row = {"metric": metric, "value": float(values[0]), "low": low, "high": high}
        rows.append(row | _origin(runs[0], len(placed), level, interval, seeds) | {"runs": len(runs)})
    return rows


def combined_row(
    terms: Sequence[tuple[float, Sequence[Resampled], str]],
    constant: float = 0.0,
    level: float = 0.95,
    interval: str = "centred",
    seeds: str | None = None,
) -> Row:
    """Compute the interval and p-value of a weighted sum of metrics of several sides.

    Args:
        terms: Triples (weight, runs of a side, metric), at least one. Terms of the very same runs take the same seeds
            in a draw, so that two thresholds of one network stay paired.
        constant: Added to the sum.
        level: As for `compare_rows`.
        interval: As for `compare_rows`.
        seeds: As for `compare_rows`.

    Returns:
        A row with value, low, high, p_value (of the sum being 0), and draws, undefined, level, interval, seed, seeds,
        images and classes as in `compare_rows`.

    Raises:
        ValueError: As `compare_rows`.
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
    row: Row = {"value": float(total[0]), "low": low, "high": high, "p_value": _p_value(placed)}
    return row | _origin(terms[0][1][0], len(placed), level, interval, seeds)


def _only(run: Resampled, metric: str) -> Resampled:
    """A run with one metric, under a name that all sides share, and without the counts that only some metrics have."""
    return Resampled({"": run.values[metric]}, run.image_ids, run.seed)


def _pooled(runs: Sequence[Resampled], seeds: str, part: int) -> dict[str, NDArray[np.float64]]:
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


def _placed(values: NDArray[np.float64], interval: str) -> NDArray[np.float64]:
    """Defined draws of (1 + draws,) values, moved to the observed value for a centred interval."""
    observed, draws = values[0], values[1:]
    draws = draws[~np.isnan(draws)]
    if np.isnan(observed) or not len(draws):
        return draws[:0]
    moved: NDArray[np.float64] = draws + (observed - draws.mean()) if interval == "centred" else draws
    return moved


def _limits(draws: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Both ends of the interval; nan without draws."""
    if not len(draws):
        return math.nan, math.nan
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _p_value(draws: NDArray[np.float64]) -> float:
    """Two-sided p-value of 0; nan without draws."""
    if not len(draws):
        return math.nan
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (1 + len(draws)))


def _origin(run: Resampled, defined: int, level: float, interval: str, seeds: str) -> Row:
    """The options and counts behind a row, as columns."""
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
    """Whether to resample the seeds by default: where a side has more than one run."""
    return SEEDS[0] if any(len(runs) > 1 for runs in sides) else SEEDS[1]


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
        for quantity, ours, theirs in (
            ("draws", first.draws, run.draws),
            ("seed of the draws", first.seed, run.seed),
            ("metrics", ", ".join(first.values), ", ".join(run.values)),
            ("number of objects", first.ground_truth, run.ground_truth),
        ):
            if ours != theirs:
                raise ValueError(f"runs can be paired only with the same {quantity}, got {ours} and {theirs}")


def _check_same_images(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
    """Refuse image sets that differ, or have another order."""
    if np.array_equal(ours, theirs):
        return
    only = [np.setdiff1d(first, second) for first, second in ((ours, theirs), (theirs, ours))]
    if not any(map(len, only)):
        raise ValueError("runs can be paired only with their images in the same order; the orders differ")
    excess = " and ".join(f"{len(ids)} only in one (first {ids[0]})" for ids in only if len(ids))
    raise ValueError(f"runs can be paired only on the same images, got {len(ours)} and {len(theirs)}: {excess}")
