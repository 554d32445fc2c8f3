"""Many trainings: one after another, side by side on this machine, or as jobs of a Slurm cluster.

A job is a call that takes up its own work where it was left: so a job that was killed, pre-empted or interrupted is
simply called again.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from qrepro.engine.interrupt import Stopped, stoppable

Report = Callable[[str], None]
GRACE = 120  # s, more than Slurm leaves between SIGTERM and SIGKILL
SHARED = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "cluster")


class Failed(RuntimeError):
    """Some jobs ended in an error; all others were done."""


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        name: Name that errors are listed by.
        call: The work, called with the name of a device, or None for the default one.
        log: File of its output.
    """

    name: str
    call: Callable[[str | None], None]
    log: Path


def run_sequential(jobs: Sequence[Job], device: str | None, report: Report) -> dict[str, str]:
    """Do jobs one after another in this process; returns the errors of those that failed, by name.

    A signal and a full disk end all; a single job fails as if it had been called by itself.
    """
    errors: dict[str, str] = {}
    for number, job in enumerate(jobs, start=1):
        report(f"[{number}/{len(jobs)}] {job.name}")
        try:
            job.call(device)
        except Exception as error:  # this one diverged, or is too large, or lacks a library; the next need not
            if isinstance(error, Stopped) or getattr(error, "errno", None) == errno.ENOSPC or len(jobs) == 1:
                raise
            errors[job.name] = str(error) or type(error).__name__
            report(f"{job.name}: failed: {errors[job.name]}")
    return errors


def run_parallel(jobs: Sequence[Job], at_once: int, device: str | None, report: Report) -> dict[str, str]:
    """Do jobs in processes of their own, `at_once` at a time; returns the errors of those that failed, by name.

    The output of each goes to its log. On a CPU each process has its share of the cores. A signal is passed on, so that
    all save themselves, and then ends all.

    Args:
        jobs: Jobs, begun in their order.
        at_once: Number of processes.
        device: Name of the device of every job; None: places take the GPUs in turn.
        report: Function that takes each message.

    Raises:
        Failed: A signal stopped the jobs.
    """
    gpus = torch.cuda.device_count() if device is None else 0
    threads = max(1, len(os.sched_getaffinity(0)) // at_once)
    context = multiprocessing.get_context("spawn")
    waiting, errors = list(jobs), dict[str, str]()
    running: dict[int, tuple[Job, BaseProcess]] = {}  # by place
    with stoppable() as stop:
        while (waiting and not stop.asked) or running:
            for place in range(at_once):
                if waiting and not stop.asked and place not in running:
                    job = waiting.pop(0)
                    given = f"cuda:{place % gpus}" if gpus else device
                    started = context.Process(target=_run_in_process, args=(job, given, threads), name=job.name)
                    started.start()
                    running[place] = job, started
                    report(f"[{len(jobs) - len(waiting)}/{len(jobs)}] {job.name}: output in {job.log}")
            if stop.asked:
                for _, process in running.values():
                    process.terminate()  # which a training answers by saving itself
            for place, (job, process) in list(running.items()):
                process.join(timeout=0.2)
                if process.exitcode is not None:
                    del running[place]
                    if process.exitcode:
                        errors[job.name] = _last_line(job.log, process.exitcode)
                    report(f"{job.name}: {'failed: ' + errors[job.name] if process.exitcode else 'done'}")
    if stop.asked:
        raise Failed("stopped; what was running has saved itself, the same command continues")
    return errors


def _run_in_process(job: Job, device: str | None, threads: int) -> None:
    """A job in this process, which was started for it."""
    _write_to(job.log)
    torch.set_num_threads(threads)
    try:
        job.call(device)
    except Exception as error:
        sys.stderr.write(f"error: {error or type(error).__name__}\n")
        if os.environ.get("QREPRO_DEBUG"):
            raise
        raise SystemExit(1) from None


def _write_to(log: Path) -> None:
    """Let all output of this process go to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _last_line(log: Path, code: int) -> str:
    """What a process said last, or the signal that killed it."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
    return last.removeprefix("error: ")


def run_on_slurm(
    jobs: Sequence[Job],
    folder: Path,
    options: Mapping[str, str],
    report: Report,
    device: str | None = None,
    wait: float = 10.0,
) -> dict[str, str]:
    """Submit jobs to Slurm by submitit, wait for them, and return the errors of those that failed, by name.

    A job that Slurm pre-empts or ends for its time limit is queued again and goes on. Ctrl-C leaves all in the queue.

    Args:
        jobs: Jobs to be done.
        folder: Folder of submitit's own files, and of the ids of jobs, so that a second call does not submit what is
            still queued.
        options: Parameters of submitit, those of Slurm without the prefix slurm_: partition, gpus_per_node,
            timeout_min. `cluster` is slurm or local (processes of this machine, to try it). With tasks_per_node above 1
            the processes of a job train together.
        report: Function that takes each message.
        device: Name of the device of every job; None for the default one.
        wait: Seconds between two looks at the queue.

    Raises:
        ValueError: Another cluster, an option that submitit does not know, or no submitit.
    """
    try:
        import submitit
    except ImportError as error:
        raise ValueError("--slurm: needs the slurm extra (pip install 'qrepro[slurm]')") from error
    cluster = options.get("cluster", "slurm")
    if cluster not in ("slurm", "local"):
        raise ValueError(f"--slurm cluster={cluster}: allowed are slurm, local")
    folder.mkdir(parents=True, exist_ok=True)
    submitted: dict[str, Any] = {}
    fresh = []
    for job in jobs:
        ids = _ids(folder, job)
        earlier: Any = submitit.SlurmJob(folder, ids.read_text()) if cluster == "slurm" and ids.is_file() else None
        if earlier is not None and _queued(earlier):
            report(f"{job.name}: already queued as {earlier.job_id}")
            submitted[job.name] = earlier
        else:
            fresh.append(job)
    if fresh:
        executor = _executor(submitit, folder, cluster, options)
        with executor.batch():
            made = [executor.submit(SlurmJob(job, device)) for job in fresh]
        for job, one in zip(fresh, made, strict=True):
            _ids(folder, job).write_text(one.job_id)
            submitted[job.name] = one
            report(f"{job.name}: submitted as {one.job_id}, output in {one.paths.stdout}")
    return _awaited(submitted, _queued if cluster == "slurm" else _runs, report, wait)


def _executor(submitit: Any, folder: Path, cluster: str, options: Mapping[str, str]) -> Any:
    """Submitit's executor with the options of the command."""
    values = {key: int(value) if value.lstrip("-").isdigit() else value for key, value in options.items()}
    named = {key if key in SHARED else f"slurm_{key}": value for key, value in values.items() if key != "cluster"}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**{"name": "qrepro", "timeout_min": 24 * 60} | named)
    except (NameError, RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"--slurm: {' '.join(str(error).split())}") from error
    return executor


