"""Exports as others read them: safetensors by its format, COCO lists by pycocotools, networks by onnxruntime."""

import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from helpers.commands import run
from qrepro.data.annotations import write_ground_truth
from qrepro.data.coco import read_coco
from qrepro.engine.card import run_card
from qrepro.engine.checkpoint import State, load, save
from qrepro.experiments.evaluation import write_evaluation
from qrepro.experiments.experiment import run_path
from qrepro.interop.export import (
    Differs,
    Origin,
    Traced,
    input_size,
    read_exported,
    restore,
    trace,
    write_coco,
    write_onnx,
    write_program,
    write_weights,
)
from qrepro.layers.deformable import Deformable
from qrepro.recipe.axes import checked, resolve
from qrepro.recipe.build import build_detector
from qrepro.records.ground_truth import read_ground_truth
from qrepro.records.run_folder import RunFolder
from qrepro.records.score_rule import Rule

THIN = ["neck.channels=16", "head.width=16", "head.groups=4"]


def thin(name: str, *more: str):
    return resolve(name, "shapes", [*THIN, *more])


def stirred(recipe, seed: int = 0):
    """A detector whose outputs differ from place to place, and whose taps move, as if it had been trained."""
    torch.manual_seed(seed)
    detector = build_detector(recipe)
    for layer in detector.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.1)
    for layer in detector.modules():
        if isinstance(layer, Deformable):
            nn.init.normal_(layer.offset.weight, std=0.1)
            nn.init.normal_(layer.offset.bias, std=0.5)
    return detector.eval()


def stored(root: Path, recipe, averaged: bool = False) -> tuple[RunFolder, nn.Module, nn.Module]:
    """A run folder of step 7 and seed 3, with its model and its average."""
    made = RunFolder(run_path(root, recipe, 3))
    model, average = stirred(recipe), AveragedModel(stirred(recipe, 1), use_buffers=True)
    average.n_averaged.fill_(int(averaged))
    optimiser, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", enabled=False)
    made.write_card(run_card(recipe, 3))
    save(made.last, State(model, optimiser, scaler, average, 7).content(recipe, 3))
    return made, model, average.module


def origin(recipe) -> Origin:
    return Origin(recipe, recipe.hash, 3, 7)


def needs(*libraries: str) -> None:
    for name in libraries:
        pytest.importorskip(name, reason=f"{name} is not installed (the export extra)")


ONNX = "onnx", "onnxscript", "onnxruntime"


# ---------------------------------------------------------------------------------------------------------- safetensors


@pytest.mark.parametrize("averaged", [False, True])
def test_a_run_goes_into_one_file_and_comes_back_bit_for_bit(capsys, tmp_path, averaged):
    needs("safetensors")
    recipe = thin("gflv2/gflv2", "schedule.channels_last=true")
    made, model, average = stored(tmp_path, recipe, averaged)
    code, out, err = run(capsys, "export", made.path, "--to", "safetensors")
    assert (code, err) == (0, "") and str(made.path / "last.safetensors") in out
    found, state = read_exported(made.path / "last.safetensors")
    assert (found, found.name, found.profile, found.hash) == (recipe, "gflv2/gflv2", "shapes", recipe.hash)
    expected = (average if averaged else model).state_dict()
    assert list(state) and state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    rebuilt = build_detector(found)
    rebuilt.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images).cls, (average if averaged else model).eval()(images).cls)


