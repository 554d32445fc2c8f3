"""The whole path in minutes on the embedded data set."""

from __future__ import annotations

from pathlib import Path

from qrepro.data.shapes import make_shapes
from qrepro.experiments.evaluation import requested_rules
from qrepro.experiments.experiment import RESULTS, open_experiment
from qrepro.experiments.plan import carry_out
from qrepro.experiments.tables import write_tables
from qrepro.metrics.summary import headline_rows
from qrepro.records.run_folder import read_run
from qrepro.report.figures import figures
from qrepro.report.page import build_report
from qrepro.reporter import SILENT, Reporter

# ATSS learns the painted set in minutes; RetinaNet needs longer for as much.
RECIPES = ("gfl/atss_none", "gfl/atss_iou", "gflv2/gflv2")
ALPHAS = [tenth / 10 for tenth in range(1, 10)]


def demo(
    *, results: Path = RESULTS, data: Path | None = None, device: str | None = None, reporter: Reporter = SILENT
) -> Path:
    """Make data, train ATSS without and with an IoU branch, and GFLv2; evaluate with the oracle; tables and report.

    What is there already is not done again.

    Returns:
        The page.
    """
    experiments = [open_experiment(name, "shapes", data=data, results=results) for name in RECIPES]
    make_shapes(experiments[0].data)
    for experiment in experiments:
        rules = requested_rules(experiment.recipe, alphas=ALPHAS, oracle=True)
        carry_out(experiment, rules, device=device, reporter=reporter)
    runs = [read_run(experiment.run.path) for experiment in experiments]
    for stem, figure in figures(runs).items():
        figure.save(results / "figures" / stem)
    written = write_tables(results=results, out=results / "tables")
    page = build_report(results, results / "report")
    reporter.table(headline_rows(runs), "How good are the boxes ranked, and how good could they be?")
    reporter.message(f"tables: {len(written)} in {results / 'tables'}, figures in {results / 'figures'}")
    reporter.message(f"report: {page}")
    return page
