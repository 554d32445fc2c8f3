"""From an image to a feature pyramid: a residual network and its FPN.

Parameter names follow torchvision's ResNet, so that its weights, timm's and MMDetection's load without a map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import deform_conv2d

BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}

NOT_PRETRAINED = ("num_batches_tracked", ".offset.weight", ".offset.bias")  # endings that a weight file may lack


class Deformable(nn.Module):
    """A convolution whose K taps move from position to position (arXiv 1703.06211, eq. 2; 1811.11168, eq. 1).

        y(p) = sum over taps k of  w_k m_k(p) x(p + p_k + o_k(p)),   x interpolated bilinearly, 0 outside.

    conv: the convolution without bias that it takes the place of; its weight (out, in / groups, 3, 3) keeps its name,
    its stride, padding, dilation and groups hold. modulated: v2, else v1, where every m_k is 1.
    offset: an ungrouped convolution of the same input, kernel and stride that predicts o and m, one deformable group
    for all channels. It begins at zero, so that v1 begins as the plain convolution and v2 as half of it (m = 0.5).
    Its channels are those of MMDetection's `conv_offset`, whose values can be copied: [y_1, x_1, ..., y_K, x_K] in
    pixels of the input, taps row by row, and in v2 then K logits of m. (MMDetection splits v2's in three and joins the
    first two again, which is the same layout.)
    Computed in the weight's precision, float32 under autocast: a bfloat16 offset has steps of 1/64 pixel from 2 on.
    """

    def __init__(self, conv: nn.Conv2d, modulated: bool) -> None:
        super().__init__()
        self.weight = conv.weight
        self.place: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        size = conv.kernel_size[0]
        self.taps = size * size
        self.offset = nn.Conv2d(conv.in_channels, (3 if modulated else 2) * self.taps, size, **self.place)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)
        self.modulated = modulated

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, out, H', W') in the weight's precision, of x (B, in, H, W) in any."""
        with _unmixed(x.device.type):
            x = x.to(self.weight.dtype)
            moves = self.offset(x)
            mask = moves[:, 2 * self.taps :].sigmoid() if self.modulated else None
            return deform_conv2d(x, moves[:, : 2 * self.taps], self.weight, mask=mask, **self.place)


def _unmixed(device: str) -> AbstractContextManager[Any]:
    """Mixed precision off, on devices that know it (the shape-only `meta` does not)."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _deformable_flops(x: list[int], weight: list[int], *_: Any, out_shape: list[int], **__: Any) -> int:
    """Those of the convolution that it replaces; interpolation is not counted, as elsewhere in a network."""
    batch, channels, height, width = out_shape
    return 2 * batch * channels * height * width * weight[1] * weight[2] * weight[3]


# Operations that torch's `FlopCounterMode` counts as nothing, for its `custom_mapping`.
FLOPS: dict[Any, Callable[..., int]] = {torch.ops.torchvision.deform_conv2d: _deformable_flops}


class Residual(nn.Module):
    """ResNet and ResNeXt (arXiv 1512.03385, 1611.05431) up to C5.

    depth: 18, 34, 50 or 101; groups, group_width: 32 and 4 make ResNeXt-32x4d; style: where a bottleneck has its
    stride, `pytorch` in the 3x3 convolution, `caffe` in the first 1x1.
    deformable: `v1` or `v2` make `conv2` of every block in `deformable_stages` (2 for C2, ..., 5 for C5) a
    `Deformable`: a bottleneck's 3x3 convolution, or the second one of a basic block (depth 18, 34), which MMDetection
    refuses. Weight files need not have its offset layers: they then begin at zero.
    weights: null (from scratch), `torchvision/<name>`, `timm/<name>` or a local file (see `load_weights`).
    frozen_stages: 0 none, 1 the stem and the first stage (C2), ..., offset layers included; frozen_norm: batch norms
    keep their stored statistics.
    """

    def __init__(
        self,
        *,
        depth: Literal[18, 34, 50, 101] = 50,
        groups: int = 1,
        group_width: int = 64,
        style: Literal["pytorch", "caffe"] = "pytorch",
        deformable: Literal["none", "v1", "v2"] = "none",
        deformable_stages: tuple[Literal[2, 3, 4, 5], ...] = (3, 4, 5),
        weights: str | None = None,
        frozen_stages: int = 1,
        frozen_norm: bool = True,
    ) -> None:
        super().__init__()
        block, layers = BLOCKS[depth]
        body = ResNet(block, layers, groups=groups, width_per_group=group_width)
        if style == "caffe":
            for module in body.modules():
                if isinstance(module, Bottleneck):
                    module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        if deformable != "none":
            for stage in sorted(set(deformable_stages)):
                for unit in getattr(self, f"layer{stage - 1}"):
                    unit.conv2 = Deformable(unit.conv2, modulated=deformable == "v2")
        self.channels = tuple(block.expansion * width for width in (128, 256, 512))  # of C3, C4, C5
        self.frozen_norm = frozen_norm
        self._frozen = [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4]
        self._frozen = self._frozen[: frozen_stages + 2 if frozen_stages else 0]
        for module in self._frozen:
            module.requires_grad_(False)
        self.weights = weights

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features [C3, C4, C5], strides 8, 16, 32, of images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features[1:]

    def train(self, mode: bool = True) -> Residual:
        """Training mode, except that frozen stages and frozen norms stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def load_pretrained(self) -> None:
        """Fill in the weights that the recipe names; raises `ValueError` when they cannot be had."""
        if self.weights is None:
            return
        state = load_weights(self.weights)
        missing = [k for k in self.state_dict() if k not in state and not k.endswith(NOT_PRETRAINED)]
        if missing:
            raise ValueError(
                f"backbone.weights {self.weights}: lacks {len(missing)} entries of this backbone, e.g. {missing[0]}"
            )
        wrong = [k for k, v in self.state_dict().items() if k in state and state[k].shape != v.shape]
        if wrong:
            have, want = tuple(state[wrong[0]].shape), tuple(self.state_dict()[wrong[0]].shape)
            raise ValueError(f"backbone.weights {self.weights}: {wrong[0]} is {have}, this backbone has {want}")
        self.load_state_dict({k: v for k, v in state.items() if k in self.state_dict()}, strict=False)


