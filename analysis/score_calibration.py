"""Is the score the precision, or the IoU, that it claims? D-ECE, LaECE, LaECE0, LaACE0, and a reliability diagram."""

from pathlib import Path

import qrepro
from qrepro.cli.study import run_study
from qrepro.metrics.calibration import LAECE0, calibration_rows, reliability_rows
from qrepro.plots import reliability

OUT = Path("results/analysis/score_calibration.csv")
FIGURE = OUT.with_name("score_calibration_figure")


def main(*paths: str) -> None:
    """Write what the study finds, and say where it lies."""
    rows, panels = [], {}
    for found in qrepro.Sources.of(paths).sets():
        name = f"{found.name}: {found.rule}"
        measured = calibration_rows(found.ground_truth, found.detections)
        rows += [{"detector": found.name, "rule": found.rule, **row} for row in measured]
        bins = reliability_rows(found.ground_truth, found.detections, [LAECE0])
        panels[name] = [row for row in bins if row["class"] == "all"]
        print(name, *(f"{row['metric']} {row['value']:.3f}" for row in measured), sep="  ")
    print(*qrepro.write_rows(rows, OUT, title="Calibration"), sep="\n")
    drawn = dict(list(panels.items())[:6])
    print(*reliability(drawn, "score", "observed mean IoU", f"{LAECE0.name}.").save(FIGURE), sep="\n")


if __name__ == "__main__":
    run_study(main)
