"""How well an estimate of localisation quality follows the true IoU.

The Pearson correlation of GFLv2 (arXiv 2011.12885, table 6) and, beside it, what it does not show: rank order,
agreement of the values themselves, bias and slope. A high correlation does not imply a high AP, so these rows belong
next to an AP table, not in its place. Which pairs are compared is the caller's choice (positives of an assigner,
candidates above a score threshold, final detections) and changes the numbers, as does a band of true IoU: a narrow one
restricts the range, and with it the correlation as a rule.

Intervals. The boxes of one image are not independent, so pairs are clustered by image: with the influence g_i of pair i
on a statistic T (its derivative towards more weight on that pair),

    var T = G / (G - 1) sum over images of (1/n sum over pairs i of the image of g_i)^2

for n pairs in G images, the infinitesimal jackknife (Jaeckel 1972; Efron 1982, "The Jackknife, the Bootstrap and Other
Resampling Plans", ch. 6), as for any cluster-robust error (Cameron and Miller 2015). Correlations are taken to Fisher's
z = atanh T and back, and Student's t has G - 1 degrees of freedom. Without images, each pair is its own cluster. In
simulations with image effects, intervals at 95 % cover the true value in 93 to 95 % of draws from 200 images on, 91 to
95 % at 10 to 50 images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qrepro.metrics.matching import AREAS

Row = dict[str, float | int | str]

BANDS = ((0.0, 1.0), (0.5, 1.0), (0.75, 1.0))
STATISTICS = ("pearson", "spearman", "kendall", "concordance", "bias", "slope")
_Labels = tuple[float | int | str, ...]
_ON_A_LINE = ("bias", "slope")  # the others lie in [-1, 1], and have their interval by Fisher's z
_NO_SPREAD = 1e-12  # a standard error that is nothing but rounding
_KEYS_AT_ONCE = 1 << 16  # a power of two whose temporaries stay in the cache


def correlation_rows(
    estimate: ArrayLike,
    iou: ArrayLike,
    bands: Sequence[tuple[float, float]] = BANDS,
    *,
    image: ArrayLike | None = None,
    statistics: Sequence[str] = STATISTICS,
    intervals: bool = True,
    level: float = 0.95,
) -> list[Row]:
    """Correlate an estimate of localisation quality with the true IoU, in bands of true IoU.

    Influences of the rank correlations: Croux and Dehon (Stat. Methods Appl. 19, 2010), here with ties; that of
    spearman includes that a pair moves the ranks of the others.

    Args:
        estimate: (N,) estimates, e below, one per box or location; finite, usually in [0, 1].
        iou: (N,) true IoU in [0, 1] of the same boxes, t below.
        bands: Ranges (low, high) of true IoU, both ends included.
        image: (N,) identity of the image of each pair, of any type; None takes the pairs as independent.
        statistics: Those to compute, of STATISTICS; `kendall` takes most of the time, then `spearman`.
        intervals: Whether to compute confidence intervals.
        level: Level of the two-sided intervals, in (0, 1).

    Returns:
        One row per band, with
            iou_min, iou_max, n, images: the band, its number of pairs and of their images (nan where `image` was not
                given);
            mean_estimate, mean_iou: means; nan for no pair;
            pearson: cov(e, t) / (sd(e) sd(t));
            spearman: pearson of the ranks, ties sharing their mean rank;
            kendall: tau-b = mean(sgn(e_i - e_j) sgn(t_i - t_j)) / sqrt(share of e_i != e_j * share of t_i != t_j) over
                all pairs of pairs, exact at any size in O(n log^2 n);
            concordance: 2 cov(e, t) / (var e + var t + (mean e - mean t)^2), 1 only for e = t; moments divide by n as
                in Lin (Biometrics 45, 1989);
            bias: mean(e - t), positive for an overconfident detector;
            slope: cov(e, t) / var e, of the least-squares line of iou over estimate; 1 for a calibrated estimate;
            <statistic>_low, <statistic>_high: ends of the interval, where `intervals` is set;
            interval, level: "image" or "independent", what was taken as independent, and the level.
        All but bias are nan for fewer than 2 pairs or a constant side; an interval is nan for fewer than 2 images (or
        pairs, without images) and for pairs on a perfect line, which leave no error to estimate.

    Raises:
        ValueError: If the vectors are not equally long or not finite, an image is missing, a band is upside down, a
            statistic is unknown or `level` lies outside (0, 1).
    """
    pairs = _checked(estimate, iou, image, bands, statistics, level)
    return list(_band_rows(pairs, bands, statistics, intervals, level))


def grouped_rows(
    estimate: ArrayLike,
    iou: ArrayLike,
    by: Mapping[str, ArrayLike],
    bands: Sequence[tuple[float, float]] = BANDS,
    *,
    image: ArrayLike | None = None,
    statistics: Sequence[str] = STATISTICS,
    intervals: bool = True,
    level: float = 0.95,
) -> list[Row]:
    """Compute the rows of `correlation_rows` for every combination of labels that occurs.

    Args:
        estimate: As for `correlation_rows`.
        iou: As for `correlation_rows`.
        by: (N,) labels of the pairs by name: {"category": ...} for a row per class and band, {"size":
            size_labels(area)} per size, both for each size of each class.
        bands: As for `correlation_rows`.
        image: As for `correlation_rows`.
        statistics: As for `correlation_rows`.
        intervals: As for `correlation_rows`.
        level: As for `correlation_rows`.

    Returns:
        Rows of `correlation_rows`, each starting with its labels, sorted by label; a Categorical keeps its own order.

    Raises:
        ValueError: If there are no labels, labels are missing or not one per pair, and as `correlation_rows`.
    """
    pairs = _checked(estimate, iou, image, bands, statistics, level)
    labels = {name: pd.Series(values).array for name, values in by.items()}
    for name, values in labels.items():
        if len(values) != pairs.n:
            raise ValueError(f"{len(values)} labels {name!r} for {pairs.n} pairs; one each is needed")
        if values.isna().any():
            raise ValueError(f"{int(values.isna().sum())} of {len(values)} labels {name!r} are missing")
    if not labels:
        raise ValueError("no labels to group by")
    groups = pd.DataFrame(labels).groupby(list(labels), observed=True)
    return [
        {**dict(zip(labels, cast(_Labels, values), strict=True)), **row}
        for values, members in groups
        for row in _band_rows(pairs[members.index.to_numpy()], bands, statistics, intervals, level)
    ]


def size_labels(area: ArrayLike) -> pd.Categorical[str]:
    """Label areas as small, medium or large by COCO's ranges.

    Args:
        area: (N,) in px^2, of the ground-truth box or of the detection: the caller's choice, to be said beside the
            rows.

    Returns:
        (N,) labels, ordered from small to large; an area of exactly 32^2 or 96^2 px^2 is the larger.

    Raises:
        ValueError: If an area is negative or NaN.
    """
    area = np.asarray(area, np.float64)
    bad = ~(area >= 0)
    if bad.any():
        raise ValueError(f"area must be at least 0 px^2, got {area[bad][0]} ({int(bad.sum())} of {area.size} are not)")
    names = [name for name in AREAS if name != "all"]
    lower = [AREAS[name][0] for name in names]
    index = np.searchsorted(lower, area, side="right") - 1
    return pd.Categorical.from_codes(index, pd.Index(names, dtype=str), ordered=True)


def binned_rows(estimate: ArrayLike, iou: ArrayLike, bins: int = 20) -> list[Row]:
    """Average the true IoU and the error per bin of the estimate.

    Args:
        estimate: (N,) estimates, finite; one of exactly 1 belongs to the last bin, one outside [0, 1] to none.
        iou: (N,) true IoU of the same boxes.
        bins: Number of bins of equal width over [0, 1], at least 1.

    Returns:
        One row per bin that holds a pair, {estimate_min, estimate_max, n, mean_estimate, mean_iou, mean_error,
        sd_error}; the error is estimate - iou, its standard deviation (n - 1) nan for a single pair.

    Raises:
        ValueError: If `bins` is below 1 or the vectors are not equally long or not finite.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    estimate, iou = _aligned(estimate, iou)
    inside = (estimate >= 0) & (estimate <= 1)
    estimate, iou = estimate[inside], iou[inside]
    edges = np.linspace(0, 1, bins + 1)
    index = np.minimum(np.searchsorted(edges, estimate, side="right") - 1, bins - 1)
    n = np.bincount(index, minlength=bins)
    means = [np.bincount(index, v, bins) / np.maximum(n, 1) for v in (estimate, iou, estimate - iou)]
    squares = np.bincount(index, (estimate - iou - means[2][index]) ** 2, bins)
    sd = np.sqrt(np.divide(squares, n - 1, out=np.full(bins, math.nan), where=n > 1))
    columns = {"estimate_min": edges[:-1], "estimate_max": edges[1:], "n": n}
    columns |= dict(zip(("mean_estimate", "mean_iou", "mean_error"), means, strict=True)) | {"sd_error": sd}
    return [{name: values[i].item() for name, values in columns.items()} for i in np.flatnonzero(n)]