def test_the_file_says_by_its_own_format_what_it_is(tmp_path):
    """A safetensors file begins with the length of a JSON header, whose `__metadata__` maps texts to texts."""
    needs("safetensors")
    recipe = thin("atss_centerness", "schedule.batch=5")
    made, _, _ = stored(tmp_path, recipe)
    content = load(made.last)
    save(made.path / "other.pt", {**content, "hash": "123456789abc"})
    detector, source = restore(recipe, made.path / "other.pt")
    write_weights(tmp_path / "made.safetensors", detector, source)
    raw = (tmp_path / "made.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata.pop("values")) == recipe.values()
    assert metadata == {
        "qrepro": "0.1.0",
        "recipe": "gfl/atss_centerness",
        "profile": "shapes",
        "hash": recipe.hash,
        "trained_by": "123456789abc",
        "seed": "3",
        "step": "7",
    }
    beside = tmp_path / "plain"
    beside.touch()
    assert (tmp_path / "made.safetensors").stat().st_mode == beside.stat().st_mode  # readable to whom others are


def test_a_file_cannot_name_code_to_run(capsys, tmp_path, monkeypatch):
    """A recipe of one's own may name a class by module:Class; one that comes in a file of weights may not."""
    needs("safetensors")
    from safetensors.torch import save

    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Estimator: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    values = thin("atss_centerness").values()
    for place in ("quality", "assign", "backbone"):
        changed = {**values, place: {"kind": "evil:Estimator"}}
        (tmp_path / "made.safetensors").write_bytes(save({"x": torch.zeros(1)}, {"values": json.dumps(changed)}))
        code, _, err = run(capsys, "import", "made.safetensors", "--out", tmp_path / "run")
        assert code == 2 and "names code outside of qrepro, evil:Estimator" in err and err.count("\n") == 1
    assert not (tmp_path / "ran").exists() and not (tmp_path / "run").exists()


def test_tensors_that_lie_in_another_order_are_written(tmp_path):
    needs("safetensors")
    recipe = thin("atss_centerness")
    detector = stirred(recipe).to(memory_format=torch.channels_last)
    assert not all(value.is_contiguous() for value in detector.state_dict().values())
    write_weights(tmp_path / "made.safetensors", detector, origin(recipe))
    _, state = read_exported(tmp_path / "made.safetensors")
    assert all(torch.equal(state[name], value) for name, value in detector.state_dict().items())


def test_files_of_others_are_refused_in_one_line(tmp_path):
    needs("safetensors")
    import safetensors.torch as safetensors

    recipe, file = thin("atss_centerness"), tmp_path / "made.safetensors"
    state, metadata = build_detector(recipe).state_dict(), origin(recipe).metadata()
    bias = "head.cls_out.bias"

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message) as found:
            read_exported(file)
        assert str(file) in str(found.value) and "\n" not in str(found.value)

    refused("no such file")
    file.write_bytes(b"PK\x03\x04 this is a zip")
    refused("not a readable safetensors file")
    safetensors.save_file(state, file)
    refused("its metadata holds no recipe")
    safetensors.save_file(state, file, {"format": "pt"})
    refused("its metadata holds no recipe")
    safetensors.save_file(state, file, {**metadata, "values": metadata["values"][:-1]})
    refused("broken JSON")
    safetensors.save_file(state, file, {**metadata, "values": json.dumps({**recipe.values(), "box_codr": 1})})
    refused("box_codr: unknown key: did you mean 'box_coder'")
    safetensors.save_file({k: v for k, v in state.items() if k != bias}, file, metadata)
    refused(f"1 tensors are not as in recipe gfl/atss_centerness, the first is {re.escape(bias)}")
    safetensors.save_file({**state, bias: state[bias][:-1]}, file, metadata)
    refused(f"1 tensors .* the first is {re.escape(bias)}")
    safetensors.save_file({**state, bias: state[bias].half()}, file, metadata)
    refused(f"1 tensors .* the first is {re.escape(bias)}")
    safetensors.save_file({**state, "a": torch.zeros(1), "b": torch.zeros(1)}, file, metadata)
    refused("2 tensors .* the first is a")
    safetensors.save_file(state, file, metadata)
    assert read_exported(file)[0] == recipe


# ----------------------------------------------------------------------------------------------------------------- COCO


