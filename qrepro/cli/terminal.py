"""What a person sees: messages, tables, progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
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

from qrepro.reporter import Progress as Count
from qrepro.reporter import StepLog, Transfer, no_progress

console = Console()
AP_COLUMNS = ("AP", "AP50", "AP55", "AP60", "AP65", "AP70", "AP75", "AP80", "AP85", "AP90", "AP95", "APS", "APM", "APL")


class Terminal:
    """A `qrepro.reporter.Reporter` that writes to this process's standard output."""

    def message(self, text: str) -> None:
        """A line, as it is."""
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    def table(self, rows: Sequence[Mapping[str, Any]], title: str = "", digits: int = 1) -> None:
        """Rows as a table; numbers are set to the right.

        A value that has an interval (x, x_low, x_high) is one column; what is the same in all of several rows is said
        once, in a line below.
        """
        if not rows:
            return
        from qrepro.records.rows import readable

        varying, same = readable(rows, digits)
        columns = {name: [_number(row.get(name), digits) for row in varying] for name in varying[0]}
        numeric = {
            name
            for name in columns
            if all(isinstance(row.get(name), int | float) or str(row.get(name)).endswith("]") for row in varying)
        }
        # a log file has no edge to wrap at
        parts = _in_width(columns, numeric, console.width) if console.is_terminal else [list(columns)]
        for number, part in enumerate(parts):
            table = Table(title=title if title and not number else None, title_justify="left", header_style="bold")
            for name in part:
                fixed = name in numeric or not console.is_terminal
                table.add_column(name, justify="right" if name in numeric else "left", no_wrap=fixed, overflow="fold")
            for cells in zip(*(columns[name] for name in part), strict=True):
                table.add_row(*cells)
            (console if console.is_terminal else Console(width=1000)).print(table)
        if same:
            console.print(f"all rows: {same}", highlight=False, soft_wrap=True)

    @contextmanager
    def counting(self, label: str, total: int) -> Iterator[Count]:
        """A bar on a terminal, nothing elsewhere."""
        if not console.is_terminal:
            yield no_progress
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(label, total=total)
            yield lambda done: progress.update(task, completed=done)

    @contextmanager
    def training(self, label: str) -> Iterator[StepLog]:
        """A bar with time left on a terminal, a line a record elsewhere."""
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

            def log(record: Mapping[str, Any]) -> None:
                words = _words(record, brief=True)
                progress.update(task, completed=record["step"], total=record.get("total"), words=words)

            yield log

    @contextmanager
    def transfers(self) -> Iterator[Transfer]:
        """A bar a file on a terminal, a line every 100 MB elsewhere."""
        if not console.is_terminal:
            yield _lines_of_transfers()
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


terminal = Terminal()


def ap_table(rules: Mapping[str, Mapping[str, float]], title: str) -> None:
    """AP of every rule at every threshold."""
    columns = [name for name in AP_COLUMNS if any(name in metrics for metrics in rules.values())]
    rows = [{"rule": rule, **{c: metrics.get(c, math.nan) for c in columns}} for rule, metrics in rules.items()]
    terminal.table(rows, title)


def _in_width(columns: Mapping[str, Sequence[str]], numeric: Set[str], width: int) -> list[list[str]]:
    """Columns of tables that fit a width, one below the other.

    What tells a row from the others stands in each of them, its words in at most half of the width.
    """
    wide = {name: max(map(len, [name, *cells])) + 3 for name, cells in columns.items()}
    if sum(wide.values()) < width:
        return [list(columns)]
    keys = [name for name in columns if name not in numeric]
    for name in (name for name in columns if name in numeric):
        if len(set(zip(*(columns[key] for key in keys), strict=True))) < len(columns[name]):
            keys.append(name)
    room = width - 1 - min(sum(wide[name] for name in keys), width // 2)
    parts: list[list[str]] = [[]]
    for name in (name for name in columns if name not in keys):
        if parts[-1] and sum(wide[other] for other in parts[-1]) + wide[name] > room:
            parts.append([])
        parts[-1].append(name)
    return [[name for name in columns if name in keys or name in part] for part in parts]


def _number(value: Any, digits: int) -> str:
    """A value as text; an undefined number is a dash."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.{digits}f}"
    return "" if value is None else str(value)


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


def _lines_of_transfers() -> Transfer:
    """Downloads as lines."""
    shown: dict[str, int] = {}

    def line(file: str, done: int, total: int | None) -> None:
        step = done // 100_000_000
        if shown.get(file) != step or done == total:
            shown[file] = step
            size = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
            console.print(f"{file}: {size}")

    return line