@dataclass(frozen=True, eq=False)
class _Ranks:
    """Ranks of n values.

    Attributes:
        code: (n,) index among the K different values in increasing order, from 0.
        counts: (K,) how often each value occurs.
    """

    code: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[np.float64] | NDArray[np.int64]) -> _Ranks:
        """Rank values."""
        _, code, counts = np.unique(values, return_inverse=True, return_counts=True)
        return cls(code, counts)

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """(K,) number of smaller values."""
        start: NDArray[np.int64] = np.cumsum(self.counts) - self.counts
        return start

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """(n,) share of smaller values and half of the equal ones: (rank - 1/2) / n, of mean 1/2."""
        share: NDArray[np.float64] = ((self.start + self.counts / 2) / len(self.code))[self.code]
        return share

    def mean_above(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) for each value the mean over all n of weight * (1 where larger, 1/2 where equal)."""
        sums = np.bincount(self.code, weight)
        means: NDArray[np.float64] = ((sums.sum() - np.cumsum(sums) + sums / 2) / len(self.code))[self.code]
        return means


@dataclass(frozen=True, eq=False)
class _Pairs:
    """n pairs with the code of their image, and what several statistics need of them.

    Attributes:
        estimate: (n,) estimates.
        iou: (n,) true IoU.
        image: (n,) code of the image of each pair, from 0; None where pairs are independent.
    """

    estimate: NDArray[np.float64]
    iou: NDArray[np.float64]
    image: NDArray[np.int64] | None

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> _Pairs:
        return _Pairs(self.estimate[rows], self.iou[rows], None if self.image is None else self.image[rows])

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.estimate)

    @property
    def vary(self) -> bool:
        """Whether both sides have more than one value, and not so close that their variance underflows."""
        least = math.sqrt(np.finfo(np.float64).tiny)
        return self.n > 1 and all(bool(np.ptp(side) > least) for side in (self.estimate, self.iou))

    @cached_property
    def images(self) -> float:
        """Number of images; nan where unknown."""
        return math.nan if self.image is None else int(np.count_nonzero(np.bincount(self.image)))

    @cached_property
    def centred(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) estimates and true IoU without their means."""
        return self.estimate - self.estimate.mean(), self.iou - self.iou.mean()

    @cached_property
    def ranks(self) -> tuple[_Ranks, _Ranks]:
        """Ranks of the estimates and of the true IoU."""
        return _Ranks.of(self.estimate), _Ranks.of(self.iou)


