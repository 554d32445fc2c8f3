"""`qrepro benchmark`: every part is there, and the time of a part is counted under its name."""

from functools import wraps
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from helpers.commands import SETTINGS, run
from helpers.tiny import tiny
from qrepro import detector, objective, postprocess, ranking
from qrepro.assign import MaxIoU
from qrepro.data.loader import ImageDataset
from qrepro.data.shapes import make_shapes
from qrepro.engine.datasets import evaluation_size
from qrepro.experiments import timing
from qrepro.experiments.timing import StepTimer, TimedStage, TimingSetup, interleaved, time_inference, time_training
from qrepro.recipe.axes import resolve

CPU = torch.device("cpu")
SETTING = TimingSetup(batch=2, objects=3, candidates=40, steps=2, warm_up=1)
TRAIN = ["forward", "assignment", "losses", "backward", "optimiser", "total"]
INFERENCE = ["forward", "decoding", "ranking", "total"]
ONCE = TimingSetup(batch=2, objects=2, candidates=10, steps=1, warm_up=0)


def hours(monkeypatch) -> list[float]:
    """A clock that stands still: the time that it shows, in seconds, for the caller to advance."""
    now = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


@pytest.mark.parametrize("more", [(), ("schedule.precision=fp16", "schedule.ema=null", "schedule.clip=null")])
def test_every_part_has_a_row_and_the_parts_are_the_whole(more):
    recipe = tiny(*more)
    rows = pd.DataFrame(
        interleaved(
            [time_training(recipe, CPU, SETTING, (50, 64)), time_inference(recipe, CPU, SETTING, (50, 64))], SETTING
        )
    )
    assert rows["part"].tolist() == TRAIN + INFERENCE
    assert rows["stage"].tolist() == ["train"] * len(TRAIN) + ["inference"] * len(INFERENCE)
    assert (rows["least_ms"] > 0).all()
    assert rows["median_ms"].between(rows["least_ms"], rows["most_ms"]).all()
    whole = rows["part"] == "total"
    assert rows[~whole].groupby("stage")["share"].sum().tolist() == pytest.approx([1, 1])
    assert rows["images_per_s"][whole].tolist() == pytest.approx((rows["batch"] * 1000 / rows["median_ms"])[whole])
    assert rows["images_per_s"][~whole].isna().all()
    assert rows["batch"].tolist() == [2] * len(TRAIN) + [1] * len(INFERENCE)
    assert set(zip(rows["height"], rows["width"], strict=True)) == {(64, 64)}  # 50 rows are padded to 64
    assert (
        set(rows["objects"]) == {3} and set(rows["steps"]) == {2} and set(rows["threads"]) == {torch.get_num_threads()}
    )


def test_median_spread_and_share_of_hand_made_laps(monkeypatch):
    """Seconds at which the clock is read; the first repetition warms up.

    0 1 9 | 10 12 13 | 20 26 27 | 30 31 34: part a lasts 2, 6, 1 and b 1, 1, 3; medians 2 and 1 of all 3, 7, 4.
    """
    clock = iter([0, 1, 9, 10, 12, 13, 20, 26, 27, 30, 31, 34])
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    laps = StepTimer(CPU)
    for _ in range(4):
        laps.start()
        laps.mark("a")
        laps.mark("b")
    timed = TimedStage(tiny(), "train", laps, 2, lambda: None, [(64, 96), (32, 96)])
    rows = timing._rows(timed, timed, TimingSetup(batch=2, steps=3, warm_up=1))
    found = {row["part"]: [row[key] for key in ("median_ms", "least_ms", "most_ms", "share")] for row in rows}
    assert found["a"] == pytest.approx([2000, 1000, 6000, 2 / 3])
    assert found["b"] == pytest.approx([1000, 1000, 3000, 1 / 3])
    assert found["total"] == pytest.approx([4000, 3000, 7000, 1])
    assert rows[2]["images_per_s"] == pytest.approx(2 / 4) and rows[2]["ratio"] == 1
    assert (rows[2]["height"], rows[2]["width"]) == (64, 96)


