"""A paper's sheet, `paper.yaml` beside its tables: what the paper is, what each table shows and was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qrepro.records.files import read_text
from qrepro.records.yaml_files import load_yaml

SPLITS = ("val2017", "test-dev", "VOC2007 test", "by row", "")


@dataclass(frozen=True)
class Table:
    """A printed table. shows: in a line; measured_on: the split of its AP, one of SPLITS, "" where it is unknown."""

    shows: str = ""
    measured_on: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper. name: of its folder; short: what it is called in a sentence; tables: by file stem, in its own order."""

    name: str
    title: str
    short: str
    arxiv: str = ""
    venue: str = ""
    tables: Mapping[str, Table] = field(default_factory=dict)

    def table(self, stem: str) -> Table:
        """What is known of a table."""
        return self.tables.get(stem, Table())


def read_paper(folder: str | Path) -> Paper:
    """The sheet of a folder of tables; a folder without one is a paper of which only the name is known."""
    folder = Path(folder)
    sheet = folder / "paper.yaml"
    if not sheet.is_file():
        return Paper(folder.name, folder.name, folder.name)
    values = read_yaml(sheet, dict)
    known = {"title", "short", "arxiv", "venue", "tables"}
    if wrong := sorted(set(values) - known):
        raise ValueError(f"{sheet}: {wrong[0]!r} is unknown, allowed: {', '.join(sorted(known))}")
    tables: dict[str, Table] = {}
    for stem, entry in (values.get("tables") or {}).items():
        if not isinstance(entry, dict) or set(entry) - {"shows", "measured_on"}:
            raise ValueError(f"{sheet}: tables.{stem}: must be {{shows: ..., measured_on: ...}}")
        tables[stem] = Table(str(entry.get("shows", "")), str(entry.get("measured_on", "")))
        if tables[stem].measured_on not in SPLITS:
            raise ValueError(f"{sheet}: tables.{stem}.measured_on: must be one of {', '.join(SPLITS[:-1])}, or empty")
    texts = {name: str(values.get(name, "")) for name in ("title", "short", "arxiv", "venue")}
    texts |= {name: texts[name] or folder.name for name in ("title", "short")}
    return Paper(folder.name, tables=tables, **texts)


def read_yaml(path: Path, kind: type) -> Any:
    """The content of a YAML file, which must be a list or a mapping; errors in one line."""
    try:
        content = load_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: broken YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, kind):
        raise ValueError(f"{path}: must be a {kind.__name__}, got {type(content).__name__}")
    return content