def _band_rows(
    pairs: _Pairs, bands: Sequence[tuple[float, float]], statistics: Sequence[str], intervals: bool, level: float
) -> Iterator[Row]:
    """One row per band of pairs that have been checked."""
    for low, high in bands:
        inside = (pairs.iou >= low) & (pairs.iou <= high)
        members = pairs if inside.all() else pairs[inside]
        row: Row = {"iou_min": low, "iou_max": high, "n": members.n, "images": members.images}
        row["mean_estimate"], row["mean_iou"] = (_mean(side) for side in (members.estimate, members.iou))
        for name in statistics:
            defined = members.n > 0 if name == "bias" else members.vary
            value, influence = _BY_NAME[name](members) if defined else (math.nan, None)
            row[name] = value
            if intervals:
                ends = math.nan, math.nan
                if influence is not None:
                    ends = _interval(value, influence, members, level, by_z=name not in _ON_A_LINE)
                row[f"{name}_low"], row[f"{name}_high"] = ends
        if intervals:
            row |= {"interval": "independent" if members.image is None else "image", "level": level}
        yield row


_Statistic = tuple[float, NDArray[np.float64]]  # a value and the influence (n,) of each pair on it


def _pearson(pairs: _Pairs) -> _Statistic:
    """Pearson correlation and the influence (n,) of each pair on it."""
    e, t = pairs.centred
    return _ratio(e * t, e * e, t * t)


