"""How long work tells of itself: messages, tables, progress. Whoever calls decides what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

Progress = Callable[[int], None]  # is told how much is done
StepLog = Callable[[Mapping[str, Any]], None]  # is told each record of a training's log
Transfer = Callable[[str, int, int | None], None]  # is told of a file: its name, bytes done, bytes in all


def no_progress(done: int) -> None:
    """Progress that nobody watches."""


def no_record(record: Mapping[str, Any]) -> None:
    """A log that nobody reads."""


class Reporter(Protocol):
    """What training, evaluation and reproduction tell whoever runs them."""

    def message(self, text: str) -> None:
        """A sentence about what happens or what was written."""
        ...

    def table(self, rows: Sequence[Mapping[str, Any]], title: str = "", digits: int = 1) -> None:
        """Rows of a result, floats rounded to so many digits."""
        ...

    def counting(self, label: str, total: int) -> AbstractContextManager[Progress]:
        """Work in `total` equal parts."""
        ...

    def training(self, label: str) -> AbstractContextManager[StepLog]:
        """A training that logs."""
        ...

    def transfers(self) -> AbstractContextManager[Transfer]:
        """Downloads of files."""
        ...


class Silent:
    """A reporter that keeps everything to itself: the default of every function of the Python API."""

    def message(self, text: str) -> None:
        """Nothing."""

    def table(self, rows: Sequence[Mapping[str, Any]], title: str = "", digits: int = 1) -> None:
        """Nothing."""

    def counting(self, label: str, total: int) -> AbstractContextManager[Progress]:
        """Progress that nobody watches."""
        return nullcontext(no_progress)

    def training(self, label: str) -> AbstractContextManager[StepLog]:
        """A log that nobody reads."""
        return nullcontext(no_record)

    def transfers(self) -> AbstractContextManager[Transfer]:
        """Transfers that nobody watches."""
        return nullcontext(_no_transfer)


def _no_transfer(file: str, done: int, total: int | None) -> None:
    return None


SILENT = Silent()
