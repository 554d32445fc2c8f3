"""Checkpoints of other projects, read without executing anything in them.

A pickle may name any function and call it. Here a name is looked up in the table at the end of this file and nowhere
else, a call reaches only what the table holds, and nothing is ever imported.
"""

from __future__ import annotations

import pickle
import re
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

STATES = ("state_dict", "model")  # entries that hold the network, where they are dicts
AVERAGES = ("ema_state_dict", "state_dict_ema", "model_ema")  # entries that hold a second copy of it
DEEPEST, MOST = 50, 100_000  # levels and values of meta; beyond them only a hostile file goes


@dataclass(frozen=True)
class ExternalCheckpoint:
    """What a checkpoint of another project holds.

    Attributes:
        state: Tensors on the CPU by name, without the prefix `module.`.
        meta: Its entry `meta` or, of .safetensors, the header, made of strings, numbers, None, lists and dicts: for
            anything else stands the name of its type.
        unused: Entries that are not in `state`, since they are an exponential average (`ema_...`) or no tensor.
    """

    state: dict[str, Tensor]
    meta: dict[str, Any]
    unused: list[str]


def read_external(path: Path) -> ExternalCheckpoint:
    """Read a checkpoint of MMDetection, a bare state dict, `{"model": state dict}` or a .safetensors file.

    Raises:
        ValueError: There is no such file, it is not readable, it would load or call anything but tensors and plain
            values, or it holds no tensors; in one line.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        content = _safetensors(path) if path.suffix == ".safetensors" else _unpickled(path)
        return _external(content, path.stat().st_size)
    except _Refused as error:
        raise ValueError(f"checkpoint {path}: {error}") from error
    except Exception as error:  # torch and pickle raise a dozen kinds for files that are not theirs
        what = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise ValueError(f"checkpoint {path}: not readable ({_shown(what)})") from error


class _Refused(Exception):
    """Why a file is not taken, in one line."""


def _refuse(act: str, name: str) -> NoReturn:
    """Refuse what a file would do."""
    raise _Refused(f"refused: it would {act} {_shown(name)} (allowed: tensors and plain values)")


def _shown(text: str) -> str:
    """Text of a file in a message: it may hold line ends, codes for the terminal, a million letters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:200])


def _safetensors(path: Path) -> dict[str, Any]:
    """Content of a .safetensors file."""
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise _Refused("needs the timm extra, which brings safetensors (pip install 'qrepro[timm]')") from error
    with safe_open(path, framework="pt") as file:
        return {"state_dict": {key: file.get_tensor(key) for key in file.keys()}, "meta": file.metadata()}


def _unpickled(path: Path) -> Any:
    """Content of a file by torch.save, in the zip format or the one before torch 1.6."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own reader warns of pickle protocols other than 2
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Nothing but this error may lead on: TorchScript and tar archives, which torch refuses here with another,
            # it would run and unpack below.
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_MODULE)


def _external(content: Any, size: int) -> ExternalCheckpoint:
    """Tensors and meta data of a file of `size` bytes."""
    if not isinstance(content, dict):
        raise _Refused(f"holds no state dict but a {_type(content)}")
    entries = next((content[key] for key in STATES if isinstance(content.get(key), dict)), content)
    state: dict[str, Tensor] = {}
    unused = [key for key in AVERAGES if key in content and entries is not content]
    for key, value in entries.items():
        name = str(_plain(key, depth=DEEPEST)).removeprefix("module.")
        given = isinstance(value, Tensor) and value.device.type == "cpu"  # on device `meta` it has no values
        if not isinstance(key, str) or not given or name.startswith("ema_"):
            unused.append(name)
            continue
        if name in state:
            raise _Refused(f"holds both {_shown(name)} and module.{_shown(name)}")
        # A few bytes can claim any shape: with strides of 0, or a storage that torch makes larger.
        if value.numel() * value.element_size() > size:
            raise _Refused(f"claims {tuple(value.shape)} {value.dtype} for {_shown(name)} in {size} bytes")
        state[name] = value.detach()
    if not state:
        raise _Refused("holds no tensors")
    meta = content.get("meta") if entries is not content else None
    return ExternalCheckpoint(state, _plain(meta) if isinstance(meta, dict) else {}, unused)


def _plain(value: Any, room: Iterator[int] | None = None, depth: int = 0) -> Any:
    """A value with the name of its type in place of all that is no string, number, None, list or dict.

    room: counts the values that may still be copied, as a small file can hold one list a billion times, or in itself.
    """
    room = iter(range(MOST)) if room is None else room
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth < DEEPEST and isinstance(value, dict):
        return {_plain(k, room, DEEPEST): _plain(held, room, depth + 1) for k, held in value.items() if _next(room)}
    if depth < DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [_plain(held, room, depth + 1) for held in value if _next(room)]
    return _type(value)


def _next(room: Iterator[int]) -> bool:
    """Whether there was room for one more value."""
    return next(room, None) is not None


def _type(value: Any) -> str:
    """Name of a value's type, that of the class for which a stub stands."""
    return value.name if type(value) is _Stub else type(value).__name__


