"""The evaluation of an experiment: one network pass, every score rule, detections and metrics in the run folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qrepro.data.annotations import write_ground_truth
from qrepro.engine.candidates import CandidateFilter
from qrepro.engine.card import run_card
from qrepro.engine.checkpoint import restore_detector
from qrepro.engine.datasets import open_split
from qrepro.engine.distributed import choose_device
from qrepro.engine.predict import predict
from qrepro.experiments.experiment import Experiment, loader_processes
from qrepro.interop.export import write_submission
from qrepro.metrics.coco_ap import choose_engine
from qrepro.metrics.summary import summarise
from qrepro.recipe import Recipe
from qrepro.recipe.axes import has_estimate
from qrepro.records.atomic import write_text
from qrepro.records.ground_truth import GroundTruth, read_ground_truth
from qrepro.records.run_folder import (
    ASSIGNMENTS,
    CANDIDATES,
    DETECTIONS,
    DISTRIBUTIONS,
    GROUND_TRUTH,
    METRICS,
    POSITIVES,
    write_frame,
    write_ranked,
)
from qrepro.records.score_rule import ClassScore, Oracle, Power, Product, Rule
from qrepro.reporter import SILENT, Reporter


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation wrote.

    Attributes:
        folder: where.
        metrics: as in its metrics.json: split, images, engine, rules: {rule: {metric: percent}}, classes, voc.
    """

    folder: Path
    metrics: dict[str, Any]

    @property
    def title(self) -> str:
        """What was evaluated, on what, by what."""
        about = self.metrics
        return f"{about['recipe']} on {about['split']}, {about['images']} images, {about['engine']}"


def requested_rules(
    recipe: Recipe, rules: Iterable[Rule | str] = (), *, alphas: Sequence[float] = (), oracle: bool = False
) -> list[Rule]:
    """The score rules to evaluate, without repeats.

    Args:
        recipe: of the detector, whose own rule is taken with the class score, and with the product where it has an
            estimate, unless rules are named.
        rules: by name or as they are.
        alphas: of p^alpha u^(1 - alpha).
        oracle: also each power and product with the true IoU.

    Raises:
        ValueError: a rule needs an estimate that the detector does not have.
    """
    return rules_for(has_estimate(recipe), recipe.rule, rules, alphas, oracle)


def rules_for(
    estimates: bool, own: Rule, named: Iterable[Rule | str], alphas: Sequence[float], oracle: bool
) -> list[Rule]:
    """See `requested_rules`.   estimates: whether there is a quality estimate; own: the recipe's rule."""
    powers = [Rule(Power(alpha)) for alpha in alphas]
    named = [named] if isinstance(named, str | Rule) else named
    rules = [Rule.parse(rule) if isinstance(rule, str) else rule for rule in named]
    if not rules:
        rules = [Rule(), own, *([Rule(Product())] if estimates else [])]
    if estimates:
        rules += powers
    elif powers and not oracle:
        raise ValueError(
            "--alpha: this detector has no quality estimate; with --oracle-iou the alphas weigh the true IoU"
        )
    if oracle:
        weighed = [rule for rule in [Rule(Product()), *rules, *powers] if not rule.oracle]
        rules += [Rule(rule.fusion, Oracle()) for rule in weighed if not isinstance(rule.fusion, ClassScore)]
    if not estimates and (needless := [rule.name for rule in rules if rule.needs_estimate]):
        raise ValueError(f"--rule {needless[0]}: this detector has no quality estimate")
    return list(dict.fromkeys(rules))


