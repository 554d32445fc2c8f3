"""What would perfect knowledge of one output be worth? Tables over score rules, and detections ranked again.

Each score rule ranks the same network pass: by class score p alone, by p u, or by p^alpha u^(1-alpha) (IoU-aware
RetinaNet, arXiv 1912.05992, eq. 7), where u is the estimate of the detector or, for the oracle of its table 6, the true
IoU. The oracles of VFNet (arXiv 2008.13367, table 1) replace centerness, box or class score in the same way. All act
before NMS. Detections that have been through NMS can only be ranked again: an upper bound for their order, since what
was suppressed does not come back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from qrepro.metrics.coco_ap import ap_metrics, evaluate_ap
from qrepro.metrics.iou import iou_eval, iou_truth
from qrepro.records.ground_truth import GroundTruth
from qrepro.records.score_rule import FUSIONS, Fusion, Oracle, Power, Rule

BASELINE = "class"
KINDS = tuple(FUSIONS)
IOU_TRUTH = Oracle()  # the true IoU as quality, wherever a box overlaps a ground truth


def reranked(
    ground_truth: GroundTruth, detections: pd.DataFrame, alphas: Sequence[float] = ()
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Detections after NMS, ranked anew by what is true of them.

    As scored; by IoU_eval alone (largest IoU with a ground truth of the same class) and by IoU_truth alone (with any
    ground truth); by score^alpha IoU^(1-alpha) of both; and, where every detection has `class_score` and `quality`, by
    class_score^alpha quality^(1-alpha). It bounds what a better order of these detections would give, no more: NMS has
    gone before, and duplicates that it left rank as high as the box they repeat.

    Args:
        ground_truth: Ground truth of the split.
        detections: Frame with image_id, category_id, x1, y1, x2, y2 and score in [0, 1].
        alphas: Exponents of the score, in [0, 1].

    Yields:
        ({rule, alpha, replaced, stage}, the detections with the new score).

    Raises:
        ValueError: A score outside [0, 1], for which a product with the IoU has no meaning.
    """
    score = detections["score"].to_numpy(np.float64)
    if len(score) and not (0 <= score.min() and score.max() <= 1):
        raise ValueError(f"scores lie in [{score.min():g}, {score.max():g}]; a product with the IoU needs [0, 1]")
    stage = {"stage": "post-NMS"}
    yield {"rule": "as scored", "alpha": 1.0, "replaced": "", **stage}, detections
    predicted = detections.reindex(columns=["class_score", "quality"])
    if len(predicted) and not predicted.isna().to_numpy().any():
        for alpha in alphas:
            rule = Rule(Power(alpha))
            ranked = rule.score(predicted["class_score"], predicted["quality"])
            yield {"rule": rule.name, "alpha": alpha, "replaced": "", **stage}, detections.assign(score=ranked)
    for name, iou in (
        ("iou_eval", iou_eval(ground_truth, detections)),
        ("iou_truth", iou_truth(ground_truth, detections)),
    ):
        for alpha in (0.0, *alphas):
            rule = Rule(Power(alpha))
            label = f"{name}-{rule.name}" if alpha else name
            ranked = rule.score(score, iou)
            yield {"rule": label, "alpha": alpha, "replaced": name, **stage}, detections.assign(score=ranked)


def reranked_rows(
    ground_truth: GroundTruth, detections: pd.DataFrame, alphas: Sequence[float] = (), engine: str | None = None
) -> list[dict[str, Any]]:
    """The AP family in percent of detections after NMS, ranked anew: one row for each of `reranked`."""
    return [
        {**about, **ap_metrics(evaluate_ap(ground_truth, frame, engine=engine))}
        for about, frame in reranked(ground_truth, detections, alphas)
    ]


