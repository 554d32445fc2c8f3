"""What is reported of evaluations: the AP families of every scoring rule, and runs side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from qrepro.metrics.coco_ap import ap_metrics, choose_engine, class_metrics, evaluate_ap
from qrepro.metrics.correlation import correlation_rows
from qrepro.metrics.oracle import alpha_rows, best_rows, oracle_gain
from qrepro.metrics.voc_ap import voc_rows
from qrepro.records.ground_truth import GroundTruth
from qrepro.records.run_folder import POSITIVES, RunFolder
from qrepro.records.score_rule import fused_scores


def summarise(
    ground_truth: GroundTruth,
    detections: Iterable[tuple[str, pd.DataFrame]],
    engine: str | None = None,
    voc: bool = False,
) -> dict[str, Any]:
    """Metrics in percent of detection sets by rule: {engine, rules, classes, voc}, as `metrics.json` holds them.

    Args:
        ground_truth: Ground truth of the split.
        detections: (rule, frame) pairs, read one at a time.
        engine: As for `choose_engine`.
        voc: Whether PASCAL's metrics are wanted too.

    Returns:
        A mapping with
            engine: name of the engine;
            rules: {rule: AP, AP50, AP55 ... AP95, APS, APM, APL, AR...};
            classes: {rule: rows per category};
            voc: {rule: rows per interpolation of `qrepro.metrics.voc_ap.voc_rows`}, with PASSD's sizes.
    """
    summary: dict[str, Any] = {"engine": choose_engine(engine), "rules": {}, "classes": {}, "voc": {}}
    for rule, frame in detections:
        result = evaluate_ap(ground_truth, frame, engine=summary["engine"])
        summary["rules"][rule] = ap_metrics(result)
        summary["classes"][rule] = class_metrics(result)
        if voc:
            summary["voc"][rule] = voc_rows(ground_truth, frame)
    return summary


def headline_rows(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """For a terminal, one row per run: {detector, AP, AP75 by class score; best own rule; best oracle rule; PCCs}."""
    rows = []
    for run in runs:
        rules = run.metrics["rules"]
        best = {row["source"]: row["rule"] for row in best_rows(alpha_rows(rules))}
        row: dict[str, Any] = {"detector": run.recipe, "profile": run.profile}
        for source, label in (("class score", "class score"), ("predicted", "own estimate"), ("oracle", "true IoU")):
            rule = best.get(source)
            row[f"AP {label}"] = rules[rule]["AP"] if rule else math.nan
            if source != "class score":
                row[f"{label} by"] = rule or "-"
        estimate = _positives(run)["pearson"] if has_estimate(run) else math.nan
        for label, value in (("estimate", estimate), ("score", score_correlation(run, run.rule))):
            row[f"PCC {label}"] = f"{value:.3f}" if not math.isnan(value) else "-"
        rows.append(row)
    return rows


def mean_metrics(runs: Sequence[RunFolder]) -> dict[str, dict[str, float]]:
    """Metrics per rule, mean over the runs of one recipe and profile; only rules and metrics that all of them have."""
    every = [run.metrics["rules"] for run in runs]
    rules = [rule for rule in every[0] if all(rule in some for some in every)] if every else []
    means: dict[str, dict[str, float]] = {}
    for rule in rules:
        names = [
            n for n, v in every[0][rule].items() if isinstance(v, int | float) and all(n in e[rule] for e in every)
        ]
        means[rule] = {name: float(np.mean([some[rule][name] for some in every])) for name in names}
    return means


def summary_rows(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """One row per recipe of one profile's evaluated runs: the headline numbers.

    Args:
        runs: Runs of one profile; those that were not evaluated are left out.

    Returns:
        One row per recipe, with
            recipe, seeds: the recipe and the seeds of its runs;
            class, estimate, oracle: lists of AP in percent, one per seed, of the class score, the best rule with the
                own estimate and the best oracle rule (best by the mean over seeds; empty where there is none);
            estimate_rule, oracle_rule: names of these two rules, "" for none;
            captured: share of the oracle's gain over the class score that the estimate reaches;
            pcc, bias: of the estimate, lists over seeds, of all positives;
            pcc_score: of the score of the true class by the recipe's own rule, a list over seeds, of all positives.
    """
    rows = []
    for recipe, some in by_recipe([run for run in runs if run.evaluated]).items():
        swept = alpha_rows(mean_metrics(some))
        best = {row["source"]: row["rule"] for row in best_rows(swept)}
        names = [best.get(source) for source in ("class score", "predicted", "oracle")]
        values = [[run.metrics["rules"][name]["AP"] for run in some] if name else [] for name in names]
        positives = [_positives(run) for run in some if has_estimate(run)]
        rows.append(
            {
                "recipe": recipe,
                "seeds": [run.seed for run in some],
                "class": values[0],
                "estimate": values[1],
                "estimate_rule": names[1] or "",
                "oracle": values[2],
                "oracle_rule": names[2] or "",
                "captured": oracle_gain(swept)["captured"],
                "pcc": [row["pearson"] for row in positives],
                "pcc_score": [score_correlation(run, run.rule) for run in some],
                "bias": [row["bias"] for row in positives],
            }
        )
    return rows


def _positives(run: RunFolder) -> dict[str, Any]:
    """Pearson correlation and bias of the estimate over all positives."""
    (row,) = correlation_rows(*estimates(run), [(0.0, 1.0)], statistics=("pearson", "bias"), intervals=False)
    return row


def score_correlation(run: RunFolder, rule: str) -> float:
    """Pearson correlation, over all positives, of the score of the true class by a rule with the true IoU.

    Undefined for a run without stored positives, or without the estimate that the rule needs.
    """
    if not run.has(POSITIVES) or np.isnan(score := fused_scores(run.positives, rule)).any():
        return math.nan
    pairs = score, run.positives["iou"]
    (row,) = correlation_rows(*pairs, [(0.0, 1.0)], statistics=("pearson",), intervals=False)
    return float(row["pearson"])


def by_recipe(runs: Sequence[RunFolder]) -> dict[str, list[RunFolder]]:
    """Runs of one profile by recipe, in their order."""
    groups: dict[str, list[RunFolder]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return groups


def has_estimate(run: RunFolder) -> bool:
    """Whether the run has positives with an estimate of quality."""
    return run.has(POSITIVES) and bool(run.positives["quality"].notna().any())


def estimates(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """(N,) estimated and (N,) true IoU of the positives."""
    return run.positives["quality"].to_numpy(np.float64), run.positives["iou"].to_numpy(np.float64)