@pytest.mark.parametrize(
    "stage, part, place, name",
    [
        ("train", "forward", detector.Detector, "forward"),
        ("train", "assignment", MaxIoU, "__call__"),
        ("train", "losses", objective, "positives"),
        ("train", "losses", objective.Objective, "_class_loss"),
        ("train", "backward", torch.Tensor, "backward"),
        ("train", "backward", torch.nn.utils, "clip_grad_norm_"),
        ("train", "optimiser", torch.optim.AdamW, "step"),
        ("train", "optimiser", AveragedModel, "update_parameters"),
        ("inference", "forward", detector.Detector, "forward"),
        ("inference", "decoding", detector.Prediction, "decode"),
        ("inference", "ranking", ranking, "fuse"),
        ("inference", "ranking", postprocess.PostProcess, "__call__"),
    ],
)
def test_what_is_slow_is_counted_under_its_name(monkeypatch, stage, part, place, name):
    now = hours(monkeypatch)
    quick = getattr(place, name)

    @wraps(quick)  # with what torch notes at the step of an optimiser that has hooks
    def slow(*arguments, **options):
        result = quick(*arguments, **options)
        now[0] += 1
        return result

    monkeypatch.setattr(place, name, slow)
    measure = time_training if stage == "train" else time_inference
    rows = interleaved([measure(tiny(), CPU, ONCE, (64, 64))], ONCE)
    medians = {row["part"]: row["median_ms"] for row in rows}
    assert {name for name, value in medians.items() if value} == {part, "total"}
    assert medians[part] == medians["total"] == 1000


def test_weights_stay_as_they_are_so_that_every_step_is_the_same():
    torch.manual_seed(0)
    loop = timing._zero_lr_loop(tiny(), CPU, 1)
    before = {name: value.clone() for name, value in loop.state.model.named_parameters()}
    batch = timing.synthetic_batch(tiny(), 2, (64, 64), 3)
    loop.step(batch)
    assert loop.state.step == 1
    assert all(torch.equal(before[name], value) for name, value in loop.state.model.named_parameters())


def test_synthetic_objects_lie_in_the_image_and_candidates_above_the_threshold():
    batch = timing.synthetic_batch(tiny(), 3, (50, 80), 200)
    assert batch.images.shape == (3, 3, 64, 96) and batch.sizes.tolist() == [[50, 80]] * 3
    low, high = batch.ground_truth.boxes.split(2, -1)
    sides = high - low
    assert (low >= 0).all() and (high <= torch.tensor([80, 50]) + 1e-4).all()
    assert (sides >= timing.SMALLEST - 1e-3).all()
    # the log of a side is uniform between 8 and the image's: half of them are below the geometric mean
    assert (sides[..., 0] < (8 * 80) ** 0.5).float().mean() == pytest.approx(0.5, abs=0.1)
    assert (sides[..., 1] < (8 * 50) ** 0.5).float().mean() == pytest.approx(0.5, abs=0.1)
    assert set(batch.ground_truth.labels.unique().tolist()) == set(range(6)) and batch.ground_truth.valid.all()
    scores = timing._class_logits(torch.zeros(1, 70, 6), 25, 0.05).sigmoid()
    assert scores.shape == (1, 70, 6) and (scores > 0.05).sum() == 25 and (scores < 0.001).sum() == 420 - 25


@pytest.mark.parametrize("profile, size", [("coco", (800, 1333)), ("shapes", (128, 160))])
def test_images_are_as_large_as_evaluation_makes_them(profile, size):
    assert evaluation_size(resolve("retinanet_r50", profile)) == size
    ranged = "image.eval=[{kind: resize, short: [480, 640], long: 900}]"
    assert evaluation_size(resolve("retinanet_r50", profile, [ranged])) == (640, 900)
    exact = "image.eval=[{kind: resize_exact, height: 320, width: 512}]"
    assert evaluation_size(resolve("retinanet_r50", profile, [exact])) == (320, 512)
    with pytest.raises(ValueError, match="a size must be given"):
        evaluation_size(resolve("retinanet_r50", profile, ["image.eval=[]"]))


