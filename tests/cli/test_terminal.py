"""Tables on a terminal: every number is shown, at any width."""

import io

import pytest
from rich.console import Console

from qrepro.cli import terminal as module
from qrepro.cli.terminal import terminal

ROWS = [
    {
        "run": f"a detector with a long name, {run}",
        "band": band,
        **{f"AP{5 * n}": 10.0 * n + run + band for n in range(16)},
    }
    for run in range(2)
    for band in (0.1, 0.5)
]


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_every_number_of_a_wide_table_is_shown(monkeypatch, width):
    out = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=out, width=width, force_terminal=True, color_system=None))
    terminal.table(ROWS, title="Many columns")
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and lines[0].strip() == "Many columns"
    text = out.getvalue()
    for row in ROWS:
        assert all(f" {row[f'AP{5 * n}']:.1f} " in text for n in range(16))
    heads = [line for line in lines if " run " in line]
    assert all(" band " in line for line in heads)  # which tells rows of one run apart
    assert (len(heads) == 1) == (width == 400) and "…" not in text


def test_a_table_of_words_alone(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=out, width=40, force_terminal=True, color_system=None))
    terminal.table(
        [{"claim": "one that is far too long for a line", "verdict": "holds"}, {"claim": "b", "verdict": "no"}]
    )
    assert "holds" in out.getvalue() and "line" in out.getvalue()
