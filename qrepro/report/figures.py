"""Which figures are drawn of which runs: the clouds, curves, histograms and diagrams of one results folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from qrepro.metrics.calibration import D_ECE, LAECE0, calibration_rows, reliability_rows
from qrepro.metrics.coco_ap import threshold_name
from qrepro.metrics.iou import iou_eval, iou_truth, pair_iou
from qrepro.metrics.matching import COCO_THRESHOLDS
from qrepro.metrics.oracle import BASELINE, alpha_rows
from qrepro.metrics.pairs import candidate_pairs
from qrepro.metrics.positives_by_scale import matched_rows, regular_edges, stage_counts
from qrepro.metrics.summary import by_recipe, estimates, has_estimate, mean_metrics, summary_rows
from qrepro.plots import (
    SAMPLE,
    Plot,
    ap_by_threshold,
    ap_vs_alpha,
    before_and_after,
    class_vs_iou_score,
    estimate_vs_iou,
    iou_gradient,
    label_histograms,
    loss_curves,
    matched_boxes,
    perturbation,
    qfl_curves,
    quality_loss_curves,
    reliability,
    score_vs_iou,
    side_distributions,
    speed_accuracy,
    target_histogram,
    top1_vs_iou,
)
from qrepro.records.ground_truth import BOX
from qrepro.records.run_folder import ASSIGNMENTS, CANDIDATES, POSITIVES, SIDES, RunFolder
from qrepro.records.score_rule import fused_scores

Item = TypeVar("Item")
PANELS = 6  # more scatter panels than this in one figure are too small to read
SHOWN = 0.05  # boxes of a lower score are not drawn


def figures(runs: Sequence[RunFolder], sample: int = SAMPLE, seed: int = 0) -> dict[str, Plot]:
    """Every figure of evaluated runs by file stem, `<profile>/<figure>`; clouds show `sample` points."""
    drawn = {"iou_gradient": iou_gradient(), "qfl_curves": qfl_curves(), "perturbation": perturbation()}
    for profile, group in groupby(sorted(runs, key=lambda run: run.profile), lambda run: run.profile):
        some = list(group)
        for kind, plots in (
            ("score_vs_iou", list(score_clouds(some, sample, seed))),
            ("estimate_vs_iou", list(estimate_clouds(some, sample, seed))),
            ("class_vs_iou_score", list(candidate_clouds(some, sample, seed))),
            ("reliability", list(diagrams(some))),
            ("labels", list(histograms(some))),
            ("matches", list(scales(some))),
            ("top1_vs_iou", list(sharpness(some, sample, seed))),
            ("losses", list(losses(some))),
            ("ap_by_threshold", [thresholds(some)]),
        ):
            drawn |= {f"{profile}/{kind}{f'-{n}' if n else ''}": plot for n, plot in enumerate(plots)}
        for recipe, plot in sweeps(some).items():
            drawn[f"{profile}/ap_vs_alpha-{recipe.replace('/', '-')}"] = plot
    return drawn


def score_clouds(runs: Sequence[RunFolder], sample: int = SAMPLE, seed: int = 0) -> Iterator[Plot]:
    """Confidence against IoU_eval, figures 4a-c of IoU-aware RetinaNet: the baselines, then own estimate and oracle.

    Of each recipe the first seed, by its best rule of each kind. One figure per PANELS panels.
    """
    recipes = by_recipe(runs)
    wanted: list[tuple[RunFolder, str]] = []
    for row in sorted(summary_rows(runs), key=lambda row: bool(row["estimate"])):
        run = recipes[row["recipe"]][0]
        best = [row["estimate_rule"], row["oracle_rule"]] if row["estimate"] else [BASELINE]
        wanted += [(run, rule) for rule in best if rule in run.rules]
    for some in _blocks(wanted):
        panels, lowest = {}, math.inf
        for run, rule in some:
            found = run.detections(rule)
            panels[f"{run.recipe}: {rule}"] = (iou_eval(run.ground_truth, found), found["score"])
            lowest = min(lowest, found["score"].min())
        split = some[0][0].metrics["split"]
        about = f"Detections after NMS, split {split}, first seed, rule in the title, lowest score {lowest:.2g}."
        yield score_vs_iou(panels, sample, seed, about)


def estimate_clouds(runs: Sequence[RunFolder], sample: int = SAMPLE, seed: int = 0) -> Iterator[Plot]:
    """True IoU against its estimate over the positives; of each recipe with an estimate the first seed."""
    about = "Positive locations of the training assigner on the evaluation images, first seed."
    for some in _blocks([run for run in _first(runs) if has_estimate(run)]):
        yield estimate_vs_iou({run.recipe: estimates(run) for run in some}, sample, seed, about)


def candidate_clouds(runs: Sequence[RunFolder], sample: int = SAMPLE, seed: int = 0) -> Iterator[Plot]:
    """Estimated quality against class score before NMS (GFL fig. 2b), of recipes whose candidates were stored."""
    stored = [run for run in _first(runs) if run.has(CANDIDATES) and has_estimate(run)]
    for some in _blocks(stored):
        panels = {}
        for run in some:
            pairs = candidate_pairs(run)
            columns = (pairs.estimates["class score p"], pairs.estimates["quality u"], pairs.boxes["iou"].to_numpy())
            panels[run.recipe] = columns
        about = (
            "Locations before NMS that were stored, by their best class; IoU with the nearest ground truth; first seed."
        )
        yield class_vs_iou_score(panels, sample=sample, seed=seed, about=about)


def diagrams(runs: Sequence[RunFolder]) -> Iterator[Plot]:
    """Reliability of the recipe's own ranking: precision (D-ECE), then IoU (LaECE0); of each recipe the first seed."""
    metrics = {D_ECE: "precision", LAECE0: "mean IoU"}
    measured = []
    for run in _first([run for run in runs if run.rule in run.rules]):
        given = run.ground_truth, run.detections(run.rule), list(metrics)
        measured.append((run, calibration_rows(*given), reliability_rows(*given)))
    for metric, observed in metrics.items():
        for some in _blocks(measured):
            panels = {}
            for run, values, bins in some:
                (row,) = (row for row in values if row["metric"] == metric.name)
                title = f"{run.recipe}: {run.rule}\n{metric.name} {row['value']:.3f}, n = {row['n']:,}"
                panels[title] = [bin_ for bin_ in bins if (bin_["metric"], bin_["class"]) == (metric.name, "all")]
            options = f"tau {metric.tau:g}, score from {metric.score_thr:g}, {metric.bins} bins"
            pooled = "detections pooled" if metric.pooling == "all" else "value: mean over classes; bars: pooled"
            yield reliability(panels, "score", f"observed {observed}", f"{metric.name}: {options}, {pooled}.")