def test_records_by_hand(tmp_path):
    """Sides of float32 corners in float64; what is undefined is left out, because JSON has no NaN."""
    near = np.float32(100.1)
    frame = pd.DataFrame(
        {
            "image_id": np.array([7, 3]),
            "category_id": np.array([1, 90]),
            "x1": np.float32([10, near]),
            "y1": np.float32([20, 0.5]),
            "x2": np.float32([15, 300]),
            "y2": np.float32([27, 2]),
            "score": np.float32([0.5, 0.25]),
            "class_score": np.float32([0.75, np.nan]),
            "quality": np.float32([np.nan, 0.125]),
        }
    )
    write_coco(tmp_path / "made.json", frame)
    assert json.loads((tmp_path / "made.json").read_text()) == [
        {"image_id": 7, "category_id": 1, "bbox": [10, 20, 5, 7], "score": 0.5, "class_score": 0.75},
        {
            "image_id": 3,
            "category_id": 90,
            "bbox": [float(near), 0.5, 300 - float(near), 1.5],
            "score": 0.25,
            "quality": 0.125,
        },
    ]
    write_coco(tmp_path / "none.json", frame[:0])
    assert json.loads((tmp_path / "none.json").read_text()) == []


@pytest.fixture(scope="module")
def judged(tmp_path_factory, shapes) -> Path:
    """A run folder with detections of two rules, made of the ground truths, that its own evaluation judged."""
    recipe = resolve("grad_r50", "shapes")
    made = RunFolder(run_path(tmp_path_factory.mktemp("judged"), recipe, 0))
    made.write_card(run_card(recipe, 0))
    write_ground_truth(
        read_coco(shapes / "annotations" / "instances_val.json", shapes / "val"), made.path / "ground_truth.json"
    )
    ground_truth = read_ground_truth(made.path / "ground_truth.json")
    random = np.random.default_rng(0)
    frame = pd.concat([ground_truth.annotations] * 3, ignore_index=True)
    sides = ["x1", "y1", "x2", "y2"]
    frame[sides] = (frame[sides] + random.normal(0, 2, (len(frame), 4))).astype(np.float32)
    frame = frame[(frame["x2"] > frame["x1"]) & (frame["y2"] > frame["y1"])]
    frame["class_score"], frame["quality"] = random.random((2, len(frame))).astype(np.float32)
    frame = frame[["image_id", "category_id", *sides, "class_score", "quality"]]
    ranked = {"class": frame["class_score"], "power-0.5": np.sqrt(frame["class_score"] * frame["quality"])}
    rules = [(Rule.parse(name), frame.assign(score=score.astype(np.float32))) for name, score in ranked.items()]
    about = {"split": "val", "images": len(ground_truth.images)}
    write_evaluation(made.path, rules, recipe, ground_truth, about, "pycocotools")
    write_evaluation(made.path / "split-train", rules[:1], recipe, ground_truth, about, "pycocotools")
    return made.path


