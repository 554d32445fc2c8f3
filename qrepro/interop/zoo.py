"""The published detectors that can be imported: `recipes/zoo.csv`, and fetching their files."""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from qrepro.data.fetch import Progress, fetch, silent
from qrepro.recipe import recipe_root
from qrepro.records.kinds import nearest


@dataclass(frozen=True)
class Published:
    """A trained detector.

    Attributes:
        name: Name in the zoo, and of the fetched file.
        source: Project that published it.
        arxiv: Number of its paper on arXiv.
        table: Name of a paper's table here, where it is a row of one.
        row: Slug of that row.
        AP: AP that its authors report on val2017.
        address: Address of its file; empty where none is known.
        sha256: First digits of the file's SHA-256, where they are published (MMDetection puts eight into the name of
            the file).
    """

    name: str
    source: str
    arxiv: str
    table: str
    row: str
    AP: str
    address: str
    sha256: str


def published() -> list[Published]:
    """All of them, in the order of the file."""
    with (recipe_root() / "zoo.csv").open(encoding="utf-8", newline="") as file:
        return [Published(**row) for row in csv.DictReader(file)]


def named(name: str) -> Published:
    """The detector of a name.

    Raises:
        ValueError: Any other name, with the nearest known one.
    """
    known = {model.name: model for model in published()}
    if name not in known:
        hint = nearest(name, known).split(" (allowed")[0].rstrip(":")
        raise ValueError(f"zoo: {name!r} is unknown{hint} (`qrepro zoo list` names them all)")
    return known[name]


def reported(model: Published) -> dict[str, str]:
    """What is printed of a detector by column: the row of a table where it is one, else its AP alone."""
    found = [path for path in recipe_root().glob(f"*/{model.table}.csv") if model.table and model.row]
    for path in found:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["row"] == model.row:
                    return {**row, "AP": model.AP}
    return {"AP": model.AP}


def fetch_model(model: Published, folder: Path, progress: Progress = silent) -> Path:
    """The file of a detector in a folder, fetched unless it is there, continued where it was cut, and checked.

    Raises:
        ValueError: No address is known, nothing answers, or the content is not what was published.
    """
    if not model.address:
        raise ValueError(f"zoo: no address of {model.name} is known; fetch it yourself, then `qrepro import FILE`")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{model.name}.pth"
    if not file.exists():
        fetch(direct(model.address), file, progress)
    if _is_page(file):
        file.unlink()
        raise ValueError(f"{model.address}: answered with a page instead of {model.name}; fetch it in a browser")
    found = digest(file)
    if not found.startswith(model.sha256):
        file.unlink()
        raise ValueError(
            f"{file}: SHA-256 begins {found[:8]}, published is {model.sha256}; it was removed, fetch again"
        )
    return file


def direct(address: str) -> str:
    """The address of the content, where the published one is that of a page around it (Google Drive)."""
    shared = re.fullmatch(r"https://drive\.google\.com/file/d/([\w-]+)/view.*", address)
    if not shared:
        return address
    return f"https://drive.usercontent.google.com/download?id={shared[1]}&export=download&confirm=t"


def digest(file: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _is_page(file: Path) -> bool:
    """Whether a file is HTML: what a server sends that wants a person to click."""
    with file.open("rb") as content:
        return content.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
