"""At which IoU thresholds does a score rule gain? AP at 0.5, 0.55, ... 0.95 of every rule that was evaluated."""

from pathlib import Path

import qrepro
from qrepro.cli.study import run_study
from qrepro.metrics.coco_ap import threshold_name
from qrepro.metrics.matching import COCO_THRESHOLDS
from qrepro.plots import ap_by_threshold

OUT = Path("results/analysis/ap_at_thresholds.csv")
FIGURE = OUT.with_name("ap_at_thresholds_figure")


def study(sources: qrepro.Sources) -> list[dict]:
    """One row per detector and rule, in percent."""
    return [
        {"detector": found.name, "rule": found.rule, **qrepro.ap(found.ground_truth, found.detections)}
        for found in sources.sets(["all"])
    ]


def main(*paths: str) -> None:
    """Write what the study finds, and say where it lies."""
    rows = study(qrepro.Sources.of(paths))
    names = [threshold_name(threshold) for threshold in COCO_THRESHOLDS]
    lines = {f"{row['detector']}: {row['rule']}": [row[name] for name in names] for row in rows}
    for label, values in lines.items():
        print(label, *(f"{name} {value:.1f}" for name, value in zip(names, values, strict=True)), sep="  ")
    print(*qrepro.write_rows(rows, OUT, title="AP at every IoU threshold"), sep="\n")
    print(*ap_by_threshold(COCO_THRESHOLDS, lines).save(FIGURE), sep="\n")


if __name__ == "__main__":
    run_study(main)
