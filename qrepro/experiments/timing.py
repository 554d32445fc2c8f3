"""Where the time of a detector goes: a training step and the inference of one image, part by part.

What is timed is the training loop's own step and the parts that a recipe builds, observed at their seams. Weights are
fresh and stay as they are; class scores are synthetic, because a fresh network finds nothing; so are images and
objects, unless training reads those of a data set.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from qrepro.data.loader import Batch, Steps, aspect_groups, loader
from qrepro.data.sets import TRAINING_IMAGES
from qrepro.engine.datasets import evaluation_size, training_images
from qrepro.engine.distributed import DistributedContext
from qrepro.engine.schedule import StepSchedule
from qrepro.engine.train import Loop, start
from qrepro.ground_truth import GroundTruthBatch
from qrepro.ranking import DenseOutputs, rank
from qrepro.recipe.axes import checked
from qrepro.recipe.build import build_detector, build_postprocess
from qrepro.recipe.load import merge
from qrepro.recipe.schema import Decay, Recipe
from qrepro.records.run_folder import RunFolder
from qrepro.reporter import no_record

SMALLEST = 8.0  # px, side of a synthetic object
NOTHING, SUREST = -12.0, 4.0  # synthetic class logits: where there is no candidate, and the highest of a candidate

Row = dict[str, Any]
Size = tuple[int, int]
Call = TypeVar("Call", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class TimingSetup:
    """What is measured, beside recipe and machine.

    Attributes:
        batch: Images of a training step; inference takes one.
        objects: Objects on a synthetic image.
        candidates: Pairs of location and class whose score is above the threshold of post-processing.
        steps: Steps that are measured, after `warm_up` others.
        warm_up: Steps that are not measured.
    """

    batch: int = 2
    objects: int = 8
    candidates: int = 2000
    steps: int = 10
    warm_up: int = 2


class StepTimer:
    """A stopwatch of repeated work: a part lasts from the mark before it to its own, so that no time is left over."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[dict[str, float]] = []
        self._last = 0.0

    def start(self) -> None:
        """Begin the next repetition."""
        self.seconds.append({})
        self._last = self._now()

    def mark(self, part: str) -> None:
        """End a part."""
        now = self._now()
        self.seconds[-1][part] = now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class TimedStage:
    """Repeatable work of a recipe.

    Attributes:
        recipe: Recipe whose work it is.
        stage: `train` or `inference`.
        timer: Stopwatch of the parts.
        batch: Images of one repetition.
        lap: Function that does the work once and marks its parts.
        shapes: Height, width of its inputs in pixels, with their padding.
    """

    recipe: Recipe
    stage: str
    timer: StepTimer
    batch: int
    lap: Callable[[], None]
    shapes: list[Size]


def time_detectors(
    recipes: Sequence[Recipe],
    device: torch.device,
    setup: TimingSetup,
    size: Size | None = None,
    data: Path | None = None,
) -> list[Row]:
    """Rows of a training step and of inference of several recipes, timed interleaved.

    Args:
        recipes: Recipes, the first of which is what the others' ratios are to.
        device: Device that is timed.
        setup: What is measured.
        size: Height, width of synthetic images; None: the largest that evaluation sees.
        data: Folder of a data set whose training images are read; None: synthetic ones.
    """
    rows = interleaved([time_training(recipe, device, setup, size, data) for recipe in recipes], setup)
    return rows + interleaved([time_inference(recipe, device, setup, size) for recipe in recipes], setup)


def interleaved(timed: Sequence[TimedStage], setup: TimingSetup) -> list[Row]:
    """Rows of several pieces of work, one a part and one of all, measured turn by turn.

    So whatever slows a machine down for a while slows all of them down. `ratio`: of the whole to that of the first
    piece of the same stage, median over the turns.
    """
    for _ in range(setup.warm_up + setup.steps):
        for one in timed:
            one.timer.start()
            one.lap()
    return [row for one in timed for row in _rows(one, next(t for t in timed if t.stage == one.stage), setup)]


