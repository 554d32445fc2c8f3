"""Do confident boxes fit? Confidence against IoU_eval of final detections (IoU-aware RetinaNet, figure 4).

IoU_eval is the largest IoU with a ground truth of the same class, which AP counts by.
"""

from pathlib import Path

import qrepro
from qrepro.cli.study import run_study
from qrepro.metrics.iou import iou_eval
from qrepro.plots import score_vs_iou

OUT = Path("results/analysis/confidence_vs_iou")
PANELS = 6  # more in one figure are too small to read


def study(sources: qrepro.Sources) -> dict:
    """IoU_eval and score by detector."""
    clouds = {}
    for found in sources.sets():
        iou = iou_eval(found.ground_truth, found.detections)
        clouds[f"{found.name}: {found.rule}"] = (iou, found.detections["score"].to_numpy())
    return clouds


def main(*paths: str) -> None:
    """Write what the study finds, and say where it lies."""
    clouds = list(study(qrepro.Sources.of(paths)).items())
    for start in range(0, len(clouds), PANELS):
        for name, (iou, score) in (part := dict(clouds[start : start + PANELS])).items():
            sure = score >= 0.5
            print(f"{name}: {sure.sum():,} of {len(score):,} scores from 0.5, mean IoU of these {iou[sure].mean():.3f}")
        stem = OUT.with_name(f"{OUT.name}-{start // PANELS}") if start else OUT
        print(*score_vs_iou(part, about="Detections after NMS.").save(stem), sep="\n")


if __name__ == "__main__":
    run_study(main)