BACKBONES: dict[str, Callable[..., Any]] = {"resnet": Residual}


def load_weights(source: str) -> Mapping[str, Tensor]:
    """State dict of ImageNet weights.

    source: `torchvision/ResNet50_Weights.IMAGENET1K_V1`, `timm/resnext101_32x4d.gluon_in1k`, or a file (.pth,
    .safetensors) with torchvision's entry names (an entry `state_dict` or `model`, and a prefix `module.` or
    `backbone.`, are looked through).
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


def _read_state(path: Path) -> Any:
    """Content of a weight file, nothing in it executed."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for files that are not its own
        raise ValueError(
            f"backbone.weights {path}: not a readable weight file ({str(error).splitlines()[0]})"
        ) from error


def _bare(state: Any) -> Mapping[str, Tensor]:
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
    from torchvision.models import get_weight

    try:
        weights = get_weight(name)
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(
            f"backbone.weights torchvision/{name}: unknown to torchvision, e.g. ResNet50_Weights.IMAGENET1K_V1"
        ) from error
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        target = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise ValueError(
            f"backbone.weights torchvision/{name}: cannot be downloaded here ({error}); put {weights.url} at {target}, "
            "or train from scratch with --set backbone.weights=null"
        ) from error


def _timm_weights(name: str) -> Mapping[str, Tensor]:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"backbone.weights timm/{name}: needs the timm extra (pip install 'qrepro[timm]')") from error
    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        raise ValueError(f"backbone.weights timm/{name}: unknown to timm {timm.__version__}")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub client's errors share no base class
        raise ValueError(
            f"backbone.weights timm/{name}: cannot be downloaded here ({type(error).__name__}); get model.safetensors "
            f"of hub model timm/{name} elsewhere and name it: --set backbone.weights=/path/model.safetensors"
        ) from error


class FPN(nn.Module):
    """Feature pyramid (arXiv 1612.03144) P3-P5 with two stride-2 levels P6, P7 on top (RetinaNet, section 4).

    extra: what P6 is computed from, `c5` (RetinaNet) or `p5` (FCOS, GFL); relu: a ReLU between P6 and P7.
    """

    def __init__(
        self, inputs: tuple[int, ...], *, channels: int = 256, extra: Literal["c5", "p5"] = "c5", relu: bool = False
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in inputs)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        first = inputs[-1] if extra == "c5" else channels
        self.extra = nn.ModuleList(nn.Conv2d(c, channels, 3, stride=2, padding=1) for c in (first, channels))
        self.channels, self.source, self.relu = channels, extra, relu
        self.strides = tuple(8 * 2**i for i in range(len(inputs) + 2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[P3, ..., P7], each (B, channels, H, W), of [C3, C4, C5]."""
        maps = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        for fine in range(len(maps) - 2, -1, -1):
            maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], size=maps[fine].shape[-2:], mode="nearest")
        pyramid = [conv(x) for conv, x in zip(self.output, maps, strict=True)]
        x = features[-1] if self.source == "c5" else pyramid[-1]
        for level, conv in enumerate(self.extra):
            x = conv(F.relu(x) if self.relu and level else x)
            pyramid.append(x)
        return pyramid


NECKS: dict[str, Callable[..., Any]] = {"fpn": FPN}
