"""qrepro: does a dense object detector know how good its own boxes are?

The public API; every name is imported when it is first used, so that `import qrepro` costs nothing.

    import qrepro

    ground_truth = qrepro.read_ground_truth("instances_val2017.json")
    detections = qrepro.read_detections("dets.json", ground_truth)
    qrepro.ap(ground_truth, detections)["AP"]                     # percent
    for row in qrepro.reranked_rows(ground_truth, detections):    # what a perfect order would give
        print(row["rule"], row["AP"])

    experiment = qrepro.open_experiment("gflv2", "shapes")        # from here on with torch: pip install 'qrepro[train]'
    qrepro.train(experiment)
    qrepro.evaluate(experiment, ["class", "power-0.5"], oracle=True)

The measures on arrays and frames are in `qrepro.metrics`, the figures in `qrepro.plots`, resampling in
`qrepro.statistics`, files in `qrepro.records`, tables and claims of papers in `qrepro.papers`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qrepro.engine.candidates import CandidateFilter
    from qrepro.experiments.claims import check_claims
    from qrepro.experiments.evaluation import Evaluation, evaluate, requested_rules
    from qrepro.experiments.experiment import Experiment, open_experiment
    from qrepro.experiments.exporting import export
    from qrepro.experiments.plan import make_plan, reproduce
    from qrepro.experiments.rescoring import rescore
    from qrepro.experiments.run_index import RunIndex, Setting
    from qrepro.experiments.tables import write_tables
    from qrepro.experiments.training import train
    from qrepro.interop.importing import import_checkpoint
    from qrepro.metrics.coco_ap import ap
    from qrepro.metrics.correlation import correlation_rows
    from qrepro.metrics.detection_sets import DetectionSet, Sources
    from qrepro.metrics.oracle import alpha_rows, best_rows, oracle_gain, reranked_rows
    from qrepro.metrics.pairs import Pairs, correlation_study, detection_pairs, source_pairs
    from qrepro.papers.claims import read_claims
    from qrepro.recipe.axes import resolve as load_recipe
    from qrepro.recipe.load import names as recipe_names
    from qrepro.recipe.load import read_recipe
    from qrepro.recipe.schema import Recipe
    from qrepro.records.detections import read_detections
    from qrepro.records.ground_truth import GroundTruth, read_ground_truth
    from qrepro.records.run_folder import RunFolder, find_runs, read_run
    from qrepro.records.score_rule import Fusion, Oracle, Rule
    from qrepro.records.tables import write_rows
    from qrepro.report.figures import figures
    from qrepro.report.page import build_report
    from qrepro.reporter import Reporter
    from qrepro.statistics.comparison import compare

_PUBLIC = {
    "qrepro.engine.candidates": ("CandidateFilter",),
    "qrepro.experiments.claims": ("check_claims",),
    "qrepro.experiments.evaluation": ("Evaluation", "evaluate", "requested_rules"),
    "qrepro.experiments.experiment": ("Experiment", "open_experiment"),
    "qrepro.experiments.exporting": ("export",),
    "qrepro.experiments.plan": ("make_plan", "reproduce"),
    "qrepro.experiments.rescoring": ("rescore",),
    "qrepro.experiments.run_index": ("RunIndex", "Setting"),
    "qrepro.experiments.tables": ("write_tables",),
    "qrepro.experiments.training": ("train",),
    "qrepro.interop.importing": ("import_checkpoint",),
    "qrepro.metrics.coco_ap": ("ap",),
    "qrepro.metrics.correlation": ("correlation_rows",),
    "qrepro.metrics.detection_sets": ("DetectionSet", "Sources"),
    "qrepro.metrics.oracle": ("alpha_rows", "best_rows", "oracle_gain", "reranked_rows"),
    "qrepro.metrics.pairs": ("Pairs", "correlation_study", "detection_pairs", "source_pairs"),
    "qrepro.papers.claims": ("read_claims",),
    "qrepro.recipe.load": ("read_recipe",),
    "qrepro.recipe.schema": ("Recipe",),
    "qrepro.records.detections": ("read_detections",),
    "qrepro.records.ground_truth": ("GroundTruth", "read_ground_truth"),
    "qrepro.records.run_folder": ("RunFolder", "find_runs", "read_run"),
    "qrepro.records.score_rule": ("Fusion", "Oracle", "Rule"),
    "qrepro.records.tables": ("write_rows",),
    "qrepro.report.figures": ("figures",),
    "qrepro.report.page": ("build_report",),
    "qrepro.reporter": ("Reporter",),
    "qrepro.statistics.comparison": ("compare",),
}
_PLACES = {name: (module, name) for module, names in _PUBLIC.items() for name in names}
_PLACES |= {"load_recipe": ("qrepro.recipe.axes", "resolve"), "recipe_names": ("qrepro.recipe.load", "names")}

__version__ = "0.1.0"
__all__ = ["__version__", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module 'qrepro' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
