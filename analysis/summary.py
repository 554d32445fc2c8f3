"""Everything that is always reported of an evaluation: the AP families of every scoring rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.ap import ap_metrics, choose_engine, class_metrics, evaluate
from analysis.results import Truths
from analysis.voc import INTERPOLATIONS, evaluate_voc, voc_metrics


def summarise(truths: Truths, detections: Mapping[str, pd.DataFrame], engine: str | None = None) -> dict[str, Any]:
    """Metrics in percent of detection sets by rule: {engine, rules, classes, voc}, as `metrics.json` holds them.

    rules: {rule: AP, AP50, AP55 ... AP95, APS, APM, APL, AR...}; classes: {rule: rows per category};
    voc: {rule: {interpolation: mAP family by PASCAL matching}}.
    """
    engine = choose_engine(engine)
    results = {rule: evaluate(truths, frame, engine=engine) for rule, frame in detections.items()}
    return {
        "engine": engine,
        "rules": {rule: ap_metrics(result) for rule, result in results.items()},
        "classes": {rule: class_metrics(result) for rule, result in results.items()},
        "voc": {
            rule: {kind: voc_metrics(evaluate_voc(truths, frame, interpolation=kind)) for kind in INTERPOLATIONS}
            for rule, frame in detections.items()
        },
    }
