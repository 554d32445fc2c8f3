"""A run for other programs: its weights, its detections, or its network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from qrepro.experiments.experiment import Experiment
from qrepro.interop.export import input_size, restore, trace, write_coco, write_onnx, write_program, write_weights
from qrepro.records.detections import read_detections
from qrepro.records.run_folder import DETECTIONS, detection_file
from qrepro.records.score_rule import Rule

Format = Literal["safetensors", "coco", "torch", "onnx"]
ENDINGS: dict[str, str] = {"safetensors": ".safetensors", "coco": ".json", "torch": ".pt2", "onnx": ".onnx"}
PROGRAMS = ("torch", "onnx")
WEIGHTS = tuple(name for name in get_args(Format) if name != "coco")
FITTING = {"rule": ("coco",), "split": ("coco",), "size": PROGRAMS, "checkpoint": WEIGHTS}  # options by format


def export(
    experiment: Experiment,
    to: Format,
    out: Path | None = None,
    *,
    rule: Rule | str | None = None,
    split: str | None = None,
    size: tuple[int, int] | None = None,
    checkpoint: Path | None = None,
) -> str:
    """Write a run for other programs, compared with its own outputs before it is there.

    Args:
        experiment: the run.
        to: safetensors: the weights that are evaluated, with the recipe; coco: detections as a COCO result list; torch
            (.pt2), onnx: the network up to class, box and quality outputs and decoded boxes.
        out: file to write; None: beside the one that it is made of.
        rule: of coco: by which the detections are ranked; None: the recipe's.
        split: of coco: that was evaluated; None: the profile's.
        size: of torch and onnx: height, width of the images, padded as in evaluation; None: evaluation's largest.
        checkpoint: weights; None: the run's last.

    Returns:
        What was written, in a sentence.

    Raises:
        ValueError: an option of another format, no weights or detections, or a network that the format cannot express.
    """
    if to not in ENDINGS:
        raise ValueError(f"--to {to}: allowed are {', '.join(ENDINGS)}")
    given = {"rule": rule, "split": split, "size": size, "checkpoint": checkpoint}
    for option, formats in FITTING.items():
        if given[option] is not None and to not in formats:
            raise ValueError(f"--{option}: is for --to {', '.join(formats)}, not {to}")
    if out and (out.is_dir() or out.suffix != ENDINGS[to]):
        raise ValueError(f"--out {out}: must be a file that ends in {ENDINGS[to]}")
    if to == "coco":
        return _detections(experiment, Rule.parse(rule) if isinstance(rule, str) else rule, split, out)
    return _network(experiment, to, checkpoint, size, out)


def _detections(experiment: Experiment, rule: Rule | None, split: str | None, out: Path | None) -> str:
    """Write the detections of a rule."""
    folder = experiment.run.on(split).evaluation
    source = detection_file(folder, rule or experiment.recipe.rule)
    if not source.is_file():
        there = ", ".join(sorted(path.stem for path in (folder / DETECTIONS).glob("*.parquet"))) or "none"
        raise ValueError(f"{source}: no such detections (there are {there}); `qrepro eval` makes them")
    target = out or source.with_suffix(ENDINGS["coco"])
    detections = read_detections(source)
    write_coco(target, detections)
    return f"wrote {target}: {len(detections)} detections"


def _network(
    experiment: Experiment, to: str, checkpoint: Path | None, size: tuple[int, int] | None, out: Path | None
) -> str:
    """Write the weights, or the network."""
    recipe, source = experiment.recipe, checkpoint or experiment.run.last
    if not source.is_file():
        raise ValueError(
            f"checkpoint {source}: no such file; train it with `qrepro train {recipe.name} --profile {recipe.profile}`"
        )
    target = out or source.with_suffix(ENDINGS[to])
    detector, origin = restore(recipe, source)
    if to not in PROGRAMS:
        write_weights(target, detector, origin)
        return f"wrote {target}: {len(detector.state_dict())} tensors of step {origin.step}"
    traced = trace(detector, origin, input_size(recipe, size))
    difference = (write_program if to == "torch" else write_onnx)(target, traced)
    tensors = {"images": traced.images, **traced.outputs}
    shapes = ", ".join(f"{name} (N, {', '.join(map(str, tensor.shape[1:]))})" for name, tensor in tensors.items())
    return f"wrote {target}: {shapes}; off by at most {difference:.1e} of an output's largest value"
