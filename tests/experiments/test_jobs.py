"""Jobs in turn, side by side, and through submitit: as processes of this machine, and on a Slurm where there is one."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from qrepro.engine.interrupt import Stopped, stoppable
from qrepro.experiments.jobs import Failed, Job, SlurmJob, run_on_slurm, run_parallel, run_sequential


def note(file: Path, text: str, device: str | None) -> None:
    """Work that leaves a trace."""
    print(f"working on {text}")
    with file.open("a") as out:
        out.write(f"{text} {device} {os.getpid()}\n")


def meet(folder: Path, me: str, device: str | None) -> None:
    """Work that only ends if another does the same at the same time."""
    (folder / me).touch()
    for _ in range(600):
        if len(list(folder.glob("*"))) >= 2:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{me} was alone")


def diverge(device: str | None) -> None:
    """Work that fails."""
    raise RuntimeError("loss is nan at step 3")


def die(device: str | None) -> None:
    """Work that the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_on(folder: Path, device: str | None) -> None:
    """Work that saves itself when it is asked to end."""
    with stoppable() as stop:
        (folder / "begun").touch()
        for _ in range(1200):
            if stop.asked:
                (folder / "saved").touch()
                raise RuntimeError("stopped at step 7")
            time.sleep(0.05)


def jobs_of(tmp_path: Path, **calls) -> list[Job]:
    return [Job(name, call, tmp_path / "logs" / f"{name}.txt") for name, call in calls.items()]


def test_one_after_another_a_failure_does_not_stop_the_rest(tmp_path):
    said: list[str] = []
    jobs = jobs_of(tmp_path, a=diverge, b=partial(note, tmp_path / "trace", "b"))
    assert run_sequential(jobs, "cpu", said.append) == {"a": "loss is nan at step 3"}
    assert (tmp_path / "trace").read_text() == f"b cpu {os.getpid()}\n"
    assert said == ["[1/2] a", "a: failed: loss is nan at step 3", "[2/2] b"]


