"""Any rule and any suppression from stored candidates, without the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from qrepro.engine.candidates import StoredCandidates
from qrepro.engine.candidates import rescore as rescore_candidates
from qrepro.experiments.evaluation import Evaluation, rules_for, write_evaluation
from qrepro.experiments.experiment import Experiment
from qrepro.recipe.axes import checked
from qrepro.recipe.build import build_postprocess
from qrepro.recipe.load import merge
from qrepro.records.run_folder import CANDIDATES, RESCORED
from qrepro.records.score_rule import Rule
from qrepro.reporter import SILENT, Reporter


def rescore(
    experiment: Experiment,
    rules: Iterable[Rule | str] = (),
    *,
    alphas: Sequence[float] = (),
    oracle: bool = False,
    postprocess: Mapping[str, Any] | None = None,
    split: str | None = None,
    engine: str | None = None,
    out: Path | None = None,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Rank the stored candidates of a run again.

    The detections equal those of an evaluation wherever nothing that was not stored could rank; it is said where not.

    Args:
        experiment: of a run that was evaluated with stored candidates.
        rules: score rules, as of an evaluation.
        alphas: of p^alpha u^(1 - alpha), each a rule more.
        oracle: whether also by each power and product with the true IoU.
        postprocess: values that differ from the recipe's, such as {"iou_thr": 0.5}.
        split: that was evaluated; None: that of the profile.
        engine: hotcoco or pycocotools; None: the former where it is installed.
        out: folder to write to; None: `rescored/<settings>` in that of the evaluation.
        reporter: is told the progress, and where the result is not certain.

    Raises:
        ValueError: no stored candidates, or a rule that they cannot answer.
    """
    torch.set_num_threads(1)  # too few candidates an image for multi-threading to pay off
    run = experiment.run.on(split)
    stored = StoredCandidates.read(run.evaluation / CANDIDATES)
    requested = rules_for(stored.has_estimate, experiment.recipe.rule, rules, alphas, oracle)
    changes = dict(postprocess or {})
    out = Path(out) if out else None
    recipe = checked(merge(experiment.recipe.values(), {"postprocess": changes}), "rescore")
    process = build_postprocess(recipe)
    settings = ",".join(f"{name}={value}" for name, value in changes.items()) or "as-evaluated"
    images = len(stored.unstored)
    certain: dict[str, int] = {}

    def ranked() -> Iterator[tuple[Rule, pd.DataFrame]]:
        for rule, rescored in rescore_candidates(stored, requested, process, progress):
            certain[rule.name] = len(rescored.certain)
            yield rule, rescored.detections

    with reporter.counting("rescoring", len(requested) * images) as progress:
        about = {"split": recipe.data.eval if split is None else split, "images": images}
        about |= {"postprocess": asdict(process), "certain": certain}
        target = out or run.evaluation / RESCORED / settings
        evaluation = write_evaluation(target, ranked(), recipe, run.ground_truth, about, engine)
    for name, count in certain.items():
        if count < images:
            reporter.message(
                f"{name}: in {images - count} of {images} images a candidate below the stored score threshold could "
                "rank; `qrepro eval` with a lower --stored-thr, or without stored candidates, settles it"
            )
    return evaluation
