"""The oracle question: what would perfect knowledge of one output be worth?

Each scoring rule ranks the same network pass: by class score p alone, by p u, or by p^alpha u^(1-alpha) (IoU-aware
RetinaNet, arXiv 1912.05992, eq. 7), where u is the estimate of the detector or, for the oracle of its table 6, the true
IoU. The oracles of VFNet (arXiv 2008.13367, table 1) replace centerness, box or class score in the same way. All act
before NMS. Detections that have been through NMS can only be ranked again: an upper bound for their order, since what
was suppressed does not come back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from qrepro.metrics.iou import iou_eval, iou_truth
from qrepro.records.ground_truth import Truths

BASELINE = "class"
_NAME = re.compile(
    r"(?:oracle(?:-(?P<what>iou|centerness|box|class_iou|class))?(?:@(?P<where>nearest|positives))?(?P<zero>\+zero)?"
    r"(?P<oracle>-))?(?P<kind>class|product|power)(?:-(?P<alpha>\d*\.?\d+))?"
)


class Rule(NamedTuple):
    """A scoring rule by its name.

    kind: "class" (p), "product" (p u) or "power" (p^alpha u^(1-alpha)).
    alpha: exponent of the class score; 1 for class, nan for product, which ranks as alpha = 0.5 does.
    oracle: whether truth takes the place of an output.
    truth: of which and where: "" for none, "iou" for the true IoU as quality everywhere, else `<what>@<where>` with
        "+zero" where everything that is not overwritten scores 0.
    """

    kind: str
    alpha: float
    oracle: bool
    truth: str


def parse_rule(name: str) -> Rule:
    """The rule behind a name as `qrepro eval --rule` takes it: class, product, power-A, each also behind an oracle."""
    found = _NAME.fullmatch(name)
    alpha = float(found["alpha"]) if found and found["alpha"] else math.nan
    if not found or (found["kind"] == "power") != (0 <= alpha <= 1):
        raise ValueError(
            f"scoring rule {name!r} is not one of class, product, power-A with A in [0, 1], "
            "each also behind oracle[-WHAT][@WHERE][+zero]-"
        )
    what = found["what"] or "iou"
    where = found["where"] or ("nearest" if what == "iou" else "positives")
    if not found["oracle"]:
        truth = ""
    elif (what, where, found["zero"]) == ("iou", "nearest", None):
        truth = "iou"
    else:
        truth = f"{what}@{where}{found['zero'] or ''}"
    if found["kind"] == "class" and what in ("iou", "centerness") and truth:
        raise ValueError(f"scoring rule {name!r}: the class score alone has no quality to replace")
    return Rule(found["kind"], 1.0 if found["kind"] == "class" else alpha, bool(truth), truth)


def same_rule(names: Iterable[str], rule: str) -> str | None:
    """The name among some that has the meaning of a rule: power-1 and power-1.0 are one; None where there is none."""
    meant = repr(parse_rule(rule))
    return next((name for name in names if repr(parse_rule(name)) == meant), None)


def fused(boxes: pd.DataFrame, rule: str) -> pd.Series:
    """Scores (N,) of boxes with class_score and quality by a rule without an oracle; nan where a quality is missing."""
    meant = parse_rule(rule)
    if meant.oracle:
        raise ValueError(f"scoring rule {rule!r}: an oracle's score is not a prediction")
    p, u = boxes["class_score"], boxes["quality"]
    if meant.kind == "class":
        return p
    return p * u if meant.kind == "product" else p**meant.alpha * u ** (1 - meant.alpha)


def reranked(
    truths: Truths, detections: pd.DataFrame, alphas: Sequence[float] = ()
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Detections after NMS, ranked anew by what is true of them: ({rule, alpha, truth, stage}, frame).

    As scored; by IoU_eval alone (largest IoU with a truth of the own class) and by IoU_truth alone (with any truth); by
    score^alpha IoU^(1-alpha) of both; and, where every detection has `class_score` and `quality`, by
    class_score^alpha quality^(1-alpha). It bounds what a better order of these detections would give, no more: NMS has
    gone before, and duplicates that it left rank as high as the box they repeat.
    """
    score = detections["score"].to_numpy(np.float64)
    if len(score) and not (0 <= score.min() and score.max() <= 1):
        raise ValueError(f"scores lie in [{score.min():g}, {score.max():g}]; a product with the IoU needs [0, 1]")
    stage = {"stage": "post-NMS"}
    yield {"rule": "as scored", "alpha": 1.0, "truth": "", **stage}, detections
    own = detections.reindex(columns=["class_score", "quality"]).to_numpy(np.float64)
    if len(own) and not np.isnan(own).any():
        for alpha in alphas:
            ranked = own[:, 0] ** alpha * own[:, 1] ** (1 - alpha)
            yield {"rule": f"power-{alpha:g}", "alpha": alpha, "truth": "", **stage}, detections.assign(score=ranked)
    for name, iou in (("iou_eval", iou_eval(truths, detections)), ("iou_truth", iou_truth(truths, detections))):
        for alpha in (0.0, *alphas):
            rule = f"{name}-power-{alpha:g}" if alpha else name
            ranked = score**alpha * iou ** (1 - alpha)
            yield {"rule": rule, "alpha": alpha, "truth": name, **stage}, detections.assign(score=ranked)


def alpha_rows(rules: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per rule, {rule, kind, alpha, oracle, truth, <metrics>}, in the order of the paper's tables.

    rules: metrics in percent by name of the rule, as in metrics.json.
    Returns class, product and falling alpha with the estimate, then the same with the true IoU, then other oracles.
    """
    rows = [{"rule": name, **parse_rule(name)._asdict(), **metrics} for name, metrics in rules.items()]
    order = {"class": 0, "product": 1, "power": 2}
    return sorted(
        rows,
        key=lambda row: (
            row["oracle"],
            row["truth"] != "iou",
            row["truth"],
            order[row["kind"]],
            -row["alpha"] if row["alpha"] >= 0 else 0,
        ),
    )


def best_rows(rows: Sequence[Mapping[str, Any]], metric: str = "AP") -> list[dict[str, Any]]:
    """The best rule of each source: {source, rule, alpha, <metric>, gain_over_baseline}, in percent points.

    rows: of `alpha_rows`. Sources, those present: "class score" (the baseline: the same network without its
    estimate), "predicted", "oracle" (the true IoU as quality; other oracles are left out). Alpha is chosen on the split
    it is reported on, as in the paper. gain_over_baseline is nan without a row of rule "class".
    """
    groups: dict[str, list[Mapping[str, Any]]] = {"class score": [], "predicted": [], "oracle": []}
    for row in rows:
        if row["truth"] not in ("", "iou"):
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

    rows: of `alpha_rows`.
    over_baseline: best oracle rule minus class score; over_predicted: minus the best rule with the own estimate;
    captured: share of over_baseline that the own estimate reaches, in [.., 1]; nan where over_baseline is not positive.
    """
    best = {row["source"]: row[metric] for row in best_rows(rows, metric)}
    oracle, predicted, baseline = (best.get(name, math.nan) for name in ("oracle", "predicted", "class score"))
    over_baseline = oracle - baseline
    captured = (predicted - baseline) / over_baseline if over_baseline > 0 else math.nan
    return {"over_baseline": over_baseline, "over_predicted": oracle - predicted, "captured": captured}
