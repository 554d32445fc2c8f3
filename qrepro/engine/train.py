"""The training loop: one recipe, one data set, any number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from qrepro.data.loader import Batch, Steps, aspect_groups, loader
from qrepro.detector import Detector
from qrepro.engine import checkpoint
from qrepro.engine.card import run_card
from qrepro.engine.datasets import training_images
from qrepro.engine.distributed import DistributedContext, process_group
from qrepro.engine.interrupt import Stop, Stopped, stoppable
from qrepro.engine.schedule import StepSchedule, make_optimiser
from qrepro.objective import total
from qrepro.recipe.build import build_detector, build_matcher, build_objective
from qrepro.recipe.schema import Recipe, Schedule
from qrepro.records.run_folder import RunFolder
from qrepro.reporter import StepLog, no_record

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Validate = Callable[[Detector], float]


class Diverged(RuntimeError):
    """A loss term became infinite or not a number."""


def train(
    recipe: Recipe,
    data: Path,
    run: RunFolder,
    *,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    report: StepLog = no_record,
    validate: Validate | None = None,
) -> None:
    """Train `recipe` on the data set at `data` into a run folder.

    Raises `ValueError` for unusable input before anything is written, `Diverged` when a loss is no longer finite, and
    `Stopped` after a signal. A trained run is only replaced with `overwrite`.
    With `resume` it goes on from the folder's last checkpoint and ends in the same bits as an uninterrupted run (CPU).
    """
    with process_group(device) as context:
        if recipe.schedule.batch % context.world:
            raise ValueError(f"schedule.batch {recipe.schedule.batch} cannot be shared by {context.world} processes")
        images = training_images(recipe, data)
        groups = aspect_groups(images.annotations) * int(recipe.image.group_aspect)
        plan = StepSchedule.of(recipe.schedule, Steps.per_epoch(groups, recipe.schedule.batch))
        if run.last.exists() and not (resume or overwrite):
            raise ValueError(f"{run.last} exists: --resume continues it, --overwrite starts anew (--seed N beside it)")
        state = start(recipe, run, seed, context, resume)
        if context.first:
            if not resume:
                run.clear()
            run.path.mkdir(parents=True, exist_ok=True)
            run.cut_log(state.step)
            parameters = sum(p.numel() for p in state.model.parameters())
            about = {"parameters": parameters, "lr": plan.lr, "processes": context.world, "device": context.name}
            run.write_card(run_card(recipe, seed, steps=plan.total, **about))
        steps = Steps(groups, recipe.schedule.batch, state.step, plan.total, seed, context.rank, context.world)
        batches = loader(images, steps, recipe.image.pad, workers, context.device.type == "cuda")
        loop = Loop(
            recipe=recipe, run=run, seed=seed, context=context, plan=plan, state=state, report=report, validate=validate
        )
        loop.go(batches)


def start(recipe: Recipe, run: RunFolder, seed: int, context: DistributedContext, resume: bool) -> checkpoint.State:
    """A fresh state, or the one in the folder's last checkpoint."""
    torch.manual_seed(seed)
    model = build_detector(recipe)
    found = checkpoint.load(run.last) if resume else None
    if found is None:
        model.backbone.load_pretrained()
    else:
        checkpoint.fit(found, recipe, run.last)
        if (found["hash"], found["seed"]) != (recipe.hash, seed):
            raise ValueError(
                f"--resume: {run.last} was trained with other settings (hash {found['hash']}, seed {found['seed']})"
            )
    layout = torch.channels_last if recipe.schedule.channels_last else torch.contiguous_format
    model.to(device=context.device).to(memory_format=layout)
    scaler = torch.amp.GradScaler(context.device.type, enabled=recipe.schedule.precision == "fp16")
    state = checkpoint.State(model, make_optimiser(recipe.schedule, model), scaler, _averaged(recipe.schedule, model))
    if found is not None:
        state.restore(found)
    return state


def _averaged(schedule: Schedule, model: Detector) -> AveragedModel | None:
    """The copy that is evaluated: exponential mean over steps (`ema`), plain mean over ends of cycles (`average`).

    Buffers are averaged too, which changes the running statistics of live norms only: they become the mean of those of
    the weights averaged, no pass over the data. Norms are frozen in COCO recipes, and the authors of arXiv 2012.12645
    update none either.
    """
    if schedule.ema:
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema), use_buffers=True)
    if schedule.average:
        # torch's default for a GPU, which says the same, fails on buffers of integers
        return AveragedModel(model, avg_fn=get_swa_avg_fn(), use_buffers=True)
    return None


