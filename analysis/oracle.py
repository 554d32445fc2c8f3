"""The oracle question of IoU-aware RetinaNet (arXiv 1912.05992, table 6): what would a perfect estimate be worth?

Each scoring rule ranks the same network pass: by class score p alone, by p u, or by p^alpha u^(1-alpha) (eq. 7), where
u is the estimate of the detector or, for the oracle, the true IoU in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

BASELINE = "class"


class Rule(NamedTuple):
    """A scoring rule by its name.

    kind: "class" (p), "product" (p u) or "power" (p^alpha u^(1-alpha)).
    alpha: exponent of the class score; 1 for class, nan for product, which ranks as alpha = 0.5 does.
    oracle: whether u is the true IoU instead of the estimate.
    """

    kind: str
    alpha: float
    oracle: bool


def parse_rule(name: str) -> Rule:
    """The rule behind a name: class, product, power-<alpha>, oracle-product or oracle-power-<alpha>."""
    oracle = name.startswith("oracle-")
    kind, _, exponent = name.removeprefix("oracle-").partition("-")
    if kind == "class" and not exponent and not oracle:
        return Rule("class", 1.0, False)
    if kind == "product" and not exponent:
        return Rule("product", math.nan, oracle)
    try:
        alpha = float(exponent)
    except ValueError:
        alpha = math.nan
    if kind == "power" and 0 <= alpha <= 1:
        return Rule("power", alpha, oracle)
    allowed = "class, product, power-A, oracle-product, oracle-power-A with A in [0, 1]"
    raise ValueError(f"scoring rule {name!r} is not one of {allowed}")


def alpha_rows(rules: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per rule, {rule, kind, alpha, oracle, <metrics>}, in the order of the paper's tables.

    rules: metrics in percent by name of the rule, as in metrics.json.
    Returns class, product and falling alpha with the estimate, then product and falling alpha with the true IoU.
    """
    rows = [{"rule": name, **parse_rule(name)._asdict(), **metrics} for name, metrics in rules.items()]
    order = {"class": 0, "product": 1, "power": 2}
    return sorted(rows, key=lambda row: (row["oracle"], order[row["kind"]], -row["alpha"] if row["alpha"] >= 0 else 0))


def best_rows(rows: Sequence[Mapping[str, Any]], metric: str = "AP") -> list[dict[str, Any]]:
    """The best rule of each source: {source, rule, alpha, <metric>, gain_over_baseline}, in percent points.

    rows: of `alpha_rows`. Sources, those present: "class score" (the baseline: the same network
    without its estimate), "predicted", "oracle". Alpha is chosen
    on the split it is reported on, as in the paper. gain_over_baseline is nan without a row of rule "class".
    """
    groups: dict[str, list[Mapping[str, Any]]] = {"class score": [], "predicted": [], "oracle": []}
    for row in rows:
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
