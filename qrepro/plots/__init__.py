"""Figures of the papers and of this suite, each as PNG, SVG and a CSV of its points.

Every function takes arrays or rows and returns a `Plot`; nothing touches pyplot or the global rcParams.
"""

from qrepro.plots.analytic import iou_gradient, perturbation, qfl_curves
from qrepro.plots.average_precision import ap_by_threshold, ap_vs_alpha, precision_recall, result_curves
from qrepro.plots.calibration import reliability
from qrepro.plots.claims import claimed_effects
from qrepro.plots.clouds import SAMPLE, class_vs_iou_score, estimate_vs_iou, score_vs_iou, top1_vs_iou
from qrepro.plots.distributions import side_distributions
from qrepro.plots.intervals import correlation_by_group, difference_interval
from qrepro.plots.positives_by_scale import matched_boxes
from qrepro.plots.speed import speed_accuracy
from qrepro.plots.style import Plot
from qrepro.plots.suppression import before_and_after
from qrepro.plots.targets import label_histograms, target_histogram
from qrepro.plots.training import loss_curves, quality_loss_curves

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
    "result_curves",
    "score_vs_iou",
    "side_distributions",
    "speed_accuracy",
    "target_histogram",
    "top1_vs_iou",
]
