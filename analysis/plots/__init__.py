"""Figures of the papers and of this suite, each as PNG, SVG and a CSV of its points.

Every function takes arrays or rows and returns a `Plot`; nothing touches pyplot or the global rcParams.
"""

from analysis.plots.analytic import iou_gradient, perturbation, qfl_curves
from analysis.plots.calibration import reliability
from analysis.plots.claims import claimed_effects
from analysis.plots.distributions import side_distributions
from analysis.plots.intervals import correlation_by_group, difference_interval
from analysis.plots.labels import label_histograms, target_histogram
from analysis.plots.matches import matched_boxes
from analysis.plots.precision import ap_by_threshold, ap_vs_alpha, precision_recall
from analysis.plots.scores import SAMPLE, class_vs_iou_score, estimate_vs_iou, score_vs_iou, top1_vs_iou
from analysis.plots.speed import speed_accuracy
from analysis.plots.style import Plot
from analysis.plots.suppression import before_and_after
from analysis.plots.training import loss_curves, quality_loss_curves

__all__ = [
    "SAMPLE",
    "Plot",
    "ap_by_threshold",
    "ap_vs_alpha",
    "before_and_after",
    "claimed_effects",
    "class_vs_iou_score",
    "correlation_by_group",
    "difference_interval",
    "estimate_vs_iou",
    "iou_gradient",
    "label_histograms",
    "loss_curves",
    "matched_boxes",
    "perturbation",
    "precision_recall",
    "qfl_curves",
    "quality_loss_curves",
    "reliability",
    "score_vs_iou",
    "side_distributions",
    "speed_accuracy",
    "target_histogram",
    "top1_vs_iou",
]
