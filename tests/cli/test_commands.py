"""The commands as a user types them: exit codes, one clear line for wrong input, and the whole path on tiny data."""

import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from helpers.commands import SETTINGS, run
from helpers.tiny import TINY
from qrepro.cli.options import key_values, numbers
from qrepro.cli.terminal import terminal
from qrepro.engine.card import run_card
from qrepro.experiments.evaluation import requested_rules
from qrepro.experiments.experiment import open_experiment, run_path
from qrepro.experiments.plan import carry_out, duration, planned_trainings
from qrepro.experiments.run_index import Setting, table_files
from qrepro.papers.tables import read_table
from qrepro.recipe.axes import resolve
from qrepro.recipe.load import profiles
from qrepro.records.run_folder import RunFolder
from qrepro.records.score_rule import Rule


def test_the_whole_path(capsys, trained):
    aware = next(trained.glob("iou_aware/grad_r50*/shapes/seed0"))
    files = {p.relative_to(aware).as_posix() for p in aware.rglob("*") if p.is_file()}
    assert {"run.json", "log.jsonl", "last.pt", "metrics.json", "ground_truth.json", "positives.parquet"} <= files
    metrics = json.loads((aware / "metrics.json").read_text())
    powers = {f"{o}power-{a}" for o in ("", "oracle-") for a in (0.3, 0.4, 0.5)}
    assert set(metrics["rules"]) == {"class", "product", "oracle-product"} | powers
    assert {f"detections/{rule}.parquet" for rule in metrics["rules"]} <= files
    columns = {f"AP{t}" for t in range(50, 100, 5)} | {"AP", "APS", "APM", "APL"}
    assert columns <= set(metrics["rules"]["class"])
    plain = json.loads((next(trained.glob("iou_aware/retinanet_r50*/shapes/seed0")) / "metrics.json").read_text())
    assert set(plain["rules"]) == {"class", "oracle-product"} | {f"oracle-power-{a}" for a in (0.3, 0.4, 0.5)}
    for command in (
        ["analyze", "pcc"],
        ["analyze", "ap"],
        ["analyze", "oracle"],
        ["analyze", "plot"],
        ["tables"],
        ["report"],
    ):
        code, _, err = run(capsys, *command, "--results", trained)
        assert code == 0, err
    assert (trained / "report" / "index.html").stat().st_size > 10_000
    assert len(list((trained / "tables" / "iou_aware").glob("table*.csv"))) == 6
    assert (trained / "figures" / "shapes" / "score_vs_iou.png").exists()


def test_a_split_without_truths_gives_the_file_that_the_server_takes(capsys, tmp_path, trained, data):
    """As COCO's test-dev: a list of images, which lie in the folder of the whole test set."""
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    del content["annotations"]
    place = tmp_path / "coco"
    (place / "annotations").mkdir(parents=True)
    (place / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    shutil.copytree(data / "val", place / "test2017")
    run_folder = next(trained.glob("iou_aware/grad_r50*/shapes/seed0"))
    common = ["eval", run_folder, "--data", place, "--split", "test-dev2017", "--device", "cpu", "--export"]
    code, out, err = run(capsys, *common)
    assert code == 0, err
    (file,) = (run_folder / "split-test-dev2017").glob("*.zip")
    assert file.name == "detections_test-dev2017_iou-aware-grad-r50_results.zip" and str(file) in out
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == [f"{file.stem}.json"]
        records = json.loads(archive.read(f"{file.stem}.json"))
    frame = pd.read_parquet(run_folder / "split-test-dev2017" / "detections" / "power-0.5.parquet")
    assert len(records) == len(frame) > 0 and all(
        set(r) == {"image_id", "category_id", "bbox", "score"} for r in records
    )
    assert [r["image_id"] for r in records] == frame["image_id"].tolist()
    assert records[0]["bbox"][2] == pytest.approx(frame["x2"][0] - frame["x1"][0], abs=0.006)
    assert [r["score"] for r in records] == pytest.approx(frame["score"].tolist(), abs=1e-6)
    code, _, err = run(capsys, *common, "--rule", "class")
    assert code == 2 and "--export: the recipe's own rule power-0.5 is not among those asked for" in err


def test_the_best_checkpoint_is_kept_where_the_schedule_evaluates(capsys, tmp_path, data):
    options = ["--set", "schedule.evaluate_every=2", "--set", "postprocess.score_thr=0.001"]
    code, _, err = run(
        capsys,
        "train",
        "grad_r50",
        "-p",
        "shapes",
        "--data",
        data,
        "--results",
        tmp_path,
        "--device",
        "cpu",
        *SETTINGS,
        *options,
    )
    assert code == 0, err
    folder = next(tmp_path.rglob("best.pt")).parent
    judged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if '"AP"' in line]
    assert [record["step"] for record in judged] == [2, 4, 6]
    best = max(judged, key=lambda record: record["AP"])  # the first of equals
    from qrepro.engine.checkpoint import load as load_checkpoint

    assert load_checkpoint(folder / "best.pt")["step"] == best["step"]