def time_training(
    recipe: Recipe, device: torch.device, setup: TimingSetup, size: Size | None = None, data: Path | None = None
) -> TimedStage:
    """A training step.

    Parts: data (only where a folder is given: read by this process, and moved to the device), forward, assignment,
    losses (with the decoding of positives), backward (with the clipping of gradients) and optimiser (with the average).

    Args:
        recipe: Recipe of the detector.
        device: Device that is timed.
        setup: What is measured.
        size: Height, width of synthetic images; None: the largest that evaluation sees.
        data: Folder of a data set whose training images are read; None: synthetic ones.
    """
    fresh = checked(merge(recipe.values(), {"backbone": {"weights": None}}), f"recipe {recipe.name}")
    timer, repetitions = StepTimer(device), setup.warm_up + setup.steps
    loop = _zero_lr_loop(fresh, device, repetitions)
    matcher, objective = loop.matcher, loop.objective
    loop.matcher = _marked(matcher, timer, "assignment")
    loop.objective = _marked(objective, timer, "losses")
    loop.model.register_forward_hook(lambda *_: timer.mark("forward"))
    loop.state.optimiser.register_step_pre_hook(lambda *_: timer.mark("backward"))
    batches: Iterator[Batch]
    if data:
        batches = _read(fresh, data, setup)
    else:
        batches = repeat(synthetic_batch(fresh, setup.batch, size, setup.objects).to(device, loop.layout))
    shapes: list[Size] = []

    def lap() -> None:
        batch = next(batches)
        if data:
            batch = batch.to(device, loop.layout)
            timer.mark("data")
        loop.step(batch)
        timer.mark("optimiser")
        shapes.append((batch.images.shape[-2], batch.images.shape[-1]))

    return TimedStage(recipe, "train", timer, setup.batch, lap, shapes)


@torch.no_grad()
def time_inference(recipe: Recipe, device: torch.device, setup: TimingSetup, size: Size | None = None) -> TimedStage:
    """The inference of one synthetic image: forward, decoding, and ranking (fusion, candidates, suppression)."""
    batch = synthetic_batch(recipe, 1, size, 0).to(device)
    detector = build_detector(recipe).to(device).eval()
    postprocess = build_postprocess(recipe)
    fresh = detector(batch.images)
    logits = _class_logits(fresh.scores(), setup.candidates, postprocess.score_thr)
    logits = F.pad(logits, (0, int(fresh.background)))  # beside a background of logit 0 a softmax is a sigmoid
    sure = None if fresh.quality is None else torch.full_like(fresh.quality, -NOTHING)
    timer = StepTimer(device)

    @torch.no_grad()
    def lap() -> None:
        prediction = replace(detector(batch.images), cls=logits, quality=sure)
        timer.mark("forward")
        outputs = DenseOutputs.of(prediction, batch.sizes)
        timer.mark("decoding")
        rank(outputs, recipe.rule, postprocess)
        timer.mark("ranking")

    return TimedStage(recipe, "inference", timer, 1, lap, [(batch.images.shape[-2], batch.images.shape[-1])])


def _marked(call: Call, timer: StepTimer, part: str) -> Call:
    """A call whose end is marked as the end of a part."""

    def marked(*arguments: Any) -> Any:
        result = call(*arguments)
        timer.mark(part)
        return result

    return cast(Call, marked)


def _zero_lr_loop(recipe: Recipe, device: torch.device, steps: int) -> Loop:
    """The training loop at a learning rate of zero: its step does all its work, and finds the same weights again."""
    context, run = DistributedContext(0, 1, device), RunFolder(Path(os.devnull))  # nothing is written
    state = start(recipe, run, 0, context, resume=False)
    # at its usual first scale fp16 overflows and skips steps of the optimiser
    state.scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=recipe.schedule.precision == "fp16")
    plan = StepSchedule(total=steps, warmup=0, ratio=1.0, lr=0.0, decay=Decay(), length=1)
    loop = Loop(
        recipe=recipe, run=run, seed=0, context=context, plan=plan, state=state, report=no_record, validate=None
    )
    loop.model.train()
    return loop


