"""Is B better than A, or luckier with its images? Paired bootstrap of AP and of the correlation with the true IoU.

Called as `python analysis/detector_comparison.py A B` with two runs (or folders of seeds), or `A B ANNOTATIONS` with
two result files.
"""

from pathlib import Path

import qrepro
from qrepro.cli.study import run_study
from qrepro.plots import difference_interval
from qrepro.statistics.comparison import compared_side

OUT = Path("results/analysis/detector_comparison.csv")
FIGURE = OUT.with_name("detector_comparison_figure")
DRAWS = 1000


def study(a: str, b: str, annotations: str | None = None, draws: int = DRAWS) -> tuple[list[dict], list[dict]]:
    """Rows of AP at each threshold, and of the correlation: b - a with intervals of 95 %."""
    paths, ground_truth = [Path(a), Path(b)], Path(annotations) if annotations else None
    sources = qrepro.Sources(paths, annotations=ground_truth)
    return qrepro.compare(*(compared_side(path, None, sources) for path in paths), draws=draws)


def main(a: str, b: str, annotations: str | None = None) -> None:
    """Write what the study finds, and say where it lies."""
    precision, correlation = study(a, b, annotations)
    for row in [*precision, *correlation]:
        print(f"{row['metric']}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
    print(*qrepro.write_rows([*precision, *correlation], OUT, title="b - a"), sep="\n")
    figure = difference_interval(precision, xlabel="difference of AP (points)", about="b - a, intervals of 95 %.")
    print(*figure.save(FIGURE), sep="\n")


if __name__ == "__main__":
    run_study(main)