def _awaited(submitted: Mapping[str, Any], alive: Callable[[Any], bool], report: Report, wait: float) -> dict[str, str]:
    """Errors by name of jobs, once all have ended."""
    errors: dict[str, str] = {}
    open_, gone = dict(submitted), set[str]()
    while open_:
        for name, job in list(open_.items()):
            if alive(job):
                continue
            if not job.paths.result_pickle.exists() and name not in gone:
                gone.add(name)  # a shared file system may show its result a little later
                continue
            del open_[name]
            if error := _error(job):
                errors[name] = error
            report(f"{name}: {'failed: ' + error if error else 'done'}")
        if open_:
            time.sleep(wait)
    return errors


def _error(job: Any) -> str:
    """What went wrong in a job that has ended, nothing for one that was done."""
    if not job.paths.result_pickle.exists():  # submitit would wait for sacct to explain it
        return f"cancelled or killed; output in {job.paths.stderr}"
    error = job.exception()
    return "" if error is None else _cause(str(error))


def _cause(text: str) -> str:
    """The error itself in what submitit says of it: a traceback between two rules, or a sentence."""
    traceback = text.split("\n-----", 2)
    lines = traceback[1].strip("-").splitlines() if len(traceback) == 3 else text.splitlines()[:1]
    return [line.strip() for line in lines if line.strip()][-1]


def _queued(job: Any) -> bool:
    """Whether Slurm still has a job."""
    return not job.paths.result_pickle.exists() and bool(_state(job.job_id))


def _state(number: str) -> str:
    """Slurm's word for the state of a job, nothing for one it no longer has, UNKNOWN where it gives no answer.

    Asked of squeue, because submitit asks sacct, which not every cluster has.
    """
    command = ["squeue", "--noheader", "--format", "%T", "--job", number]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return "UNKNOWN"  # a busy controller times out, which does not end a training of days
    return asked.stdout.strip()


def _runs(job: Any) -> bool:
    """Whether a process of this machine still does a job."""
    return not job.done()


def _ids(folder: Path, job: Job) -> Path:
    """File that holds the id of a job in the queue."""
    return folder / f"{job.name.replace('/', '-')}.id"


class SlurmJob:
    """A job as submitit calls it: in one or several processes, and once more after a pre-emption."""

    def __init__(self, job: Job, device: str | None) -> None:
        self.job, self.device = job, device

    def __call__(self) -> None:
        """Do the job. Several tasks become the ranks of one training."""
        import submitit

        place = submitit.JobEnvironment()
        if place.num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export()
        try:
            self.job.call(self.device)
        except Stopped:  # by the SIGTERM with which Slurm takes a node away, or the signal before a time limit
            if "SLURM_JOB_ID" in os.environ:
                # the first process has saved the run by now; a job that no longer runs was cancelled by its owner, or
                # Slurm queues it again by itself
                if place.global_rank == 0 and _state(place.job_id) == "RUNNING":
                    subprocess.run(["scontrol", "requeue", place.job_id], check=False)
                time.sleep(GRACE)  # Slurm ends this process; leaving by itself would count as a failure
            raise

    def checkpoint(self) -> Any:
        """At the signal before a time limit, when nothing is there to save: queue it again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
