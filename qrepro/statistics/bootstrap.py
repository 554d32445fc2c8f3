"""AP and correlations on bootstrap draws of the images, by weights, without matching or ranking a second time.

A draw takes as many images as there are, with replacement, and is kept as how often it took each: its weights. The
images are the units, not the boxes, since boxes of one image succeed and fail together (Everingham et al., "Assessing
the significance of performance differences on the PASCAL VOC challenges via bootstrapping", 2013).

Weighting a detection by w gives the AP of a set that holds its image w times. The copies of a detection follow one
another in the ranking (that is, scores of one image and class differ). After tp true positives among n, the copies of a
hit pass through the precisions (tp + 1) / (n + 1) ... (tp + w) / (n + w), which do not fall as tp <= n; so every recall
between has the last one, or a later and higher one, as its interpolated precision: one point with weight w says the
same. A false positive lowers precision without changing recall, so no curve needs a point there, only its weight in
n. With w = 0 the point of a hit repeats the recall of the point before, at no higher precision: it adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from qrepro.metrics.coco_ap import threshold_name
from qrepro.metrics.matching import Matches

RECALLS = np.linspace(0.0, 1.0, 101)  # pycocotools' own values: some of them exceed i / 100 in the last bit
_CONSTANT = 1e-12  # variance over mean square, below which rounding cannot be told from spread
_DRAWS_AT_ONCE = 64  # the curves of a class stay in the cache, and memory does not grow with the number of draws


def draw_weights(images: int, draws: int, seed: int = 0) -> NDArray[np.int32]:
    """Draw images with replacement, as many as there are, and count how often each draw took each image.

    Args:
        images: Number of images, at least 1.
        draws: Number of draws, at least 1.
        seed: Of the random numbers; the first draws of a seed are the same however many are asked for.

    Returns:
        (images, draws) weights; every column sums to `images`.

    Raises:
        ValueError: If there is no image or no draw.
    """
    if images < 1 or draws < 1:
        raise ValueError(f"a bootstrap needs at least 1 image and 1 draw, got {images} and {draws}")
    random = np.random.default_rng(seed)
    weights = np.empty((draws, images), dtype=np.int32)
    for row in weights:
        row[:] = np.bincount(random.integers(images, size=images), minlength=images)
    return weights.T


def ap_draws(matches: Matches, weights: ArrayLike) -> NDArray[np.float64]:
    """Compute COCO's AP of re-weighted images.

    AP is the mean over classes of 1/101 sum_r max_{recall >= r} precision, r = 0, 0.01, ... 1 (pycocotools), where an
    image of weight w counts as w images. A class without ground truth in a draw is left out of its mean. With all
    weights 1 this is pycocotools' AP; with others, its AP on a set in which the images are repeated under new ids, to
    the last digits where no two scores of an image and class are equal (see the top of this file).

    Args:
        matches: Of `match`, at T thresholds and in the area range wanted.
        weights: (images, draws) integers of 0 or more; rows in the order of `ground_truth.images`.

    Returns:
        (draws, T) AP in percent; nan where no class has ground truth.

    Raises:
        ValueError: If the weights are no such table or have another number of images than the matches.
    """
    weights = _checked(weights, matches.images)
    curves = _curves(matches)
    objects = _counts(matches.gt_category, matches.gt_image, (matches.categories, matches.images))
    parts = []
    for start in range(0, weights.shape[1], _DRAWS_AT_ONCE):
        part = np.ascontiguousarray(weights[:, start : start + _DRAWS_AT_ONCE])
        parts.append(_mean_over_classes(curves, part, objects @ part))
    return np.concatenate(parts)


def moment_draws(
    image: ArrayLike, estimate: ArrayLike, iou: ArrayLike, weights: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Compute correlation, bias and slope of pairs (estimate, true IoU) of re-weighted images.

    A pair (e, t) counts as often as its image was drawn; moments are over the counted pairs.

    Args:
        image: (N,) row of `weights` of each pair.
        estimate: (N,) estimates e, finite.
        iou: (N,) true IoU t, finite.
        weights: (images, draws) integers of 0 or more.

    Returns:
        name -> (draws,), with
            pearson: cov(e, t) / (sd(e) sd(t)), GFLv2's PCC (arXiv 2011.12885, table 6);
            concordance: 2 cov(e, t) / (var(e) + var(t) + (mean(e) - mean(t))^2), variances over n as in Lin (Biometrics
                45, 1989), eq. 2;
            bias: mean(e) - mean(t);
            slope: cov(e, t) / var(e), of the least-squares line of t over e.
        nan for a draw without pairs; pearson, concordance and slope also where either side is constant.

    Raises:
        ValueError: If the weights are no such table, the vectors are not equally long or not finite, or an image is not
            a row of the weights.
    """
    weights = _checked(weights)
    columns = [np.asarray(values) for values in (image, estimate, iou)]
    if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise ValueError(f"image, estimate and iou must be equally long vectors, got {shapes}")
    rows, e, t = columns[0], columns[1].astype(np.float64), columns[2].astype(np.float64)
    for name, values in (("estimate", e), ("iou", t)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has {int((~np.isfinite(values)).sum())} of {len(values)} values not finite")
    if len(rows) and not (0 <= rows.min() and rows.max() < len(weights)):
        raise ValueError(f"image must lie in 0 ... {len(weights) - 1}, got {rows.min()} ... {rows.max()}")
    centre_e, centre_t = (float(values.mean()) if len(values) else 0.0 for values in (e, t))
    e, t = e - centre_e, t - centre_t  # sums of squares would lose the digits of a small spread far from 0
    per_image = [np.bincount(rows, values, len(weights)) for values in (np.ones_like(e), e, t, e * e, t * t, e * t)]
    sums = np.stack(per_image) @ weights.astype(np.float64)
    n = np.where(sums[0] > 0, sums[0], np.nan)
    mean_e, mean_t, square_e, square_t, product = sums[1:] / n
    var_e, var_t = square_e - mean_e**2, square_t - mean_t**2
    varies = (var_e > _CONSTANT * square_e) & (var_t > _CONSTANT * square_t)
    var_e, var_t = np.where(varies, var_e, np.nan), np.where(varies, var_t, np.nan)
    cov = product - mean_e * mean_t
    bias = mean_e - mean_t + centre_e - centre_t
    return {
        "pearson": cov / np.sqrt(var_e * var_t),
        "concordance": 2 * cov / (var_e + var_t + bias**2),
        "bias": bias,
        "slope": cov / var_e,
    }


@dataclass(frozen=True, eq=False)
class Resampled:
    """Metrics of one run on its images and on draws of them.

    Attributes:
        values: name -> (1 + draws,) on the images themselves, then on each draw; nan where undefined.
        image_ids: (n,) the images drawn from.
        seed: Of the draws: equal seeds and images give equal draws.
        ground_truth: Number of objects that count; None where a metric does not use them.
        classes: Number of classes that have such an object; None where a metric does not use them.
    """

    values: dict[str, NDArray[np.float64]]
    image_ids: NDArray[np.int64]
    seed: int
    ground_truth: int | None = None
    classes: int | None = None

    @property
    def draws(self) -> int:
        """Number of draws."""
        return len(next(iter(self.values.values()))) - 1


def resample_ap(
    matches: Matches, image_ids: ArrayLike, draws: int = 1000, seed: int = 0, name: str = "AP"
) -> Resampled:
    """Compute AP on the images and on draws of them, mean over the thresholds and at each of them.

    Args:
        matches: Of one run, at the thresholds and in the area range wanted.
        image_ids: (n,) `ground_truth.images["id"]`.
        draws: As for `draw_weights`.
        seed: As for `draw_weights`.
        name: Of the mean, to tell area ranges apart: "APS" gives APS, APS50, ...

    Returns:
        AP in percent: AP, AP50, ... AP95.

    Raises:
        ValueError: If an image id occurs twice or there are not as many as images of the matches.
    """
    ids = _unique_ids(image_ids)
    if len(ids) != matches.images:
        raise ValueError(f"{len(ids)} image ids are given for matches of {matches.images} images")
    ap = ap_draws(matches, _with_observed(draw_weights(len(ids), draws, seed)))
    single = {name + threshold_name(value).removeprefix("AP"): ap[:, t] for t, value in enumerate(matches.thresholds)}
    classes = len(np.unique(matches.gt_category))
    return Resampled({name: ap.mean(axis=1), **single}, ids, seed, len(matches.gt_category), classes)


def resample_moments(
    image_id: ArrayLike, estimate: ArrayLike, iou: ArrayLike, image_ids: ArrayLike, draws: int = 1000, seed: int = 0
) -> Resampled:
    """Compute correlation, bias and slope of estimated and true IoU on the images and on draws of them.

    Args:
        image_id: (N,) id of the image of each pair, one pair per box or positive location.
        estimate: (N,) estimates, finite.
        iou: (N,) true IoU, finite.
        image_ids: (n,) ids of all images of the run, those without a pair too.
        draws: As for `draw_weights`.
        seed: As for `draw_weights`.

    Returns:
        The values of `moment_draws`: pearson (PCC), concordance, bias and slope.

    Raises:
        ValueError: If an image id occurs twice, a pair belongs to no image of `image_ids`, and as `moment_draws`.
    """
    ids = _unique_ids(image_ids)
    pair_ids = np.asarray(image_id)
    rows = pd.Index(ids).get_indexer(pd.Index(pair_ids))
    if (rows < 0).any():
        first = int(np.argmax(rows < 0))
        raise ValueError(f"pair {first} belongs to image {pair_ids[first]}, which is not among the {len(ids)} images")
    weights = _with_observed(draw_weights(len(ids), draws, seed))
    return Resampled(moment_draws(rows, estimate, iou, weights), ids, seed)


@dataclass(frozen=True, eq=False)
class _Curves:
    """The part of the matches that a precision-recall curve depends on: E events, in the order of `Matches`.

    An event is a detection that is a hit, or ignored, at one threshold at least; all others are false positives at
    every threshold, so that only the weight of those between two events counts.

    Attributes:
        bounds: (K + 1,) events of category k are bounds[k] ... bounds[k + 1] - 1.
        image: (E,) index of the image.
        hit: (T, E) true positives.
        ignored: (T, E) events that count neither way.
        segments: (E, images) number of detections of an image after the previous event, up to and with this one.
    """

    bounds: NDArray[np.int64]
    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    segments: csr_array


def _curves(matches: Matches) -> _Curves:
    """Events and segments of all categories."""
    counted = ~matches.ignored.all(axis=0)
    category, image = matches.category[counted], matches.image[counted]
    hit, ignored = matches.hit[:, counted], matches.ignored[:, counted]
    is_event = (hit | ignored).any(axis=0)
    events = np.flatnonzero(is_event)
    bounds = np.searchsorted(category[events], np.arange(matches.categories + 1))
    following: NDArray[np.int64] = np.cumsum(is_event) - is_event  # the event that a detection is, or that comes next
    leads = following < bounds[category + 1]  # false positives after the last event of a category change nothing
    segments = _counts(following[leads], image[leads], (len(events), matches.images))
    return _Curves(bounds, image[events], hit[:, events], ignored[:, events], segments)


def _counts(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, int]) -> csr_array:
    """Sparse table of how often each (row, column) occurs."""
    return csr_array((np.ones(len(row), dtype=np.int32), (row, column)), shape=shape)


