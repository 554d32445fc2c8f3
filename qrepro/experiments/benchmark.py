"""How long the analyses take as whole processes, on a synthetic set of val2017's size."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrepro import __version__
from qrepro.experiments.synthetic import Size, make_detections, make_ground_truth, write_detections, write_ground_truth
from qrepro.records.run_folder import (
    CANDIDATE_COLUMNS,
    CANDIDATES,
    GROUND_TRUTH,
    METRICS,
    POSITIVES,
    RunFolder,
    write_frame,
)
from qrepro.reporter import SILENT, Reporter

ALPHAS = [f"{tenth / 10:g}" for tenth in range(11)]
RUN, TARGET = "run", "written"


@dataclass(frozen=True)
class Task:
    """A command on the synthetic files.

    Attributes:
        name: what people call it.
        arguments: of the command.
        aim: seconds that it may take at full size on two cores.
    """

    name: str
    arguments: list[str]
    aim: float


def tasks(engine: str | None = None) -> list[Task]:
    """What is timed, in a folder that holds ground_truth.json, a.json, b.json and a run."""
    files = ["--annotations", GROUND_TRUTH, "--out", TARGET]
    rules = [part for alpha in ALPHAS for kind in ("power", "oracle-power") for part in ("--rule", f"{kind}-{alpha}")]
    moments = ["--statistics", "pearson,concordance,bias,slope"]
    chosen = ["--engine", engine] if engine else []
    return [
        Task("analyze ap", ["analyze", "ap", "a.json", *files, *chosen], 2.5),
        Task("rescore by 22 rules", ["rescore", RUN, *rules, "--out", TARGET, *chosen], 240),
        Task("analyze pcc", ["analyze", "pcc", RUN, *moments, "--out", TARGET], 5),
        Task("analyze pcc, all statistics", ["analyze", "pcc", RUN, "--out", TARGET], 60),
        Task("analyze compare", ["analyze", "compare", "a.json", "b.json", "--draws", "1000", *files], 40),
        Task("analyze calibration", ["analyze", "calibration", "a.json", *files], 15),
        Task("analyze lrp", ["analyze", "lrp", "a.json", *files], 5),
    ]


def benchmark_analyses(
    *,
    scale: float = 1.0,
    repeat: int = 3,
    only: Sequence[str] = (),
    engine: str | None = None,
    reporter: Reporter = SILENT,
) -> list[dict[str, Any]]:
    """Median and spread of each task's time, and its peak memory.

    Args:
        scale: size of the set; 1: that of val2017, with 500,000 detections and 5 million candidates and pairs.
        repeat: times that each command runs.
        only: parts of names of tasks; empty: all.
        engine: hotcoco or pycocotools.
        reporter: is told what is made.

    Raises:
        ValueError: no task of such a name.
        RuntimeError: a command failed.
    """
    every = tasks(engine)
    wanted = [task for task in every if not only or any(part in task.name for part in only)]
    if not wanted:
        raise ValueError(f"--only {list(only)}: no such task; there are {', '.join(task.name for task in every)}")
    with tempfile.TemporaryDirectory(prefix="qrepro-benchmark-") as folder:
        reporter.message(f"making a set of {scale:g} times val2017 in {folder}")
        # in a process of its own: the peak memory of a process starts at that of the one that started it
        make = f"from qrepro.experiments.benchmark import make_files; make_files({folder!r}, {scale!r})"
        subprocess.run([sys.executable, "-c", make], check=True)
        return [_row(task, Path(folder), repeat, scale) for task in wanted]


def make_files(root: str, scale: float) -> None:
    """Two result files, their ground truth, and a run with ten times as many candidates and positives."""
    import numpy as np

    from qrepro.engine.candidates import StoredCandidates
    from qrepro.engine.card import run_card
    from qrepro.recipe.axes import resolve

    folder, size = Path(root), Size().scaled(scale)
    ground_truth = make_ground_truth(size)
    write_ground_truth(ground_truth, folder / GROUND_TRUTH)
    for seed, name in enumerate(("a", "b")):
        write_detections(make_detections(size, ground_truth, seed), folder / f"{name}.json")

    run = RunFolder(folder / RUN)
    run.write_card(run_card(resolve("grad_r50", "coco"), 0))
    write_ground_truth(ground_truth, run.path / GROUND_TRUTH)
    frame = make_detections(Size(size.images, size.objects, size.classes, 10 * size.detections), ground_truth)
    frame = frame.rename(columns={"score": "class_score"}).sort_values("image_id", kind="stable", ignore_index=True)
    single = [name for name in frame if name not in ("image_id", "category_id")]
    frame = frame.astype(dict.fromkeys(single, "float32"))
    location = frame.groupby("image_id").cumcount()
    frame = frame.assign(level=(location % 5).astype("int8"), location=location.astype("int32"))
    logs = frame.assign(log_class=np.log(frame["class_score"]), log_quality=np.log(frame["quality"]))
    unstored = dict.fromkeys(ground_truth.images["id"].tolist(), float(np.log(0.001)))
    StoredCandidates(logs[CANDIDATE_COLUMNS], unstored).write(run.path / CANDIDATES)
    write_frame(frame.rename(columns={"iou_truth": "iou"}).drop(columns="location"), run.path / POSITIVES)
    metrics = {"split": "synthetic", "images": size.images, "rules": {}}
    (run.path / METRICS).write_text(json.dumps(metrics), encoding="utf-8")


def _row(task: Task, folder: Path, repeat: int, scale: float) -> dict[str, Any]:
    """Median and spread of a task."""
    times, peaks = zip(*(_measure(task.arguments, folder) for _ in range(repeat)), strict=True)
    return {
        "task": task.name,
        "median_s": statistics.median(times),
        "least_s": min(times),
        "most_s": max(times),
        "peak_mb": max(peaks),
        "aim_s": task.aim if scale == 1 else None,
        "repeats": repeat,
        "scale": scale,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "qrepro": __version__,
    }


def _measure(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak resident MB of one run of a command, in a process of its own."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "qrepro", *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        errors = process.stderr.read().decode(errors="replace").strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        reason = errors.splitlines()[-1] if errors else process.returncode
        raise RuntimeError(f"{' '.join(arguments[:2])} failed: {reason}")
    kilobytes = usage.ru_maxrss / 1024 if sys.platform == "darwin" else usage.ru_maxrss
    return time.perf_counter() - start, kilobytes / 1024
