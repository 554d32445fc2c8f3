"""How well an estimate of localisation quality follows the true IoU.

The Pearson correlation of GFLv2 (arXiv 2011.12885, table 6) and, beside it, what it does not show: rank order, bias
and slope. A high correlation does not imply a high AP, so these rows belong next to an AP table, not in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

BANDS = ((0.0, 1.0), (0.5, 1.0), (0.75, 1.0))


def correlation_rows(
    estimate: ArrayLike, iou: ArrayLike, bands: Sequence[tuple[float, float]] = BANDS
) -> list[dict[str, Any]]:
    """One row per band of true IoU, both ends included.

    estimate, iou: (N,) one aligned pair per box or positive location; iou in [0, 1], estimate usually so.
    Returns rows of
        iou_min, iou_max, n: the band and the number of its pairs;
        pearson, spearman: correlation of values and of ranks (ties share their mean rank); nan for fewer than 2 pairs
            or a constant side;
        mean_estimate, mean_iou: means; nan for no pair;
        bias: mean_estimate - mean_iou, positive for a detector that believes too much;
        slope: of the least-squares line of iou over estimate, 1 for a calibrated estimate; nan as pearson.
    """
    estimate, iou = _aligned(estimate, iou)
    rows = []
    for low, high in bands:
        inside = (iou >= low) & (iou <= high)
        e, t = estimate[inside], iou[inside]
        n = len(e)
        defined = n > 1 and np.ptp(e) > 0 and np.ptp(t) > 0
        mean_estimate, mean_iou = (float(v.mean()) if n else math.nan for v in (e, t))
        rows.append(
            {
                "iou_min": low,
                "iou_max": high,
                "n": n,
                "pearson": float(np.corrcoef(e, t)[0, 1]) if defined else math.nan,
                "spearman": float(np.corrcoef(rankdata(e), rankdata(t))[0, 1]) if defined else math.nan,
                "mean_estimate": mean_estimate,
                "mean_iou": mean_iou,
                "bias": mean_estimate - mean_iou,
                "slope": float(np.cov(e, t)[0, 1] / np.var(e, ddof=1)) if defined else math.nan,
            }
        )
    return rows


def binned_rows(estimate: ArrayLike, iou: ArrayLike, bins: int = 20) -> list[dict[str, Any]]:
    """Mean true IoU per bin of the estimate: one row per bin of equal width over [0, 1] that holds a pair.

    estimate, iou: (N,) aligned pairs; an estimate of exactly 1 belongs to the last bin, one outside [0, 1] to none.
    Returns rows {estimate_min, estimate_max, n, mean_estimate, mean_iou}.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    estimate, iou = _aligned(estimate, iou)
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges, estimate, side="right") - 1
    index[estimate == 1] = bins - 1
    rows = []
    for i in range(bins):
        inside = index == i
        if inside.any():
            means = {"mean_estimate": float(estimate[inside].mean()), "mean_iou": float(iou[inside].mean())}
            limits = {"estimate_min": float(edges[i]), "estimate_max": float(edges[i + 1])}
            rows.append({**limits, "n": int(inside.sum()), **means})
    return rows


def _aligned(estimate: ArrayLike, iou: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as equally long float64 vectors without NaN."""
    estimate, iou = np.asarray(estimate, np.float64), np.asarray(iou, np.float64)
    if estimate.ndim != 1 or estimate.shape != iou.shape:
        raise ValueError(f"estimate {estimate.shape} and iou {iou.shape} must be equally long vectors")
    for name, values in (("estimate", estimate), ("iou", iou)):
        if not np.isfinite(values).all():
            bad = f"{int((~np.isfinite(values)).sum())} of {len(values)}"
            raise ValueError(f"{name} has {bad} values that are not finite; has the detector such an estimate?")
    return estimate, iou
