"""`qrepro export`: a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qrepro.cli import options as o
from qrepro.cli.benchmark import picture_size

ENDINGS = {"safetensors": ".safetensors", "coco": ".json", "torch": ".pt2", "onnx": ".onnx"}
PROGRAMS = ("torch", "onnx")


def export(
    run: Annotated[str, typer.Argument(help="Folder of a run, or the recipe name or YAML file of one.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="safetensors: the weights that are evaluated, with the recipe; coco: detections as a COCO result "
            "list; torch (.pt2), onnx: the network up to class, box and quality outputs and decoded boxes.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write. \\[default: beside the one that it is made of]")
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", help="Of coco: scoring rule of the detections. \\[default: the recipe's]")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Of coco: split that was evaluated. \\[default: the profile's]")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help="Of torch and onnx: height x width of the pictures, such as 800x1333, padded as in evaluation. "
            "\\[default: evaluation's largest]",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Weights to export. \\[default: the run's last.pt]")
    ] = None,
    profile: o.Profile = "coco",
    overrides: o.Overrides = None,
    steps: o.Steps = None,
    seed: o.Seed = 0,
    results: Annotated[Path, typer.Option("--results", help="Folder of results.")] = o.RESULTS,
) -> None:
    """Write a run's weights, detections or network for other programs, checked against our own before it is there."""
    if to not in ENDINGS:
        raise ValueError(f"--to {to}: allowed are {', '.join(ENDINGS)}")
    weights = tuple(name for name in ENDINGS if name != "coco")
    fitting = {"rule": ("coco",), "split": ("coco",), "size": PROGRAMS, "checkpoint": weights}
    given = {"rule": rule, "split": split, "size": size, "checkpoint": checkpoint}
    for option, formats in fitting.items():
        if given[option] is not None and to not in formats:
            raise ValueError(f"--{option}: is for --to {', '.join(formats)}, not {to}")
    if out and (out.is_dir() or out.suffix != ENDINGS[to]):
        raise ValueError(f"--out {out}: must be a file that ends in {ENDINGS[to]}")
    side = picture_size(size)
    choice = o.choose(run, profile, overrides, steps, seed, out=results)
    if to == "coco":
        _detections(choice, rule, split, out)
    else:
        _network(choice, to, checkpoint, side, out)


def _detections(choice: o.Choice, rule: str | None, split: str | None, out: Path | None) -> None:
    """Write the detections of a rule."""
    from qrepro.cli import show
    from qrepro.interop.export import write_coco
    from qrepro.quality import Rule
    from qrepro.records.detections import read_detections

    folder = choice.run.folder(split, choice.recipe) / "detections"
    source = folder / f"{Rule.parse(rule or choice.recipe.score).name}.parquet"
    if not source.is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.parquet"))) or "none"
        raise ValueError(f"{source}: no such detections (there are {there}); `qrepro eval` makes them")
    target = out or source.with_suffix(ENDINGS["coco"])
    detections = read_detections(source)
    write_coco(target, detections)
    show.console.print(f"wrote {target}: {len(detections)} detections", soft_wrap=True, highlight=False)


def _network(
    choice: o.Choice, to: str, checkpoint: Path | None, size: tuple[int, int] | None, out: Path | None
) -> None:
    """Write the weights, or the network."""
    from qrepro.cli import show
    from qrepro.interop.export import input_size, restore, trace, write_onnx, write_program, write_weights

    recipe, source = choice.recipe, checkpoint or choice.run.last
    if not source.is_file():
        raise ValueError(
            f"checkpoint {source}: no such file; train it with `qrepro train {recipe.name} --profile {recipe.profile}`"
        )
    target = out or source.with_suffix(ENDINGS[to])
    detector, origin = restore(recipe, source)
    if to in PROGRAMS:
        traced = trace(detector, origin, input_size(recipe, size))
        off = (write_program if to == "torch" else write_onnx)(target, traced)
        shapes = {"images": traced.images, **traced.outputs}
        about = ", ".join(f"{name} (N, {', '.join(map(str, each.shape[1:]))})" for name, each in shapes.items())
        about += f"; off by at most {off:.1e} of an output's largest value"
    else:
        write_weights(target, detector, origin)
        about = f"{len(detector.state_dict())} tensors of step {origin.step}"
    show.console.print(f"wrote {target}: {about}", soft_wrap=True, highlight=False)
