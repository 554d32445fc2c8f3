"""How a study of `analysis/` is called: plain arguments, failures as the commands say them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import NoReturn

from qrepro.cli.failure import guarded


def run_study(main: Callable[..., None]) -> NoReturn:
    """Run a study's `main` with the words of the command line, and leave with its exit code.

    Args:
        main: takes the words as positional arguments. `--help` prints the docstring of its module.

    Raises:
        SystemExit: always. 0: done. 2: the input is wrong, which standard error says in one line. 1: the study failed.
    """
    given = sys.argv[1:]

    def call() -> None:
        if {"-h", "--help"} & set(given):
            print(inspect.getdoc(inspect.getmodule(main)) or sys.argv[0])
            return
        expected = inspect.signature(main)
        try:
            expected.bind(*given)
        except TypeError:
            words = [_word(parameter) for parameter in expected.parameters.values()]
            raise ValueError(f"{sys.argv[0]}: takes {' '.join(words)}, got {' '.join(given) or 'nothing'}") from None
        main(*given)

    raise SystemExit(guarded(call))


def _word(parameter: inspect.Parameter) -> str:
    """How a usage line shows a parameter: A, [ANNOTATIONS], PATHS..."""
    name = parameter.name.upper()
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"[{name}...]"
    return name if parameter.default is parameter.empty else f"[{name}]"