def test_images_of_a_data_set_are_read_within_the_step(monkeypatch, tmp_path):
    make_shapes(tmp_path, train=6, val=2)
    now, read = hours(monkeypatch), ImageDataset.__getitem__

    def slow(self, key):
        now[0] += 1
        return read(self, key)

    monkeypatch.setattr(ImageDataset, "__getitem__", slow)
    rows = interleaved([time_training(tiny(), CPU, ONCE, data=tmp_path)], ONCE)
    assert [row["part"] for row in rows] == ["data", *TRAIN]
    assert [row["median_ms"] for row in rows] == [2000, 0, 0, 0, 0, 0, 2000]  # two images
    assert sorted((rows[0]["height"], rows[0]["width"])) == [64, 96]  # 64 x 80 with its padding, upright or not


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_part_lasts_until_its_work_is_done(monkeypatch):
    forward = detector.Detector.forward

    def slow(self, images):
        torch.cuda._sleep(int(4e8))  # cycles, 0.2 s at 2 GHz, that the call does not wait for
        return forward(self, images)

    monkeypatch.setattr(detector.Detector, "forward", slow)
    rows = interleaved([time_training(tiny(), torch.device("cuda"), SETTING, (64, 64))], SETTING)
    medians = {row["part"]: row["median_ms"] for row in rows[:-1]}
    assert max(medians, key=medians.get) == "forward" and medians["forward"] > 100
    assert rows[0]["device"] == torch.cuda.get_device_name()


def test_detectors_from_the_command_line(capsys, tmp_path):
    given = [
        "--profile",
        "shapes",
        "--size",
        "64x64",
        "--batch",
        "1",
        "--timed-steps",
        "1",
        "--warm-up",
        "0",
        *SETTINGS,
    ]
    code, out, err = run(capsys, "benchmark", "retinanet_r50", "grad_r50", *given, "--device", "cpu", "--out", tmp_path)
    assert (code, err) == (0, "")
    rows = pd.read_csv(tmp_path / "detectors.csv")
    assert rows["part"].tolist() == 2 * TRAIN + 2 * INFERENCE
    assert rows["recipe"].unique().tolist() == ["iou_aware/retinanet_r50", "iou_aware/grad_r50"]
    assert "assignment" in out and str(tmp_path / "detectors.md") in out and (tmp_path / "detectors.md").is_file()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["retinanet_r5"], "'retinanet_r5' is unknown"),
        (["retinanet_r50", "--size", "0"], "--size 0: must look like 800x1333"),
        (["retinanet_r50", "--size", "0x64"], "--size 0x64"),
        (["retinanet_r50", "--size", "64"], "--size 64"),
        (["retinanet_r50", "--device", "abacus"], "allowed are cpu"),
        (["retinanet_r50", "--timed-steps", "0"], "--timed-steps"),
        (["retinanet_r50", "--batch", "0"], "--batch"),
        (["retinanet_r50", "--profile", "cocoa"], "did you mean 'coco'"),
        (["retinanet_r50", "--set", "heads.convs=1"], "did you mean 'head'"),
        (["retinanet_r50", "--profile", "shapes", "--data", "none"], "none: no such data folder"),
        (["retinanet_r50", "--only", "lrp"], "--only: belongs to the benchmark of the analyses"),
        (["--batch", "4"], "--batch: belongs to the benchmark of the detectors"),
        (["--only", "nothing"], "there are analyze ap"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(capsys, tmp_path, arguments, said):
    code, _, err = run(capsys, "benchmark", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert not (tmp_path / "out").exists()


def test_analyses_from_the_command_line(capsys, tmp_path):
    code, _, err = run(
        capsys, "benchmark", "--scale", "0.002", "--repeat", "1", "--only", "lrp", "--only", "22", "--out", tmp_path
    )
    assert code == 0, err
    rows = pd.read_csv(tmp_path / "analyses.csv")
    assert rows["task"].tolist() == ["rescore by 22 rules", "analyze lrp"]
    assert (rows["median_s"] > 0).all() and (rows["peak_mb"] > 20).all()


def test_ratios_are_of_the_same_turn_so_that_a_slow_while_does_not_count(monkeypatch):
    """The second piece always takes three times as long as the first, while the machine gets ten times slower."""
    now, pace = hours(monkeypatch), [1.0]

    def work(seconds: float) -> TimedStage:
        laps = StepTimer(CPU)

        def lap() -> None:
            now[0] += seconds * pace[0]
            laps.mark("all of it")
            pace[0] *= 1.5

        return TimedStage(tiny(), "inference", laps, 1, lap, [(8, 8)])

    rows = interleaved([work(1.0), work(2.0)], TimingSetup(steps=9, warm_up=1))
    ratios = [row["ratio"] for row in rows if row["part"] == "total"]
    assert ratios == pytest.approx([1.0, 3.0])
