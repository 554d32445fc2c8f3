"""One self-contained HTML page of everything in a results folder.

It answers one question per profile: does the detector know how good its boxes are? The numbers are those of the run
folders, with their definition beside them and their trace below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qrepro.metrics.calibration import calibration_rows
from qrepro.metrics.detection_sets import run_sets
from qrepro.metrics.lrp import lrp_rows
from qrepro.metrics.oracle import alpha_rows
from qrepro.metrics.pairs import correlation_study, positive_pairs
from qrepro.metrics.summary import by_recipe, mean_metrics, summary_rows
from qrepro.papers.tables import VOC_NOTE
from qrepro.records.rows import readable
from qrepro.records.run_folder import POSITIVES, RunFolder, find_runs
from qrepro.report import html
from qrepro.report.figures import (
    candidate_clouds,
    diagrams,
    estimate_clouds,
    histograms,
    losses,
    scales,
    score_clouds,
    sweeps,
    thresholds,
)
from qrepro.report.papers import claims_section, tables_section

QUESTION = "Does the detector know how good its boxes are?"
TOGETHER = 4  # recipes in one figure
SHOWN_METRICS = ["AP", *(f"AP{t}" for t in range(50, 100, 5)), "APS", "APM", "APL", "AR1", "AR10", "AR100", "n_classes"]
DEFINITIONS = [
    ("AP", "COCO average precision in percent: mean over IoU thresholds 0.50, 0.55 … 0.95, 101 recalls and the classes "
     "that have ground truth (n_classes). AP50 … AP95: at one threshold. APS, APM, APL: ground truths of area below "
     "32², up to 96², above 96² square pixels. At most 100 detections per image; crowds and difficult objects "
     "count neither way."),
    ("mAP", VOC_NOTE),
    ("p, u, α", "p: class score. u: the detector's estimate of the IoU of its box. Rule “power-α” ranks by "
     "p^α·u^(1-α), “product” by p·u, “class” by p alone (α = 1)."),
    ("Oracle", "The same network pass ranked with IoU_truth in the place of u. What it gains over the best own "
     "estimate is what a perfect estimate would still be worth."),
    ("IoU_truth", "For a box: its largest IoU with any ground truth of the image, whatever the class. The oracle's."),
    ("IoU_eval", "For a detection: its largest IoU with a ground truth of its own class; never above IoU_truth. A "
     "well-placed box of the wrong class has a high IoU_truth and a low IoU_eval."),
    ("PCC (r)", "Pearson correlation of u, or of a score of the true class, and the IoU of the decoded box with its "
     "assigned ground truth, over the positive locations of the training assigner on the evaluation images. ρ is "
     "Spearman's rank correlation."),
    ("Bias, slope", "Bias: mean u minus mean IoU, positive for an overconfident detector. Slope: of the "
     "least-squares line of IoU over u, 1 when calibrated."),
    ("Concordance", "Lin's coefficient 2 cov(u, IoU) / (var u + var IoU + (mean u - mean IoU)²): 1 only where u is the "
     "IoU itself. Brackets: intervals of 95 %, clustered by image."),
    ("D-ECE", "Share-weighted mean over 10 bins of score of |mean score - precision|, score from 0.3, true positive "
     "from IoU 0.5, detections pooled (Küppers et al. 2020, settings of Kuzucu et al. 2024)."),
    ("LaECE, LaECE0, LaACE0", "|mean score - precision × mean IoU| over 25 bins with true positives from IoU 0.1 "
     "(Oksuz et al. 2023); |mean score - mean IoU| over 25 bins with any overlap; the same with a bin a detection "
     "(Kuzucu et al. 2024). Mean over classes with detections, all scores."),
    ("oLRP", "Lowest LRP over score thresholds, mean over classes; LRP is the mean of (1 - IoU) / 0.5 over true "
     "positives and 1 over false positives and negatives. loc: mean 1 - IoU, fp: 1 - precision, fn: 1 - recall there "
     "(Oksuz et al. 2018). 0 is perfect."),
    ("±", "Standard deviation over seeds (n - 1)."),
]  # fmt: skip


def build_report(root: str | Path, out: str | Path) -> Path:
    """Write the page and return its path.

    Args:
        root: Results folder with run folders anywhere below it, regenerated tables in `tables/` and claims in
            `claims/`.
        out: An .html file, or a folder to put index.html in.
    """
    root, out = Path(root), Path(out)
    runs = find_runs(root)
    out = out if out.suffix == ".html" else out / "index.html"
    profiles = {name: list(some) for name, some in groupby(sorted(runs, key=lambda r: r.profile), lambda r: r.profile)}
    claims, claimed, verdicts = claims_section(root / "claims")
    tables, tabled, settings = tables_section(root / "tables")
    sections = [claims, *(_profile_section(name, some) for name, some in profiles.items()), tables]
    links = [("claims", "Claims")] if claims else []
    links += [(f"profile-{name}", name) for name in profiles] + ([("tables", "Tables")] if tables else [])
    filters = {
        "paper": sorted({*claimed, *tabled, *(paper_of(run) for run in runs)}),
        "profile": sorted({*profiles, *settings}),
        "verdict": verdicts,
    }
    sections.append(html.section("definitions", "Definitions", [html.definitions(DEFINITIONS)]))
    sections.append(html.section("trace", "Trace", [html.table(pd.DataFrame(trace_rows(runs)))]))
    links += [("definitions", "Definitions"), ("trace", "Trace")]
    counts = {"run": len(runs), "recipe": len({run.recipe for run in runs}), "profile": len(profiles)}
    lead = "{} of {} in {}.".format(*(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items()))
    if not runs:
        lead = "There are no runs in this results folder yet."
    out.parent.mkdir(parents=True, exist_ok=True)
    foot = (
        "Made by qrepro from the files in its results folder; every number is traced to recipe hash, commit and seed."
    )
    out.write_text(html.page(QUESTION, lead, links, sections, foot, filters), encoding="utf-8")
    return out


def trace_rows(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Where every number comes from: one row per run, recipe and seed to commit, hash and number of images."""
    rows = []
    for run in runs:
        metrics = run.metrics if run.evaluated else {}
        row = {"recipe": run.recipe, "profile": run.profile, "seed": str(run.seed)}
        row |= {"split": metrics.get("split", "not evaluated"), "images": metrics.get("images", "")}
        row |= {name: run.card.get(name, "") for name in ("steps", "parameters", "hash", "commit", "created")}
        row["overrides"] = " ".join(map(str, run.card.get("overrides", [])))
        row["versions"] = ", ".join(f"{name} {version}" for name, version in run.card.get("versions", {}).items())
        row["engine"] = metrics.get("engine", "")
        rows.append(row)
    return rows