def histograms(runs: Sequence[RunFolder]) -> Iterator[Plot]:
    """Labels of the positives (GFL fig. 12) and, beside them, their regression targets (GFL fig. 5c)."""
    known = [run for run in runs if run.has(POSITIVES)]
    first = [run for run in _first(known) if {"centerness", *SIDES} <= set(run.positives)]
    for run in first:
        about = f"Positive locations of {run.recipe} on the evaluation images."
        labels = {"IoU": run.positives["iou"], "centerness": run.positives["centerness"]}
        yield label_histograms(labels, title=run.recipe, about=about)
    if first:
        targets = {run.recipe: run.positives[SIDES].to_numpy().ravel() for run in first}
        yield target_histogram(targets, n=None, about="Positive locations on the evaluation images, first seed.")


def scales(runs: Sequence[RunFolder]) -> Iterator[Plot]:
    """Boxes matched to a ground truth against its scale (PASSD fig. 2).

    Of each recipe the first seed that counted them.
    """
    for run in _first([run for run in runs if run.has(ASSIGNMENTS)]):
        rows = matched_rows(
            run.assignments["side"], stage_counts(run.assignments), regular_edges(run.assignments["side"])
        )
        about = f"Ground truths of the evaluation images, split {run.metrics['split']}."
        yield matched_boxes(rows, title=run.recipe, about=about)


def sharpness(runs: Sequence[RunFolder], sample: int = SAMPLE, seed: int = 0) -> Iterator[Plot]:
    """True IoU against the sharpness of the side distributions (GFLv2 fig. 1b), of recipes that have them."""
    known = [run for run in _first(runs) if run.has(POSITIVES) and "top1" in run.positives]
    for some in _blocks(known):
        panels = {run.recipe: (run.positives["top1"], run.positives["iou"]) for run in some}
        yield top1_vs_iou(panels, sample, seed, "Positive locations on the evaluation images, first seed.")


def single_boxes(run: RunFolder, images: Path, number: int = 3) -> Iterator[tuple[str, Plot]]:
    """Side distributions of the best detection of the first images that have one, drawn over the image, by name.

    Args:
        run: Run with stored distributions.
        images: Folder that the file names of the ground truth are relative to.
        number: Number of images.

    Raises:
        FileNotFoundError: An image is not in the folder.
    """
    stored = run.distributions
    files = run.ground_truth.images.set_index("id")["file_name"]
    first = stored.groupby("image_id", sort=False).first().head(number).reset_index()
    for best in first.to_dict("records"):
        file = images / files[best["image_id"]]
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such image; --images must name the folder that it lies in")
        about = f"{run.recipe}, {file.name}: the detection of score {best['score']:.2f}."
        centre, bin_size = (best["centre_x"], best["centre_y"]), (best["bin_x"], best["bin_y"])
        sides = {side: best[side] for side in SIDES}
        image = np.asarray(Image.open(file).convert("RGB"))
        yield file.stem, side_distributions(image, [best[c] for c in BOX], centre, bin_size, sides, about=about)


