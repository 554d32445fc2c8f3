"""The report: right numbers, every text escaped, nothing fetched, and half-finished results tolerated."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from helpers.run_folders import RULES, SCRIPT, make_run
from qrepro.metrics.summary import mean_metrics, summary_rows
from qrepro.records.run_folder import find_runs
from qrepro.report.page import build_report, trace_rows


class Page(HTMLParser):
    """Tags with attributes, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    make_run(
        root, "iou_aware/plain", 0, {"class": {"AP": 41.0, "AP50": 60.0}}, overrides=[SCRIPT], versions={"torch": "2"}
    )
    for seed, shift in ((0, -1.0), (1, 1.0)):
        make_run(root, "iou_aware/aware", seed, RULES, shift)
    waiting = root / "iou_aware/waiting/shapes/seed0"
    waiting.mkdir(parents=True)
    (waiting / "run.json").write_text(json.dumps({"recipe": "iou_aware/waiting", "profile": "shapes", "seed": 0}))
    table = root / "tables/iou_aware/table2.csv"
    table.parent.mkdir(parents=True)
    header = "row,origin,AP,AP_measured,AP_sd,recipe,overrides,rule,profile,seeds,hash,commit,images\n"
    table.write_text(f"{header}{SCRIPT},trained,35.40,46.04,0.31,iou_aware/aware,,power-0.5,shapes,0 1,0123,cafe,1\n")
    claims = root / "claims" / "iou_aware-shapes.csv"
    claims.parent.mkdir()
    about = {"paper": "iou_aware", "setting": "shapes", "core": "", "says": SCRIPT, "where": "", "that": "b:AP > a:AP"}
    about |= {"said": "1.0", "seeds": "0", "images": "1", "runs": "", "p_value": 0.1}
    rows = [
        {
            **about,
            "claim": name,
            "printed_effect": 1.0,
            "printed": own,
            "verdict": verdict,
            "effect": e,
            "low": e,
            "high": e,
        }
        for name, own, verdict, e in (
            ("first", "agrees", "holds", 2.0),
            ("second", "contradicts", "does not hold", -3.0),
            ("third", "agrees", "not run", float("nan")),
        )
    ]
    pd.DataFrame(rows).to_csv(claims, index=False)
    return root


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    path = build_report(results, tmp_path_factory.mktemp("out"))
    assert path.name == "index.html"
    return path.read_text(encoding="utf-8")


def test_headline_numbers(report):
    text = re.sub(r"<[^>]+>", " ", report)
    text = re.sub(r"\s+", " ", text)
    assert "Baseline AP 41.0 iou_aware/ plain, class score" in text
    assert "AP with the own estimate 46.0 ± 1.4 iou_aware/ aware, power-0.5" in text
    assert "Oracle AP 52.0 ± 1.4 same network, oracle-power-0.2" in text
    assert "PCC of estimate and IoU 1.000 ± 0.000" in text
    assert "35.40 / 46.0 ± 0.3" in text
    assert "Not evaluated: iou_aware/waiting / shapes / seed 0." in text


def test_claims_are_counted_and_contradictions_listed(report):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", report))
    assert "Measured on shapes holds 1 the whole 95 % interval" in text and "does not hold 1 the interval" in text
    assert "+2.0 [+2.0, +2.0] AP" in text and "1 not run, 0 not measurable there." in text
    assert "contradict: said 1.0, the cells give 1" in text


def test_filters_name_what_is_tagged(report):
    page = Page(report)
    chosen: dict[str, set[str]] = {}
    name = ""
    for tag, attrs in page.tags:
        name = attrs.get("name", name) if tag == "select" else name
        if tag == "option" and attrs["value"]:
            chosen.setdefault(name, set()).add(attrs["value"])
    both = {"shapes", "the paper's own"}  # runs, and a table without a profile in its name
    assert chosen == {
        "verdict": {"holds", "does not hold", "inconclusive"},
        "profile": both,
    }  # one paper needs no choice
    tagged = {attrs["data-verdict"] for _, attrs in page.tags if "data-verdict" in attrs}
    assert tagged == {"holds", "does not hold"}
    assert {attrs["data-paper"] for _, attrs in page.tags if "data-paper" in attrs} == {"iou_aware"}
    assert {attrs["data-profile"] for _, attrs in page.tags if "data-profile" in attrs} == both