def test_oracle_and_estimate_come_from_the_same_pass(trained):
    """Same boxes and class scores, other order; and scores are what the rule says of the columns beside them."""
    aware = next(trained.glob("iou_aware/grad_r50*/shapes/seed0")) / "detections"
    frames = {
        rule: pd.read_parquet(aware / f"{rule}.parquet")
        for rule in ("class", "product", "power-0.3", "oracle-power-0.3")
    }
    for rule, frame in frames.items():
        quality = frame["iou_truth"] if rule.startswith("oracle") else frame["quality"]
        expected = {
            "class": frame["class_score"],
            "product": frame["class_score"] * quality,
        }.get(rule, frame["class_score"] ** 0.3 * quality**0.7)
        assert frame["score"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4)
        assert frame["iou_truth"].between(0, 1).all() and frame["class_score"].between(0, 1).all()


def test_iou_truth_of_detections_equals_that_of_the_analysis(trained):
    """Computed in the network's pixels by torch, and from the files in original pixels by numpy."""
    from qrepro.metrics.iou import iou_truth
    from qrepro.records.run_folder import read_run

    found = read_run(next(trained.glob("iou_aware/grad_r50*/shapes/seed0")))
    frame = found.detections("class")
    assert len(frame) > 50
    assert iou_truth(found.ground_truth, frame) == pytest.approx(frame["iou_truth"].to_numpy(), abs=2e-3)


def test_a_table_holds_printed_and_measured_values_of_the_same_row(capsys, tmp_path, data):
    """A recipe without overrides is found by its hash; what was not run stays empty."""
    results = tmp_path / "results"
    code, _, err = run(capsys, "tables", "iou_aware/table4", "--results", results)
    assert code == 0, err
    frame = pd.read_csv(results / "tables" / "iou_aware" / "table4.csv", dtype=str, keep_default_na=False)
    assert frame["AP"].tolist()[:2] == ["34.4", "36.0"] and set(frame["AP_measured"]) == {""}
    recipe = resolve("iou_aware/grad_r50_600", "shapes")
    made = RunFolder(run_path(results, recipe, 0))
    made.write_card(run_card(recipe, 0))
    rules = {"power-0.4": {"AP": 41.28, "AP50": 60.0}}
    (made.path / "metrics.json").write_text(json.dumps({"split": "val", "images": 6, "rules": rules}))
    assert run(capsys, "tables", "iou_aware/table4", "--results", results)[0] == 0
    own = pd.read_csv(results / "tables" / "iou_aware" / "table4.csv", dtype=str, keep_default_na=False)
    assert set(own["AP_measured"]) == {""}  # profiles are never mixed in one column
    small = results / "tables" / "iou_aware" / "table4-shapes"
    frame = pd.read_csv(f"{small}.csv", dtype=str, keep_default_na=False)
    row = frame[frame["row"] == "alpha-0.4"].iloc[0]
    assert (row["AP"], float(row["AP_measured"]), row["profile"], row["hash"]) == ("36.1", 41.28, "shapes", recipe.hash)
    assert set(frame[frame["row"] != "alpha-0.4"]["AP_measured"]) == {""}
    assert row["stale"] == "" and row["date"] == json.loads((made.path / "run.json").read_text())["created"][:10]
    text = Path(f"{small}.md").read_text()
    assert "36.1 / 41.3" in text and text.startswith("# IoU-aware") and "(shapes)" in text.splitlines()[0]
    card = made.path / "run.json"
    card.write_text(card.read_text().replace(recipe.hash, "0123456789ab"))  # as if the recipe had changed
    assert run(capsys, "tables", "iou_aware/table4", "--results", results)[0] == 0
    frame = pd.read_csv(f"{small}.csv", dtype=str, keep_default_na=False)
    assert frame["stale"][frame["row"] == "alpha-0.4"].tolist() == ["stale"]
    assert (
        f"alpha-0.4 is stale: its recipe has changed since (it is {recipe.hash} now)" in Path(f"{small}.md").read_text()
    )


