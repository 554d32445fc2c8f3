"""The package as it is installed: its public names, its neighbours in the working directory, and life without torch."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import qrepro
from helpers.run_folders import RULES, make_run
from qrepro.experiments.synthetic import Size, make_detections, make_ground_truth, write_detections, write_ground_truth

ROOT = Path(__file__).parent.parent
# Of result files; candidates lie in the folders of runs only.
STUDIES = sorted(path for path in (ROOT / "analysis").glob("*.py") if path.stem != "candidate_rescoring")
# Called with torch out of reach, as after `pip install qrepro`.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
sys.argv[0] = "qrepro"
from qrepro.cli import main
main()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory, shapes):
    """Ground truth and detections of two detectors, as COCO files, and a data set."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "shapes").symlink_to(shapes)
    (folder / "results").mkdir()
    size = Size(images=20, objects=120, classes=3, detections=500)
    ground_truth = make_ground_truth(size)
    write_ground_truth(ground_truth, folder / "annotations.json")
    for seed, name in enumerate(("a", "b")):
        write_detections(make_detections(size, ground_truth, seed=seed), folder / f"{name}.json")
    return folder


def call(folder, *arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


def test_every_public_name_can_be_imported_and_is_known_to_type_checkers():
    for name in qrepro.__all__:
        assert getattr(qrepro, name) is not None
    tree = ast.parse((ROOT / "qrepro" / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == set(qrepro.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'truths'"):
        qrepro.truths  # noqa: B018


def test_the_page_on_the_api_has_every_name_and_runs(files, tmp_path):
    page = (ROOT / "docs" / "python.md").read_text()
    assert [name for name in qrepro.__all__ if name != "__version__" and f"`{name}`" not in page] == []
    of_files, of_runs, _ = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    for name in ("annotations.json", "a.json"):
        (tmp_path / name).symlink_to(files / name)
    make_run(tmp_path / "results", "p/a", 0, RULES)
    done = call(tmp_path, "-c", of_files + of_runs)
    assert done.returncode == 0, done.stderr
    assert "score 0.5" in done.stdout and "'captured'" in done.stdout
    assert (tmp_path / "results" / "analysis" / "mine.csv").is_file()


@pytest.mark.parametrize(
    "start",
    [
        [Path(sys.executable).with_name("qrepro")],
        ["-m", "qrepro"],
        ["-m", "torch.distributed.run", "--nproc-per-node=1", "-m", "qrepro"],
    ],
    ids=["qrepro", "python -m qrepro", "torchrun -m qrepro"],
)
def test_modules_of_the_working_directory_are_never_taken_for_ours(tmp_path, start):
    for name in ("analysis", "records", "metrics", "cli", "recipe", "engine", "losses"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the user was imported')\n")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "__init__.py").write_text("raise SystemExit('the folder of the user was imported')\n")
    done = call(tmp_path, *start, "recipes", "show", "grad_r50", "--profile", "shapes")
    assert done.returncode == 0, done.stderr
    assert "iou_aware/grad_r50" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["recipes", "list"],
        ["recipes", "show", "gflv2"],
        ["data", "check", "shapes"],
        ["zoo", "list"],
        ["tables", "iou_aware/table4", "--results", "results"],
        ["claims", "--results", "results"],
        ["analyze", "ap", "a.json", "--annotations", "annotations.json", "--out", "out"],
        ["analyze", "pcc", "a.json", "--annotations", "annotations.json", "--out", "out"],
        [
            "analyze",
            "compare",
            "a.json",
            "b.json",
            "--annotations",
            "annotations.json",
            "--draws",
            "20",
            "--out",
            "out",
        ],
        ["report", "--results", "results", "--out", "report.html"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_only_reads_files_needs_no_torch(files, arguments):
    done = call(files, "-c", WITHOUT_TORCH, *arguments)
    assert done.returncode == 0, done.stderr


def test_training_without_torch_is_one_line_that_says_what_to_install(tmp_path):
    done = call(tmp_path, "-c", WITHOUT_TORCH, "train", "grad_r50", "--profile", "shapes")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install 'qrepro[train]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_a_study_of_result_files_writes_its_rows(files, tmp_path, study):
    given = [files / "a.json", *([files / "b.json"] if study.stem == "detector_comparison" else [])]
    done = call(tmp_path, study, *given, files / "annotations.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "analysis" / f"{study.stem}.csv").stat().st_size > 0
    assert str(Path("results") / "analysis" / f"{study.stem}.csv") in done.stdout
    rows, table = (tmp_path / "results" / "analysis" / f"{study.stem}.{ending}" for ending in ("csv", "md"))
    if study.stem != "confidence_vs_iou":  # which has a figure alone
        shown = [line for line in table.read_text().splitlines() if line.startswith("| ")]
        assert len(rows.read_text().splitlines()) == len(shown) - 1  # the line under the head


def called(monkeypatch, study, *words):
    """Exit code of a study in this process, as Python runs it."""
    monkeypatch.setattr(sys, "argv", [str(study), *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(study), run_name="__main__")
    return left.value.code


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
@pytest.mark.parametrize("wrong", [["no-such.json", "b.json"], ["a.json"]], ids=["a missing file", "no ground truth"])
def test_wrong_input_to_a_study_is_one_line_and_exit_code_2(files, study, wrong, monkeypatch, capsys):
    monkeypatch.chdir(files)
    assert called(monkeypatch, study, *wrong) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and wrong[0] in err


@pytest.mark.parametrize("study", [*STUDIES, ROOT / "analysis" / "candidate_rescoring.py"], ids=lambda path: path.stem)
def test_a_study_is_short_and_says_what_it_asks(study, monkeypatch, capsys):
    assert called(monkeypatch, study, "--help") == 0
    assert "?" in capsys.readouterr().out.splitlines()[0]
    assert len(study.read_text().splitlines()) < 60
