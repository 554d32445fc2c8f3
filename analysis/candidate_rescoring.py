"""Which alpha ranks best, and under which suppression? Stored candidates ranked again without the network.

Needs a run of `qrepro eval R --save-candidates`.
"""

from pathlib import Path

import qrepro
from qrepro.cli.study import run_study

OUT = Path("results/analysis/candidate_rescoring")
ALPHAS = [tenth / 10 for tenth in range(11)]
SUPPRESSIONS = ({}, {"iou_thr": 0.5}, {"iou_thr": 0.7}, {"suppression": "gaussian"})


def study(run: str, alphas: list[float] = ALPHAS) -> list[dict]:
    """One row per suppression and rule, in percent."""
    experiment, rows = qrepro.open_experiment(run), []
    for number, changes in enumerate(SUPPRESSIONS):
        folder = OUT / str(number)
        evaluation = qrepro.rescore(experiment, alphas=alphas, oracle=True, postprocess=changes, out=folder)
        how = ", ".join(f"{key} {value}" for key, value in changes.items()) or "as evaluated"
        rows += [{"suppression": how, **row} for row in qrepro.alpha_rows(evaluation.metrics["rules"])]
    return rows


def main(run: str) -> None:
    """Write what the study finds, and say where it lies."""
    rows = study(run)
    for how in dict.fromkeys(row["suppression"] for row in rows):
        for row in qrepro.best_rows([row for row in rows if row["suppression"] == how]):
            print(f"{how}: best by {row['source']}: {row['rule']}, AP {row['AP']:.1f}")
    print(*qrepro.write_rows(rows, OUT / "rows.csv", title="Candidates ranked again"), sep="\n")


if __name__ == "__main__":
    run_study(main)