def test_a_training_in_another_precision_is_the_same_training(capsys, tmp_path, data):
    """`train R --set schedule.precision=bf16`, `eval R` and `tables` mean one run."""
    fast, results = "schedule.precision=bf16", tmp_path / "results"
    common = ["grad_r50", "-p", "shapes", "--data", data, "--results", results, "--device", "cpu", *SETTINGS]
    code, _, err = run(capsys, "train", *common, "--set", fast)
    assert code == 0, err
    (folder,) = (path.parent for path in results.rglob("run.json"))
    assert RunFolder(folder).card["performance"]["precision"] == "bf16"
    code, _, err = run(capsys, "eval", *common)
    assert code == 0, err
    assert (folder / "metrics.json").is_file()
    recipe = resolve("iou_aware/grad_r50_600", "shapes", [fast])  # of a table's row, which TINY's values are not
    made = RunFolder(run_path(results, recipe, 0))
    made.write_card(run_card(recipe, 0))
    metrics = {"split": "val", "images": 6, "rules": {"power-0.4": {"AP": 41.28}}}
    (made.path / "metrics.json").write_text(json.dumps(metrics))
    assert run(capsys, "tables", "iou_aware/table4", "--results", results)[0] == 0
    frame = pd.read_csv(results / "tables" / "iou_aware" / "table4-shapes.csv", keep_default_na=False)
    assert frame.set_index("row").loc["alpha-0.4", ["AP_measured", "stale"]].tolist() == ["41.28", ""]


def test_a_recipe_that_has_changed_since_the_training_is_not_evaluated_for_it(capsys, tmp_path, data):
    mine, results = tmp_path / "mine.yaml", tmp_path / "results"
    mine.write_text("extends: iou_aware/grad_r50\n")
    recipe = resolve(str(mine), "shapes")
    made = RunFolder(run_path(results, recipe, 0))
    made.write_card(run_card(recipe, 0))
    made.last.touch()
    command = ["eval", mine, "-p", "shapes", "--data", data, "--results", results, "--device", "cpu"]
    mine.write_text("extends: iou_aware/grad_r50\nloss: {quality: {weight: 7.0}}\n")
    code, _, err = run(capsys, *command)
    assert code == 2 and err.count("\n") == 1 and "was trained with other values of custom/mine" in err
    mine.write_text("extends: iou_aware/grad_r50\nscore: {kind: product}\n")  # another ranking is the same training
    made.last.unlink()
    code, _, err = run(capsys, *command)
    assert code == 2 and "last.pt: no such file" in err  # it goes on to the weights
    assert list(tmp_path.rglob("metrics.json")) == []


