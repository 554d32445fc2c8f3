"""Checkpoints of other projects: what real ones hold is read, and no trick of a pickle has any effect."""

import argparse
import collections
import copyreg
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from qrepro.interop.unpickle import ExternalCheckpoint, read_external

GOLDEN = Path(__file__).parents[1] / "golden" / "mmengine_checkpoint.pth"
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how torch before 1.6 begins its files


@pytest.fixture
def marker(tmp_path):
    """A file that every attack below would create."""
    return tmp_path / "marker"


@pytest.fixture
def mmengine(monkeypatch):
    """Modules by the names of MMEngine and MMCV, as far as their checkpoints refer to them."""

    class HistoryBuffer:
        def __init__(self):
            self.max_length = 10
            self._log_history = np.array([1.0, 0.5])
            self.statistics_methods = {"min": HistoryBuffer.min, "mean": HistoryBuffer.mean}

        def min(self): ...
        def max(self): ...
        def current(self): ...
        def mean(self): ...

    class ConfigDict(dict):
        def __reduce_ex__(self, protocol):
            return self.__class__, (dict(self),), None, None, None

    class Config:
        def __init__(self, held):
            self.__dict__["_cfg_dict"] = held

        def __getstate__(self):
            return self._cfg_dict, "config.py", "text"

        def __setstate__(self, state): ...

    for module, classes in (
        ("mmengine.logging.history_buffer", [HistoryBuffer]),
        ("mmengine.config.config", [ConfigDict, Config]),
    ):
        parts = module.split(".")
        for n in range(1, len(parts) + 1):
            name = ".".join(parts[:n])
            monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or types.ModuleType(name))
        for made in classes:
            made.__module__, made.__qualname__ = module, made.__name__
            for value in vars(made).values():
                if isinstance(value, types.FunctionType):
                    value.__module__, value.__qualname__ = module, f"{made.__name__}.{value.__name__}"
            setattr(sys.modules[module], made.__name__, made)
    return types.SimpleNamespace(HistoryBuffer=HistoryBuffer, ConfigDict=ConfigDict, Config=Config)


