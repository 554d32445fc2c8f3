"""Which figures are drawn of which runs: the clouds, sweeps and curves of one results folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from analysis.oracle import BASELINE, alpha_rows
from analysis.overlap import iou_eval
from analysis.plots import SAMPLE, Plot, ap_vs_alpha, estimate_vs_iou, iou_gradient, loss_curves, score_vs_iou
from analysis.runs import Run
from analysis.summary import by_recipe, estimates, has_estimate, summary_rows

PANELS = 6  # more scatter panels than this in one figure are too small to read


def figures(runs: Sequence[Run], sample: int = SAMPLE, seed: int = 0) -> dict[str, Plot]:
    """Every figure of evaluated runs by file stem, `<profile>/<figure>`; clouds show `sample` points."""
    drawn = {"iou_gradient": iou_gradient()}
    for profile, group in groupby(sorted(runs, key=lambda run: run.profile), lambda run: run.profile):
        some = list(group)
        for kind, plots in (
            ("score_vs_iou", list(score_clouds(some, sample, seed))),
            ("estimate_vs_iou", list(estimate_clouds(some, sample, seed))),
        ):
            drawn |= {f"{profile}/{kind}{f'-{n}' if n else ''}": plot for n, plot in enumerate(plots)}
        for recipe, plot in sweeps(some).items():
            drawn[f"{profile}/ap_vs_alpha-{recipe.replace('/', '-')}"] = plot
        drawn[f"{profile}/losses"] = loss_curves({f"{run.recipe} seed {run.seed}": run.log for run in some})
    return drawn


def score_clouds(runs: Sequence[Run], sample: int = SAMPLE, seed: int = 0) -> Iterator[Plot]:
    """Confidence against IoU_eval, figures 4a-c of IoU-aware RetinaNet: the baselines, then own estimate and oracle.

    Of each recipe the first seed, by its best rule of each kind. One figure per PANELS panels.
    """
    recipes = by_recipe(runs)
    wanted: list[tuple[Run, str]] = []
    for row in sorted(summary_rows(runs), key=lambda row: bool(row["estimate"])):
        run = recipes[row["recipe"]][0]
        best = [row["estimate_rule"], row["oracle_rule"]] if row["estimate"] else [BASELINE]
        wanted += [(run, rule) for rule in best if rule in run.rules]
    for start in range(0, len(wanted), PANELS):
        panels, floor = {}, math.inf
        for run, rule in wanted[start : start + PANELS]:
            found = run.detections(rule)
            panels[f"{run.recipe}: {rule}"] = (iou_eval(run.truths, found), found["score"])
            floor = min(floor, found["score"].min())
        split = wanted[start][0].metrics["split"]
        about = f"Detections after NMS, split {split}, first seed, rule in the title, lowest score {floor:.2g}."
        yield score_vs_iou(panels, sample, seed, about)


def estimate_clouds(runs: Sequence[Run], sample: int = SAMPLE, seed: int = 0) -> Iterator[Plot]:
    """True IoU against its estimate over the positives; of each recipe with an estimate the first seed."""
    first = [some[0] for some in by_recipe(runs).values() if has_estimate(some[0])]
    about = "Positive locations of the training assigner on the evaluation images, first seed."
    for start in range(0, len(first), PANELS):
        yield estimate_vs_iou(
            {run.recipe: estimates(run) for run in first[start : start + PANELS]}, sample, seed, about
        )


def sweeps(runs: Sequence[Run]) -> dict[str, Plot]:
    """AP against alpha of every recipe that was evaluated with alphas, over its seeds."""
    drawn = {}
    for recipe, some in by_recipe(runs).items():
        swept = [alpha_rows(run.metrics["rules"]) for run in some]
        if any(row["kind"] == "power" for row in swept[0]):
            drawn[recipe] = ap_vs_alpha(swept, title=recipe)
    return drawn