def _spearman(pairs: _Pairs) -> _Statistic:
    """Spearman correlation, ties sharing their mean rank, and the influence (n,) of each pair on it."""
    first, second = pairs.ranks
    f, g = first.share - 0.5, second.share - 0.5
    value, influence = _ratio(f * g, f * f, g * g)
    # the derivative by each rank, times how far a pair below it or equal to it moves that rank
    across, var_f, var_g = f.std() * g.std(), f.var(), g.var()
    influence += first.mean_above(g / across - value * f / var_f)
    influence += second.mean_above(f / across - value * g / var_g)
    return value, influence


def _kendall(pairs: _Pairs) -> _Statistic:
    """Kendall's tau-b and the influence (n,) of each pair on it."""
    first, second = pairs.ranks
    # means over j of sgn(e_i - e_j) sgn(t_i - t_j), of e_i != e_j and of t_i != t_j
    agreement = 4 * _joint_share(first, second) - 2 * first.share - 2 * second.share + 1
    unlike = [1 - (side.counts / pairs.n)[side.code] for side in (first, second)]
    value, influence = _ratio(agreement, *unlike)
    return value, 2 * influence  # each pair is weighted on both sides of a mean over i and j


def _concordance(pairs: _Pairs) -> _Statistic:
    """Lin's concordance correlation and the influence (n,) of each pair on it."""
    e, t = pairs.centred
    joint = 2 * e * t
    whole = joint + (pairs.estimate - pairs.iou) ** 2  # the mean is var e + var t + bias^2
    value = float(joint.mean() / whole.mean())
    return value, (joint - value * whole) / whole.mean()


def _bias(pairs: _Pairs) -> _Statistic:
    """Mean of estimate - true IoU and the influence (n,) of each pair on it."""
    error = pairs.estimate - pairs.iou
    value = float(error.mean())
    return value, error - value


def _slope(pairs: _Pairs) -> _Statistic:
    """Slope of the least-squares line of true IoU over estimate and the influence (n,) of each pair on it."""
    e, t = pairs.centred
    value = float(e @ t / (e @ e))
    return value, e * (t - value * e) / e.var()


_BY_NAME: Mapping[str, Callable[[_Pairs], _Statistic]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "kendall": _kendall,
    "concordance": _concordance,
    "bias": _bias,
    "slope": _slope,
}


def _ratio(joint: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]) -> _Statistic:
    """R = mean(joint) / sqrt(mean(first) mean(second)) and the influence (n,) of each element on it."""
    a, b = float(first.mean()), float(second.mean())
    scale = math.sqrt(a) * math.sqrt(b)
    value = float(joint.mean()) / scale
    influence = joint / scale - value / 2 * (first / a + second / b)
    return min(max(value, -1.0), 1.0), influence


def _joint_share(first: _Ranks, second: _Ranks) -> NDArray[np.float64]:
    """(n,) share of pairs smaller on both sides; one equal on a side counts half there, a quarter on both."""
    cells = _Ranks.of(first.code * len(second.counts) + second.code)
    mirrored = _Ranks.of(second.code * len(first.counts) + first.code)
    same_first = cells.start[cells.code] - first.start[first.code]  # and smaller on the second side
    same_second = mirrored.start[mirrored.code] - second.start[second.code]
    order = np.argsort(cells.code)
    smaller = np.empty(len(order))
    smaller[order] = _smaller_before(second.code[order])
    smaller -= same_first  # they stand before, ordered by the first side and then by the second
    share: NDArray[np.float64] = (smaller + (same_first + same_second) / 2 + cells.counts[cells.code] / 4) / len(order)
    return share


