"""ImageNet weights: from torchvision, timm or a file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor


def load_weights(source: str) -> Mapping[str, Tensor]:
    """Load the state dict of ImageNet weights.

    Args:
        source: `torchvision/ResNet50_Weights.IMAGENET1K_V1`, `timm/resnext101_32x4d.gluon_in1k`, or a file (.pth,
            .safetensors) with torchvision's entry names (an entry `state_dict` or `model`, and a prefix `module.` or
            `backbone.`, are looked through).

    Returns:
        Tensors by the names of their entries.

    Raises:
        ValueError: There is no such file, it cannot be read, the name is unknown, or the weights cannot be downloaded.
    """
    kind, _, name = source.partition("/")
    if kind == "torchvision":
        return _torchvision_weights(name)
    if kind == "timm":
        return _timm_weights(name)
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(
            f"backbone.weights {source}: no such file (allowed: a file, torchvision/NAME, timm/NAME, null)"
        )
    return _bare(_read_state(path))


def _read_state(path: Path) -> dict[str, Any]:
    """Content of a weight file, nothing in it executed."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors: dict[str, Any] = load_file(path)
        return tensors
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for files that are not its own
        raise ValueError(
            f"backbone.weights {path}: not a readable weight file ({str(error).splitlines()[0]})"
        ) from error
    return state


def _bare(state: dict[str, Any]) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint, under names without the prefixes that trainers add."""
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    names: Iterable[str] = list(state)
    for prefix in ("module.", "backbone."):
        kept = OrderedDict((k.removeprefix(prefix), state[k]) for k in names if k.startswith(prefix))
        if kept:
            state, names = kept, list(kept)
    return state


def _torchvision_weights(name: str) -> Mapping[str, Tensor]:
    """Weights that torchvision downloads, or has downloaded."""
    from torchvision.models import get_weight

    try:
        weights = get_weight(name)
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(
            f"backbone.weights torchvision/{name}: unknown to torchvision, e.g. ResNet50_Weights.IMAGENET1K_V1"
        ) from error
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        target = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise ValueError(
            f"backbone.weights torchvision/{name}: cannot be downloaded here ({error}); put {weights.url} at {target}, "
            "or train from scratch with --set backbone.weights=null"
        ) from error
    return state


def _timm_weights(name: str) -> Mapping[str, Tensor]:
    """Weights that timm downloads, or has downloaded."""
    timm = timm_for(f"backbone.weights timm/{name}")
    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        raise ValueError(f"backbone.weights timm/{name}: unknown to timm {timm.__version__}")
    try:
        state: Mapping[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub client's errors share no base class
        raise ValueError(
            f"backbone.weights timm/{name}: cannot be downloaded here ({type(error).__name__}); get model.safetensors "
            f"of hub model timm/{name} elsewhere and name it: --set backbone.weights=/path/model.safetensors"
        ) from error
    return state


def timm_for(wish: str) -> ModuleType:
    """Import the timm library.

    Args:
        wish: Key and value of the recipe that need it.

    Returns:
        The module `timm`.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"{wish}: needs the timm extra (pip install 'qrepro[timm]')") from error
    return timm