class Calls:
    """An object whose pickle calls a function, then sets a state."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def saved(tmp_path, content, **options):
    path = tmp_path / "file.pth"
    torch.save(content, path, **options)
    return path


def archive(tmp_path, payload, **records):
    """A file in the zip format with any pickle; records: further members."""
    path = saved(tmp_path, {})
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members |= {"file/data.pkl": payload} | {f"file/{name}.pkl": held for name, held in records.items()}
    with zipfile.ZipFile(path, "w") as file:
        for name, held in members.items():
            file.writestr(name, held)
    return path


def legacy(tmp_path, payload):
    """A file in the format before torch 1.6 with any pickle."""
    path = tmp_path / "legacy.pth"
    path.write_bytes(b"".join(pickle.dumps(x, 2) for x in (MAGIC, PROTOCOL, {})) + payload + pickle.dumps([], 2))
    return path


def text(value):
    """The opcode that pushes a string."""
    held = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(held)) + held


def named(module, name, opcode=b"\x93"):
    """The opcodes that load a name, as protocol 4 does; GLOBAL cannot hold every name."""
    return text(module) + text(name) + opcode


def in_state(pushed):
    """A pickle of `{"state_dict": VALUE}` with the opcodes that push the value."""
    return b"\x80\x04}" + text("state_dict") + pushed + b"s."


STORAGE = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x01tQ"
ONE = named("torch._utils", "_rebuild_tensor_v2") + b"(" + STORAGE + b"K\0K\x01\x85K\x01\x85\x89NtR"  # tensor (1,)


def error_of(path):
    """The message of the refusal, which is one line and names the file."""
    with pytest.raises(ValueError) as caught:
        read_external(path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path}: ")
    assert "\n" not in message
    return message


def refused(path, culprit, marker):
    message = error_of(path)
    assert "refused: it would" in message
    assert culprit in message
    assert not marker.exists()


def same(state, expected):
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value.detach())
        assert type(state[key]) is torch.Tensor
        assert not state[key].requires_grad


# What is read


def test_the_checkpoint_of_mmengine_is_what_torch_reads_with_its_modules(mmengine):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(GOLDEN, weights_only=True)
    expected = torch.load(GOLDEN, weights_only=False)
    assert isinstance(expected["message_hub"]["log_scalars"]["train/loss_cls"], mmengine.HistoryBuffer)
    foreign = read_external(GOLDEN)
    same(foreign.state, expected["state_dict"])
    assert [tuple(v.shape) for v in foreign.state.values()] == [(4, 8, 3, 3), (4,), (17,)]
    dataset = {"classes": ["a", "b", "c", "d"], "palette": [[1, 2, 3]] * 4}
    assert foreign.meta == expected["meta"] | {"dataset_meta": dataset}
    assert foreign.unused == []


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_all_that_checkpoints_hold_besides_tensors_is_read(tmp_path, mmengine, protocol, zipped):
    shared = torch.arange(6.0)
    state = collections.OrderedDict(
        weight=torch.randn(2, 3, 1).transpose(0, 1),
        half=torch.ones(2, dtype=torch.float16),
        tracked=torch.tensor(7),
        mask=torch.tensor([True, False]),
        view=shared[2:4],
        whole=shared,
        learnt=torch.nn.Parameter(torch.ones(2)),
    )
    if zipped:  # torch itself cannot read these back from the old format
        state["wide"] = torch.tensor([40000], dtype=torch.uint16)
        state["small"] = torch.tensor([1.5], dtype=torch.float8_e4m3fn)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    told = torch.nn.Parameter(torch.full((2,), 3.0))
    told.remark = "attribute"
    marked = torch.full((1,), 4.0)
    marked.remark = "attribute"
    state |= {"told": told, "marked": marked}
    filled = collections.defaultdict(list)
    filled["a"].append(1)
    meta = {
        "epoch": 12,
        "lr": 0.02,
        "best": np.float32(0.5),
        "count": np.int64(-3),
        "good": np.bool_(True),
        "word": np.str_("é"),
        "big": np.array(2, dtype=">i4")[()],
        "CLASSES": ("person", "car"),
        "config": mmengine.ConfigDict(model=mmengine.ConfigDict(type="GFL")),
        "file": mmengine.Config(mmengine.ConfigDict(a=1)),
        "set": {3},
        "frozen": frozenset({4}),
        "filled": filled,
        "none": None,
        "flag": False,
        "size": torch.Size([2, 3]),
        3: "key",
        "milestones": collections.Counter([8, 11, 11]),
        "ordered": collections.OrderedDict(b=2),
        "odd": [b"", b"\xff\x00", 1j, np.ones(3), np.array(["a"]), torch.ones(1), torch.device("cuda:0"), list],
        "dtype": torch.float16,
        "path": Path("/tmp"),
        "args": argparse.Namespace(lr=1),
        ("a", "b"): "tuple",
    }
    content = {
        "meta": meta,
        "message_hub": {"log_scalars": {"loss": mmengine.HistoryBuffer()}},
        "state_dict": state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(1)}}},
    }
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    path = saved(tmp_path, content, **options)
    foreign = read_external(path)
    same(foreign.state, state)
    assert foreign.unused == []
    expected = {
        "epoch": 12,
        "lr": 0.02,
        "best": 0.5,
        "count": -3,
        "good": True,
        "word": "é",
        "big": 2,
        "CLASSES": ["person", "car"],
        "config": {"model": {"type": "GFL"}},
        "file": {"a": 1},
        "set": [3],
        "frozen": [4],
        "filled": {"a": [1]},
        "none": None,
        "flag": False,
        "size": [2, 3],
        3: "key",
        "milestones": {8: 1, 11: 2},
        "ordered": {"b": 2},
        "odd": ["bytes", "bytes", "complex", "ndarray", "ndarray", "Tensor", "device", "list"],
        "dtype": "dtype",
        "path": "PosixPath",
        "args": "Namespace",
        "tuple": "tuple",
    }
    assert foreign.meta == expected
    assert repr(foreign.meta) == repr(expected)  # True is not 1 here
    assert foreign.state["weight"].stride() == state["weight"].stride()
    assert foreign.state["view"].untyped_storage().data_ptr() == foreign.state["whole"].untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        (b"numpy._core.", b"numpy.core.", 2.5),
        (b"X\x01\0\0\0<", b"X\x01\0\0\0>", struct.unpack(">d", struct.pack("<d", 2.5))[0]),
    ],
    ids=["before numpy 2", "big endian"],
)
def test_other_spellings_of_numpy_are_read(tmp_path, old, new, number):
    path = saved(tmp_path, {"state_dict": {"a": torch.ones(2)}, "meta": {"x": np.float64(2.5), "y": np.ones(2)}})
    with zipfile.ZipFile(path) as file:
        payload, tensor = file.read("file/data.pkl"), file.read("file/data/0")
    assert old in payload
    path = archive(tmp_path, payload.replace(old, new))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("file/data/0", tensor)
    foreign = read_external(path)
    assert foreign.meta == {"x": number, "y": "ndarray"}
    same(foreign.state, {"a": torch.ones(2)})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("around", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_state_dicts_are_found(tmp_path, around, zipped):
    state = {"a.weight": torch.randn(3), "a.bias": torch.randn(1)}
    foreign = read_external(saved(tmp_path, around(state), _use_new_zipfile_serialization=zipped))
    same(foreign.state, state)
    assert (foreign.meta, foreign.unused) == ({}, [])


def test_parameters_become_tensors(tmp_path):
    state = {"a": torch.nn.Parameter(torch.ones(2)), "b": torch.ones(1, requires_grad=True)}
    same(read_external(saved(tmp_path, state)).state, state)


@pytest.mark.parametrize("meta", [None, "text", ["a"], torch.ones(1)])
def test_meta_that_is_no_dict_is_passed_over(tmp_path, meta):
    assert read_external(saved(tmp_path, {"state_dict": {"a": torch.ones(2)}, "meta": meta})).meta == {}


def test_the_network_is_the_state_dict_even_beside_a_model(tmp_path):
    content = {"model": {"b": torch.ones(2)}, "state_dict": {"a": torch.ones(1)}}
    assert list(read_external(saved(tmp_path, content)).state) == ["a"]
    content = {"model": {"b": torch.ones(2)}, "state_dict": None}
    assert list(read_external(saved(tmp_path, content)).state) == ["b"]


def test_safetensors_are_read_with_their_header(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = {"a.weight": torch.randn(3, 2), "module.b": torch.ones(1, dtype=torch.float16)}
    path = tmp_path / "file.safetensors"
    safetensors.save_file(state, path)
    foreign = read_external(path)
    same(foreign.state, {"a.weight": state["a.weight"], "b": state["module.b"]})
    assert foreign.meta == {}
    safetensors.save_file(state, path, metadata={"format": "pt"})
    assert read_external(path).meta == {"format": "pt"}
    path.write_bytes(path.read_bytes()[:20])
    assert "not readable" in error_of(path)


def test_the_prefix_of_parallel_training_is_removed_once(tmp_path):
    state = {"module.a": torch.ones(1), "b.module.c": torch.ones(2), "module.module.d": torch.ones(3)}
    assert list(read_external(saved(tmp_path, state)).state) == ["a", "b.module.c", "module.d"]


def test_an_entry_that_is_there_with_and_without_prefix_is_refused(tmp_path):
    message = error_of(saved(tmp_path, {"module.a": torch.ones(1), "a": torch.ones(1)}))
    assert message.endswith("holds both a and module.a")


def test_averages_of_mmdetection_2_are_left(tmp_path):
    state = {"backbone.conv1.weight": torch.zeros(1), "module.ema_backbone_conv1_weight": torch.ones(1)}
    state |= {"ema_head_bias": torch.ones(1), "head.ema_rate": torch.ones(1), "schema_": torch.ones(1)}
    foreign = read_external(saved(tmp_path, {"state_dict": state, "meta": {}}))
    assert list(foreign.state) == ["backbone.conv1.weight", "head.ema_rate", "schema_"]
    assert foreign.unused == ["ema_backbone_conv1_weight", "ema_head_bias"]


@pytest.mark.parametrize("entry", ["ema_state_dict", "state_dict_ema", "model_ema"])
def test_averages_of_mmengine_and_timm_are_left(tmp_path, entry):
    content = {"state_dict": {"a": torch.zeros(1)}, entry: {"a": torch.ones(1)}}
    foreign = read_external(saved(tmp_path, content))
    same(foreign.state, {"a": torch.zeros(1)})
    assert foreign.unused == [entry]


def test_configurations_become_dicts_however_they_were_written(tmp_path):
    held = b"}" + text("a") + b"K\x01s"
    for module, name in (
        ("mmcv.utils.config", "Config"),
        ("mmcv.utils.config", "ConfigDict"),
        ("mmengine.config.config", "Config"),
        ("mmengine.config.config", "ConfigDict"),
        ("addict.addict", "Dict"),
    ):
        for made in (
            b"(" + held + b"tR",
            b")\x81" + held + b"b",
            b")\x81(" + held + text("file") + b"tb",
            b")\x81" + text("a") + b"K\x01s",
            b")R(" + text("a") + b"K\x01u",
            b")R" + held + b"bNbNbK\x05b)b",
        ):
            payload = b"\x80\x04}" + text("meta") + b"}" + text("config") + named(module, name) + made + b"ss"
            payload += text("state_dict") + b"}" + text("a") + ONE + b"ss."
            path = archive(tmp_path, payload)
            with zipfile.ZipFile(path, "a") as file:
                file.writestr("file/data/0", struct.pack("<f", 2.5))
            foreign = read_external(path)
            assert foreign.meta == {"config": {"a": 1}}
            assert type(foreign.meta["config"]) is dict
            same(foreign.state, {"a": torch.tensor([2.5])})


def test_tensors_without_values_are_left(tmp_path):
    foreign = read_external(saved(tmp_path, {"a": torch.ones(1), "b": torch.ones(1, device="meta")}))
    assert (list(foreign.state), foreign.unused) == (["a"], ["b"])


def test_what_is_no_tensor_is_left(tmp_path):
    foreign = read_external(saved(tmp_path, {"a": torch.ones(1), "epoch": 3, "meta": {"x": 1}, 7: torch.ones(1)}))
    assert list(foreign.state) == ["a"]
    assert foreign.unused == ["epoch", "meta", "7"]
    assert foreign.meta == {}


def test_a_foreign_checkpoint_cannot_be_changed_by_assignment(tmp_path):
    foreign = read_external(saved(tmp_path, {"a": torch.ones(1)}))
    assert isinstance(foreign, ExternalCheckpoint)
    with pytest.raises(AttributeError):
        foreign.meta = {}


def test_no_warning_comes_of_other_protocols(tmp_path, recwarn):
    read_external(saved(tmp_path, {"a": torch.ones(1), "b": {1}}, pickle_protocol=4))
    assert not list(recwarn)


# What is not


def test_files_that_are_no_checkpoints(tmp_path):
    whole = GOLDEN.read_bytes()
    for n, content in enumerate((b"", b"hello, world\n", b"{}", b"\x80", whole[:2000], whole[:-30], b"PK\x03\x04")):
        path = tmp_path / f"{n}.pth"
        path.write_bytes(content)
        assert "not readable (" in error_of(path)
    cut = saved(tmp_path, {"a": torch.ones(1000)}, _use_new_zipfile_serialization=False)
    cut.write_bytes(cut.read_bytes()[:-100])
    assert "not readable (" in error_of(cut)
    assert error_of(tmp_path / "0.pth").endswith("not readable (EOFError)")  # an error without words
    assert error_of(tmp_path).endswith("no such file")
    assert error_of(tmp_path / "missing.pth").endswith("no such file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors"),
        ({"state_dict": {}, "a": torch.ones(1)}, "holds no tensors"),
        ({"state_dict": {"ema_a": torch.ones(1)}}, "holds no tensors"),
        ({"meta": {"a": torch.ones(1)}}, "holds no tensors"),
        ([torch.ones(1)], "holds no state dict but a list"),
        (torch.ones(1), "holds no state dict but a Tensor"),
        (argparse.Namespace(), "holds no state dict but a Namespace"),
    ],
)
def test_files_without_tensors(tmp_path, content, message):
    assert error_of(saved(tmp_path, content)).endswith(message)


@pytest.mark.parametrize("beside", [None, argparse.Namespace()])
def test_a_tensor_larger_than_its_file_is_refused(tmp_path, beside):
    content = {"state_dict": {"a": torch.zeros(1).expand(1 << 40)}, "beside": beside}
    assert "claims (1099511627776,) torch.float32 for a in " in error_of(saved(tmp_path, content))
    fits = torch.zeros(100)
    path = saved(tmp_path, {"a": fits, "beside": beside})
    same(read_external(path).state, {"a": fits})


def test_meta_that_would_not_end_is_cut(tmp_path):
    cycle: list = [1]
    cycle.append(cycle)
    many: list = ["x"]
    for _ in range(40):
        many = [many, many]
    meta = {"cycle": cycle, "many": many, "wide": [0] * 10}
    state = {"a": torch.ones(1)}
    foreign = read_external(saved(tmp_path, {"state_dict": state, "meta": {"cycle": cycle, "after": 1}}))
    assert foreign.meta["cycle"][1][1][0] == 1
    assert foreign.meta["after"] == 1
    level, depth = foreign.meta["cycle"], 0
    while isinstance(level, list):
        level, depth = level[1], depth + 1
    assert (level, depth) == ("list", 49)
    ring: dict = {}
    ring["x"] = ring
    level, depth = read_external(saved(tmp_path, {"state_dict": state, "meta": ring})).meta, 0
    while isinstance(level, dict):
        level, depth = level["x"], depth + 1
    assert (level, depth) == ("dict", 50)
    assert read_external(saved(tmp_path, {"state_dict": state, "meta": meta})).meta.keys() <= meta.keys()


# Attacks

TOUCH = "__import__('pathlib').Path({!r}).touch()"


def attacks(marker):
    """Functions with arguments that create the marker, and their names in a pickle."""
    command, code = f"touch {marker}", TOUCH.format(str(marker))
    inner = io.BytesIO()
    torch.save(Calls(os.system, command), inner)
    return {
        f"{os.system.__module__}.system": (os.system, command),
        "eval": (eval, code),
        "exec": (exec, code),
        "subprocess.Popen": (subprocess.Popen, ["touch", str(marker)]),
        "subprocess.check_call": (subprocess.check_call, ["touch", str(marker)]),
        "os.makedirs": (os.makedirs, str(marker)),
        "io.open": (open, str(marker), "w"),
        "pickle.loads": (pickle.loads, pickle.dumps(Calls(os.system, command))),
        "torch.storage._load_from_bytes": (torch.storage._load_from_bytes, inner.getvalue()),
        "torch._utils._import_dotted_name": (torch._utils._import_dotted_name, "os.system"),
        "torch.serialization.load": (torch.load, str(marker)),
        "torch.serialization.save": (torch.save, {}, str(marker)),
        "numpy.savetxt": (np.savetxt, str(marker), [1]),
        "numpy.load": (np.load, str(marker)),
        "numpy.memmap": (np.memmap, str(marker), "u1", "w+", 0, (1,)),
    }


NAMES = sorted(attacks(Path("x")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "around",
    [
        lambda evil: {"state_dict": {"a": torch.ones(1)}, "meta": {"x": [(evil,)]}},
        lambda evil: {"state_dict": {"a": evil}},
        lambda evil: evil,
        lambda evil: {"a": torch.ones(1), "x": np.array([evil, 1], dtype=object)},
        lambda evil: {"state_dict": {"a": torch.ones(1)}, "hub": collections.defaultdict(list, {1: evil})},
    ],
    ids=["meta", "state", "top", "array", "default"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_no_function_is_called(tmp_path, marker, name, around, zipped):
    function, *args = attacks(marker)[name]
    path = saved(tmp_path, around(Calls(function, *args)), _use_new_zipfile_serialization=zipped)
    message = error_of(path)
    assert name in message or "numpy.dtype O8" in message
    assert "refused: it would load" in message
    assert not marker.exists()


def test_the_attacks_would_work(tmp_path):
    for name in ("exec", "subprocess.check_call", "torch.storage._load_from_bytes", "numpy.memmap", "os.makedirs"):
        made = tmp_path / name
        function, *args = attacks(made)[name]
        torch.load(saved(tmp_path, Calls(function, *args)), weights_only=False)
        assert made.exists()


def test_object_arrays_are_refused(tmp_path, marker):
    refused(saved(tmp_path, {"a": torch.ones(1), "b": np.array([None, 1], dtype=object)}), "numpy.dtype O8", marker)
    for code in ("f4,O8", "O", "object", "V8", "M8[us]", "f4\n"):
        payload = stub() + b"0" + named("numpy", "dtype") + b"(" + text(code) + b"\x89\x88tR"
        refused(archive(tmp_path, in_state(payload)), f"numpy.dtype {code.strip()}", marker)
    fields = np.zeros(1, dtype=[("a", "f4")])
    refused(saved(tmp_path, {"a": torch.ones(1), "b": fields}), "numpy.dtype V4", marker)


@pytest.mark.parametrize("make", [archive, legacy])
@pytest.mark.parametrize(
    ("module", "name", "culprit"),
    [
        ("os", "system", "os.system"),
        ("posix", "system", "posix.system"),
        ("builtins", "__import__", "builtins.__import__"),
        ("__builtin__", "eval", "__builtin__.eval"),
        ("builtins", "open", "builtins.open"),
        ("collections", "OrderedDict.__init__.__globals__", "collections.OrderedDict.__init__.__globals__"),
        ("collections", "OrderedDict.fromkeys", "collections.OrderedDict.fromkeys"),
        ("collections", "abc.sys.modules", "collections.abc.sys.modules"),
        ("collections", "namedtuple", "collections.namedtuple"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__", "torch._utils._rebuild_tensor_v2.__globals__"),
        ("torch._utils", "sys.modules", "torch._utils.sys.modules"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy", "torch._utils._rebuild_device_tensor_from_numpy"),
        ("torch", "UntypedStorage.from_file", "torch.UntypedStorage.from_file"),
        ("torch", "FloatStorage.from_file", "torch.FloatStorage.from_file"),
        ("torch.storage", "os", "torch.storage.os"),
        ("torch", "load", "torch.load"),
        ("torch", "hub.load", "torch.hub.load"),
        ("torch", "float32.__class__", "torch.float32.__class__"),
        ("torch.nn.modules.container", "Sequential", "torch.nn.modules.container.Sequential"),
        ("numpy", "f2py", "numpy.f2py"),
        ("numpy.core.multiarray", "fromfile", "numpy.core.multiarray.fromfile"),
        ("numpy", "dtype.__class__", "numpy.dtype.__class__"),
        ("_codecs", "decode", "_codecs.decode"),
        ("mmengine.logging.history_buffer", "np", "mmengine.logging.history_buffer.np"),
        ("mmengine.config", "Config.fromfile", "mmengine.config.Config.fromfile"),
        ("mmengine.config.config", "Config.fromfile", "mmengine.config.config.Config.fromfile"),
        (
            "mmengine.logging.history_buffer",
            "HistoryBuffer.min.__globals__",
            "mmengine.logging.history_buffer.HistoryBuffer.min.__globals__",
        ),
        ("os\nsystem", "a\x1b[2J", r"os\nsystem.a\x1b[2J"),
        ("os", "x" * 10**6, "os.xxx"),
        ("os", "\ud800", r"os.\ud800"),
        ("", "", " . "),
    ],
)
def test_no_other_name_is_loaded(tmp_path, marker, make, module, name, culprit):
    path = make(tmp_path, in_state(named(module, name)))
    refused(path, culprit, marker)
    assert len(error_of(path)) < 600
    called = named(module, name) + b"(" + text(f"touch {marker}") + b"tR"
    refused(make(tmp_path, in_state(called)), culprit, marker)


def test_names_in_line_form_are_refused_too(tmp_path, marker):
    command = text(f"touch {marker}")
    for payload in (
        b"cos\nsystem\n(" + command + b"tR",
        b"(" + command + b"ios\nsystem\n",
        b"(cos\nsystem\n" + command + b"o",
        b"cos\nsystem\n(" + command + b"t\x81",
        b"cos\nsystem\n(" + command + b"t}\x92",
    ):
        for make in (archive, legacy):
            refused(make(tmp_path, in_state(payload)), "os.system", marker)


def test_modules_are_not_imported(tmp_path, marker, monkeypatch):
    folder = tmp_path / "path" / "mmengine" / "logging"
    folder.mkdir(parents=True)
    code = TOUCH.format(str(marker))
    for file in (folder.parent / "__init__.py", folder / "__init__.py", folder.parents[1] / "evil.py"):
        file.write_text(code)
    (folder / "history_buffer.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    assert read_external(GOLDEN).state
    refused(archive(tmp_path, in_state(named("evil", "x"))), "evil.x", marker)
    refused(archive(tmp_path, in_state(named("evil", "FloatStorage.x"))), "evil.FloatStorage.x", marker)
    error_of(archive(tmp_path, in_state(named("evil", "FloatStorage"))))
    assert not marker.exists()


def test_getattr_reaches_stubs_only(tmp_path, marker):
    fetch = named("builtins", "getattr")
    for held, culprit in (
        (named("collections", "OrderedDict"), "collections.OrderedDict.__init__"),
        (named("torch._utils", "_rebuild_tensor_v2"), "torch._utils._rebuild_tensor_v2.__init__"),
        (named("torch", "UntypedStorage"), "UntypedStorage.__init__"),
        (named("torch", "float32"), "dtype.__init__"),
        (fetch, "getattr.__init__"),
        (b"}", "dict.__init__"),
        (text("x"), "str.__init__"),
    ):
        refused(archive(tmp_path, in_state(fetch + b"(" + held + text("__init__") + b"tR")), culprit, marker)


def stub(tail=b""):
    return named("mmengine.logging.history_buffer", "HistoryBuffer") + tail


def test_stubs_are_inert(tmp_path, marker):
    command = text(f"touch {marker}")
    fetch = named("builtins", "getattr")
    chain = stub()
    for name in ("__init__", "__globals__", "__builtins__", "exec"):
        chain = fetch + b"(" + chain + text(name) + b"tR"
    for pushed in (
        stub(b"(" + command + b"tR"),
        stub(b"(" + command + b"t\x81"),
        stub(b"(" + command + b"tR}(" + text("__class__") + command + b"ub"),
        stub(b")RN}(" + text("name") + command + b"u\x86b"),
        stub(b")R" + command + command + b"s"),
        stub(b")R(" + command + command + b"u"),
        stub(b")R" + command + b"a"),
        stub(b")R(" + command + b"e"),
        stub(b")R(" + command + b"\x90"),
        chain + b"(" + command + b"tR",
        chain + b"}b",
        named("pathlib", "PosixPath.touch") + b"(" + named("pathlib", "PosixPath") + b"(" + command + b"tRtR",
        fetch + b"(" + named("pathlib", "PosixPath") + b"(" + command + b"tR" + text("touch") + b"tR)R",
    ):
        for make in (archive, legacy):
            assert error_of(make(tmp_path, in_state(pushed))).endswith("holds no tensors")
            assert not marker.exists()
    assert error_of(archive(tmp_path, stub(b"."))).endswith("but a HistoryBuffer")  # its name is as it was


def test_extensions_are_refused(tmp_path, marker, monkeypatch):
    copyreg.add_extension("os", "system", 200)
    monkeypatch.setitem(copyreg._extension_cache, 200, os.system)
    try:
        for opcode, name in ((b"\x82\xc8", "EXT1"), (b"\x83\xc8\0", "EXT2"), (b"\x84\xc8\0\0\0", "EXT4")):
            payload = in_state(opcode + b"(" + text(f"touch {marker}") + b"tR")
            for make in (archive, legacy):
                refused(make(tmp_path, payload), f"use pickle's {name}", marker)
    finally:
        copyreg.remove_extension("os", "system", 200)


def test_only_calls_of_the_table_are_made(tmp_path, marker):
    for held, name in (
        (named("torch", "UntypedStorage"), "UntypedStorage"),
        (named("torch", "float32"), "dtype"),
        (named("torch", "FloatStorage"), "StorageType"),
        (b"}", "dict"),
        (text("x"), "str"),
    ):
        for call in (b"(K\x08tR", b"(K\x08t\x81"):
            refused(archive(tmp_path, in_state(held + call)), f"call {name} ", marker)
        refused(archive(tmp_path, in_state(b"(" + held + b"K\x08o")), f"call {name} ", marker)
        refused(archive(tmp_path, in_state(held + b")}\x92")), "use pickle's NEWOBJ_EX ", marker)
    refused(archive(tmp_path, in_state(b"(K\x08itorch\nUntypedStorage\n")), "call UntypedStorage ", marker)
    rebuild = named("torch._tensor", "_rebuild_from_type_v2")
    refused(
        archive(tmp_path, b"\x80\x04}(" + stub() + in_rebuild(rebuild, named("os", "system"), marker) + b"u."),
        "os.system",
        marker,
    )
    refused(
        archive(tmp_path, b"\x80\x04}(" + stub() + in_rebuild(rebuild, b"}", marker) + b"u."),
        "call dict ",
        marker,
    )


def in_rebuild(rebuild, called, marker):
    """Opcodes of torch's detour over a tensor's class, with any function in place of the one that makes the tensor."""
    args = b"(" + text(f"touch {marker}") + b"t"
    return rebuild + b"(" + called + named("torch", "Tensor") + args + b"NtR"


def test_states_are_set_on_nothing_real(tmp_path, marker):
    slots = b"N}(" + text("__class__") + b"K\x01u\x86"
    state = b"}(" + text("__init__") + b"K\x01u"
    for held, name in (
        (named("torch", "UntypedStorage"), "UntypedStorage"),
        (named("torch", "float32"), "dtype"),
        (named("torch", "FloatStorage"), "StorageType"),
        (named("collections", "OrderedDict"), "collections.OrderedDict"),
        (named("builtins", "getattr"), "builtins.getattr"),
        (b"]", "list"),
        (b"\x8f", "set"),
        (b"N", "NoneType"),
    ):
        for made in (slots, state):
            refused(
                archive(tmp_path, in_state(stub() + b"0" + held + made + b"b")), f"set attributes of {name} ", marker
            )
    args = (torch.ones(2)._typed_storage(), 0, (2,), (1,), False, None)
    tensor = Calls(torch._utils._rebuild_tensor_v2, *args, state={"data": 1})
    refused(saved(tmp_path, {"x": argparse.Namespace(), "a": tensor}), "set attributes of Tensor ", marker)


def test_entries_are_set_on_nothing_real(tmp_path, marker):
    for held, name in (
        (named("torch", "UntypedStorage"), "UntypedStorage"),
        (named("collections", "OrderedDict"), "collections.OrderedDict"),
        (named("builtins", "getattr"), "builtins.getattr"),
        (text("x"), "str"),
    ):
        for act, opcodes in (
            ("set entries of", (b"NNs", b"(NNu")),
            ("add to", (b"Na", b"(Ne", b"(N\x90")),
        ):
            for opcode in opcodes:
                refused(archive(tmp_path, in_state(held + opcode)), f"{act} {name} ", marker)
    refused(archive(tmp_path, in_state(b"](NNu" + stub())), "set entries of list ", marker)
    refused(archive(tmp_path, in_state(stub() + b"0}(N\x90")), "add to dict ", marker)
    refused(archive(tmp_path, in_state(stub() + b"0\x8fNNs")), "set entries of set ", marker)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])  # integers have no gradient, whatever a file says
def test_gradient_and_hooks_of_a_tensor_are_dropped(tmp_path, dtype):
    hooks = collections.OrderedDict({1: argparse.Namespace()})
    args = [torch.ones(2, dtype=dtype)._typed_storage(), 0, (2,), (1,), True, hooks]
    for function, more in ((torch._utils._rebuild_tensor_v2, []), (torch._utils._rebuild_tensor_v3, [dtype])):
        foreign = read_external(saved(tmp_path, {"a": Calls(function, *args, *more)}))
        same(foreign.state, {"a": torch.ones(2, dtype=dtype)})
        assert not foreign.state["a"]._backward_hooks


def test_persistent_objects_are_storages(tmp_path, marker, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.serialization, "get_source_lines_and_file", lambda *_: marker.touch())
    pid = b"(" + text("module") + stub() + text("file.py") + text("source") + b"tQ"
    for make in (archive, legacy):
        for payload in (pid, text("storage") + b"Q", b")Q", b"NQ"):
            refused(make(tmp_path, in_state(stub() + b"0" + payload)), "a persistent object that is no storage", marker)
        refused(make(tmp_path, in_state(stub() + b"0Pstorage\n")), "use pickle's PERSID", marker)


def test_text_is_encoded_as_latin1_only(tmp_path, marker):
    payload = stub() + b"0" + named("_codecs", "encode") + b"(" + text("x") + text("rot13") + b"tR"
    refused(archive(tmp_path, in_state(payload)), "_codecs.encode with rot13", marker)


@pytest.mark.parametrize("factory", ["eval", "exec", "open"])
def test_default_factories_are_known(tmp_path, marker, factory):
    refused(
        archive(
            tmp_path,
            in_state(named("collections", "defaultdict") + b"(" + named("builtins", factory) + b"tR"),
        ),
        f"builtins.{factory}",
        marker,
    )


@pytest.mark.parametrize("opcode", [b"\x97", b"\x8f\x98"])
def test_buffers_are_refused(tmp_path, marker, opcode):
    refused(archive(tmp_path, in_state(stub() + b"0" + opcode)), "use pickle's ", marker)


def test_a_bytearray_takes_no_more_memory_than_its_file(tmp_path):
    tracemalloc.start()
    error_of(archive(tmp_path, in_state(stub() + b"0\x96" + struct.pack("<Q", 1 << 28) + b"abc")))
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


def test_torchscript_is_not_run(tmp_path, marker, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: marker.touch())
    payload = in_state(named("os", "system"))
    assert "TorchScript" in error_of(archive(tmp_path, payload, constants=b"x"))
    assert not marker.exists()


def test_tar_archives_are_not_unpacked(tmp_path, marker, monkeypatch):
    path = tmp_path / "old.pth"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name in ("storages", "tensors", "pickle"):
            held = pickle.dumps(Calls(os.system, f"touch {marker}"), 2)
            info = tarfile.TarInfo(name)
            info.size = len(held)
            file.addfile(info, io.BytesIO(held))
    monkeypatch.setattr(tarfile.TarFile, "extract", lambda *_, **__: marker.touch())
    assert ".tar format" in error_of(path)
    assert not marker.exists()


def test_the_first_parts_of_a_legacy_file_are_read_as_carefully(tmp_path, marker):
    evil = pickle.dumps(Calls(os.system, f"touch {marker}"), 2)
    parts = [pickle.dumps(x, 2) for x in (MAGIC, PROTOCOL, {}, {"a": 1}, [])]
    for n in range(len(parts)):
        path = tmp_path / f"{n}.pth"
        path.write_bytes(b"".join([*parts[:n], evil, *parts[n + 1 :]]))
        refused(path, f"{os.system.__module__}.system", marker)


def test_the_names_of_entries_do_not_break_the_line(tmp_path):
    name = "a\nb" + "x" * 10**6
    message = error_of(saved(tmp_path, {name: torch.zeros(1).expand(10**9)}))
    assert r"for a\nbxxx" in message
    assert len(message) < 500
    message = error_of(saved(tmp_path, {name: torch.zeros(1), f"module.{name}": torch.zeros(1)}))
    assert r"both a\nbxxx" in message
    assert len(message) < 900


def test_the_words_of_other_libraries_do_not_break_the_line(tmp_path):
    key = text("\x1b[2J\u2028x")  # of a storage that the file lacks
    pid = b"(" + text("storage") + named("torch", "FloatStorage") + key + text("cpu") + b"K\x01tQ"
    message = error_of(archive(tmp_path, in_state(stub() + b"0" + pid)))
    assert "not readable (" in message
    assert message.isprintable()
