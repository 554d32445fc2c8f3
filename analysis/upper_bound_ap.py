"""What would a perfect estimate of the IoU be worth? AP by own score, by own estimate, and by the true IoU.

A run was ranked before NMS, in one network pass (IoU-aware RetinaNet, arXiv 1912.05992, table 6): evaluate it with
`qrepro eval R --oracle-iou --alpha 0.1:0.9:0.1`. A result file has been through NMS; its boxes are ranked again, which
bounds what a better order of the same boxes would give.
"""

from pathlib import Path

import qrepro
from qrepro.cli.study import run_study

OUT = Path("results/analysis/upper_bound_ap.csv")
ALPHAS = [0.3, 0.5, 0.7]


def study(sources: qrepro.Sources) -> list[dict]:
    """One row per detector and source of the ranking, in percent."""
    if sources.files:
        return [
            {"detector": found.name, **row}
            for found in sources.sets()
            for row in qrepro.reranked_rows(found.ground_truth, found.detections, ALPHAS)
        ]
    rows = []
    for run in sources.runs():
        by_rule = qrepro.alpha_rows(run.metrics["rules"])
        gain = qrepro.oracle_gain(by_rule)
        rows += [{"detector": run.name, **row, "captured": gain["captured"]} for row in qrepro.best_rows(by_rule)]
    return rows


def main(*paths: str) -> None:
    """Write what the study finds, and say where it lies."""
    rows = study(qrepro.Sources.of(paths))
    for row in rows:
        print(f"{row['detector']}: {row.get('source', row['rule'])} by {row['rule']}: AP {row['AP']:.1f}")
    print(*qrepro.write_rows(rows, OUT, title="Upper-bound AP with ground-truth IoU"), sep="\n")


if __name__ == "__main__":
    run_study(main)
