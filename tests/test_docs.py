"""The pages of docs/: what they print runs, what they point to is there."""

import re
from pathlib import Path

import pandas as pd
import pytest

from helpers.commands import run
from qrepro.papers.claims import read_claims
from qrepro.papers.sheet import read_paper
from qrepro.papers.verdicts import VERDICTS, claim_lines
from qrepro.recipe.load import names
from qrepro.records.run_folder import find_runs
from qrepro.report.papers import read_claim_rows

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files_of(page: str) -> dict[str, str]:
    """Contents by the file names that a paragraph before a fence has in its beginning, in their order."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    for part in re.split(r"(^```\w+\n.*?^```$)", page, flags=re.MULTILINE | re.DOTALL):
        fence = FENCE.fullmatch(part)
        if fence and waiting:
            found[waiting.pop(0)] = fence[2]
        elif not fence:
            waiting += re.findall(r"`(mine/[\w.]+)`", part.split("—")[0] if "—" in part else "")
    return found


def test_a_method_of_ones_own_as_the_page_says(capsys, tmp_path, monkeypatch, shapes):
    page = (DOCS / "your_own_method.md").read_text()
    files = files_of(page)
    assert list(files) == [
        f"mine/{name}" for name in ("entropy.py", "entropy.yaml", "paper.yaml", "table1.csv", "claims.yaml")
    ]
    assert sum(text.count("\n") for text in files.values()) < 60
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    commands = [line for _, text in FENCE.findall(page) for line in text.splitlines() if line.startswith("qrepro ")]
    assert len(commands) == 6
    for command in commands:
        arguments = command.split()[1:]
        if arguments[0] in ("reproduce", "tables", "claims"):
            arguments += ["--steps", "2"]  # in place of 640
        if arguments[0] == "reproduce":
            arguments += ["--data", str(shapes), "--device", "cpu", "--set", "postprocess.score_thr=0.001"]
        if arguments[0] in ("tables", "claims"):
            arguments += ["--set", "postprocess.score_thr=0.001"]
        if arguments[0] == "claims":
            arguments += ["--draws", "20"]
        code, _, err = run(capsys, *arguments)
        assert code == 0, f"{command}: {err}"
    runs = find_runs(tmp_path / "results")
    assert sorted({run.recipe for run in runs}) == ["custom/entropy", "gfl/gfl", "gflv2/gflv2"] and len(runs) == 6
    assert all(run.positives["quality"].between(0, 1).all() for run in runs if run.recipe == "custom/entropy")
    (table,) = (tmp_path / "results" / "tables" / "mine").glob("table1-shapes*.csv")
    frame = pd.read_csv(table)
    assert frame["seeds"].tolist() == ["0 1"] * 3 and frame["AP_measured"].notna().all()
    (claims,) = (tmp_path / "results" / "claims").glob("mine-shapes*.csv")
    assert set(pd.read_csv(claims)["verdict"]) <= {"holds", "does not hold", "inconclusive"}


def core_lines() -> list[str]:
    """The README's rows of core claims, as they follow from results/reproduction."""
    recipes, root = DOCS.parent / "recipes", DOCS.parent / "results" / "reproduction" / "claims"
    lines = []
    for paper in ("iou_aware", "gfl", "gflv2", "vfnet", "passd"):
        files = [root / f"{paper}-{setting}.csv" for setting in ("shapes", "bccd+schedule.shorten-300")]
        for pair in zip(*(claim_lines(read_claim_rows(file)) for file in files), strict=True):
            if pair[0]["core"]:
                cells = [f"{line['measured']}: {line['effect']}" for line in pair]
                said = [read_paper(recipes / paper).short, pair[0]["says"], pair[0]["printed effect"], *cells]
                lines.append(f"| {' | '.join(said)} |")
    return lines


def test_the_readme_shows_the_claims_as_they_were_measured():
    """Every row of its table is that of a core claim in results/reproduction, with its numbers, and none is missing."""
    wanted = core_lines()
    text = (DOCS.parent / "README.md").read_text()
    shown = [line for line in text.splitlines() if line.split(" | ")[-1].split(":")[0] in VERDICTS]
    assert shown == wanted and len(wanted) >= 15


@pytest.mark.parametrize("page", sorted(path.name for path in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]))
def test_links_lead_somewhere_and_recipes_exist(page):
    path = next(root / page for root in (DOCS, DOCS.parent) if (root / page).is_file())
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)", text):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link
    known = set(names())
    papers = {name.split("/")[0] for name in known}
    for kind, name in re.findall(r"qrepro (train|recipes describe|recipes show|eval) (\w+/\w+)", text):
        if name.split("/")[0] in papers:
            assert name in known, f"{kind} {name}"
    for paper in re.findall(r"qrepro claims (\w+)", text):
        assert paper == "mine" or read_claims(DOCS.parent / "recipes" / paper)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_code_and_tests_that_a_page_names_are_where_it_says(page):
    """`[`file.py: name`][label]` and `[test file][label] `word of its name``."""
    text = (DOCS / page).read_text()
    paths = {label: DOCS / target for label, target in re.findall(r"^\[(\w+)\]: (\S+)$", text, re.MULTILINE)}
    for file, named, label in re.findall(r"\[`([\w/.]+\.py): ([\w., ]+)`\]\[(\w+)\]", text):
        assert paths[label].name == file, file
        for name in named.split(", "):
            defined = rf"^\s*((def|class) {name.split('.')[-1]}\b|{name}\b.* = )"
            assert re.search(defined, paths[label].read_text(), re.MULTILINE), f"{file}: {name}"
    for file, label, word in re.findall(r"\[(\w+)\]\[(\w+)\](?: `(\w+)`)?", text):
        if paths[label].is_relative_to(DOCS / "../tests"):
            assert paths[label].stem == f"test_{file}", file
            assert re.search(rf"def test\w*{word}", paths[label].read_text()), f"{file}: {word}"
