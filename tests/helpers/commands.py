"""Commands as a user types them."""

import pytest

from helpers.tiny import TINY
from qrepro.cli import main

SETTINGS = [part for change in TINY for part in ("--set", change)]


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err
