"""Does the estimate follow the IoU? Correlation of predicted and true IoU (GFLv2's PCC, arXiv 2011.12885, table 6).

Over the positives of a run, or over the detections of a result file; with intervals clustered by image, and with what
Pearson's coefficient does not show: concordance, bias and slope.
"""

from pathlib import Path

import qrepro
from qrepro.cli.study import run_study
from qrepro.plots import estimate_vs_iou

OUT = Path("results/analysis/iou_correlation.csv")
FIGURE = OUT.with_name("iou_correlation_figure")


def study(sources: qrepro.Sources) -> list[dict]:
    """One row per detector, estimate and band of true IoU."""
    return [row for pairs in qrepro.source_pairs(sources) for row in qrepro.correlation_study(pairs)]


def figure(sources: qrepro.Sources):
    """True IoU against each detector's best estimate: its quality where it has one, else its score."""
    clouds = {}
    for pairs in qrepro.source_pairs(sources):
        name, estimate = next(iter(pairs.estimates.items()))
        clouds[f"{pairs.name}: {name}"] = (estimate, pairs.boxes["iou"].to_numpy())
    return estimate_vs_iou(clouds)


def main(*paths: str) -> None:
    """Write what the study finds, and say where it lies."""
    sources = qrepro.Sources.of(paths)
    rows = study(sources)
    for row in rows:
        band = f"IoU {row['iou_min']:g} to {row['iou_max']:g}"
        print(f"{row['run']}: {row['estimate']}, {band}, n = {row['n']:,}: PCC {row['pearson']:.3f}")
    print(*qrepro.write_rows(rows, OUT, title="Correlation of predicted and true IoU"), sep="\n")
    print(*figure(sources).save(FIGURE), sep="\n")


if __name__ == "__main__":
    run_study(main)