def _profile_section(profile: str, runs: Sequence[RunFolder]) -> str:
    """Everything about one profile."""
    evaluated = [run for run in runs if run.evaluated]
    waiting = [run.name for run in runs if not run.evaluated]
    rows = summary_rows(evaluated)
    parts = []
    if rows:
        tags = [{"paper": row["recipe"].split("/")[0]} for row in rows]
        parts += [_headline(rows), html.subheading("Recipes"), html.table(_summary_frame(rows), tags)]
        parts.append(
            html.note(
                "AP in percent, mean ± standard deviation over seeds. Class score: ranked by p. Own estimate and "
                "oracle: the best of the rules evaluated, chosen on this split. Captured: share of the oracle's gain "
                "that the own estimate reaches. PCC: Pearson correlation, over positives, of the true IoU with the "
                "estimate, and with the score of the true class by the recipe's own rule; bias: mean error of the "
                "estimate."
            )
        )
        recipes = by_recipe(evaluated)
        papers = {paper: list(some) for paper, some in groupby(evaluated, paper_of)}
        if len(recipes) <= TOGETHER or len(papers) == 1:
            parts += _figures(evaluated)
        else:  # too many for one figure; a paper's detectors are compared with each other
            for paper, some in papers.items():
                parts.append(html.details(f"Figures of {paper}", _figures(some), tags={"paper": paper}))
        parts += [html.subheading("AP by scoring rule")]
        opened = len(recipes) <= 3
        for name, some in recipes.items():
            parts.append(html.details(name, _rules(some), opened=opened, tags={"paper": paper_of(some[0])}))
    logged = [run for run in runs if run.has_log]
    if logged:
        parts += [html.subheading("Training")]
        for paper, group in groupby(logged, paper_of):
            drawn = [html.figure(plot, wide=True) for plot in losses(list(group))]
            parts.append(html.group(drawn, {"paper": paper}))
    if waiting:
        parts.append(html.note(f"Not evaluated: {', '.join(waiting)}."))
    return html.section(f"profile-{profile}", f"Profile {profile}", parts, {"profile": profile})


def paper_of(run: RunFolder) -> str:
    """The paper that a run's recipe belongs to: the folder of the recipe."""
    return run.recipe.split("/")[0]


def _headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """Baseline AP, AP with the estimate, oracle AP and PCC of the recipe whose own estimate ranks best."""
    aware = [row for row in rows if row["estimate"]]
    plain = [row for row in rows if not row["estimate"] and row["class"]]
    if not aware:
        best = max(rows, key=lambda row: _mean(row["class"]))
        return html.cards([("Baseline AP", _spread(best["class"]), f"{best['recipe']}, class score", "plain")])
    best = max(aware, key=lambda row: _mean(row["estimate"]))
    paper = [row for row in plain if row["recipe"].split("/")[0] == best["recipe"].split("/")[0]]
    baseline = max(paper or plain or [best], key=lambda row: _mean(row["class"]))
    items = [
        ("Baseline AP", _spread(baseline["class"]), f"{baseline['recipe']}, class score", "plain"),
        ("AP with the own estimate", _spread(best["estimate"]), f"{best['recipe']}, {best['estimate_rule']}", ""),
        ("Oracle AP", _spread(best["oracle"]), f"same network, {best['oracle_rule'] or 'not evaluated'}", "warm"),
        ("PCC of estimate and IoU", _spread(best["pcc"], 3), f"{best['recipe']}, all positives", ""),
    ]
    return html.cards(items)


