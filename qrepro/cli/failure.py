"""Failures as one clear line and an exit code: 2 for wrong input, 1 for a run that failed."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130
NEEDS_TRAIN = ("torch", "torchvision")


def guarded(call: Callable[[], Any]) -> int:
    """Exit code of a call: of what it returns, or of how it failed. QREPRO_DEBUG=1 lets tracebacks through."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return int(call() or 0)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except Exception as error:
        explain = getattr(error, "format_message", None)
        if callable(explain):  # a usage error of the command-line library
            command = getattr(getattr(error, "ctx", None), "command_path", "qrepro")
            return _say(f"{explain()} (see `{command} --help`)", WRONG_INPUT)
        if os.environ.get("QREPRO_DEBUG"):
            raise
        return _say(*_verdict(error))


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """A warning as one line; what libraries tell their own callers is of no use to the user of a command."""
    if category is UserWarning:
        print(f"warning: {message}", file=sys.stderr)


def _verdict(error: Exception) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    text = str(error).strip()
    if "\n" in text:  # an error of a loader process arrives with that process's traceback in front
        text = text.splitlines()[-1]
        text = text.split(": ", 1)[1] if text.split(": ", 1)[0].endswith("Error") else text
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in NEEDS_TRAIN:
        return f"this needs {error.name}, which is not installed: pip install 'qrepro[train]'", WRONG_INPUT
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename or 'no file named'}); nothing half-written was left", FAILED
    if isinstance(error, ValueError | FileNotFoundError | NotADirectoryError | PermissionError | IsADirectoryError):
        return text, WRONG_INPUT
    if type(error).__module__.startswith("qrepro."):
        return text, FAILED
    return f"{type(error).__name__}: {text or 'no message'} (QREPRO_DEBUG=1 shows where)", FAILED


def _say(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code