def suppressed(run: RunFolder, images: Path, rule: str, number: int = 3) -> Iterator[tuple[str, Plot]]:
    """Candidates and detections around the best detection of the first images that have one, by name (GFLv2, fig. 7).

    Of the candidates those of its class that overlap its ground truth, ranked by the rule; of the detections likewise.

    Args:
        run: Run with stored candidates.
        images: Folder that the file names of the ground truth are relative to.
        rule: Name of the rule that ranks.
        number: Number of images.

    Raises:
        FileNotFoundError: An image is not in the folder.
    """
    stored = run.candidates
    found = run.detections(rule)
    files = run.ground_truth.images.set_index("id")["file_name"]
    sure = found.sort_values("score", ascending=False, kind="stable").drop_duplicates("image_id")
    for best in sure.sort_index().head(number).to_dict("records"):
        file = images / files[best["image_id"]]
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such image; --images must name the folder that it lies in")
        objects = run.ground_truth.annotations
        before, after = _near(stored.assign(score=fused_scores(stored, rule)), best), _near(found, best)
        about = f"{run.recipe}, {file.name}, ranked by {rule}."
        image = np.asarray(Image.open(file).convert("RGB"))
        ground_truth = objects.loc[objects["image_id"] == best["image_id"], BOX].to_numpy(np.float64)
        before, after = (some.assign(iou=iou_truth(run.ground_truth, some)) for some in (before, after))
        yield file.stem, before_and_after(image, ground_truth, before, after, about)


def _near(frame: pd.DataFrame, best: Mapping[Any, Any]) -> pd.DataFrame:
    """The boxes of a detection's image and class that overlap it and score more than SHOWN."""
    same = frame[(frame["image_id"] == best["image_id"]) & (frame["category_id"] == best["category_id"])]
    same = same[same["score"] > SHOWN]
    around = np.tile([best[c] for c in BOX], (len(same), 1))
    near: pd.DataFrame = same[pair_iou(same[BOX].to_numpy(np.float64), around) > 0]
    return near


def printed_speed(frame: pd.DataFrame, about: str = "") -> Plot:
    """AP against time of the rows of a printed table that have both, a line per model over its backbones."""
    names = [str(name) for name in frame]
    if not {"fps", "AP", "model"} <= set(names):
        raise ValueError(f"a speed figure needs the columns model, AP and fps; the table has {', '.join(names)}")
    usable = frame[(frame["fps"] != "") & (frame["AP"] != "")]
    models = {
        str(name): (some.get("backbone", some["row"]).tolist(), some["fps"].astype(float), some["AP"].astype(float))
        for name, some in usable.groupby("model", sort=False)
    }
    return speed_accuracy(models, about=about)


def losses(runs: Sequence[RunFolder]) -> Iterator[Plot]:
    """Training losses, and that of the quality branch alone (GFLv2 fig. 8)."""
    logs = {f"{run.recipe} seed {run.seed}": run.log for run in runs if run.has_log}
    yield loss_curves(logs)
    taught = {name: log for name, log in logs.items() if "quality" in log}
    if taught:
        yield quality_loss_curves(taught)


def thresholds(runs: Sequence[RunFolder]) -> Plot:
    """AP at each IoU threshold by class score, own estimate and oracle, mean over seeds."""
    recipes, lines = by_recipe(runs), {}
    for row in summary_rows(runs):
        means = mean_metrics(recipes[row["recipe"]])
        for rule in dict.fromkeys([BASELINE, row["estimate_rule"], row["oracle_rule"]]):
            if rule in means:
                lines[f"{row['recipe']}: {rule}"] = [
                    means[rule].get(threshold_name(t), math.nan) for t in COCO_THRESHOLDS
                ]
    return ap_by_threshold(COCO_THRESHOLDS, lines, about="Best rule of each kind on this split, mean over seeds.")


def sweeps(runs: Sequence[RunFolder]) -> dict[str, Plot]:
    """AP against alpha of every recipe that was evaluated with alphas, over its seeds."""
    drawn = {}
    for recipe, some in by_recipe(runs).items():
        swept = [[row for row in alpha_rows(run.metrics["rules"]) if row["replaced"] in ("", "iou")] for run in some]
        if any(row["kind"] == "power" for row in swept[0]):
            drawn[recipe] = ap_vs_alpha(swept, title=recipe)
    return drawn


def _first(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """The first seed of every recipe."""
    return [some[0] for some in by_recipe(runs).values()]


def _blocks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Items in blocks that fit one figure."""
    for start in range(0, len(items), PANELS):
        yield items[start : start + PANELS]
