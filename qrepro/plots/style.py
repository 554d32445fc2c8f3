"""Common style of the figures: the `Plot` that functions return, colours, line styles, legends and folded texts.

Colours are those of Okabe and Ito (2008), which stay apart for colour-blind readers and, with line styles and markers,
in grey.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from numpy.typing import ArrayLike, NDArray

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#666666",
    "#000000",
)
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHED = (0, (4, 3))
SMALL = 8  # points, of legends and remarks
NBSP = "\u00a0"  # keeps a number on the line of its name
STYLE: Any = {  # matplotlib types its keys as literals
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "qrepro",  # the same data give the same file
    "text.hinting": "no_hinting",  # text as wide on a coarse page as on a fine one
    "text.parse_math": False,  # names of runs and classes are text, dollars included
}


RGBA = tuple[float, float, float, float]


class LineStyle(TypedDict, total=False):
    """Keywords of a matplotlib line."""

    color: str | RGBA
    linestyle: str
    marker: str
    markersize: float
    clip_on: bool


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure, the points it shows and their description.

    Attributes:
        figure: The figure of matplotlib.
        points: One row per drawn point.
        caption: What is drawn, and how it was chosen.
    """

    figure: Figure
    points: pd.DataFrame
    caption: str

    def render(self, kind: str, dpi: int = 200) -> bytes:
        """Render the figure as a file; the same figure gives the same bytes.

        Args:
            kind: "png" or "svg".
            dpi: Dots per inch of a PNG and of what an SVG rasterises.
        """
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            self.figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
        return buffer.getvalue()

    def save(self, stem: str | Path) -> list[Path]:
        """Write the figure as PNG and SVG and its points as CSV.

        Args:
            stem: Path of the files without their ending; its folder is made where it is missing.

        Returns:
            The paths `stem`.png, `stem`.svg and `stem`.csv.
        """
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.parent / f"{stem.name}.{kind}" for kind in ("png", "svg", "csv")]
        paths[0].write_bytes(self.render("png"))
        paths[1].write_bytes(self.render("svg"))
        self.points.to_csv(paths[2], index=False, lineterminator="\n")
        return paths


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """Open an empty figure, with the style in force while it is drawn.

    Args:
        width: Of the figure in inches.
        height: Of the figure in inches, without legend and titles (see `finish`).

    Yields:
        The figure.
    """
    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def grid_shape(panels: int, across: int = 3) -> tuple[int, int]:
    """Return the number of rows and columns of a grid of panels.

    Args:
        panels: Number of panels, at least 1.
        across: Largest number of panels in a row.

    Raises:
        ValueError: If there is no panel.
    """
    if panels < 1:
        raise ValueError("a figure needs at least one panel")
    columns = min(panels, across)
    return math.ceil(panels / columns), columns