def test_detections_have_the_ap_of_the_runs_own_evaluation(capsys, tmp_path, judged):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    own = json.loads((judged / "metrics.json").read_text())["rules"]
    assert 20 < own["class"]["AP"] < 80 and abs(own["class"]["AP"] - own["power-0.5"]["AP"]) > 0.5
    asked = (["--rule", "class"], "class"), (["--rule", "power-.50"], "power-0.5"), ([], "power-0.5")  # the recipe's
    for arguments, rule in asked:
        code, _, err = run(capsys, "export", judged, "--to", "coco", *arguments, "--out", tmp_path / "made.json")
        assert (code, err) == (0, "")
        ground_truth = COCO(judged / "ground_truth.json")
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(tmp_path / "made.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert 100 * evaluation.stats[0] == pytest.approx(own[rule]["AP"], abs=1e-9)
        annotations = ["--annotations", judged / "ground_truth.json", "--out", tmp_path]
        assert run(capsys, "analyze", "ap", tmp_path / "made.json", *annotations)[0] == 0
        assert pd.read_csv(tmp_path / "ap.csv")["AP"].tolist() == pytest.approx([own[rule]["AP"]], abs=1e-9)


def test_detections_lie_beside_their_source_by_default(capsys, judged):
    assert run(capsys, "export", judged, "--to", "coco", "--split", "train", "--rule", "class")[0] == 0
    records = json.loads((judged / "split-train" / "detections" / "class.json").read_text())
    frame = pd.read_parquet(judged / "split-train" / "detections" / "class.parquet")
    assert [r["quality"] for r in records] == frame["quality"].astype(float).tolist()
    assert [r["class_score"] for r in records] == frame["class_score"].astype(float).tolist()


# ------------------------------------------------------------------------------------------------------------- networks

SIZE = (64, 96)  # cells of strides 8 to 128: 96, 24, 6, 2, 1
CLASSES = 6
NETWORKS = {
    # channels of class and box outputs, whether quality and priors of its own are put out, priors of each level
    "gfl/gfl": ([], CLASSES, 4 * 17, False, False, [96, 24, 6, 2, 1]),
    "gflv2/gflv2": ([], CLASSES, 4 * 17, True, False, [96, 24, 6, 2, 1]),
    "gfl/atss_centerness": ([], CLASSES, 4, True, False, [96, 24, 6, 2, 1]),
    "vfnet/vfnet": ([], CLASSES, 4, False, False, [96, 24, 6, 2, 1]),
    "vfnet/reppoints_vfl": (["neck.groups=4"], CLASSES, 18, False, False, [96, 24, 6, 2, 1]),
    # 4, 6, 6, 4 default boxes a cell; strides 8 to 64
    "gfl/ssd512": ([], CLASSES + 1, 4, False, False, [4 * 96, 6 * 24, 6 * 6, 4 * 2]),
    "passd/passd320": ([], CLASSES + 1, 4, False, True, [3 * 96, 3 * 24, 3 * 6, 3 * 2]),
    "vfnet/r50_dcn_480_2x": (["head.convs=2"], CLASSES, 4, False, False, [96, 24, 6, 2, 1]),
}


# The ONNX export alone takes one to two minutes of three of them, and the others have nothing that gflv2/gflv2, with
# its distributions and estimate, and vfnet/vfnet, with its deformable layers, have not.
LONG = ("gfl/gfl", "gfl/atss_centerness", "passd/passd320", "vfnet/r50_dcn_480_2x", "vfnet/reppoints_vfl")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in NETWORKS]
)
def test_networks_compute_the_same_elsewhere(tmp_path, name):
    needs(*ONNX)
    import onnxruntime

    more, classes, channels, estimates, refines, counts = NETWORKS[name]
    recipe = thin(name, *more)
    detector = stirred(recipe)
    traced = trace(detector, origin(recipe), SIZE)
    assert write_program(tmp_path / "made.pt2", traced) < 1e-4 and write_onnx(tmp_path / "made.onnx", traced) < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.onnx", "made.pt2"]

    total = sum(counts)
    shapes = {"class_logits": [total, classes], "box_output": [total, channels]}
    shapes |= {"quality_logits": [total]} if estimates else {}
    shapes |= {"prior_boxes": [total, 4]} if refines else {}
    shapes |= {"boxes": [total, 4]}
    session = onnxruntime.InferenceSession(tmp_path / "made.onnx", providers=["CPUExecutionProvider"])
    assert {put.name: put.shape for put in session.get_inputs()} == {"images": ["batch", 3, *SIZE]}
    assert {put.name: put.shape for put in session.get_outputs()} == {k: ["batch", *v] for k, v in shapes.items()}
    metadata = session.get_modelmeta().custom_metadata_map
    loaded = torch.export.load(tmp_path / "made.pt2", extra_files=(extra := {"qrepro.json": ""}))
    for found in (metadata, json.loads(extra["qrepro.json"])):
        assert checked(json.loads(found["values"]), name) == recipe
        assert (found["recipe"], found["seed"], found["step"]) == (name, "3", "7")
        assert json.loads(found["levels"]) == [[8 * 2**i, count] for i, count in enumerate(counts)]

    for number in (1, 3):  # neither how many it was traced with, nor how many it was checked with
        images = 2 * torch.randn(number, 3, *SIZE, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            own = detector(images)
            elsewhere = loaded.module()(images)
            expected = {"class_logits": own.cls, "box_output": own.raw, "boxes": own.decode()}
            expected |= {"quality_logits": own.quality} if estimates else {}
            expected |= {"prior_boxes": own.initial.decode()} if refines else {}
        graph = dict(zip(shapes, session.run(None, {"images": images.numpy()}), strict=True))
        assert list(elsewhere) == list(shapes)
        for output, value in expected.items():
            largest = value.abs().max().item()
            assert value[0].std(0).min() > 1e-4 * largest  # so that the tolerance means something
            assert np.abs(graph[output] - value.numpy()).max() <= 1e-4 * largest
            assert (elsewhere[output] - value).abs().max() <= 1e-4 * largest


@pytest.fixture(scope="module")
def traced() -> Traced:
    recipe = thin("atss_centerness")
    return trace(stirred(recipe), origin(recipe), (64, 64))


def test_tracing_leaves_the_priors_of_its_size_as_numbers():
    """They are kept by size, and none was seen before: tracing must not leave its own stand-ins there."""
    recipe = thin("atss_centerness", "prior.scale=5")
    detector = stirred(recipe)
    trace(detector, origin(recipe), (96, 64))
    with torch.no_grad():
        boxes = detector(torch.zeros(1, 3, 96, 64)).priors.boxes
    assert boxes[0].tolist() == [4 - 20, 4 - 20, 4 + 20, 4 + 20]  # 5 strides of 8 around the middle of the first cell


def test_what_is_off_by_hand():
    own = {"a": torch.tensor([-8.0, 1.0]), "b": torch.tensor([0.5])}
    made = Traced(None, {}, torch.zeros(0), own)  # type: ignore[arg-type]
    assert made.check({name: value.clone() for name, value in own.items()}, "it") == 0
    assert made.check({**own, "a": torch.tensor([-8.0, 1 + 2**-12])}, "it") == 2**-15
    assert made.check({"a": torch.tensor([-8 + 2**-13, 1.0]), "b": torch.tensor([0.5 + 2**-16])}, "it") == 2**-15
    for name, wrong in (("a", [-8.0, 1.001]), ("b", [0.5001]), ("b", [torch.nan]), ("b", [0.5, 0.5])):
        with pytest.raises(Differs, match=rf"^it: {name} is off by .* nothing written$"):
            made.check({**own, name: torch.tensor(wrong)}, "it")
    zero = Traced(None, {}, torch.zeros(0), {"a": torch.zeros(2)})  # type: ignore[arg-type]
    assert zero.check({"a": torch.zeros(2)}, "it") == 0
    with pytest.raises(Differs):
        zero.check({"a": torch.tensor([0.0, 1e-9])}, "it")


@pytest.mark.parametrize("write", [write_program, write_onnx])
def test_what_differs_takes_no_ones_place(tmp_path, traced, write):
    needs(*ONNX)
    file = tmp_path / "made"
    file.write_text("before")
    wrong = replace(traced, outputs={**traced.outputs, "boxes": traced.outputs["boxes"] * 1.001})
    with pytest.raises(Differs, match="boxes is off by"):
        write(file, wrong)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


@torch.library.custom_op("qrepro_tests::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    """An operation that no other program knows."""
    return x + 1


@odd.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return odd(x)


def test_operations_that_onnx_has_not_are_named(tmp_path):
    needs(*ONNX)
    recipe = thin("atss_centerness")
    detector = stirred(recipe)
    detector.head.cls_tower.append(Odd())
    strange = trace(detector, origin(recipe), (64, 64))
    with pytest.raises(ValueError, match=r"^ONNX cannot express this detector: .*qrepro_tests.odd") as found:
        write_onnx(tmp_path / "made.onnx", strange)
    assert "\n" not in str(found.value) and list(tmp_path.iterdir()) == []
    assert write_program(tmp_path / "made.pt2", strange) == 0


def test_an_onnxruntime_that_lacks_an_operation_says_so(tmp_path, traced, monkeypatch):
    needs(*ONNX)
    import onnxruntime

    def lacking(*_, **__):
        raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no implementation of DeformConv\nmore")

    monkeypatch.setattr(onnxruntime, "InferenceSession", lacking)
    with pytest.raises(ValueError, match=r"^onnxruntime [\d.]+ cannot run this detector: .*of DeformConv$"):
        write_onnx(tmp_path / "made.onnx", traced)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("library", ONNX)
def test_a_library_that_is_missing_is_named(tmp_path, traced, monkeypatch, library):
    needs(*ONNX)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf"needs the export extra \(pip install 'qrepro\[export\]'\): .*{library}"):
        write_onnx(tmp_path / "made.onnx", traced)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, profile, size, expected",
    [
        ("gfl/gfl", "coco", None, (800, 1344)),
        ("gfl/gfl", "shapes", None, (128, 160)),
        ("passd/passd320", "shapes", None, (128, 192)),  # to multiples of 64
        ("passd/passd320", "shapes", (65, 64), (128, 64)),
        ("gfl/ssd512", "coco", (300, 301), (300, 301)),  # to multiples of 1
    ],
)
def test_the_input_is_as_large_as_evaluation_pads_it(name, profile, size, expected):
    assert input_size(resolve(name, profile), size) == expected


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("to, file", [("torch", "last.pt2"), ("onnx", "last.onnx")])
def test_a_network_of_a_run(capsys, tmp_path, to, file):
    needs(*ONNX)
    import onnxruntime

    made, _, average = stored(tmp_path, thin("atss_centerness"), averaged=True)
    arguments = (
        [made.path] if to == "torch" else ["atss_centerness", "-p", "shapes", "--seed", "3", "--results", tmp_path]
    )
    settings = [] if to == "torch" else [part for change in THIN for part in ("--set", change)]
    code, out, err = run(capsys, "export", *arguments, *settings, "--to", to, "--size", "50x64")
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {made.path / file}: images (N, 3, 64, 64), class_logits (N, ")
    assert out.count("\n") == 1
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = average.eval()(images).quality
        if to == "torch":
            found = torch.export.load(made.path / file).module()(images)["quality_logits"]
        else:
            session = onnxruntime.InferenceSession(made.path / file, providers=["CPUExecutionProvider"])
            found = torch.from_numpy(session.run(["quality_logits"], {"images": images.numpy()})[0])
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to", "pdf"], "--to pdf: allowed are safetensors, coco, torch, onnx"),
        (["--to", "coco", "--size", "64x64"], "--size: is for --to torch, onnx, not coco"),
        (["--to", "safetensors", "--size", "64x64"], "--size: is for --to torch, onnx, not safetensors"),
        (["--to", "onnx", "--rule", "class"], "--rule: is for --to coco, not onnx"),
        (["--to", "torch", "--split", "val"], "--split: is for --to coco, not torch"),
        (["--to", "coco", "--checkpoint", "best.pt"], "--checkpoint: is for --to safetensors, torch, onnx, not coco"),
        (["--to", "onnx", "--size", "64"], "--size 64: must look like 800x1333"),
        (["--to", "onnx", "--out", "made.pt"], "--out made.pt: must be a file that ends in .onnx"),
        (["--to", "onnx", "--checkpoint", "best.pt"], "best.pt: no such file"),
        (["--to", "coco", "--rule", "clas"], "score rule 'clas'"),
        (["--to", "coco", "--rule", "product"], "product.parquet: no such detections (there are class, power-0.5)"),
        (["--to", "coco", "--split", "test"], "no such detections (there are none); `qrepro eval` makes them"),
        (["--to", "safetensors"], "last.pt: no such file; train it with `qrepro train iou_aware/grad_r50 --profile"),
        ([], "--to"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, judged, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(judged.rglob("*"))
    code, _, err = run(capsys, "export", judged, *arguments)
    assert code == 2 and message in err and err.strip().count("\n") == 0, err
    assert list(tmp_path.iterdir()) == [] and sorted(judged.rglob("*")) == before


def test_a_folder_is_no_file_and_what_differs_is_exit_code_1(capsys, tmp_path, judged, monkeypatch):
    (tmp_path / "folder.json").mkdir()
    code, _, err = run(capsys, "export", judged, "--to", "coco", "--out", tmp_path / "folder.json")
    assert code == 2 and "must be a file" in err
    made, _, _ = stored(tmp_path, thin("atss_centerness"))
    monkeypatch.setattr("qrepro.interop.export.TOLERANCE", -1.0)
    code, _, err = run(capsys, "export", made.path, "--to", "torch", "--size", "64x64")
    assert code == 1 and "torch.export: class_logits is off by" in err and err.strip().count("\n") == 0
    assert not (made.path / "last.pt2").exists()
