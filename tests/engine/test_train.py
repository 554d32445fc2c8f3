"""The loop on a tiny painted data set: exact resuming, several processes, divergence, schedules."""

import copy
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.tiny import TINY, tiny
from qrepro.data.loader import Steps, in_order
from qrepro.engine.checkpoint import load as load_checkpoint
from qrepro.engine.checkpoint import restore_detector
from qrepro.engine.interrupt import Stopped
from qrepro.engine.schedule import StepSchedule, make_optimiser
from qrepro.engine.train import Diverged, Loop, train
from qrepro.objective import Objective
from qrepro.recipe.axes import resolve
from qrepro.recipe.build import build_detector
from qrepro.records.run_folder import RunFolder


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_checkpoint(run.last)["model"]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Killed(Exception):
    """Stands for a kill signal."""


# In bfloat16 torch 2.15's CPU kernel for the weight gradient of a 3x3 stride-2 convolution reads memory it never wrote
# where the input is one pixel wide, so that images of this case are larger.
BF16 = [
    "schedule.precision=bf16",
    "schedule.batch=2",
    "image.train=[{kind: resize, short: 96, long: 120}, {kind: flip}]",
]


# squeezed, the schedule ends after step 1 and its cycles after 3 and 6: the checkpoint lies within the second
AVERAGE = ["schedule={ema: null, steps: 2, shorten: 6, average: {cycles: 2, steps: 4, lr: [0.004, 0.001]}}"]
EMA = ["schedule.ema=0.9", "schedule.channels_last=true"]


@pytest.mark.parametrize("more", [["schedule.ema=null"], EMA, BF16, AVERAGE])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(shapes, tmp_path, more):
    recipe = tiny(*more)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    train(recipe, shapes, whole, device="cpu")

    def kill(record):
        if record["step"] == 5:  # the last checkpoint is of step 4
            raise Killed

    with pytest.raises(Killed):
        train(recipe, shapes, parts, device="cpu", report=kill)
    assert load_checkpoint(parts.last)["step"] == 4
    train(recipe, shapes, parts, device="cpu", resume=True)
    first, second = load_checkpoint(whole.last), load_checkpoint(parts.last)
    assert same(first["model"], second["model"])
    if recipe.schedule.ema or recipe.schedule.average:
        assert same(first["average"], second["average"])
    logs = [[json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()] for run in (whole, parts)]
    timeless = [
        [{k: v for k, v in r.items() if k not in ("images_per_s", "waiting_for_data")} for r in log] for log in logs
    ]
    assert timeless[0] == timeless[1] and [r["step"] for r in logs[1]] == [1, 2, 3, 4, 5, 6]


def test_what_is_evaluated_is_the_mean_of_the_weights_at_the_ends_of_cycles(shapes, tmp_path, monkeypatch):
    average = "average: {cycles: 3, steps: 2, lr: [0.004, 0.001]}"
    recipe = tiny(f"schedule={{ema: null, steps: 1, {average}, checkpoint_every: 99, evaluate_every: 1}}")
    run, one_step = RunFolder(tmp_path / "run"), Loop.step
    trained, judged = [], []  # after steps 1, 2, ... 7

    def step(self, batch):
        terms = one_step(self, batch)
        trained.append(copy.deepcopy(self.state.model.state_dict()))
        return terms

    def judge(model):
        judged.append(copy.deepcopy(model.state_dict()))
        return 0.0 if len(judged) == 2 else -math.inf  # the checkpoint of step 2 is kept as the best

    monkeypatch.setattr(Loop, "step", step)
    train(recipe, shapes, run, device="cpu", validate=judge)
    assert len(trained) == len(judged) == 7
    for done, found in enumerate(judged, 1):
        ends = [end for end in (3, 5, 7) if end <= done] or [done]  # before any cycle has ended: the model itself
        for name, value in found.items():
            mean = torch.stack([trained[end - 1][name].double() for end in ends]).mean(0)
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6, msg=f"{done} {name}")
    assert (judged[-1]["head.cls_out.bias"] - trained[-1]["head.cls_out.bias"]).abs().max() > 1e-4  # far above atol
    for path, done in ((run.best, 2), (run.last, 7)):
        model, saved = restore_detector(recipe, path)
        assert saved == done and same(model.state_dict(), judged[done - 1])


def test_seed_decides_and_workers_do_not(shapes, tmp_path):
    runs = {}
    for label, seed, workers in (("a", 0, 0), ("b", 0, 2), ("c", 1, 0)):
        runs[label] = RunFolder(tmp_path / label)
        train(tiny("schedule.steps=2"), shapes, runs[label], seed=seed, device="cpu", workers=workers)
    assert same(weights(runs["a"]), weights(runs["b"]))
    assert not same(weights(runs["a"]), weights(runs["c"]))


