"""Boxes that the assigner matches to an object, against the scale of the object: figure 2 of PASSD (arXiv 1907.12736).

An assigner by IoU gives the objects of some scales many more positives than those of others. How evenly they are spread
is measured by the coefficient of variation over bins of scale: 0 where every bin has as many positives per object. The
paper says neither bins nor images, so each row carries its bin and the number of objects in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qrepro.records.files import refuse

Row = dict[str, float | int | str]

STAGES = ("initial", "adjusted")  # columns of `matches.parquet`: the priors, and the boxes of the initial stage
BINS = 16


def stage_counts(matches: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return the number of boxes matched to each of G objects, by stage.

    Args:
        matches: Frame of G objects with `initial` and perhaps `adjusted`, numbers of boxes; a column of nothing but NaN
            is no stage.

    Returns:
        stage -> (G,) counts; a stage that the detector does not have is left out.

    Raises:
        ValueError: If a count is negative or no whole number.
    """
    counts = {}
    for stage in STAGES:
        if stage in matches and matches[stage].notna().any():
            values = matches[stage].to_numpy(np.float64, na_value=math.nan)
            refuse((values < 0) | (values % 1 != 0), "matches", f"{stage} must be a count", values, "matches")
            counts[stage] = values
    return counts


def regular_edges(side: ArrayLike, bins: int = BINS) -> NDArray[np.float64]:
    """Return the edges of bins of equal width from 0 to the largest side.

    Args:
        side: (G,) sqrt of the area of each object, in px of the network's input.
        bins: Number of bins, at least 1.

    Returns:
        (bins + 1,) edges in px.

    Raises:
        ValueError: If `bins` is below 1 or there are no finite sides above 0.
    """
    return np.linspace(0, _sides(side, bins).max(), bins + 1)


def quantile_edges(side: ArrayLike, bins: int = BINS) -> NDArray[np.float64]:
    """Return the edges of bins that hold equally many sides.

    Args:
        side: (G,) sqrt of the area of each object, in px of the network's input.
        bins: Number of bins, at least 1.

    Returns:
        (bins + 1,) edges in px; fewer bins where many sides are equal.

    Raises:
        ValueError: If `bins` is below 1 or there are no finite sides above 0.
    """
    return np.unique(np.quantile(_sides(side, bins), np.linspace(0, 1, bins + 1)))


def matched_rows(side: ArrayLike, counts: Mapping[str, ArrayLike], edges: ArrayLike) -> list[Row]:
    """Average the number of boxes matched to an object over bins of scale.

    Args:
        side: (G,) sqrt of the area of each object, in px of the network's input.
        counts: stage -> (G,) number of boxes matched to each object.
        edges: (B + 1,) increasing, in px; a side on an edge belongs to the bin above, on the last one to the bin below,
            and one beyond the edges to none.

    Returns:
        One row per stage and bin that holds an object, {boxes, side_min, side_max, n, side, matched, normalised}: boxes
        is the stage, side_min and side_max are the edges of the bin in px, n is the number of its objects, side the
        mean of their sides in px, matched the mean of their counts, normalised that mean over its mean over the bins of
        the stage.

    Raises:
        ValueError: If the edges do not increase, no side lies within them, or counts and sides are not equally long.
    """
    side, edges = np.asarray(side, np.float64), np.asarray(edges, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges of bins must be two or more increasing numbers of px, got {edges.tolist()}")
    inside = (side >= edges[0]) & (side <= edges[-1])
    if not inside.any():
        raise ValueError(f"none of {len(side)} objects has a side from {edges[0]:g} to {edges[-1]:g} px")
    bin_of = np.minimum(np.searchsorted(edges, side[inside], side="right") - 1, len(edges) - 2)
    n = np.bincount(bin_of, minlength=len(edges) - 1)
    filled = np.flatnonzero(n)
    rows: list[Row] = []
    for stage, values in counts.items():
        given = np.asarray(values, np.float64)
        if given.shape != side.shape:
            raise ValueError(f"{stage} {given.shape} and side {side.shape} must be equally long vectors")
        columns = {"side_min": edges[:-1], "side_max": edges[1:], "n": n}
        columns |= {name: _means(bin_of, v[inside], n) for name, v in (("side", side), ("matched", given))}
        columns["normalised"] = _over(columns["matched"], columns["matched"][filled].mean())
        rows += [{"boxes": stage, **{name: column[b].item() for name, column in columns.items()}} for b in filled]
    return rows


def evenness_rows(rows: Sequence[Mapping[str, float | int | str]]) -> list[Row]:
    """Measure how evenly matches are spread over scale.

    Args:
        rows: Rows of `matched_rows`, of which boxes, n and matched are read.

    Returns:
        One row per stage, {boxes, ground truths, bins, per_object, per_bin, variation}: ground truths is the number of
        objects, bins that of the bins that hold one, per_object the mean of the counts over objects, per_bin that over
        bins, variation the standard deviation (n) over bins divided by per_bin; 0 is even.
    """
    evenness: list[Row] = []
    for stage, members in groupby(rows, lambda row: str(row["boxes"])):
        n, matched = np.array([(row["n"], row["matched"]) for row in members], np.float64).T
        size: Row = {"boxes": stage, "ground_truth": int(n.sum()), "bins": len(n)}
        means: Row = {"per_object": float(n @ matched / n.sum()), "per_bin": float(matched.mean())}
        evenness.append({**size, **means, "variation": float(_over(matched, matched.mean()).std())})
    return evenness


def _sides(side: ArrayLike, bins: int) -> NDArray[np.float64]:
    """The sides (G,), checked to be enough for bins."""
    side = np.asarray(side, np.float64)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if not len(side) or not (np.isfinite(side) & (side >= 0)).all() or not side.any():
        raise ValueError(f"bins of scale need objects with finite sides above 0, got {len(side)} objects")
    return side


def _means(bin_of: NDArray[np.intp], values: NDArray[np.float64], n: NDArray[np.intp]) -> NDArray[np.float64]:
    """(B,) means of values by their bin; 0 for an empty one."""
    means: NDArray[np.float64] = np.bincount(bin_of, values, len(n)) / np.maximum(n, 1)
    return means


def _over(values: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """Values over their mean; NaN where that is 0."""
    return values / mean if mean > 0 else np.full(len(values), math.nan)
