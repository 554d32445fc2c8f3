"""Boxes that the assigner matches to a truth, against the scale of the truth: figure 2 of PASSD (arXiv 1907.12736).

An assigner by IoU gives the truths of some scales many more positives than those of others. How evenly they are spread
is here the coefficient of variation over bins of scale: 0 where every bin has as many positives a truth. The paper says
neither bins nor images, so a row says its bin, and a number of truths that a bin holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from qrepro.records.files import refuse

STAGES = ("initial", "adjusted")  # columns of `matches.parquet`: the priors, and what the first step makes of them
BINS = 16


def stage_counts(matches: pd.DataFrame) -> dict[str, np.ndarray]:
    """(G,) boxes matched to each of G truths, by stage; a stage that the detector does not have is left out.

    matches: frame with `initial` and perhaps `adjusted`, whole numbers; a column of nothing but NaN is no stage.
    """
    counts = {}
    for stage in STAGES:
        if stage in matches and matches[stage].notna().any():
            values = matches[stage].to_numpy(np.float64, na_value=math.nan)
            refuse((values < 0) | (values % 1 != 0), "matches", f"{stage} must be a count", values, "matches")
            counts[stage] = values
    return counts


def regular_edges(side: ArrayLike, bins: int = BINS) -> np.ndarray:
    """(bins + 1,) edges in px of bins of equal width from 0 to the largest of the sides (G,)."""
    return np.linspace(0, _sides(side, bins).max(), bins + 1)


def quantile_edges(side: ArrayLike, bins: int = BINS) -> np.ndarray:
    """Edges in px of bins that hold equally many of the sides (G,), fewer bins where many sides are equal."""
    return np.unique(np.quantile(_sides(side, bins), np.linspace(0, 1, bins + 1)))


def matched_rows(side: ArrayLike, counts: Mapping[str, ArrayLike], edges: ArrayLike) -> list[dict[str, Any]]:
    """Mean number of boxes matched to a truth, one row per stage and bin of scale that holds a truth.

    side: (G,) sqrt of the area of each truth, in px of the network's input.
    counts: stage -> (G,) boxes matched to each truth.
    edges: (B + 1,) increasing, in px; a side on an edge belongs to the bin above, on the last one to the bin below, and
        one beyond the edges to none.
    Returns rows {boxes, side_min, side_max, n, side, matched, normalised}: boxes is the stage, n the truths of the bin,
    side their mean, matched the mean of their counts, normalised that over its mean over the bins of the stage.
    """
    side, edges = np.asarray(side, np.float64), np.asarray(edges, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges of bins must be two or more increasing numbers of px, got {edges.tolist()}")
    inside = (side >= edges[0]) & (side <= edges[-1])
    if not inside.any():
        raise ValueError(f"no truth of {len(side)} has a side from {edges[0]:g} to {edges[-1]:g} px")
    place = np.minimum(np.searchsorted(edges, side[inside], side="right") - 1, len(edges) - 2)
    n = np.bincount(place, minlength=len(edges) - 1)
    held = np.flatnonzero(n)
    rows = []
    for stage, values in counts.items():
        given = np.asarray(values, np.float64)
        if given.shape != side.shape:
            raise ValueError(f"{stage} {given.shape} and side {side.shape} must be equally long vectors")
        columns = {"side_min": edges[:-1], "side_max": edges[1:], "n": n}
        columns |= {name: _means(place, v[inside], n) for name, v in (("side", side), ("matched", given))}
        columns["normalised"] = _over(columns["matched"], columns["matched"][held].mean())
        rows += [{"boxes": stage, **{name: column[b].item() for name, column in columns.items()}} for b in held]
    return rows


def evenness_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How evenly matches are spread over scale, one row per stage of `matched_rows`.

    Returns rows {boxes, truths, bins, per_truth, per_bin, variation}: per_truth is the mean over truths, per_bin that
    over the bins that hold one, variation the standard deviation (n) over these bins, divided by per_bin; 0 is even.
    """
    found = []
    for stage, some in groupby(rows, lambda row: row["boxes"]):
        n, matched = np.array([(row["n"], row["matched"]) for row in some], np.float64).T
        about = {"boxes": stage, "truths": int(n.sum()), "bins": len(n)}
        means = {"per_truth": float(n @ matched / n.sum()), "per_bin": float(matched.mean())}
        found.append({**about, **means, "variation": float(_over(matched, matched.mean()).std())})
    return found


def _sides(side: ArrayLike, bins: int) -> np.ndarray:
    """The sides (G,), when there are some to make bins of."""
    side = np.asarray(side, np.float64)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if not len(side) or not (np.isfinite(side) & (side >= 0)).all() or not side.any():
        raise ValueError(f"bins of scale need truths with finite sides above 0, got {len(side)} truths")
    return side


def _means(place: np.ndarray, values: np.ndarray, n: np.ndarray) -> np.ndarray:
    """(B,) means of values by their bin; 0 for an empty one."""
    return np.bincount(place, values, len(n)) / np.maximum(n, 1)


def _over(values: np.ndarray, mean: float) -> np.ndarray:
    """Values over their mean; NaN where that is 0."""
    return values / mean if mean > 0 else np.full(len(values), math.nan)
