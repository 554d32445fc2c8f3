"""The claims of a paper as inequalities between cells of its tables, and whether the tables themselves agree.

`claims.yaml` beside the tables:

    - name: joint-over-centerness
      says: The joint representation gives ATSS a higher AP than a centerness branch.
      where: section 4.1, table 1a
      core: true                       # one of those that carry the paper; optional
      table: table1a
      checks:
        - {that: "atss-joint-qfl:AP > atss-centerness-branch:AP", said: "0.7"}

`that`: sums of cells and numbers on both sides of `>` or `>=`, all parted by spaces; a cell is `row:column` of the
claim's table, or `table/row:column`. A row with `*`, alone on the right, stands for every other row whose cell is a
number.
`said`: the left side less the right one as the paper says it: `0.7`, a range `1.7..1.9`, or `65%` for a quotient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from qrepro.papers.sheet import read_yaml
from qrepro.papers.tables import read_table

KEYS = ("name", "says", "where", "core", "table", "checks")
AGREES, CONTRADICTS, NOT_PRINTED = "agrees", "contradicts", "not printed"
_EPSILON = 1e-9  # printed decimals are not exact in binary


@dataclass(frozen=True)
class Cell:
    """A cell of a printed table; its row is a pattern where it has a `*`."""

    table: str
    row: str
    column: str


Term = tuple[float, Cell | float]  # sign, and what it is of


@dataclass(frozen=True)
class Said:
    """An effect as printed. low, high: what rounds to it; relative: in percent of the right side."""

    text: str
    low: float
    high: float
    relative: bool


@dataclass(frozen=True)
class Comparison:
    """One inequality between sums of cells. strict: `>` rather than `>=`."""

    text: str
    left: tuple[Term, ...]
    right: tuple[Term, ...]
    strict: bool
    said: Said | None

    @property
    def cells(self) -> list[Cell]:
        """All cells, in their order."""
        return [of for _, of in (*self.left, *self.right) if isinstance(of, Cell)]


@dataclass(frozen=True)
class Claim:
    """A claim: one sentence, where it stands, and the comparisons that it comes to."""

    paper: str
    name: str
    says: str
    where: str
    core: bool
    comparisons: tuple[Comparison, ...]


class Tables:
    """The printed tables of a folder, read when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, dict[str, dict[str, str]]] = {}

    def rows(self, table: str) -> dict[str, dict[str, str]]:
        """The cells of a table by slug of the row and by column."""
        if table not in self._read:
            lines = read_table(self.folder / f"{table}.csv").to_dict("records")
            self._read[table] = {str(line["row"]): {str(name): text for name, text in line.items()} for line in lines}
        return self._read[table]

    def number(self, cell: Cell) -> float:
        """A printed number; nan where the cell is empty or a word. Raises `KeyError` where there is no such cell."""
        rows = self.rows(cell.table)
        cells = rows.get(cell.row)
        if cells is None or cell.column not in cells:
            what, known = ("row", list(rows)) if cells is None else ("column", list(cells))
            raise KeyError(f"{cell.table} has no {what} {getattr(cell, what)!r}; it has {', '.join(known)}")
        try:
            return float(cells[cell.column])
        except ValueError:
            return math.nan

    def row(self, cell: Cell) -> Mapping[str, str]:
        """The whole printed row of a cell."""
        return self.rows(cell.table)[cell.row]


def read_claims(folder: str | Path) -> list[Claim]:
    """The claims of a folder of tables, none where it has no `claims.yaml`; errors name file, claim and what came."""
    folder = Path(folder)
    file = folder / "claims.yaml"
    if not file.is_file():
        return []
    tables, claims = Tables(folder), []
    for number, entry in enumerate(read_yaml(file, list), start=1):
        name = entry.get("name", f"number {number}") if isinstance(entry, dict) else f"number {number}"
        try:
            claims.append(_claim(folder.name, entry, tables))
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise ValueError(f"{file}: claim {name}: {error.args[0]}") from None
    names = [claim.name for claim in claims]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{file}: claim {twice} occurs twice")
    return claims


def _claim(paper: str, entry: Any, tables: Tables) -> Claim:
    """One entry of the file."""
    if not isinstance(entry, dict):
        raise ValueError(f"must be a mapping with {', '.join(KEYS)}")
    if wrong := [key for key in entry if key not in KEYS]:
        raise ValueError(f"{wrong[0]!r} is unknown, allowed: {', '.join(KEYS)}")
    if missing := [key for key in ("name", "says", "checks") if not entry.get(key)]:
        raise ValueError(f"{missing[0]} is missing")
    comparisons: list[Comparison] = []
    for check in entry["checks"]:
        if not isinstance(check, dict) or set(check) - {"that", "said"} or "that" not in check:
            raise ValueError(f"a check must be {{that: ..., said: ...}}, got {check}")
        found = parse(str(check["that"]), str(entry.get("table", "")), check.get("said"))
        comparisons += _spread(found, tables)
    texts = {key: str(entry.get(key, "")) for key in ("name", "says", "where")}
    return Claim(paper, **texts, core=bool(entry.get("core", False)), comparisons=tuple(comparisons))