def _summary_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The summary as text, one line per recipe."""
    return pd.DataFrame(
        {
            "recipe": row["recipe"],
            "seeds": str(len(row["seeds"])),
            "AP class score": _spread(row["class"]),
            "AP own estimate": _spread(row["estimate"]),
            "rule": row["estimate_rule"],
            "AP oracle": _spread(row["oracle"]),
            "oracle rule": row["oracle_rule"],
            "captured": "" if math.isnan(row["captured"]) else f"{100 * row['captured']:.0f}%",
            "PCC estimate": _spread(row["pcc"], 3),
            "PCC score": _spread(row["pcc_score"], 3),
            "bias": _spread(row["bias"], 3),
        }
        for row in rows
    )


def _figures(runs: Sequence[RunFolder]) -> list[str]:
    """Score against IoU, AP against alpha, estimate against IoU, calibration, labels."""
    parts = [html.subheading("Do scores follow IoU?")]
    parts += [html.figure(plot, "png", "Confidence against IoU_eval", wide=True) for plot in score_clouds(runs)]
    before = [html.figure(plot, "png", "Quality against class score", wide=True) for plot in candidate_clouds(runs)]
    if before:
        parts += [html.subheading("And before NMS?"), *before]
    swept = [html.figure(plot, heading=f"AP against alpha of {recipe}") for recipe, plot in sweeps(runs).items()]
    parts += [html.subheading("What is the estimate worth, and a perfect one?")]
    parts.append(html.beside([*swept, html.figure(thresholds(runs), heading="AP at each IoU threshold")]))
    clouds = [html.figure(plot, "png", "Estimate against true IoU", wide=True) for plot in estimate_clouds(runs)]
    if clouds:
        known = [run for run in runs if run.has(POSITIVES)]
        study = [row for run in known for row in correlation_study(positive_pairs(run))]
        parts += [html.subheading("Is the estimate right?"), *clouds, *_table(study)]
        parts.append(html.note("Over positives, one row per band of true IoU, both ends included."))
    drawn = [html.figure(plot, heading="Labels and targets of the positives") for plot in histograms(runs)]
    drawn += [html.figure(plot, heading="Positives against the scale of the ground truth") for plot in scales(runs)]
    if drawn:
        parts += [html.subheading("What is it taught?"), html.beside(drawn)]
    return [*parts, *_errors(runs)]


def _errors(runs: Sequence[RunFolder]) -> list[str]:
    """Calibration of the recipes' own rankings, and the parts of their error."""
    calibrated: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for found in run_sets([run for run in runs if run.rule in run.rules]):
        about = {"run": found.name, "rule": found.rule}
        calibrated += [{**about, **row} for row in calibration_rows(found.ground_truth, found.detections)]
        errors.append({**about, **lrp_rows(found.ground_truth, found.detections)[-1]})
    if not errors:
        return []
    figures = [html.figure(plot, heading="Reliability", wide=True) for plot in diagrams(runs)]
    shown = [name for name in errors[0] if name not in ("category_id", "class", "threshold")]
    return [
        html.subheading("Is the score calibrated?"),
        *figures,
        *_table(calibrated),
        html.subheading("What are the errors?"),
        *_table([{name: row[name] for name in shown} for row in errors]),
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of an analysis, and below them what is the same in all."""
    varying, same = readable(rows, 3)
    return [html.table(pd.DataFrame(varying)), *([html.note(f"All rows: {same}.")] if same else [])]


def _rules(runs: Sequence[RunFolder]) -> list[str]:
    """AP of every rule of one recipe: mean over seeds, then each seed behind a line."""
    parts = [_rule_table(mean_metrics(runs))]
    if len(runs) > 1:
        parts.insert(0, html.note(f"Mean of {len(runs)} seeds."))
        parts += [html.details(f"Seed {run.seed}", [_rule_table(run.metrics["rules"])]) for run in runs]
    return parts


def _rule_table(rules: Mapping[str, Mapping[str, Any]]) -> str:
    """AP family of every rule as a table."""
    frame = pd.DataFrame(alpha_rows(rules))
    return html.table(frame[[name for name in ["rule", *SHOWN_METRICS] if name in frame]])


def _mean(values: Sequence[float]) -> float:
    """Mean, and -inf for none, so that a maximum skips it."""
    return float(np.mean(values)) if len(values) and not np.isnan(values).any() else -math.inf


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation over seeds as text."""
    if not len(values) or np.isnan(values).any():
        return "–"
    text = f"{np.mean(values):.{digits}f}"
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text
