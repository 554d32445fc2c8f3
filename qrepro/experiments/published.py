"""Published detectors: fetched, imported, evaluated with the oracle, and beside what their authors report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrepro.experiments.evaluation import Evaluation, evaluate
from qrepro.experiments.experiment import RESULTS, Experiment, data_folder, file_name, open_experiment
from qrepro.interop.importing import import_checkpoint
from qrepro.interop.zoo import fetch_model, named, reported
from qrepro.records.run_folder import RunFolder
from qrepro.reporter import SILENT, Reporter

COLUMNS = ("AP", "AP50", "AP75", "APS", "APM", "APL")


@dataclass(frozen=True)
class PublishedEvaluation:
    """A published detector, evaluated.

    Attributes:
        experiment: the run that it became.
        evaluation: what was measured.
        rows: the row of the table as reported and as measured.
    """

    experiment: Experiment
    evaluation: Evaluation
    rows: list[dict[str, Any]]


def evaluate_published(
    name: str,
    *,
    data: Path | None = None,
    files: Path | None = None,
    results: Path = RESULTS,
    device: str | None = None,
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> PublishedEvaluation:
    """Fetch a detector of the zoo unless it is there, import it, and evaluate it with the oracle.

    Args:
        name: as the zoo lists it.
        data: folder of COCO.
        files: folder of downloads; None: see `data_folder`.
        results: folder of run folders.
        device: `cpu`, `cuda` or `cuda:N`.
        workers: processes that read images.
        reporter: is told of downloads and progress.

    Raises:
        ValueError: an unknown name, no known address, or a file that is not what was published.
    """
    model = named(name)
    with reporter.transfers() as progress:
        file = fetch_model(model, files or data_folder("zoo"), progress)
    run = RunFolder(results / "imported" / file_name(model.name))
    if not run.last.exists():
        import_checkpoint(file, run.path)
    experiment = open_experiment(str(run.path), data=data)
    evaluation = evaluate(experiment, oracle=True, device=device, workers=workers, reporter=reporter)
    measured, printed = evaluation.metrics["rules"][experiment.recipe.rule.name], reported(model)
    rows = [
        {"of": "reported", **{column: printed.get(column, "") for column in COLUMNS}, "row": model.row or "-"},
        {"of": "measured", **{column: f"{measured[column]:.1f}" for column in COLUMNS}, "row": model.row or "-"},
    ]
    return PublishedEvaluation(experiment, evaluation, rows)