def test_non_finite_loss_stops_names_the_term_and_keeps_the_checkpoint(shapes, tmp_path, monkeypatch):
    run, calls, original = RunFolder(tmp_path / "run"), [], Objective.__call__

    def poisoned(self, *arguments):
        losses = original(self, *arguments)
        calls.append(0)
        return losses | ({"encoding": losses["encoding"] * torch.nan} if len(calls) == 4 else {})

    monkeypatch.setattr(Objective, "__call__", poisoned)
    with pytest.raises(Diverged, match=r"step 4: loss term encoding is nan .* checkpoint of step 2 is kept"):
        train(tiny(), shapes, run)
    assert load_checkpoint(run.last)["step"] == 2
    assert all(v.isfinite().all() for v in weights(run).values() if v.is_floating_point())


def test_a_signal_saves_at_the_next_step_and_the_rest_can_be_resumed(shapes, tmp_path):
    """What a cluster does before it takes a machine back."""
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    recipe = tiny("schedule.checkpoint_every=100")
    train(recipe, shapes, whole)

    def terminate(record):
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="stopped at step 3 of 6"):
        train(recipe, shapes, parts, report=terminate)
    assert load_checkpoint(parts.last)["step"] == 3
    train(recipe, shapes, parts, resume=True)
    assert same(weights(whole), weights(parts))


def test_divergence_before_the_first_checkpoint(shapes, tmp_path):
    with pytest.raises(Diverged, match="no checkpoint was written yet"):
        changes = [
            "schedule.optimiser.lr=1e12",
            "schedule.clip=null",
            "schedule.warmup.steps=0",
            "schedule.checkpoint_every=99",
        ]
        train(tiny(*changes, "schedule.steps=30"), shapes, RunFolder(tmp_path / "run"))


def test_resume_refuses_another_recipe_and_another_network(shapes, tmp_path):
    run = RunFolder(tmp_path / "run")
    train(tiny("schedule.steps=2"), shapes, run)
    before = run.last.read_bytes()
    with pytest.raises(ValueError, match="other settings"):
        train(tiny("schedule.steps=4"), shapes, run, resume=True)
    with pytest.raises(ValueError, match="differs from"):
        train(tiny("schedule.steps=2", "head.convs=2"), shapes, run, resume=True)
    with pytest.raises(ValueError, match="holds the network of recipe iou_aware/grad_r50"):
        restore_detector(tiny(name="retinanet_r50"), run.last)
    assert run.last.read_bytes() == before