def test_nothing_of_the_data_becomes_markup(report):
    page = Page(report)
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and SCRIPT not in report
    assert (
        "".join(page.texts).count(SCRIPT) == 5
    )  # an override, the row of a table, claims and a contradicted one, as plain text


def test_nothing_is_fetched(report):
    page = Page(report)
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert len(sources) >= 4 and all(source.startswith("data:image/") for source in sources)
    assert all(attrs["href"].startswith("#") for _, attrs in page.tags if "href" in attrs)
    assert (
        not {tag for tag, _ in page.tags} & {"link", "iframe", "object"}
        and "@import" not in report
        and "url(" not in report
    )
    anchors = {attrs.get("id") for _, attrs in page.tags}
    assert all(attrs["href"][1:] in anchors for _, attrs in page.tags if "href" in attrs)
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_every_table_scrolls_in_its_own_box_and_has_even_rows(report):
    tables = re.findall(r"<table>.*?</table>", report, re.S)
    assert len(tables) >= 6 and report.count('<div class="scroll"><table>') == len(tables)
    for table in tables:
        widths = {len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr[ >].*?</tr>", table, re.S)}
        assert len(widths) == 1


def test_summary_by_hand(results):
    rows = {row["recipe"]: row for row in summary_rows(find_runs(results))}
    assert set(rows) == {"iou_aware/plain", "iou_aware/aware"}
    aware, plain = rows["iou_aware/aware"], rows["iou_aware/plain"]
    assert (aware["class"], aware["estimate"], aware["oracle"]) == ([39, 41], [45, 47], [51, 53])
    assert (aware["estimate_rule"], aware["oracle_rule"], aware["seeds"]) == ("power-0.5", "oracle-power-0.2", [0, 1])
    assert aware["captured"] == pytest.approx(0.5) and aware["pcc"] == pytest.approx([1, 1])
    assert plain["estimate"] == plain["oracle"] == plain["pcc"] == [] and plain["class"] == [41]


def test_means_are_over_what_all_seeds_have(tmp_path):
    make_run(tmp_path, "p/a", 0, {"class": {"AP": 1.0, "APS": 2.0}, "product": {"AP": 5.0}})
    make_run(tmp_path, "p/a", 1, {"class": {"AP": 3.0}})
    assert mean_metrics(find_runs(tmp_path)) == {"class": {"AP": 2.0}}
    assert mean_metrics([]) == {}


def test_trace_names_recipe_hash_commit_and_seed_of_every_run(results):
    rows = trace_rows(find_runs(results))
    assert len(rows) == 4
    assert [(r["recipe"], r["seed"], r["hash"], r["commit"], r["images"]) for r in rows[1:3]] == [
        ("iou_aware/aware", "1", "0123456789abcdef", "cafe", 1),
        ("iou_aware/plain", "0", "0123456789abcdef", "cafe", 1),
    ]
    assert rows[3]["split"] == "not evaluated" and rows[2]["versions"] == "torch 2"


def test_an_empty_results_folder_gives_a_page_that_says_so(tmp_path):
    path = build_report(tmp_path, tmp_path / "page.html")
    assert path == tmp_path / "page.html" and "There are no runs" in path.read_text()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        build_report(tmp_path / "nowhere", tmp_path)


def test_a_run_with_metrics_only_is_shown(tmp_path):
    path = make_run(tmp_path, "p/a", 0, RULES)
    for file in [*path.glob("detections/*"), path / "positives.parquet", path / "log.jsonl"]:
        file.unlink()
    text = build_report(tmp_path, tmp_path).read_text()
    assert (
        "AP with the own estimate" in text and text.count("<figure>") == 2
    )  # AP against alpha and threshold need no more
