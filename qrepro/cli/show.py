"""What a person sees: tables, progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

console = Console()
AP_COLUMNS = ("AP", "AP50", "AP55", "AP60", "AP65", "AP70", "AP75", "AP80", "AP85", "AP90", "AP95", "APS", "APM", "APL")


def number(value: Any, digits: int = 1) -> str:
    """A value as text; an undefined number is a dash."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.{digits}f}"
    return "" if value is None else str(value)


def table(rows: Sequence[Mapping[str, Any]], title: str = "", digits: int = 1) -> None:
    """Print rows as a table; numbers are set to the right.

    A value that has an interval (x, x_low, x_high) is one column; what is the same in all of several rows is said once,
    in a line below.
    """
    if not rows:
        return
    from qrepro.papers.tables import readable

    varying, same = readable(rows, digits)
    shown = Table(title=title or None, title_justify="left", header_style="bold")
    for name in varying[0]:
        values = [row.get(name) for row in varying]
        numeric = all(isinstance(value, int | float) or str(value).endswith("]") for value in values)
        shown.add_column(name, justify="right" if numeric else "left", no_wrap=numeric or not console.is_terminal)
    for row in varying:
        shown.add_row(*(number(row.get(name), digits) for name in varying[0]))
    if console.is_terminal:
        console.print(shown)
    else:
        Console(width=1000).print(shown)  # a log file has no edge to wrap at
    if same:
        console.print(f"all rows: {same}", highlight=False, soft_wrap=True)


def ap_table(rules: Mapping[str, Mapping[str, float]], title: str) -> None:
    """AP of every rule at every threshold."""
    columns = [name for name in AP_COLUMNS if any(name in metrics for metrics in rules.values())]
    table([{"rule": rule, **{c: metrics.get(c, math.nan) for c in columns}} for rule, metrics in rules.items()], title)


@contextmanager
def training(label: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A reporter of training steps: a bar with time left on a terminal, a line a record elsewhere."""
    if not console.is_terminal:
        yield lambda record: console.print(f"{label} {_words(record)}", highlight=False, soft_wrap=True)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=None, words="")

        def report(record: dict[str, Any]) -> None:
            progress.update(task, completed=record["step"], total=record.get("total"), words=_words(record, brief=True))

        yield report


@contextmanager
def counting(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A reporter of how much is done: a bar on a terminal, nothing elsewhere."""
    if not console.is_terminal:
        yield lambda done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


def _words(record: Mapping[str, Any], brief: bool = False) -> str:
    """A log record in a line."""
    hidden = {"step", "total", "waiting_for_data"} if brief else {"total", "waiting_for_data"}
    parts = []
    for name, value in record.items():
        if name not in hidden:
            text = f"{value:.2e}" if name == "lr" else f"{value:.3f}" if isinstance(value, float) else str(value)
            parts.append(f"{name} {text}")
    if not brief and "total" in record:
        parts[0] = f"step {record['step']}/{record['total']}"
    return "  ".join(parts)


@contextmanager
def transfers() -> Iterator[Callable[[str, int, int | None], None]]:
    """A reporter of downloads, by file name: a bar on a terminal, a line every 100 MB elsewhere."""
    if not console.is_terminal:
        said: dict[str, int] = {}

        def line(file: str, done: int, total: int | None) -> None:
            step = done // 100_000_000
            if said.get(file) != step or done == total:
                said[file] = step
                console.print(
                    f"{file}: {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{file}: {done / 1e6:.0f} MB"
                )

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def report(file: str, done: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=total)
            progress.update(tasks[file], completed=done, total=total)

        yield report