def _read(recipe: Recipe, data: Path, setup: TimingSetup) -> Iterator[Batch]:
    """Training batches of a data set, read by this process."""
    images = training_images(recipe, data)
    groups = aspect_groups(images.annotations) * int(recipe.image.group_aspect)
    steps = Steps(groups, setup.batch, 0, setup.warm_up + setup.steps, seed=0)
    return iter(loader(images, steps, recipe.image.pad, workers=0, pin=False))


def synthetic_batch(recipe: Recipe, batch: int, size: Size | None, objects: int) -> Batch:
    """Noise in the padded size of the images, with objects anywhere: the log of each side uniform, and the label."""
    height, width = size or evaluation_size(recipe)
    pad, random = recipe.image.pad, torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *(-(-side // pad) * pad for side in (height, width)), generator=random)
    limit = torch.tensor([width, height], dtype=torch.float32)
    least = limit.clamp(max=SMALLEST)
    sides = least * (limit / least) ** torch.rand(batch, objects, 2, generator=random)
    corner = (limit - sides) * torch.rand(batch, objects, 2, generator=random)
    labels = torch.randint(recipe.data.class_count, (batch, objects), generator=random)
    ground_truth = GroundTruthBatch(
        torch.cat([corner, corner + sides], -1), labels, torch.ones(batch, objects, dtype=torch.bool)
    )
    sizes = torch.tensor([[height, width]] * batch)
    return Batch(images, ground_truth, sizes, torch.ones(batch, 2), torch.arange(batch))


def _class_logits(like: Tensor, candidates: int, threshold: float) -> Tensor:
    """Logits in the shape of (1, R, C): `candidates` anywhere above the threshold, the others far below."""
    random = torch.Generator().manual_seed(0)
    logits = torch.full((like.numel(),), NOTHING)
    lowest = torch.tensor(threshold).logit(eps=1e-3).item()
    chosen = torch.randperm(len(logits), generator=random)[:candidates]
    logits[chosen] = SUREST - (SUREST - lowest) * torch.rand(len(chosen), generator=random)
    return logits.view(like.shape).to(like)


def _rows(timed: TimedStage, first: TimedStage, setup: TimingSetup) -> list[Row]:
    """Median and spread of every part and of all together.

    share: of the sum of the parts' medians; hours: of the recipe's epochs on train2017 at this pace; height, width: of
    the network's largest input, with its padding.
    """
    recipe, timer = timed.recipe, timed.timer
    measured = timer.seconds[setup.warm_up :]
    times = {part: [1000 * lap[part] for lap in measured] for part in measured[0]}
    medians = {part: statistics.median(values) for part, values in times.items()}
    whole = sum(medians.values())
    shares = {part: median / whole for part, median in medians.items()}
    times["total"] = [1000 * sum(lap.values()) for lap in measured]
    others = [1000 * sum(lap.values()) for lap in first.timer.seconds[setup.warm_up :]]
    # a clock that is too coarse for the work may show no time at all
    turns = [mine / other for mine, other in zip(times["total"], others, strict=True) if other]
    pace = 1000 * timed.batch / statistics.median(times["total"]) if statistics.median(times["total"]) else math.nan
    images = (recipe.schedule.epochs or math.nan) * TRAINING_IMAGES["coco"]
    shape = max(timed.shapes, key=math.prod)
    return [
        {
            "recipe": recipe.name,
            "profile": recipe.profile,
            "stage": timed.stage,
            "part": part,
            "median_ms": statistics.median(values),
            "least_ms": min(values),
            "most_ms": max(values),
            "share": shares.get(part, 1.0),
            "ratio": statistics.median(turns) if part == "total" and turns else math.nan,
            "images_per_s": pace if part == "total" else math.nan,
            "hours": images / pace / 3600 if part == "total" and timed.stage == "train" else math.nan,
            **asdict(replace(setup, batch=timed.batch)),
            "height": shape[0],
            "width": shape[1],
            "precision": recipe.schedule.precision if timed.stage == "train" else "fp32",
            "device": torch.cuda.get_device_name(timer.device) if timer.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        for part, values in times.items()
    ]