def evaluate(
    experiment: Experiment,
    rules: Iterable[Rule | str] = (),
    *,
    alphas: Sequence[float] = (),
    oracle: bool = False,
    checkpoint: Path | None = None,
    split: str | None = None,
    keep_candidates: CandidateFilter | None = None,
    submission: bool = False,
    engine: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Run a trained detector once over a split, rank its boxes by each rule, and write everything into the run folder.

    Args:
        experiment: what was trained.
        rules: score rules; none: the recipe's own, and what it is compared with. See `requested_rules`.
        alphas: of p^alpha u^(1 - alpha), each a rule more.
        oracle: whether also by each power and product with the true IoU.
        checkpoint: weights; None: the run's last.
        split: None: that of the profile.
        keep_candidates: which candidates before suppression are stored for `rescore`; None: none.
        submission: also write the file that COCO's server takes, by the recipe's own rule.
        engine: hotcoco or pycocotools; None: the former where it is installed.
        device: `cpu`, `cuda` or `cuda:N`; None: a GPU where there is one.
        workers: processes that read images; None: see `loader_processes`.
        reporter: is told the progress.

    Raises:
        ValueError: no weights, weights of another network, data of other classes, a rule that does not fit.
    """
    recipe = experiment.recipe
    engine = choose_engine(engine)
    requested = requested_rules(recipe, rules, alphas=alphas, oracle=oracle)
    if submission and recipe.rule not in requested:
        raise ValueError(f"--export: the recipe's own rule {recipe.rule.name} is not among those asked for")
    weights = Path(checkpoint or experiment.run.last)
    _same_training(experiment, checkpoint)
    if not weights.is_file():
        raise ValueError(
            f"checkpoint {weights}: no such file; train it with `qrepro train {recipe.name} --profile {recipe.profile}`"
        )
    detector, step = restore_detector(recipe, weights)
    annotations = open_split(recipe, experiment.data, split or recipe.data.eval)
    with reporter.counting("evaluating", len(annotations)) as progress:
        predictions = predict(
            recipe,
            detector,
            annotations,
            requested,
            device=choose_device(device),
            workers=loader_processes(recipe, workers),
            keep=keep_candidates,
            progress=progress,
        )
    if not experiment.run.has_card:
        experiment.run.write_card(run_card(recipe, experiment.seed, checkpoint=str(weights)))
    run = experiment.run.on(split)
    folder, source = run.evaluation, {"checkpoint": str(weights), "step": step}
    if predictions.candidates:
        predictions.candidates.write(folder / CANDIDATES)
    elif not _same_source(folder / METRICS, source):
        (folder / CANDIDATES).unlink(missing_ok=True)
    write_ground_truth(annotations, folder / GROUND_TRUTH)
    write_frame(predictions.positives, folder / POSITIVES)
    write_frame(predictions.assignments, folder / ASSIGNMENTS)
    (folder / DISTRIBUTIONS).unlink(missing_ok=True)
    if predictions.distributions is not None:
        write_frame(predictions.distributions, folder / DISTRIBUTIONS)
    if submission:
        file = write_submission(folder, split or recipe.data.eval, recipe.name, predictions.detections[recipe.rule])
        reporter.message(f"wrote {file} for COCO's evaluation server")
    about = {**source, "split": annotations.name, "images": len(annotations)}
    ground_truth = read_ground_truth(folder / GROUND_TRUTH)
    return write_evaluation(folder, predictions.detections.items(), recipe, ground_truth, about, engine)


def write_evaluation(
    folder: Path,
    detections: Iterable[tuple[Rule, pd.DataFrame]],
    recipe: Recipe,
    ground_truth: GroundTruth,
    about: dict[str, Any],
    engine: str | None,
) -> Evaluation:
    """Write detections by rule, read one at a time, and their metrics into a folder, in place of earlier ones."""
    written: set[Path] = set()

    def writing() -> Iterator[tuple[str, pd.DataFrame]]:
        for rule, frame in detections:
            written.add(write_ranked(frame, folder, rule))
            yield rule.name, frame

    summary = summarise(ground_truth, writing(), engine, recipe.data.format == "voc")
    for stale in set((folder / DETECTIONS).glob("*.parquet")) - written:
        stale.unlink()  # of an earlier evaluation, perhaps of other weights
    metrics = {"recipe": recipe.name, "profile": recipe.profile, **about, **summary}
    write_text(folder / METRICS, json.dumps(metrics, indent=1))
    return Evaluation(folder, metrics)


def _same_training(experiment: Experiment, checkpoint: Path | None) -> None:
    """Refuse the run of a recipe that has had other values since, unless other weights are named."""
    run, recipe = experiment.run, experiment.recipe
    if checkpoint is None and run.has_card and run.hash and run.hash != recipe.hash:
        raise ValueError(
            f"{run.path}: was trained with other values of {recipe.name} (hash {run.hash}, now {recipe.hash}); "
            f"evaluate what was trained with `qrepro eval {run.path}`, or train again"
        )


def _same_source(metrics: Path, source: dict[str, Any]) -> bool:
    """Whether the metrics of a folder are of the same weights."""
    if not metrics.is_file():
        return False
    before = json.loads(metrics.read_text(encoding="utf-8"))
    return all(before.get(name) == value for name, value in source.items())