def alpha_rows(rules: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per rule, in the order of the paper's tables.

    Args:
        rules: Metrics in percent by name of the rule, as in metrics.json.

    Returns:
        Rows {rule, kind, alpha, oracle, replaced, <metrics>}: class, product and falling alpha with the estimate, then
        the same with the true IoU, then other oracles; with
            alpha: exponent of the class score, 1 for the class score alone, NaN for a rule without one;
            oracle: whether ground truth takes the place of an output;
            replaced: which and where, "" for none, "iou" for the true IoU as quality everywhere, else `<what>@<where>`
                with "+zero" where everything that is not replaced scores 0.
    """
    rows = []
    for name, metrics in rules.items():
        rule = Rule.parse(name)
        about = {"kind": rule.kind, "alpha": _alpha(rule.fusion), "oracle": rule.oracle is not None}
        rows.append({"rule": name, **about, "replaced": _replaced(rule.oracle), **metrics})
    return sorted(rows, key=_position)


def _position(row: Mapping[str, Any]) -> tuple[bool, bool, str, int, float]:
    """Where a row of `alpha_rows` stands."""
    kind = KINDS.index(row["kind"]) if row["kind"] in KINDS else len(KINDS)
    return row["oracle"], row["replaced"] != "iou", row["replaced"], kind, -row["alpha"] if row["alpha"] >= 0 else 0.0


def _alpha(fusion: Fusion) -> float:
    """Exponent of the class score; NaN for a fusion that has no such exponent beside that of the quality."""
    return float(getattr(fusion, "alpha", math.nan if fusion.uses_quality else 1.0))


def _replaced(oracle: Oracle | None) -> str:
    """What ground truth replaces, and where; empty without an oracle."""
    if oracle is None or oracle == IOU_TRUTH:
        return "iou" if oracle else ""
    return f"{oracle.what}@{oracle.where}{'+zero' if oracle.others == 'zero' else ''}"


def best_rows(rows: Sequence[Mapping[str, Any]], metric: str = "AP") -> list[dict[str, Any]]:
    """The best rule of each source: {source, rule, alpha, <metric>, gain_over_baseline}, in percent points.

    Alpha is chosen on the split it is reported on, as in the paper.

    Args:
        rows: Rows of `alpha_rows`.
        metric: Metric by which a rule is the best.

    Returns:
        One row per source that is present: "class score" (the baseline: the same network without its estimate),
        "predicted", "oracle" (the true IoU as quality; other oracles are left out). gain_over_baseline is nan without a
        row of rule "class".
    """
    groups: dict[str, list[Mapping[str, Any]]] = {"class score": [], "predicted": [], "oracle": []}
    for row in rows:
        if row["replaced"] not in ("", "iou"):
            continue
        source = "oracle" if row["oracle"] else "class score" if row["rule"] == BASELINE else "predicted"
        if not math.isnan(row[metric]):
            groups[source].append(row)
    best = {source: max(group, key=lambda row: row[metric]) for source, group in groups.items() if group}
    baseline = best["class score"][metric] if "class score" in best else math.nan
    return [
        {
            "source": source,
            "rule": row["rule"],
            "alpha": row["alpha"],
            metric: row[metric],
            "gain_over_baseline": row[metric] - baseline,
        }
        for source, row in best.items()
    ]


def oracle_gain(rows: Sequence[Mapping[str, Any]], metric: str = "AP") -> dict[str, float]:
    """What perfect knowledge of IoU is worth, in percent points of `metric`; nan where a side is missing.

    Args:
        rows: Rows of `alpha_rows`.
        metric: Metric by which a rule is the best.

    Returns:
        Numbers by name:
            over_baseline: best oracle rule minus class score;
            over_predicted: best oracle rule minus the best rule with the own estimate;
            captured: share of over_baseline that the own estimate reaches, at most 1 unless it beats the oracle; nan
                where over_baseline is not positive.
    """
    best = {row["source"]: row[metric] for row in best_rows(rows, metric)}
    oracle, predicted, baseline = (best.get(name, math.nan) for name in ("oracle", "predicted", "class score"))
    over_baseline = oracle - baseline
    captured = (predicted - baseline) / over_baseline if over_baseline > 0 else math.nan
    return {"over_baseline": over_baseline, "over_predicted": oracle - predicted, "captured": captured}