@dataclass(frozen=True, eq=False)
class _Stub:
    """Stands for a harmless class, its instances and their methods; keeps nothing, and called gives itself."""

    name: str


@dataclass(frozen=True, eq=False)
class _Allowed:
    """A name that a pickle may call, and what is called then."""

    name: str
    make: Callable[..., Any]


@dataclass(eq=False)
class _Number:
    """Stands for a numpy dtype, whose byte order a pickle sets afterwards."""

    dtype: np.dtype[Any]


def _called(held: Any, args: Any) -> Any:
    """The result of a call in a pickle: nothing but what stands in the table is ever called."""
    if type(held) is _Stub:
        return held
    if type(held) is _Allowed:
        return held.make(*args)
    _refuse("call", _named(held))


def _named(held: Any) -> str:
    """A value of a pickle in a message."""
    return held.name if type(held) in (_Stub, _Allowed) else getattr(held, "__name__", type(held).__name__)


class _Reader(pickle._Unpickler):  # the one in Python, as that in C lets nobody override calls and changes
    """Reads a pickle of tensors and plain values; subclassed by torch.load, which sets `persistent_load`."""

    proto: int
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; nothing is imported."""
        if self.proto < 3:  # these write the names of Python 2
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        whole = f"{module}.{name}"
        if whole in _NAMES:
            return _NAMES[whole]
        parent = _NAMES.get(whole.rpartition(".")[0])
        if type(parent) is _Stub:  # HistoryBuffer.min, as protocol 4 writes it
            return parent
        _refuse("load", whole)

    def _call(self) -> None:
        args, held = self.stack.pop(), self.stack.pop()
        self.append(_called(held, args))

    def _call_marked(self) -> None:
        held, *args = self.pop_mark()
        self.append(_called(held, args))

    def _call_named(self) -> None:
        module, name = (self.readline()[:-1].decode("utf-8") for _ in range(2))
        self.append(_called(self.find_class(module, name), self.pop_mark()))

    def _build(self) -> None:
        state, held = self.stack.pop(), self.stack[-1]
        if type(held) is _Number:
            held.dtype = held.dtype.newbyteorder(state[1])
        elif type(held) is dict:  # a Config: its state is its dict, or a tuple that begins with it
            first = state[0] if type(state) is tuple and state else state
            held.update(first if type(first) is dict else {})
        elif type(held) not in (_Stub, OrderedDict):  # of an OrderedDict, it is versions of layers: not needed
            _refuse("set attributes of", _named(held))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if type(held) in (dict, OrderedDict):
            held.update(zip(items[::2], items[1::2], strict=True))
        elif type(held) is not _Stub:
            _refuse("set entries of", _named(held))

    def _add_item(self) -> None:
        self._add([self.stack.pop()])

    def _add_items(self) -> None:
        self._add(self.pop_mark())

    def _add(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if type(held) is list:
            held.extend(items)
        elif type(held) is set:
            held.update(items)
        elif type(held) is not _Stub:
            _refuse("add to", _named(held))

    def _load_bytes(self) -> None:
        # A bytearray, whose stated length pickle itself allots before it looks whether the file has as much.
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _load_storage(self) -> None:
        pid = self.stack.pop()
        if type(pid) is not tuple or pid[:1] != ("storage",):  # torch knows `module` too, and looks for source code
            _refuse("load", "a persistent object that is no storage")
        self.append(self.persistent_load(pid))

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.OBJ[0]: _call_marked,
        pickle.INST[0]: _call_named,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.APPEND[0]: _add_item,
        pickle.APPENDS[0]: _add_items,
        pickle.ADDITEMS[0]: _add_items,
        pickle.BYTEARRAY8[0]: _load_bytes,
        pickle.BINPERSID[0]: _load_storage,
    }


def _refusing(name: str) -> Callable[[Any], None]:
    """What a reader does at an opcode that no checkpoint needs."""
    return lambda _: _refuse("use", f"pickle's {name}")


# Extensions would come from a registry of this process, buffers from outside the file.
for _name in ("EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"):
    _Reader.dispatch[getattr(pickle, _name)[0]] = _refusing(_name)


def _load(file: Any, **options: Any) -> Any:
    """As `pickle.load`: torch reads the parts of a file in the format before 1.6 with it."""
    return _Reader(file, **options).load()


_MODULE = SimpleNamespace(__name__=__name__, Unpickler=_Reader, load=_load)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None) -> Tensor:
    """torch._utils._rebuild_tensor_v2 without gradient and hooks."""
    tensor: Tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict(), metadata)
    return tensor


def _typed_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor:
    """torch._utils._rebuild_tensor_v3 without gradient and hooks."""
    tensor: Tensor = torch._utils._rebuild_tensor_v3(
        storage, offset, size, stride, False, OrderedDict(), dtype, metadata
    )
    return tensor


def _config(held: Any = None, *_: Any) -> dict[Any, Any]:
    """A Config, ConfigDict or Counter as a dict."""
    return dict(held) if type(held) is dict else {}


def _getattr(held: Any, name: Any) -> _Stub:
    """An attribute of a stub, which is the stub."""
    if type(held) is not _Stub:
        _refuse("load", f"{_named(held)}.{name}")
    return held


def _encode(text: str, encoding: Any) -> bytes:
    """How pickle protocol 2 writes bytes."""
    if encoding != "latin1":
        _refuse("call", f"_codecs.encode with {encoding}")
    return text.encode("latin1")


def _dtype(code: str, *_: Any) -> _Number:
    """A numpy dtype of numbers or text: neither objects nor fields."""
    if not re.fullmatch(r"b1|[iufc]\d{1,2}|[SU]\d{1,6}", code):
        _refuse("load", f"numpy.dtype {code}")
    return _Number(np.dtype(code))


def _scalar(number: _Number, raw: bytes) -> Any:
    """A numpy scalar as a number or text of Python."""
    return np.frombuffer(raw, number.dtype, 1)[0].item()


def _names() -> dict[str, Any]:
    """What stands for the names that a checkpoint may hold."""
    calls: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _typed_tensor,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch._tensor._rebuild_from_type_v2": lambda rebuild, _type, args, _state: _called(rebuild, args),
        "torch.Size": tuple,
        "collections.OrderedDict": OrderedDict,
        "collections.Counter": _config,  # milestones of a schedule
        "collections.defaultdict": lambda _factory=None: {},
        "addict.addict.Dict": _config,  # of which ConfigDict is made
        "_codecs.encode": _encode,
        "numpy.dtype": _dtype,
    }
    stubs = {
        "mmengine.logging.history_buffer.HistoryBuffer": "HistoryBuffer",
        "argparse.Namespace": "Namespace",
        **{f"pathlib.{name}": name for name in ("PosixPath", "WindowsPath")},
        **{f"pathlib._local.{name}": name for name in ("PosixPath", "WindowsPath")},  # Python 3.13
        "torch.Tensor": "Tensor",
        "torch.nn.parameter.Parameter": "Parameter",
        "torch.device": "device",
        "numpy.ndarray": "ndarray",  # arrays are no part of a network: their content is passed over
    }
    for module in ("mmcv.utils.config", "mmengine.config.config"):
        calls |= {f"{module}.Config": _config, f"{module}.ConfigDict": _config}
    python: dict[str, Callable[..., Any]] = {
        "getattr": _getattr,
        "set": set,
        "frozenset": frozenset,
        "complex": complex,
        "bytes": lambda: b"",
    }
    calls |= {f"builtins.{name}": make for name, make in python.items()}
    stubs |= {f"builtins.{name}": name for name in ("bool", "int", "float", "str", "list", "dict", "tuple")}
    for module in ("numpy.core", "numpy._core"):
        calls[f"{module}.multiarray.scalar"] = _scalar
        stubs |= {f"{module}.multiarray._reconstruct": "ndarray", f"{module}.numeric._frombuffer": "ndarray"}
    return {
        **{name: _Allowed(name, make) for name, make in calls.items()},
        **{name: _Stub(shown) for name, shown in stubs.items()},
        **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
        # The storage classes with a type are those of torch.load itself.
        **{f"{module}.UntypedStorage": torch.UntypedStorage for module in ("torch", "torch.storage")},
    }


_NAMES = _names()