def test_checkpoints_that_are_none(tmp_path):
    path = tmp_path / "last.pt"
    with pytest.raises(ValueError, match="no such file"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not readable"):
        load_checkpoint(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not written by qrepro"):
        load_checkpoint(path)
    import collections

    torch.save({"model_hash": collections.Counter, "f": eval}, path)  # anything that would have to be executed
    with pytest.raises(ValueError, match="not readable"):
        load_checkpoint(path)


def test_a_full_disk_keeps_the_old_checkpoint(shapes, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")

    def kill(record):
        if record["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(tiny(), shapes, run, report=kill)
    before = run.last.read_bytes()

    def full(content, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError):
        train(tiny(), shapes, run, resume=True)
    assert not list(run.path.glob(".*partial"))
    assert run.last.read_bytes() == before


def test_a_finished_run_is_not_replaced_by_accident(shapes, tmp_path):
    run = RunFolder(tmp_path / "run")
    train(tiny("schedule.steps=2"), shapes, run)
    before = run.last.read_bytes()
    (run.path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="--resume continues it, --overwrite starts anew"):
        train(tiny("schedule.steps=2"), shapes, run)
    assert run.last.read_bytes() == before
    train(tiny("schedule.steps=1"), shapes, run, overwrite=True)
    assert load_checkpoint(run.last)["step"] == 1
    assert not (run.path / "metrics.json").exists()  # it spoke of the weights that are gone


def train_command(data: Path, out: Path, *changes: str) -> list[str]:
    """`python -m qrepro train` of the tiny recipe."""
    options = [part for change in [*TINY, *changes] for part in ("--set", change)]
    where = ["--data", str(data), "--results", str(out), "--device", "cpu", "--workers", "0"]
    return ["-m", "qrepro", "train", "grad_r50", "-p", "shapes", *where, *options]


def run_python(*arguments: str) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert call.returncode == 0, call.stdout + call.stderr


TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_equal_one(shapes, tmp_path):
    """Gradients are averaged over ranks and N is counted over ranks, so that one process must find the same weights.

    Norms are frozen, because statistics of half a batch would differ.
    """
    changes = [
        "backbone.frozen_norm=true",
        "schedule.steps=3",
        "schedule.optimiser={kind: sgd, lr: 0.1, lr_batch: 4}",
        "schedule.warmup.steps=0",
        "loss.count=batch",
    ]
    for out, launch in (("one", []), ("two", TWO)):
        run_python(*launch, *train_command(shapes, tmp_path / out, *changes))
    one, two = (load_checkpoint(next((tmp_path / out).rglob("last.pt"))) for out in ("one", "two"))
    for name, value in one["model"].items():
        if value.is_floating_point():
            torch.testing.assert_close(two["model"][name], value, rtol=1e-4, atol=1e-6, msg=name)
    moved = one["model"]["head.cls_out.bias"] - torch.tensor(0.01).logit()  # from where it began
    assert moved.abs().max() > 1e-2  # far more than the tolerance: equal gradients, not none
    logs = [
        [json.loads(x) for x in next((tmp_path / out).rglob("log.jsonl")).read_text().splitlines()]
        for out in ("one", "two")
    ]
    assert len(logs[0]) == len(logs[1]) == 3


def test_a_rank_without_objects_does_not_hang(shapes, tmp_path):
    """Two processes, half of the images without objects: names of terms and collective calls must agree."""
    source = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    odd = {image["id"] for image in source["images"][::2]}
    source["annotations"] = [a for a in source["annotations"] if a["image_id"] not in odd]
    root = tmp_path / "half"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_train.json").write_text(json.dumps(source))
    (root / "train").symlink_to(shapes / "train")
    run_python(*TWO, *train_command(root, tmp_path / "out", "schedule.batch=2", "schedule.steps=8"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_one_of_two_processes_ends_both_at_the_same_step(shapes, tmp_path, number):
    """Else the other would wait for it until the cluster kills both, and lose what was not saved."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = train_command(shapes, tmp_path, "schedule.steps=10000", "schedule.checkpoint_every=10000")
    ranks = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **group, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        until = time.monotonic() + 120
        while not any(log.stat().st_size for log in tmp_path.rglob("log.jsonl")) and time.monotonic() < until:
            time.sleep(0.1)
        ranks[1].send_signal(number)
        ends = [rank.communicate(timeout=60)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    steps = {re.search(r"stopped at step (\d+) of 10000", end).group(1) for end in ends}
    assert len(steps) == 1
    assert {str(load_checkpoint(next(tmp_path.rglob("last.pt")))["step"])} == steps


def test_steps_are_a_function_of_seed_and_step():
    groups = np.array([0, 1, 1, 0, 1, 1, 1])
    per_epoch = Steps.per_epoch(groups, 2)
    assert per_epoch == 1 + 3
    everything = list(Steps(groups, 2, 0, 12, seed=3))
    assert list(Steps(groups, 2, 5, 12, seed=3)) == everything[5:]
    for epoch in range(3):
        batches = [[i for i, _ in b] for b in everything[epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert {i for b in batches for i in b} == set(range(7))  # every image at least once
        assert all(len({groups[i] for i in b}) == 1 for b in batches)
    assert everything[:4] != everything[4:8]
    assert len({seed for batch in everything for _, seed in batch}) == 24  # each draw has an augmentation of its own
    halves = [list(Steps(groups, 2, 0, 12, seed=3, rank=r, world=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == everything


def test_in_order_covers_each_sample_once():
    assert [[i for i, _ in b] for b in in_order(5, 2)] == [[0, 1], [2, 3], [4]]


def test_learning_rates_by_hand():
    base = ["schedule.optimiser.lr_batch=16", "schedule.batch=8"]
    plan = StepSchedule.of(resolve("grad_r50", overrides=base).schedule, per_epoch=100)
    assert (plan.total, plan.warmup) == (1200, 500)
    assert plan.rate(0) == pytest.approx(0.005 / 3)
    assert plan.rate(250) == pytest.approx(0.005 * (1 / 3 + 1 / 3))
    assert plan.rate(799) == pytest.approx(0.005) and plan.rate(800) == pytest.approx(0.0005)
    assert plan.rate(1099) == pytest.approx(0.0005) and plan.rate(1100) == pytest.approx(0.00005)
    short = StepSchedule.of(resolve("grad_r50", overrides=[*base, "schedule.shorten=120"]).schedule, per_epoch=100)
    assert (short.total, short.warmup) == (120, 50)
    assert short.rate(79) == pytest.approx(0.005) and short.rate(80) == pytest.approx(0.0005)
    epochs = ["schedule.warmup={epochs: 1.5, ratio: 0.1}"]
    assert StepSchedule.of(resolve("grad_r50", overrides=[*base, *epochs]).schedule, per_epoch=101).warmup == 152
    assert StepSchedule.of(resolve("passd/passd320", "shapes").schedule, per_epoch=7).warmup == 100
    flat = ["schedule={steps: 100, warmup: {steps: 0}, optimiser: {kind: adamw, lr: 0.001, lr_batch: 16}, batch: 16}"]
    cosine = StepSchedule.of(resolve("grad_r50", "shapes", flat).schedule, per_epoch=7)
    assert cosine.rate(0) == pytest.approx(0.001) and cosine.rate(50) == pytest.approx(0.001 * (0.01 + 0.99 / 2))


def test_learning_rates_of_averaging_by_hand():
    """Cycles from 0.01 to 0.0001 at 16 images, here 8: half a cosine around their mean 0.002525."""
    base = ["schedule={batch: 8, average: {cycles: 3, epochs: 1, lr: [0.01, 0.0001]}}"]
    plan = StepSchedule.of(resolve("grad_r50", overrides=base).schedule, per_epoch=100)
    assert (plan.total, plan.bounds, plan.warmup) == (1500, (1200, 1300, 1400, 1500), 500)
    assert [step for step in range(1501) if plan.ends_cycle(step)] == [1300, 1400, 1500]
    assert plan.rate(250) == pytest.approx(0.005 * (1 / 3 + 1 / 3))  # the schedule itself is as without averaging
    assert plan.rate(799) == pytest.approx(0.005) and plan.rate(800) == pytest.approx(0.0005)
    assert plan.rate(1199) == pytest.approx(0.00005)
    for begin in (1200, 1300, 1400):
        assert plan.rate(begin) == pytest.approx(0.005)
        assert plan.rate(begin + 25) == pytest.approx(0.002525 + 0.002475 / 2**0.5)
        assert plan.rate(begin + 50) == pytest.approx(0.002525)
        assert plan.rate(begin + 99) == pytest.approx(0.00005 + 0.00495 * (0.005 * np.pi) ** 2, rel=1e-3)
    without = StepSchedule.of(resolve("grad_r50").schedule, per_epoch=100)
    assert without.total == 1200 and not any(without.ends_cycle(step) for step in range(1201))


@pytest.mark.parametrize(
    "total, bounds",
    [
        (150, (120, 130, 140, 150)),
        (20, (16, 17, 18, 20)),  # 12, 13, 14, 15 times 4/3
        (10, (7, 8, 9, 10)),  # cycles of two thirds of a step have one
        (4, (1, 2, 3, 4)),
    ],
)
def test_averaging_is_shortened_in_proportion_to_at_least_a_step_a_cycle(total, bounds):
    changes = [f"schedule={{shorten: {total}, average: {{cycles: 3, epochs: 1, lr: [0.01, 0.0001]}}}}"]
    plan = StepSchedule.of(resolve("grad_r50", overrides=changes).schedule, per_epoch=100)
    assert (plan.total, plan.bounds, plan.warmup) == (total, bounds, total * 500 // 1500)
    assert all(plan.rate(begin) == pytest.approx(0.01) for begin in bounds[:-1])
    if total == 150:
        assert plan.rate(79) == pytest.approx(0.01) and plan.rate(80) == pytest.approx(0.001)
        assert plan.rate(125) == pytest.approx(0.00505)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_have_their_own_rate_and_decay_but_not_those_of_norms(kind):
    recipe = tiny(f"schedule.optimiser={{kind: {kind}, lr: 0.01, bias_lr: 2, bias_decay: 0}}")
    model = build_detector(recipe)
    rest, biases = make_optimiser(recipe.schedule, model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)] for parameter in biases["params"]}
    assert {"head.cls_out.bias", "head.quality.conv.bias", "neck.lateral.0.bias"} <= found
    assert all(name.endswith(".bias") for name in found)
    assert not any("bn" in name or "cls_tower.1." in name for name in found)
    assert len(found) + len(rest["params"]) == len(names)
    decay = recipe.schedule.optimiser.weight_decay
    assert (rest["factor"], rest["weight_decay"]) == (1, decay) and (biases["factor"], biases["weight_decay"]) == (2, 0)


def test_the_rate_of_a_step_is_the_plan_s_times_the_group_s(shapes, tmp_path):
    recipe = tiny("schedule.optimiser.bias_lr=2", "schedule.ema=null")
    run = RunFolder(tmp_path / "run")
    train(recipe, shapes, run, device="cpu")
    groups = load_checkpoint(run.last)["optimiser"]["param_groups"]
    logged = (run.path / "log.jsonl").read_text().splitlines()[-1]
    assert [group["lr"] / json.loads(logged)["lr"] for group in groups] == pytest.approx([1, 2])