def parse(text: str, table: str = "", said: Any = None) -> Comparison:
    """A comparison of its text; `table` is that of cells which name none."""
    words = text.split()
    relations = [word for word in words if word in (">", ">=")]
    if len(relations) != 1:
        raise ValueError(f"{text!r} must have one > or >=")
    at = words.index(relations[0])
    sides = [_side(part, table, text) for part in (words[:at], words[at + 1 :])]
    return Comparison(text, sides[0], sides[1], relations[0] == ">", None if said is None else _said(str(said)))


def _side(words: Sequence[str], table: str, text: str) -> tuple[Term, ...]:
    """One side: term (+|- term)*."""
    if len(words) % 2 == 0 or any(word not in ("+", "-") for word in words[1::2]):
        raise ValueError(f"{text!r} must be terms parted by ' + ' or ' - ' on both sides")
    signs = [1.0, *(1.0 if word == "+" else -1.0 for word in words[1::2])]
    return tuple((sign, _of(word, table, text)) for sign, word in zip(signs, words[::2], strict=True))


def _of(word: str, table: str, text: str) -> Cell | float:
    """A number, or a cell."""
    try:
        return float(word)
    except ValueError:
        place, colon, column = word.rpartition(":")
    own, _, row = place.rpartition("/")
    if not colon or not row or not column or not (own or table):
        raise ValueError(f"{word!r} in {text!r} must be a number, row:column or table/row:column")
    return Cell(own or table, row, column)


def _said(text: str) -> Said:
    """A printed effect; what rounds to it lies within half of its last digit."""
    found = re.fullmatch(r"\+?(?P<low>-?\d+(\.\d+)?)(\.\.(?P<high>-?\d+(\.\d+)?))?(?P<percent>%?)", text.strip())
    if not found:
        raise ValueError(f"said: {text!r} must look like 0.7, 1.7..1.9 or 65%")
    high = found["high"] or found["low"]
    half = 0.5 * 10.0 ** -len(high.partition(".")[2])
    return Said(text, float(found["low"]) - half, float(high) + half, bool(found["percent"]))


def _spread(found: Comparison, tables: Tables) -> Iterator[Comparison]:
    """A comparison with a pattern as one for each row that it stands for."""
    patterns = [cell for cell in found.cells if "*" in cell.row]
    if not patterns:
        for cell in found.cells:
            if math.isnan(tables.number(cell)) and not tables.row(cell).get("recipe"):
                raise ValueError(f"{cell.table}/{cell.row}:{cell.column} is not a number, and no run can give one")
        yield found
        return
    if len(found.left) != 1 or len(found.right) != 1 or found.right[0][1] != patterns[0]:
        raise ValueError(f"{found.text!r}: a row with * must be the only term of the right side")
    pattern, left = patterns[0], found.cells[0]
    rows = tables.rows(pattern.table)
    others = [Cell(pattern.table, row, pattern.column) for row in rows if fnmatchcase(row, pattern.row)]
    others = [cell for cell in others if cell != left and not math.isnan(tables.number(cell))]
    if not others:
        raise ValueError(f"{found.text!r}: no other row matches {pattern.row}")
    sign = ">" if found.strict else ">="
    for cell in others:
        text = f"{found.text.split()[0]} {sign} {cell.row}:{cell.column}"
        yield Comparison(text, found.left, ((1.0, cell),), found.strict, found.said)


def printed_row(comparison: Comparison, tables: Tables) -> dict[str, Any]:
    """What the paper's own cells say: {said, printed_effect, printed: agrees, contradicts or not printed}.

    The cells contradict a claim where its inequality is wrong in them, or where their difference does not round to what
    the paper says of it.
    """
    sides = [_sum(side, tables.number) for side in (comparison.left, comparison.right)]
    said = comparison.said
    effect = sides[0] - sides[1]
    if math.isnan(effect):
        return {"said": said.text if said else "", "printed_effect": math.nan, "printed": NOT_PRINTED}
    agrees = effect > _EPSILON if comparison.strict else effect >= -_EPSILON
    if said and said.relative:
        effect = 100 * (sides[0] / sides[1] - 1)
    if said:
        agrees = agrees and said.low - _EPSILON <= effect <= said.high + _EPSILON
    shown = round(effect, 6)
    return {"said": said.text if said else "", "printed_effect": shown, "printed": AGREES if agrees else CONTRADICTS}


def _sum(side: Sequence[Term], number: Callable[[Cell], float]) -> float:
    """A side in numbers."""
    return sum(sign * (number(of) if isinstance(of, Cell) else of) for sign, of in side)