@dataclass(kw_only=True)
class Loop:
    """One training, step by step."""

    recipe: Recipe
    run: RunFolder
    seed: int
    context: DistributedContext
    plan: StepSchedule
    state: checkpoint.State
    report: StepLog
    validate: Validate | None

    def __post_init__(self) -> None:
        self.matcher, self.objective = build_matcher(self.recipe), build_objective(self.recipe)
        self.layout = torch.channels_last if self.recipe.schedule.channels_last else torch.contiguous_format
        self.model: nn.Module = self.state.model
        if self.context.world > 1:
            devices = [self.context.device] if self.context.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.state.model, device_ids=devices)

    def go(self, batches: Iterable[Batch]) -> None:
        """All remaining steps; the last one, and one that is asked to stop, leaves a checkpoint."""
        with stoppable() as stop:
            self._go(batches, stop)

    def _go(self, batches: Iterable[Batch], stop: Stop) -> None:
        self.model.train()
        begin, waited = time.perf_counter(), 0.0
        ready = begin
        for batch in batches:
            waited += time.perf_counter() - ready
            terms = self.step(batch.to(self.context.device, self.layout))
            state, every = self.state, self.recipe.schedule
            for name, value in terms.items():
                state.since[name] = state.since.get(name, 0.0) + value
            state.since["steps"] = state.since.get("steps", 0.0) + 1
            done = state.step == self.plan.total
            if state.step % every.log_every == 0 or done:
                elapsed = time.perf_counter() - begin
                self._log(elapsed, waited)
                begin, waited = time.perf_counter(), 0.0
            if self.validate and every.evaluate_every and (state.step % every.evaluate_every == 0 or done):
                self._validate()
            stopped = self.context.any(stop.asked)
            if state.step % every.checkpoint_every == 0 or done or stopped:
                self._save(self.run.last)
            if stopped and not done:
                raise Stopped(
                    f"stopped at step {state.step} of {self.plan.total}; --resume continues from {self.run.last}"
                )
            ready = time.perf_counter()

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss terms."""
        state, schedule = self.state, self.recipe.schedule
        rate = self.plan.rate(state.step)
        for group in state.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        precision = PRECISION[schedule.precision]
        with torch.autocast(self.context.device.type, precision, enabled=precision != torch.float32):
            prediction = self.model(batch.images)
        matches = self.matcher(prediction, batch.ground_truth, batch.sizes)
        losses = self.objective(prediction, batch.ground_truth, matches)
        loss: Tensor = total(losses)
        terms = dict(zip(losses, torch.stack([v.detach() for v in losses.values()]).tolist(), strict=True))
        for name, value in terms.items():
            if not math.isfinite(value):
                raise Diverged(f"step {state.step + 1}: loss term {name} is {value} (lr {rate:.3g}); {self._kept()}")
        state.optimiser.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        if schedule.clip is not None:
            state.scaler.unscale_(state.optimiser)
            nn.utils.clip_grad_norm_(state.model.parameters(), schedule.clip)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.step += 1
        if state.average and (schedule.ema or self.plan.ends_cycle(state.step)):
            state.average.update_parameters(state.model)
        return terms

    def _kept(self) -> str:
        """What a stopped run leaves."""
        if not self.run.last.exists():
            return "no checkpoint was written yet"
        return f"the checkpoint of step {checkpoint.load(self.run.last)['step']} is kept in {self.run.last}"

    def _log(self, elapsed: float, waited: float) -> None:
        """One line of the log: means since the line before."""
        since, self.state.since = self.state.since, {}
        steps = since.pop("steps")
        terms = {name: value / steps for name, value in since.items()}
        record = {
            "step": self.state.step,
            "total": self.plan.total,
            "lr": self.plan.rate(self.state.step - 1),
            "loss": sum(terms.values()),
            **terms,
            "images_per_s": self.recipe.schedule.batch * steps / elapsed,
            "waiting_for_data": waited / elapsed,
        }
        self._write(record)

    def _validate(self) -> None:
        """Evaluate, and keep the checkpoint of the highest AP."""
        if not self.context.first or self.validate is None:
            return
        ap = self.validate(checkpoint.evaluated(self.state))
        self.model.train()
        if ap > self.state.best:
            self.state.best = ap
            self._save(self.run.best)
        self._write({"step": self.state.step, "AP": ap})

    def _write(self, record: dict[str, Any]) -> None:
        if self.context.first:
            self.run.append_log(record)
            self.report(record)

    def _save(self, path: Path) -> None:
        if self.context.first:
            checkpoint.save(path, self.state.content(self.recipe, self.seed))