def _smaller_before(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) for each of n codes in [0, n) how many smaller ones stand before it.

    Merge sort from the bottom, all blocks of a level at once: in a merged block, an element of the right half finds
    before it the smaller ones of the left half.
    """
    n = len(code)
    bits = max(n - 1, 1).bit_length()
    size = 1 << bits
    # one sortable number: code in the high bits, position in the low ones, counted from the end so that an equal code
    # to the left sorts later; what fills up the last block stands right of everything, and so is never counted
    keys = np.arange(size)[::-1].copy()
    keys[:n] += code << bits
    smaller = np.zeros(size, dtype=np.int64)
    for bit in range(bits):
        width = 2 << bit
        step = max(width, _KEYS_AT_ONCE)
        for first in range(0, n, step):
            blocks = keys[first : first + step].reshape(-1, width)
            blocks.sort(axis=1)
            position = size - 1 - (blocks & (size - 1))
            right = (position & (1 << bit)).astype(bool)
            left_so_far = np.cumsum(~right, axis=1)
            smaller[position[right]] += left_so_far[right]
    return smaller[:n]


def _interval(
    value: float, influence: NDArray[np.float64], pairs: _Pairs, level: float, *, by_z: bool
) -> tuple[float, float]:
    """Ends of the interval of a statistic, as the module's docstring defines it."""
    from scipy.special import stdtrit  # a third of a second, which tables without intervals need not wait for

    clusters = pairs.n if pairs.image is None else int(pairs.images)
    if clusters < 2:
        return math.nan, math.nan
    sums = influence if pairs.image is None else np.bincount(pairs.image, influence)
    error = math.sqrt(clusters / (clusters - 1) * float(sums @ sums)) / pairs.n
    if error < _NO_SPREAD or (by_z and abs(value) >= 1):
        return math.nan, math.nan
    reach = float(stdtrit(clusters - 1, (1 + level) / 2)) * error
    if not by_z:
        return value - reach, value + reach
    z, reach = math.atanh(value), reach / (1 - value**2)
    return math.tanh(z - reach), math.tanh(z + reach)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean; nan for no value."""
    return float(values.mean()) if len(values) else math.nan


def _checked(
    estimate: ArrayLike,
    iou: ArrayLike,
    image: ArrayLike | None,
    bands: Sequence[tuple[float, float]],
    statistics: Sequence[str],
    level: float,
) -> _Pairs:
    """The pairs, with images as codes from 0, where everything is as it must be."""
    for low, high in bands:
        if not low <= high:
            raise ValueError(f"band ({low}, {high}) of true IoU: its lower end must not be above the upper one")
    for name in statistics:
        if name not in _BY_NAME:
            raise ValueError(f"statistic {name!r} is not one of {', '.join(STATISTICS)}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    estimate, iou = _aligned(estimate, iou)
    if image is None:
        return _Pairs(estimate, iou, None)
    image = np.asarray(image)
    if image.shape != iou.shape:
        raise ValueError(f"image {image.shape} must be as long as estimate and iou {iou.shape}")
    codes, _ = pd.factorize(image)
    if (codes < 0).any():
        raise ValueError(f"image is missing for {int((codes < 0).sum())} of {len(codes)} pairs")
    return _Pairs(estimate, iou, codes)


def _aligned(estimate: ArrayLike, iou: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as equally long float64 vectors without NaN."""
    estimate, iou = np.asarray(estimate, np.float64), np.asarray(iou, np.float64)
    if estimate.ndim != 1 or estimate.shape != iou.shape:
        raise ValueError(f"estimate {estimate.shape} and iou {iou.shape} must be equally long vectors")
    for name, values in (("estimate", estimate), ("iou", iou)):
        if not np.isfinite(values).all():
            bad = f"{int((~np.isfinite(values)).sum())} of {len(values)}"
            raise ValueError(f"{name} has {bad} values that are not finite; has the detector such an estimate?")
    return estimate, iou