def _mean_over_classes(curves: _Curves, weights: NDArray[np.int32], objects: NDArray[np.int32]) -> NDArray[np.float64]:
    """(draws, T) mean AP in percent. weights: (images, draws); objects: (K, draws) weight of the objects of a class."""
    by_draw = np.ascontiguousarray(weights.T)  # cumulative sums run four times faster along rows
    lengths = np.ascontiguousarray((curves.segments @ weights).T)
    total = np.zeros((len(by_draw), len(curves.hit)))
    for k in np.flatnonzero(objects.any(axis=1)):
        events = slice(curves.bounds[k], curves.bounds[k + 1])
        cumulative = np.cumsum(lengths[:, events], axis=1, dtype=np.int32)
        weight = by_draw.take(curves.image[events], axis=1)
        for t, (hit, ignored) in enumerate(zip(curves.hit[:, events], curves.ignored[:, events], strict=True)):
            hits = np.flatnonzero(hit)
            counted = cumulative.take(hits, axis=1)
            if ignored.any():
                counted -= np.cumsum(weight * ignored, axis=1, dtype=np.int32).take(hits, axis=1)
            positive = np.cumsum(weight.take(hits, axis=1), axis=1, dtype=np.int32)
            total[:, t] += _average_precision(positive, counted, objects[k])
    classes = (objects > 0).sum(axis=0)
    mean: NDArray[np.float64] = 100 * total / np.where(classes > 0, classes, np.nan)[:, None]
    return mean