def test_printed_values_of_test_dev_are_said_to_be(capsys, tmp_path):
    assert run(capsys, "tables", "gfl/table4", "--results", tmp_path)[0] == 0
    assert "printed values are of test-dev" in (tmp_path / "tables" / "gfl" / "table4.md").read_text()
    assert run(capsys, "tables", "gfl/table3", "--results", tmp_path)[0] == 0
    assert "test-dev" not in (tmp_path / "tables" / "gfl" / "table3.md").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "grad_r5"], "did you mean"),
        (["train", "grad_r50", "-p", "shape"], "did you mean 'shapes'"),
        (["train", "grad_r50", "--set", "schedule.bach=2"], "did you mean 'batch'"),
        (["train", "grad_r50", "-p", "shapes", "--data", "nowhere"], "nowhere: no such data folder"),
        (["train", "grad_r50", "--steps", "0"], "--steps"),
        (["train", "grad_r50", "--bla"], "No such option"),
        (["eval", "grad_r50", "-p", "shapes", "--checkpoint", "nothing.pt"], "nothing.pt: no such file"),
        (["eval", "grad_r50", "--rule", "clas"], "score rule 'clas'"),
        (["eval", "grad_r50", "--alpha", "1:2:3:4"], "--alpha 1:2:3:4"),
        (["eval", "retinanet_r50", "--alpha", "0.5"], "no quality estimate"),
        (["eval", "grad_r50", "--engine", "mine"], "mine"),
        (["analyze", "pcc", "--results", "nowhere"], "nowhere"),
        (["analyze", "ap", "x.json"], "x.json: no such file"),
        (["tables", "iou_awar"], "did you mean 'iou_aware'"),
        (["tables", "--format", "pdf"], "allowed are csv, markdown, both"),
        (["data", "make", "spheres", "x"], "allowed: shapes"),
        (["data", "check", "nowhere"], "nowhere"),
        (["data", "download", "imagenet", "x"], "imagenet"),
        (["recipes", "list", "--paper", "yolo"], "allowed: gfl, gflv2, iou_aware, passd, vfnet"),
        (["recipes", "show", "grad_r5"], "did you mean"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2 and message in err and err.strip().count("\n") == 0, err
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def copy_of(data: Path, target: Path) -> Path:
    """The data set with images of its own, to be damaged."""
    import shutil

    shutil.copytree(data, target)
    return target


def train_on(capsys, root: Path, out: Path) -> tuple[int, str, str]:
    return run(
        capsys, "train", "grad_r50", "-p", "shapes", "--data", root, "--results", out, "--device", "cpu", *SETTINGS
    )


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_truncated_picture_is_named(capsys, tmp_path, data, workers):
    root = copy_of(data, tmp_path / "shapes")
    for image in (root / "train").iterdir():
        image.write_bytes(image.read_bytes()[:600])
    code, _, err = run(
        capsys,
        "train",
        "grad_r50",
        "-p",
        "shapes",
        "--data",
        root,
        "--results",
        tmp_path / "r",
        "--workers",
        workers,
        *SETTINGS,
    )
    assert code == 2 and "broken image" in err and ".jpg" in err and err.strip().count("\n") == 0


def test_malformed_annotations_are_named(capsys, tmp_path, data):
    root = copy_of(data, tmp_path / "shapes")
    file = root / "annotations" / "instances_train.json"
    file.write_text(file.read_text()[:-100])
    code, _, err = train_on(capsys, root, tmp_path / "r")
    assert code == 2 and "instances_train.json" in err and err.strip().count("\n") == 0
    assert not (tmp_path / "r").exists()


def test_a_picture_of_another_size_than_annotated(capsys, tmp_path, data):
    root = copy_of(data, tmp_path / "shapes")
    for image in (root / "train").iterdir():
        Image.new("RGB", (17, 19)).save(image)
    code, _, err = train_on(capsys, root, tmp_path / "r")
    assert code == 2 and "(19, 17)" in err


def test_checkpoint_of_another_recipe(capsys, trained, data):
    plain = next(trained.glob("iou_aware/retinanet_r50*/shapes/seed0/last.pt"))
    code, _, err = run(
        capsys,
        "eval",
        "grad_r50",
        "-p",
        "shapes",
        "--data",
        data,
        "--checkpoint",
        plain,
        "--results",
        trained / "other",
        *SETTINGS,
    )
    assert code == 2 and "holds the network of recipe iou_aware/retinanet_r50" in err
    assert not (trained / "other").exists()


def test_resume_without_a_checkpoint(capsys, tmp_path, data):
    code, _, err = run(
        capsys, "train", "grad_r50", "-p", "shapes", "--data", data, "--results", tmp_path / "r", "--resume", *SETTINGS
    )
    assert code == 2 and "--resume" in err and not (tmp_path / "r").exists()


def test_a_full_disk_is_exit_code_1(capsys, tmp_path, data, monkeypatch):
    import errno

    from qrepro.engine import checkpoint

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save", full)
    code, _, err = train_on(capsys, data, tmp_path / "r")
    assert code == 1 and "the disk is full" in err and "last.pt" in err


def test_divergence_is_exit_code_1(capsys, tmp_path, data):
    changes = ["schedule.optimiser.lr=1e12", "schedule.clip=null", "schedule.warmup.steps=0", "schedule.steps=30"]
    options = [part for change in changes for part in ("--set", change)]
    code, _, err = run(
        capsys, "train", "grad_r50", "-p", "shapes", "--data", data, "--results", tmp_path / "r", *SETTINGS, *options
    )
    assert code == 1 and "loss term" in err


def test_offline_weights_say_which_file_to_put_where(capsys, tmp_path, data, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    options = ["--set", "backbone.weights=torchvision/ResNet18_Weights.IMAGENET1K_V1"]
    code, _, err = run(
        capsys, "train", "grad_r50", "-p", "shapes", "--data", data, "--results", tmp_path / "r", *SETTINGS, *options
    )
    assert code == 2 and "resnet18-f37072fd.pth" in err and "checkpoints" in err
    assert not (tmp_path / "r").exists()


def test_rules_that_are_evaluated():
    aware, plain = resolve("grad_r50", "shapes"), resolve("retinanet_r50", "shapes")

    def names(recipe, rules=(), **options):
        return [rule.name for rule in requested_rules(recipe, rules, **options)]

    assert names(aware) == ["class", "power-0.5", "product"]
    oracle = ["oracle-product", "oracle-power-0.2"]
    assert names(aware, ["class"], alphas=[0.2], oracle=True) == ["class", "power-0.2", *oracle]
    assert names(plain, alphas=[0.2], oracle=True) == ["class", *oracle]
    with pytest.raises(ValueError, match="no quality estimate"):
        names(plain, ["product"])
    assert numbers("0.3:1.0:0.1", "--alpha") == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert numbers("0.5,1", "--alpha") == [0.5, 1.0]


def test_help_is_fast():
    """Heavy imports are inside the commands: `--help` must not load torch or pandas."""
    heavy = ("torch", "pandas", "matplotlib", "numpy")
    code = f"import sys; import qrepro.cli; print([m for m in {heavy} if m in sys.modules])"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and time.perf_counter() - start < 5


def test_listing_commands_print_json(capsys, data):
    code, out, _ = run(capsys, "recipes", "list", "--paper", "iou_aware", "--json")
    assert code == 0 and len(json.loads(out)) == 19
    code, out, _ = run(capsys, "recipes", "describe", "retinanet_r50", "--json")
    facts = json.loads(out)
    assert facts["parameters"] == 37_968_692 and facts["priors a cell"] == 9
    code, out, _ = run(capsys, "data", "check", data, "--json")
    assert code == 0 and [r["images"] for r in json.loads(out)] == [12, 6]


def test_the_plan_of_a_table_has_each_model_once(tmp_path):
    trainings = planned_trainings(table_files("vfnet/oracle"), Setting("shapes"), [], [0, 1], None, tmp_path)
    assert [(t.experiment.recipe.name, t.experiment.seed) for t in trainings] == [
        ("vfnet/fcos_atss", 0),
        ("vfnet/fcos_atss", 1),
    ]
    assert (
        len(trainings[0].rows) == len(trainings[0].rules) == 9
        and Rule.parse("oracle-class_iou-class") in trainings[0].rules
    )
    (one,) = planned_trainings(
        table_files("gflv2/table2"), Setting("shapes"), ["k4-p64", "k4-p64-again"], [0], None, tmp_path
    )
    assert (one.rows, one.rules) == (["table2/k4-p64", "table2/k4-p64-again"], [Rule.parse("product")])
    with pytest.raises(ValueError, match=r"--rows k4-p65: .*did you mean 'k4-p64'"):
        planned_trainings(table_files("gflv2/table2"), Setting("shapes"), ["k4-p65"], [0], None, tmp_path)


def test_a_run_is_found_by_what_it_trained(tmp_path):
    """On shapes the 24 epochs of GFL's table 4 are the same training as its 12."""
    recipe = resolve("gfl/r50_2x", "shapes")
    made = RunFolder(run_path(tmp_path, recipe, 3))
    made.write_card(run_card(recipe, 3))
    made.last.touch()
    (one,) = planned_trainings(table_files("gfl/table3"), Setting("shapes"), ["atss-qfl-dfl"], [3], None, tmp_path)
    assert (
        one.experiment.run.path == made.path and one.experiment.recipe.name == "gfl/r50_2x" and one.experiment.seed == 3
    )
    (other,) = planned_trainings(table_files("gfl/table3"), Setting("shapes"), ["atss-qfl-dfl"], [4], None, tmp_path)
    assert other.experiment.run.path == run_path(tmp_path, resolve("gfl/gfl", "shapes"), 4)


def test_what_a_table_needs_is_done_once_and_rules_are_added(data, tmp_path, capsys):
    overrides = list(TINY)
    choice = open_experiment("vfnet/fcos_atss", "shapes", overrides, data=data, results=tmp_path)
    carry_out(choice, [Rule.parse("product")], reporter=terminal)
    first = choice.run.last.stat().st_mtime_ns
    judged = (choice.run.path / "metrics.json").stat().st_mtime_ns
    assert RunFolder(choice.run.path).rules == ["product"]
    carry_out(choice, [Rule.parse("product")], reporter=terminal)
    assert (choice.run.path / "metrics.json").stat().st_mtime_ns == judged
    carry_out(choice, [Rule.parse("oracle-class-class")], reporter=terminal)
    assert choice.run.last.stat().st_mtime_ns == first and "already trained" in capsys.readouterr().out
    assert RunFolder(choice.run.path).rules == ["oracle-class-class", "product"]


def test_every_trained_row_of_every_table_is_planned_in_every_profile(tmp_path):
    """A smaller backbone makes rows the same training; nothing is lost by that."""
    files = table_files(None)
    assert len(files) == 37
    own = planned_trainings(files, Setting(), [], [0], None, tmp_path)
    assert sum(len(t.rows) for t in own) == 273 and len({t.experiment.recipe.hash for t in own}) == len(own)
    for name in profiles():
        trainings = planned_trainings(files, Setting(name), [], [0], None, tmp_path)
        assert sum(len(t.rows) for t in trainings) == 273 and len(trainings) <= len(own)


def test_reproduce_side_by_side_writes_the_table_and_goes_on_where_it_was(capsys, tmp_path, data):
    """Two rows of a table in two processes; a row that cannot be trained does not stop the others."""
    folder = ["--data", data, "--results", tmp_path, "-p", "shapes", *SETTINGS, "--device", "cpu"]
    two = ["gfl/table3", "--rows", "atss,atss-qfl"]
    code, out, err = run(capsys, "reproduce", *two, *folder, "--jobs", "2")
    assert code == 0, err
    (table,) = (tmp_path / "tables" / "gfl").glob("table3-shapes+*.csv")
    frame = read_table(table)
    measured = frame[frame["seeds"] == "0"]
    assert measured["row"].tolist() == ["atss", "atss-qfl"] and measured["AP_measured"].notna().all()
    assert all(measured[name].all() for name in ("hash", "commit", "device", "date", "split", "images", "recipe"))
    assert "2 of 4 trained rows measured" in out
    before = table.read_bytes()
    weights = sorted(tmp_path.rglob("last.pt"))
    assert len(weights) == 2 and len(sorted(tmp_path.rglob("output.txt"))) == 2
    times = [path.stat().st_mtime_ns for path in weights]
    code, out, _ = run(capsys, "reproduce", *two, *folder)
    assert code == 0 and "done" in out
    assert table.read_bytes() == before and [path.stat().st_mtime_ns for path in weights] == times
    code, out, _ = run(capsys, "reproduce", *two, *folder, "--dry-run")
    assert "from the logs of 2 runs on CPU" in out


def test_a_training_that_fails_is_named_and_the_others_are_done(capsys, tmp_path, data, monkeypatch):
    from qrepro.engine.train import Diverged
    from qrepro.experiments import plan

    real = plan.train

    def sometimes(choice, **options):
        if choice.recipe.name == "gfl/atss_centerness":
            raise Diverged("class is nan at step 2")
        real(choice, **options)

    monkeypatch.setattr(plan, "train", sometimes)
    arguments = [
        "gfl/table3",
        "--rows",
        "atss,atss-qfl",
        "-p",
        "shapes",
        *SETTINGS,
        "--data",
        data,
        "--results",
        tmp_path,
    ]
    code, out, err = run(capsys, "reproduce", *arguments)
    assert code == 1 and "1 of 2 trainings failed, the first is gfl/atss_centerness" in err and "is nan" in err
    assert "1 of 4 trained rows measured" in out


def test_without_its_data_a_training_is_left_out_and_said(capsys, tmp_path):
    arguments = ["gfl/table3", "-p", "shapes", "--data", tmp_path / "none", "--results", tmp_path / "results"]
    code, out, err = run(capsys, "reproduce", *arguments)
    assert code == 2 and f"4 of 4 trainings were left out: no data folder {tmp_path / 'none'}" in err
    assert "no data" in out and not list(tmp_path.rglob("run.json"))


def test_duration():
    said = {0: "-", float("nan"): "?", 30: "30 s", 100: "1.7 min", 1500: "25 min", 9000: "2.5 h", 4e5: "4.6 days"}
    assert {seconds: duration(seconds) for seconds in said} == said


@pytest.mark.parametrize("text", ["partition", "=a", "a="])
def test_slurm_options_have_a_form(text):
    assert key_values(["partition=gpu,gpus_per_node=8", "mem_gb=64"], "--slurm") == {
        "partition": "gpu",
        "gpus_per_node": "8",
        "mem_gb": "64",
    }
    with pytest.raises(ValueError, match="must look like partition=gpu"):
        key_values([text], "--slurm")


def test_reproduce_says_what_it_would_do(capsys, tmp_path, data):
    arguments = ["vfnet/oracle", "-p", "shapes", "--dry-run", "--data", data, "--results", tmp_path]
    code, out, _ = run(capsys, "reproduce", *arguments)
    assert code == 0 and "to be trained" in out and not list(tmp_path.rglob("run.json"))
