"""Signals as requests: a run that is asked to end finishes its step and saves itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # the last: of Slurm before a time limit, by submitit


class Stopped(RuntimeError):
    """Somebody asked a run to end (Ctrl-C, or the signal of a cluster); it was saved."""


@dataclass
class Stop:
    """Whether a signal has asked for the end."""

    asked: bool = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn signals into a request that the loop answers between two steps."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may install handlers
        return

    def ask(number: int, frame: object) -> None:
        stop.asked = True

    before = {number: signal.signal(number, ask) for number in ASKING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