def _average_precision(
    positive: NDArray[np.int32], counted: NDArray[np.int32], objects: NDArray[np.int32]
) -> NDArray[np.float64]:
    """(draws,) 101-point AP in [0, 1]; 0 for a draw without ground truth.

    positive, counted: (draws, H) weight of the true positives and of all counted detections up to each of H hits.
    objects: (draws,) weight of the objects of the class.
    """
    recall = positive / np.maximum(objects, 1)[:, None]
    precision = positive / np.maximum(counted, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    nearest = np.rint(100 * recall).astype(np.intp)
    reached = nearest + (RECALLS[nearest] <= recall)  # all recalls below the nearest are reached, none above it
    ap: NDArray[np.float64] = (np.diff(reached, axis=1, prepend=0) * envelope).sum(axis=1) / len(RECALLS)
    return ap


def _checked(weights: ArrayLike, images: int | None = None) -> NDArray[np.int32]:
    """Weights as an int32 table."""
    table = np.asarray(weights)
    if table.ndim != 2 or table.dtype.kind not in "iu" or (table.size and table.min() < 0):
        got = f"{table.dtype} of shape {table.shape}"
        raise ValueError(f"weights must be a table (images, draws) of integers of 0 or more, got {got}")
    if images is not None and len(table) != images:
        raise ValueError(f"weights have {len(table)} rows, the matches {images} images")
    return table.astype(np.int32, copy=False)


def _with_observed(weights: NDArray[np.int32]) -> NDArray[np.int32]:
    """Weights with a column of ones before them: every image once."""
    return np.insert(weights, 0, 1, axis=1)


def _unique_ids(image_ids: ArrayLike) -> NDArray[np.int64]:
    """Image ids as a vector without repetition."""
    ids = np.asarray(image_ids)
    repeated = pd.Index(ids).duplicated()
    if repeated.any():
        raise ValueError(f"image id {ids[repeated][0]} occurs twice among the {len(ids)} images")
    return ids
