"""What a report says of the papers: their claims, held against their own tables and against runs, and their tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qrepro.papers.tables import missing_rows, printed_beside_measured, read_table
from qrepro.papers.verdicts import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    MAP_NOTE,
    NOT_MEASURABLE,
    NOT_RUN,
    READING,
    VERDICTS,
    claim_lines,
    effect_rows,
)
from qrepro.plots import Plot, claimed_effects
from qrepro.report import html

OWN = "the paper's own"  # setting of a table without a suffix
NUMBERS = ("printed_effect", "effect", "low", "high", "p_value")
SEEN = (HOLDS, FAILS, INCONCLUSIVE)


def claims_section(root: Path) -> tuple[str, list[str], list[str]]:
    """The claims in `root`, as `qrepro claims` wrote them; and their papers and verdicts. Nothing without any."""
    files = sorted(root.glob("*.csv"))
    rows = [row for file in files for row in read_claim_rows(file)]
    if not rows:
        return "", [], []
    papers = list(dict.fromkeys(row["paper"] for row in rows))
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    lines = {name: _lines([row for row in rows if row["setting"] == name], papers) for name in settings}
    parts = []
    for name, some in lines.items():
        counts = Counter(line["measured"] for line in some)
        if not any(counts[verdict] for verdict in SEEN):
            continue
        seen = [line for line in some if line["measured"] in SEEN]
        rest = f"{counts[NOT_RUN]} not run, {counts[NOT_MEASURABLE]} not measurable there."
        parts += [
            html.group(
                [
                    html.subheading(f"Measured on {name}"),
                    html.cards([(verdict, str(counts[verdict]), VERDICTS[verdict], kind) for verdict, kind in _KINDS]),
                    _table(seen, name),
                    html.figure(_effects(rows, name), heading=f"Effects on {name}"),
                    html.note(rest),
                ],
                {"profile": profile_of(name)},
            )
        ]
    slips = list({(line["paper"], line["claim"]): line for some in lines.values() for line in some}.values())
    slips = [line for line in slips if line["its own tables"].startswith("contradict")]
    if slips:
        shown = [{key: line[key] for key in ("paper", "claim", "says", "where", "its own tables")} for line in slips]
        table = html.table(pd.DataFrame(shown), [{"paper": line["paper"]} for line in slips])
        parts += [html.subheading("Contradicted by the paper's own tables"), table]
    parts.append(html.note(f"{READING} {MAP_NOTE}."))
    return html.section("claims", "What the papers claim", parts), papers, list(SEEN)


def profile_of(setting: str) -> str:
    """The profile in the name of a setting, which may have changes too."""
    return setting.partition("+")[0]


_KINDS = ((HOLDS, ""), (INCONCLUSIVE, "plain"), (FAILS, "warm"))


def read_claim_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of `qrepro claims`."""
    frame = read_table(file)
    for name in NUMBERS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _effects(rows: Sequence[Mapping[str, Any]], setting: str) -> Plot:
    """Printed and measured effects in a setting."""
    return claimed_effects(effect_rows([row for row in rows if row["setting"] == setting]), f"Measured on {setting}.")


def _lines(rows: Sequence[Mapping[str, Any]], papers: Sequence[str]) -> list[dict[str, Any]]:
    """A line per claim, core claims of each paper first."""
    lines = [
        {"paper": paper, **line} for paper in papers for line in claim_lines([r for r in rows if r["paper"] == paper])
    ]
    return sorted(lines, key=lambda line: (papers.index(line["paper"]), line["core"] != "core"))


def _table(lines: Sequence[Mapping[str, Any]], setting: str) -> str:
    """Claims that were measured."""
    columns = ("paper", "claim", "core", "printed effect", "effect", "measured", "says")
    tags = [{"paper": line["paper"], "verdict": line["measured"], "profile": profile_of(setting)} for line in lines]
    return html.table(pd.DataFrame([{key: line[key] for key in columns} for line in lines]), tags)


def tables_section(root: Path) -> tuple[str, list[str], list[str]]:
    """The regenerated tables in `root/<paper>/`; and their papers and settings. Nothing without any."""
    files = sorted(root.rglob("*.csv"))
    if not files:
        return "", [], []
    parts = [html.note("Metrics as “printed / measured”: the paper's value, then ours (mean over seeds ± sd).")]
    settings = []
    for paper in dict.fromkeys(file.parent.name for file in files):
        inside = []
        for file in (file for file in files if file.parent.name == paper):
            frame = read_table(file)
            stem, _, suffix = file.stem.partition("-")
            settings.append(profile_of(suffix or OWN))
            trained = frame[frame["recipe"] != ""] if "recipe" in frame else frame
            done = len(trained) - len(missing_rows(frame))
            summary = f"{stem.replace('table', 'table ')}, {suffix or OWN}: {done} of {len(trained)} rows measured"
            tags = {"paper": paper, "profile": settings[-1]}
            inside.append(
                html.details(
                    summary,
                    [html.table(printed_beside_measured(frame))],
                    opened=0 < done and len(files) <= 8,
                    tags=tags,
                )
            )
        parts.append(html.group([html.subheading(paper), *inside], {"paper": paper}))
    papers = list(dict.fromkeys(file.parent.name for file in files))
    return html.section("tables", "Tables", parts), papers, list(dict.fromkeys(settings))