@pytest.mark.parametrize("error", [Stopped("saved at step 3"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_signal_and_a_full_disk_stop_all(tmp_path, error):
    def wrong(device):
        raise error

    with pytest.raises(type(error)):
        run_sequential(jobs_of(tmp_path, a=wrong, b=partial(note, tmp_path / "trace", "b")), None, print)
    assert not (tmp_path / "trace").exists()


def test_a_single_job_fails_as_itself(tmp_path):
    def wrong(device):
        raise ValueError("needs the timm extra")

    with pytest.raises(ValueError, match="timm"):
        run_sequential(jobs_of(tmp_path, a=wrong), None, print)


def test_side_by_side_is_at_the_same_time_and_in_other_processes(tmp_path):
    (tmp_path / "room").mkdir()
    trace = tmp_path / "trace"
    calls = {"a": partial(meet, tmp_path / "room", "a"), "b": partial(meet, tmp_path / "room", "b")}
    calls |= {"c": diverge, "d": die, "e": partial(note, trace, "e")}
    said: list[str] = []
    errors = run_parallel(jobs_of(tmp_path, **calls), 2, "cpu", said.append)
    assert errors == {"c": "loss is nan at step 3", "d": "killed by SIGKILL"}
    text, device, process = trace.read_text().split()
    assert (text, device) == ("e", "cpu") and int(process) != os.getpid()
    assert "working on e" in (tmp_path / "logs" / "e.txt").read_text()
    assert {line for line in said if line.endswith("done")} == {"a: done", "b: done", "e: done"}


def test_a_signal_lets_all_save_themselves(tmp_path):
    jobs = jobs_of(tmp_path, a=partial(train_on, tmp_path), b=partial(note, tmp_path / "trace", "b"))

    def interrupt() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Failed, match="stopped; what was running has saved itself"):
        run_parallel(jobs, 1, "cpu", print)
    assert (tmp_path / "saved").exists() and not (tmp_path / "trace").exists()


def needs_submitit() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (the slurm extra)")
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the jobs' processes cannot import this file


def test_submitit_runs_each_job_and_says_what_failed(tmp_path):
    needs_submitit()
    trace = tmp_path / "trace"
    said: list[str] = []
    jobs = jobs_of(tmp_path, **{"x/a": partial(note, trace, "a"), "b": diverge, "c": die})
    options = {"cluster": "local", "timeout_min": "5"}
    errors = run_on_slurm(jobs, tmp_path / "jobs", options, said.append, wait=0.1)
    assert sorted(errors) == ["b", "c"] and "loss is nan at step 3" in errors["b"]
    assert errors["c"].startswith("cancelled or killed; output in ")
    assert trace.read_text().startswith("a None ")
    assert sum("submitted as" in line for line in said) == 3 and "x/a: done" in said


def stop(device: str | None) -> None:
    """A training that was asked to end."""
    raise Stopped("saved at step 7")


@pytest.mark.parametrize(
    ("state", "rank", "asked"), [("RUNNING", "0", "requeue 40_2\n"), ("RUNNING", "1", ""), ("COMPLETING", "0", "")]
)
def test_a_stopped_job_of_slurm_asks_once_for_itself_alone(tmp_path, monkeypatch, state, rank, asked):
    """The last task of an array has the number of the array, which would queue all of its tasks again."""
    needs_submitit()
    calls = tmp_path / "calls"
    for name, line in (("squeue", f"echo {state}"), ("scontrol", f'echo "$@" >> {calls}')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    numbers = {"JOB_ID": "40", "ARRAY_JOB_ID": "40", "ARRAY_TASK_ID": "2", "NTASKS": "1", "PROCID": rank}
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    for key, value in numbers.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    monkeypatch.setattr("qrepro.experiments.jobs.GRACE", 0)
    with pytest.raises(Stopped):
        SlurmJob(Job("a", stop, tmp_path / "a.txt"), None)()
    assert (calls.read_text() if calls.exists() else "") == asked


def test_a_slurm_that_gives_no_answer_does_not_end_the_wait(tmp_path, monkeypatch):
    """A job is over when squeue does not know it, not when squeue cannot ask."""
    needs_submitit()
    asked = tmp_path / "asked"
    script = f"""#!/bin/sh
        echo >> {asked}
        case $(wc -l < {asked}) in
            1) echo RUNNING;;
            [2-5]) echo "error: Socket timed out" >&2; exit 1;;
            *) echo "error: Invalid job id specified" >&2; exit 1;;
        esac
    """
    (tmp_path / "squeue").write_text(script)
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    job = Job("a", diverge, tmp_path / "a.txt")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.id").write_text("40_2")
    errors = run_on_slurm([job], tmp_path / "jobs", {}, print, wait=0.01)
    assert list(errors) == ["a"] and "cancelled or killed" in errors["a"]
    assert asked.read_text().count("\n") == 5 + 2  # a job without a result is looked for twice


def test_options_that_are_unknown_are_refused(tmp_path):
    needs_submitit()
    jobs = jobs_of(tmp_path, a=diverge)
    for options, message in (
        ({"cluster": "moon"}, "cluster=moon: allowed are slurm, local"),
        ({"cluster": "local", "gpus": "8", "colour": "red"}, "--slurm: "),
    ):
        with pytest.raises(ValueError, match=message) as error:
            run_on_slurm(jobs, tmp_path / "jobs", options, print)
        assert "\n" not in str(error.value)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of one node with two cores, started for a test; skips where its programs are not installed."""
    needs_submitit()
    if missing := [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid():
        pytest.skip("only root starts a local Slurm")
    host = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
    place = tmp_path / "slurm"
    place.mkdir()
    config = {
        "ClusterName": "test", "SlurmctldHost": host, "SlurmUser": "root", "SlurmdUser": "root",
        "AuthType": "auth/munge", "AuthInfo": f"socket={place}/munge.socket", "StateSaveLocation": place,
        "SlurmdSpoolDir": place / "spool", "SlurmctldPidFile": place / "ctld.pid",
        "SlurmdPidFile": place / "slurmd.pid", "SlurmctldPort": 16817, "SlurmdPort": 16818,
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core", "MpiDefault": "none", "JobRequeue": 1,
        "ReturnToService": 2, "SchedulerParameters": "bf_interval=1,sched_interval=1,batch_sched_delay=0",
        "MinJobAge": 2, "KillWait": 5,
    }  # fmt: skip
    lines = [f"{key}={value}" for key, value in config.items()]
    lines += [f"NodeName={host} CPUs=2 State=UNKNOWN", f"PartitionName=short Nodes={host} Default=YES MaxTime=60"]
    (place / "slurm.conf").write_text("\n".join(lines) + "\n")
    (place / "munge.key").write_bytes(os.urandom(128))
    (place / "munge.key").chmod(0o600)
    monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
    files = [
        "--socket",
        "munge.socket",
        "--key-file",
        "munge.key",
        "--log-file",
        "munge.log",
        "--pid-file",
        "munge.pid",
    ]
    files = [str(place / part) if "munge" in part and part[0] != "-" else part for part in files]
    programs = [
        ["munged", "--foreground", "--force", *files, "--seed-file", str(place / "seed")],
        ["slurmctld", "-D", "-f", str(place / "slurm.conf")],
        ["slurmd", "-D", "-f", str(place / "slurm.conf")],
    ]
    logs = [(place / f"{program[0]}.out").open("w") for program in programs]
    started = [subprocess.Popen(p, stdout=log, stderr=log) for p, log in zip(programs, logs, strict=True)]
    for _ in range(100):
        state = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False).stdout.strip()
        if state == "idle":
            break
        time.sleep(0.2)
    else:
        pytest.fail(f"Slurm did not start: {state}; {(place / 'slurmctld.out').read_text()[-500:]}")
    yield host
    subprocess.run(["scancel", "--user", "root"], check=False)
    for process in reversed(started):
        process.terminate()
        process.wait(timeout=20)


def count_up(file: Path, device: str | None) -> None:
    """Work of three steps that goes on where it was; it waits long enough in the first to be pre-empted."""
    done = len(file.read_text().split()) if file.exists() else 0
    for step in range(done, 3):
        with file.open("a") as out:
            out.write(f"{step} ")
        time.sleep(60 if step == 0 else 0)


def until_stopped(folder: Path, device: str | None) -> None:
    """A training as it answers a signal; the second time it has nothing left to do."""
    if (folder / "saved").exists():
        return
    folder.mkdir(exist_ok=True)
    with stoppable() as stop:
        (folder / "begun").touch()
        while not stop.asked:
            time.sleep(0.05)
    (folder / "saved").touch()
    raise Stopped("saved at step 7")


@pytest.mark.slow  # Slurm lets two minutes pass before it starts a job again
def test_a_real_slurm_runs_requeues_and_reports(tmp_path, slurm):
    trace, steps = tmp_path / "trace", tmp_path / "steps"
    signalled = {"taken": ["--signal=TERM"], "limited": ["--signal=USR2"], "cancelled": []}
    calls = {"a": partial(note, trace, "a"), "b": diverge, "c": partial(count_up, steps)}
    jobs = jobs_of(tmp_path, **calls, **{name: partial(until_stopped, tmp_path / name) for name in signalled})
    options = {"partition": "short", "timeout_min": "5", "cpus_per_task": "1"}
    said: list[str] = []

    def send(name: str, *options: str) -> None:
        number = (tmp_path / "jobs" / f"{name}.id").read_text()
        subprocess.run(["scancel", *options, number], check=False)  # it delivers, and may still say "try again later"

    def preempt() -> None:
        while not steps.exists():
            time.sleep(0.1)
        again: list[str] = []
        second = threading.Thread(
            target=run_on_slurm, args=(jobs[2:3], tmp_path / "jobs", options, again.append, None, 0.2)
        )
        second.start()
        while not again:
            time.sleep(0.1)
        said.extend(again[:1])
        send("c", "--signal=USR2")  # before there is anything to save
        for name, how in signalled.items():
            while not (tmp_path / name / "begun").exists():
                time.sleep(0.1)
            send(name, *how)
        second.join()

    signals = threading.Thread(target=preempt)
    signals.start()
    errors = run_on_slurm(jobs, tmp_path / "jobs", options, said.append, wait=0.2)
    signals.join()
    assert errors.pop("b") == "RuntimeError: loss is nan at step 3"
    assert errors.pop("cancelled").startswith("cancelled or killed; output in ")  # its owner does not want it back
    assert not errors
    assert trace.read_text().startswith("a None ") and steps.read_text() == "0 1 2 "
    assert any(line.startswith("c: already queued as ") for line in said)
    assert {"c: done", "taken: done", "limited: done"} <= set(said)
    assert all((tmp_path / name / "saved").exists() for name in signalled)
