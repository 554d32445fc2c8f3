"""Pieces of a self-contained HTML page: tables that sort, figures inline, cards. No network, every text escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from qrepro.plots import Plot
from qrepro.records.tables import display, is_number

STYLE = """
:root { --ink: #1b2733; --soft: #5b6875; --line: #dfe4ea; --tint: #f5f7f9; --accent: #0072b2; --warm: #d55e00; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans",
  "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 44px; padding-bottom: 8px; }
h1 { font-size: clamp(1.7rem, 4vw, 2.4rem); line-height: 1.15; letter-spacing: -.02em; margin: 0 0 10px; }
h2 { font-size: 1.45rem; margin: 52px 0 8px; padding-top: 14px; border-top: 2px solid var(--ink); }
h3 { font-size: 1.08rem; margin: 30px 0 6px; }
p { max-width: 78ch; margin: 6px 0 12px; }
p.lead, p.note, figcaption, footer { color: var(--soft); }
p.note, figcaption, footer { font-size: .88rem; }
code { font: .9em ui-monospace, "Liberation Mono", "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
nav { position: sticky; top: 0; z-index: 3; background: #fffffff2; border-bottom: 1px solid var(--line); }
nav div { max-width: 1180px; margin: 0 auto; padding: 9px 20px; display: flex; flex-wrap: wrap;
  gap: 6px 20px; white-space: nowrap; font-size: .92rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
section { scroll-margin-top: 44px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 14px 0 20px; }
.card { background: var(--tint); border-radius: 10px; padding: 14px 18px; border-left: 4px solid var(--accent); }
.card.warm { border-color: var(--warm); } .card.plain { border-color: #8895a3; }
.card b { display: block; font-size: .84rem; font-weight: 600; }
.card strong { display: block; font-size: 1.95rem; line-height: 1.25; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.card strong small { font-size: .95rem; font-weight: 400; color: var(--soft); letter-spacing: 0; }
.card span { display: block; font-size: .8rem; line-height: 1.4; color: var(--soft); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin: 10px 0 16px; max-width: 100%;
  width: fit-content; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 9px; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
td wbr { display: none; }
td.long { white-space: normal; min-width: 22ch; max-width: 40ch; }
tbody tr:last-child td { border-bottom: 0; } tbody tr:hover td { background: #eef4f9; }
th.n, td.n { text-align: right; }
th { background: var(--tint); font-weight: 600; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--accent); }
th button::after { content: "\\2195"; opacity: .3; margin-left: 4px; font-size: .8em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
th:first-child, td:first-child { position: sticky; left: 0; z-index: 1; box-shadow: 1px 0 var(--line); }
td:first-child { background: #fff; }
figure { margin: 14px 0 22px; } figure .pan { overflow-x: auto; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { max-width: 78ch; margin-top: 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 10px 24px; }
details { margin: 8px 0; } summary { cursor: pointer; padding: 4px 0; font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(90px, auto) 1fr; gap: 7px 18px; max-width: 90ch; font-size: .93rem; }
dt { font-weight: 600; } dd { margin: 0; }
footer { padding: 26px 20px 50px; }
@media (max-width: 640px) { figure .pan img.wide { max-width: none; } h2 { margin-top: 38px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 10px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 9px; }
  td wbr { display: initial; } .card { padding: 10px 12px; } .card strong { font-size: 1.5rem; }
  th:first-child, td:first-child { min-width: 15ch; max-width: 38vw; white-space: normal; overflow-wrap: break-word; } }
nav form { display: flex; flex-wrap: wrap; gap: 6px 14px; margin-left: auto; } nav label { color: var(--soft); }
nav select, nav input { font: inherit; color: var(--ink); border: 1px solid var(--line); border-radius: 6px;
  padding: 1px 5px; background: #fff; } nav input { width: 13ch; }
[hidden] { display: none !important; }
.yes { color: #00734f; font-weight: 600; } .no { color: #b03a00; font-weight: 600; } .open { color: var(--soft); }
@page { size: A4; margin: 14mm 12mm; }
@media print { nav { display: none; } body { font-size: 10.5pt; } header { padding-top: 0; }
  header, main, footer { max-width: none; padding: 0; } h2 { margin-top: 26px; }
  h1, h2, h3, summary { break-after: avoid; } figure, .card, tr, dt, dd { break-inside: avoid; }
  .cards { grid-template-columns: repeat(4, 1fr); } .card strong { font-size: 1.4rem; }
  .scroll { overflow: visible; border: 0; } table { font-size: 6.4pt; }
  th, td { padding: 2px 4px; white-space: normal; }
  th:first-child, td:first-child { position: static; box-shadow: none; } th button::after { content: ""; }
  figure .pan { overflow: visible; } figure img.wide { max-width: 100%; } }
"""

SCRIPT = """
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  head.parentElement.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = row => row.cells[column].textContent, number = value => parseFloat(value.replace(/,/g, ""));
  const compare = (a, b) => {
    const x = number(a), y = number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, {numeric: true}) : x - y;
  };
  const empty = row => text(row) === "";  // undefined values stay at the end either way
  [...body.rows].sort((a, b) => empty(a) - empty(b) || (down ? -1 : 1) * compare(text(a), text(b)))
    .forEach(row => body.append(row));
}));
const form = document.querySelector("nav form");
if (form) {
  const apply = () => {
    const words = form.elements.text.value.toLowerCase();
    const wanted = [...form.querySelectorAll("select")].filter(one => one.value).map(one => [one.name, one.value]);
    document.querySelectorAll("[data-paper], [data-profile], [data-verdict]").forEach(part => {
      part.hidden = wanted.some(([key, value]) => key in part.dataset && part.dataset[key] !== value);
    });
    document.querySelectorAll("tbody tr").forEach(row => {
      const seen = row.textContent.toLowerCase().includes(words);
      row.hidden = !seen || wanted.some(([key, value]) => key in row.dataset && row.dataset[key] !== value);
    });
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", event => event.preventDefault());
  apply();  // a browser may remember what was chosen
}
// What is folded away cannot be read on paper.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
"""

Tags = Mapping[str, str]  # what a part is of, by the name of a filter: paper, profile, verdict
MARKS = {"holds": "yes", "agrees": "yes", "does not hold": "no", "inconclusive": "open", "not run": "open"}


def page(
    title: str,
    lead: str,
    links: Sequence[tuple[str, str]],
    sections: Sequence[str],
    foot: str,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """A whole page.

    Args:
        title: Text of the heading.
        lead: Text below it.
        links: (anchor, text) of the navigation.
        sections: HTML of each section.
        foot: Text at the end.
        filters: Values by name among which a reader can choose what to see; those with fewer than two are left out.
    """
    nav = "".join(f'<a href="#{escape(anchor)}">{escape(text)}</a>' for anchor, text in links)
    nav += _filters({name: values for name, values in (filters or {}).items() if len(values) > 1})
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>
<nav><div>{nav}</div></nav>
<main>
{"".join(sections)}
</main>
<footer>{escape(foot)}</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _filters(filters: Mapping[str, Sequence[str]]) -> str:
    """A choice for each filter, and a field for words that rows must have."""
    if not filters:
        return ""
    choices = []
    for name, values in filters.items():
        options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
        every = f'<option value="">all</option>{options}'
        choices.append(f'<label>{escape(name)} <select name="{escape(name)}">{every}</select></label>')
    return f'<form>{"".join(choices)}<label>rows with <input name="text" type="search"></label></form>'


def _tagged(tags: Tags | None) -> str:
    """Attributes that a filter looks at."""
    return "".join(f' data-{escape(name)}="{escape(value)}"' for name, value in (tags or {}).items())


def section(anchor: str, heading: str, parts: Sequence[str], tags: Tags | None = None) -> str:
    """A section with an anchor.

    Args:
        anchor: Id that links lead to.
        heading: Text of the heading.
        parts: HTML of each part.
        tags: Tags of the section.
    """
    inside = "\n".join(parts)
    return f'<section id="{escape(anchor)}"{_tagged(tags)}><h2>{escape(heading)}</h2>\n{inside}</section>\n'


def group(parts: Sequence[str], tags: Tags) -> str:
    """Parts that a filter shows or hides together."""
    return f"<div{_tagged(tags)}>{''.join(parts)}</div>"


def subheading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def note(text: str) -> str:
    """A definition or remark beside numbers."""
    return f'<p class="note">{escape(text)}</p>'


def cards(items: Sequence[tuple[str, str, str, str]]) -> str:
    """A row of headline numbers.

    Args:
        items: (label, number, explanation, kind), kind one of "", "plain", "warm".
    """
    parts = []
    for label, number, explanation, kind in items:
        value, _, spread = number.partition(" ± ")
        spread = f" <small>± {escape(spread)}</small>" if spread else ""
        body = f"<b>{escape(label)}</b><strong>{escape(value)}{spread}</strong><span>{_breakable(explanation)}</span>"
        parts.append(f'<div class="card {escape(kind)}">{body}</div>')
    return f'<div class="cards">{"".join(parts)}</div>'


def table(frame: pd.DataFrame, tags: Sequence[Tags] = ()) -> str:
    """A table that sorts by a click on a heading and scrolls inside its own box; numbers are aligned right.

    Args:
        frame: Cells and headings.
        tags: Tags of each row, or none.
    """
    shown = display(frame)
    if shown.empty:
        return note("Nothing to show yet.")
    numeric = [all(is_number(cell) for cell in shown[name] if cell) and any(shown[name]) for name in shown]
    kinds = [' class="n"' if right else "" for right in numeric]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{escape(str(name))}</button></th>'
        for name, kind in zip(shown, kinds, strict=True)
    )
    body = "".join(
        f"<tr{_tagged(tag)}>"
        + "".join(_table_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row, tag in zip(shown.itertuples(index=False, name=None), tags or [{}] * len(shown), strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(plot: Plot, kind: str = "svg", heading: str = "", wide: bool = False) -> str:
    """A figure inline.

    Args:
        plot: What is drawn.
        kind: "svg" for lines and "png" for clouds of points.
        heading: Text that stands for the image; empty: its caption.
        wide: Whether it scrolls on a narrow screen.
    """
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    data = base64.b64encode(plot.render(kind, dpi=150)).decode()
    width, _ = plot.figure.get_size_inches()
    size = f'width="{round(96 * width)}"' + (' class="wide"' if wide else "")
    image = f'<img {size} alt="{escape(heading or plot.caption)}" src="data:{mime};base64,{data}">'
    return f'<figure><div class="pan">{image}</div><figcaption>{escape(plot.caption)}</figcaption></figure>'


def beside(parts: Sequence[str]) -> str:
    """Parts next to each other where there is room."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def details(summary: str, parts: Sequence[str], opened: bool = False, tags: Tags | None = None) -> str:
    """Parts behind a line that opens them."""
    opening = f"<details{' open' if opened else ''}{_tagged(tags)}>"
    return f"{opening}<summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def definitions(items: Sequence[tuple[str, str]]) -> str:
    """A list of terms and what they mean."""
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in items) + "</dl>"


def _table_cell(text: str, kind: str) -> str:
    """One cell; long text may wrap, and verdicts have a colour."""
    if text in MARKS:
        return f'<td class="{MARKS[text]}">{escape(text)}</td>'
    long = ' class="long"' if len(text) > 60 and not kind else kind
    return f"<td{long}>{_breakable(text)}</td>"


def _breakable(text: str) -> str:
    """Escaped text that may break after a slash, where recipe names read best."""
    return escape(text).replace("/", "/<wbr>")