def line_style(index: int) -> LineStyle:
    """Return colour, dashes and marker of the line with this index; the first 63 differ, neighbours also in grey."""
    return {
        "color": CYCLE[index % len(CYCLE)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def shades(n: int) -> list[RGBA]:
    """Return the colours of n ordered lines, dark to light; the lightest still shows on white."""
    return [mpl.colormaps["viridis"](value) for value in np.linspace(0, 0.88, n).tolist()]


def finish(figure: Figure) -> None:
    """Put one legend below the panels, each label once, in as many columns as fit; then fix the layout.

    The figure grows by the height of the legend and of its titles, so that these take no room from the panels. A layout
    left to matplotlib would move a little at every drawing, and with it the bytes of the file.

    Args:
        figure: Of `canvas`, drawn completely.
    """
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.19 * _title_lines(figure) + _legend(figure, width))
    for _ in range(2):  # the second time with the room that tick labels took in the first
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _title_lines(figure: Figure) -> int:
    """Lines of text above panels: those of the figure's title and of the longest title in each row of panels."""
    lines = {-1: _lines(figure.get_suptitle())}
    for ax in figure.axes:
        position = ax.get_subplotspec()
        if position is not None:  # a colour bar has none
            row = position.rowspan.start
            lines[row] = max(lines.get(row, 0), _lines(ax.get_title(loc="left")))
    return sum(lines.values())


def _lines(text: str) -> int:
    """Number of lines; 0 for no text."""
    return text.count("\n") + 1 if text else 0


def _legend(figure: Figure, width: float) -> float:
    """Draw the legend of all labels, each once, into `width` inches, and return its height in inches."""
    entries: dict[str, Artist] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return 0.0
    sample = 0.53  # inches of the sample, its distance to the text, and the gap between columns
    texts = [fold(label, width - sample, SMALL) for label in entries]
    widest = max(text_width(line, SMALL) for text in texts for line in text.split("\n")) + sample
    columns = min(max(int(width / widest), 1), len(texts))
    figure.legend(list(entries.values()), texts, loc="outside lower center", ncols=columns, fontsize=SMALL)
    return 0.17 * math.ceil(len(texts) / columns) * max(_lines(text) for text in texts) + 0.1


def text_width(text: str, size: float) -> float:
    """Return the width in inches of one line of text at `size` points."""
    font = get_font(findfont(STYLE["font.family"]))
    font.set_size(size, 720)  # dots per inch, so many that fitting letters to dots changes nothing
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 / 720  # FreeType counts in 64ths of a dot


def fold(text: str, width: float, size: float = 9) -> str:
    """Break a text into lines, behind spaces and the separators of recipe and rule names.

    A piece that is too wide by itself is broken between letters.

    Args:
        text: Of one or more paragraphs, separated by line breaks.
        width: Of a line in inches, at most.
        size: Of the letters in points.

    Returns:
        The text with line breaks.
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for piece in re.findall(r"[^ /+:,]*[ /+:,]?", paragraph):
            if line and text_width(line + piece, size) > width:
                lines.append(line.rstrip(" "))
                line = ""
            line += piece
            while text_width(line, size) > width and len(line) > 1:
                fits = next(n for n in count(len(line) - 1, -1) if n == 1 or text_width(line[:n], size) <= width)
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line.rstrip(" "))
    return "\n".join(lines)


def number(value: float, spec: str) -> str:
    """Format a value by a specification such as ".2f", with the minus sign of the axes; nan gives a dash."""
    return "–" if math.isnan(value) else format(value, spec).replace("-", "−")


def vectors(where: str, **arrays: ArrayLike) -> list[NDArray[np.float64]]:
    """Check that arrays are equally long vectors of finite numbers.

    Args:
        where: Begins the message of an error.
        **arrays: (N,) numbers by name.

    Returns:
        (N,) float64 vectors in the order given.

    Raises:
        ValueError: If the vectors are not equally long or a number is not finite, with `where` and the names.
    """
    checked = {name: np.asarray(values, np.float64) for name, values in arrays.items()}
    shapes = {values.shape for values in checked.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        given = ", ".join(f"{name} {values.shape}" for name, values in checked.items())
        raise ValueError(f"{where}: {given} must be equally long vectors")
    for name, values in checked.items():
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise ValueError(f"{where}: {name} has {bad} of {len(values)} values that are not finite")
    return list(checked.values())


def table(where: str, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    """Turn rows into a frame.

    Args:
        where: Begins the message of an error.
        rows: Values by column.
        columns: Columns that the rows must have.

    Returns:
        A frame of all columns of the rows, of `columns` where there is no row.

    Raises:
        ValueError: If one of `columns` is missing, with `where`.
    """
    frame = pd.DataFrame(list(rows), columns=None if len(rows) else list(columns))
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"{where}: rows lack {', '.join(missing)}; they have {', '.join(map(str, frame))}")
    return frame


def stack(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Stack frames below each other; no frame gives an empty one."""
    frames = list(frames)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
