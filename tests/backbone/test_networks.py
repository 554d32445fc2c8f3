"""Backbones against the libraries whose weights they load, and what all of them share."""

import sys
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models import ResNeXt101_64X4D_Weights, resnext101_64x4d
from torchvision.models._utils import IntermediateLayerGetter

from qrepro.backbone import BACKBONES, Residual
from qrepro.layers import Deformable
from qrepro.recipe.axes import resolve
from qrepro.recipe.build import build_detector

try:
    import timm
except ImportError:
    timm = None

needs_timm = pytest.mark.skipif(timm is None, reason="timm is not installed")


def lively(network: nn.Module) -> dict[str, torch.Tensor]:
    """A state in which every entry counts: norms away from identity, no scale zero."""
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
        elif name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif value.dim() == 1:
            value.add_(torch.randn_like(value), alpha=0.1)
            if name.endswith("weight"):
                value.abs_().add_(0.1)
    return state


def alike(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_resnext_64x4d_is_torchvisions():
    theirs = resnext101_64x4d().eval()
    with torch.device("meta"):  # one copy of 83 million values is enough
        mine = Residual(depth=101, groups=64, group_width=4).eval()
    state = lively(theirs)
    assert set(state) - set(mine.state_dict()) == {"fc.weight", "fc.bias"}
    mine.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")}, assign=True)
    body = IntermediateLayerGetter(theirs, {f"layer{i}": str(i) for i in (2, 3, 4)})
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        alike(mine(image), body(image).values())
    printed = ResNeXt101_64X4D_Weights.IMAGENET1K_V1.meta["num_params"]
    assert count(mine) == printed - 2048 * 1000 - 1000  # the classifier


@needs_timm
def test_res2net_is_timms(tmp_path):
    theirs = timm.create_model("res2net50d").eval()
    torch.save(lively(theirs), tmp_path / "res2net.pth")
    mine = BACKBONES["res2net"](depth=50, weights=str(tmp_path / "res2net.pth")).eval()
    mine.load_pretrained()
    body = timm.create_model("res2net50d", features_only=True, out_indices=(2, 3, 4)).eval()
    body.load_state_dict(mine.state_dict())
    image = torch.randn(1, 3, 72, 64)  # an odd number of rows in C3
    with torch.no_grad():
        found = mine(image)
        alike(found, body(image))
    assert [tuple(f.shape) for f in found] == [(1, 512, 9, 8), (1, 1024, 5, 4), (1, 2048, 3, 2)]
    assert mine.channels == (512, 1024, 2048)


def res2net(blocks, deformed=()):
    """Parameters of Res2Net v1d 26w4s. Convolutions have no bias; a batch norm has two values a channel."""
    total = (3 * 32 + 32 * 32 + 32 * 64) * 9 + 2 * (32 + 32 + 64)  # deep stem
    inputs = 64
    for stage, (number, planes, width) in enumerate(zip(blocks, (64, 128, 256, 512), (26, 52, 104, 208), strict=True)):
        out = 4 * planes
        for index in range(number):
            total += inputs * 4 * width + 2 * 4 * width  # 1x1 into four scales
            total += 3 * (9 * width * width + 2 * width)  # 3x3 of three of them
            total += 4 * width * out + 2 * out  # 1x1 back
            if not index:
                total += inputs * out + 2 * out  # shortcut
            if stage + 2 in deformed:
                total += 3 * 27 * (9 * width + 1)
            inputs = out
    return total


@needs_timm
def test_parameters_of_res2net():
    with torch.device("meta"):
        plain = BACKBONES["res2net"]()
        deformed = BACKBONES["res2net"](deformable="v2", deformable_stages=(4, 5))
    assert count(plain) == res2net((3, 4, 23, 3)) == 43_176_920
    assert count(deformed) == res2net((3, 4, 23, 3), (4, 5))
    inner = {name for name, module in deformed.named_modules() if isinstance(module, Deformable)}
    assert inner == {f"layer3.{b}.convs.{i}" for b in range(23) for i in range(3)} | {
        f"layer4.{b}.convs.{i}" for b in range(3) for i in range(3)
    }


@needs_timm
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_deformable_res2net_begins_as_the_plain_one(version):
    """v1 as it is; v2 as the network whose 3x3 convolutions in these stages have half the weights."""
    before = BACKBONES["res2net"](depth=50).eval()
    lively(before)
    after = BACKBONES["res2net"](depth=50, deformable=version, deformable_stages=(3, 5)).eval()
    found = after.load_state_dict(before.state_dict(), strict=False)
    assert found.unexpected_keys == [] and all(".offset." in name for name in found.missing_keys)
    if version == "v2":
        for unit in (*before.layer2, *before.layer4):
            for conv in unit.convs:
                conv.weight.data *= 0.5
    image = torch.randn(1, 3, 48, 32)
    with torch.no_grad():
        alike(after(image), before(image))


@needs_timm
def test_mobilenet_is_timms(tmp_path):
    theirs = timm.create_model("mobilenetv1_100").eval()
    torch.save(lively(theirs), tmp_path / "mobilenet.pth")
    mine = BACKBONES["mobilenet"](weights=str(tmp_path / "mobilenet.pth")).eval()
    mine.load_pretrained()
    expected = []
    for block in theirs.blocks[2:]:
        block.register_forward_hook(lambda _, __, output: expected.append(output))
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        found = mine(image)
        theirs(image)
        alike(found, expected)
    assert [tuple(f.shape) for f in found] == [(1, 256, 12, 8), (1, 512, 6, 4), (1, 1024, 3, 2)]
    assert mine.channels == (256, 512, 1024)


@needs_timm
def test_parameters_of_mobilenet():
    """arXiv 1704.04861, table 1: a depthwise 3x3 and a 1x1 convolution a block, a batch norm after each."""
    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    total = 3 * 32 * 9 + 2 * 32 + sum(9 * i + 2 * i + i * o + 2 * o for i, o in pairwise(widths))
    assert count(BACKBONES["mobilenet"]()) == total == 3_206_976


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ValueError, match=r"^backbone\.kind res2net: needs the timm extra \(pip install 'qrepro\[timm\]'"
    ):
        BACKBONES["res2net"]()
    with pytest.raises(ValueError, match=r"^backbone\.kind mobilenet: needs the timm extra"):
        BACKBONES["mobilenet"]()
    with pytest.raises(ValueError, match=r"^backbone\.weights timm/resnet18\.x: needs the timm extra"):
        Residual(depth=18, weights="timm/resnet18.x").load_pretrained()


SMALL = {"resnet": {"depth": 18}, "res2net": {"depth": 50}, "vgg": {}, "mobilenet": {}}
NORMED = {**SMALL, "vgg": {"batch_norm": True}}
FIRST = {  # entries of the first stage
    "resnet": ("conv1", "bn1", "layer1"),
    "res2net": ("conv1", "bn1", "layer1"),
    "vgg": ("features.0.", "features.2."),
    "mobilenet": ("conv_stem", "bn1", "blocks.0", "blocks.1"),
}
every_kind = pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=needs_timm) if k in ("res2net", "mobilenet") else k for k in BACKBONES],
)


@every_kind
def test_a_frozen_stage_stays_and_the_rest_moves(kind):
    network = BACKBONES[kind](**SMALL[kind], frozen_stages=1, frozen_norm=False)
    before = lively(network)
    before = {name: value.clone() for name, value in before.items()}
    network.train()
    sum(f.square().mean() for f in network(torch.randn(2, 3, 32, 32))).backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    assert any(name.startswith(FIRST[kind]) for name in before)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(FIRST[kind]), name


@every_kind
@pytest.mark.parametrize("frozen", [False, True])
def test_norms_keep_their_statistics_when_frozen(kind, frozen):
    network = BACKBONES[kind](**NORMED[kind], frozen_stages=0, frozen_norm=frozen).train()
    before = {name: value.clone() for name, value in network.state_dict().items() if "running_" in name}
    network(torch.randn(2, 3, 32, 32))
    moved = {name for name, value in before.items() if not torch.equal(value, network.state_dict()[name])}
    assert moved == (set() if frozen else set(before))
    assert all(p.requires_grad for p in network.parameters())


@every_kind
def test_a_file_that_does_not_fit_is_refused(kind, tmp_path):
    path = tmp_path / "weights.pth"
    network = BACKBONES[kind](**SMALL[kind], weights=str(path))
    state = dict(network.state_dict())
    name = next(k for k in state if state[k].dim() == 4)
    torch.save({**state, name: state[name][:1]}, path)
    with pytest.raises(ValueError, match=rf"{name} is \(1, .*\), this backbone has \({len(state[name])}, "):
        network.load_pretrained()
    del state[name]
    torch.save(state, path)
    with pytest.raises(ValueError, match=rf"lacks 1 entries of this backbone, e.g. {name}"):
        network.load_pretrained()


@needs_timm
def test_a_recipe_reaches_vfnet_x():
    """Res2Net-101 with deformable stages and PAFPN; shapes only."""
    changes = ["backbone={kind: res2net, depth: 101, deformable: v2, weights: timm/res2net101d.in1k}"]
    changes += ["neck={kind: pafpn, channels: 384, extra: p5, relu: true, norm: group, deformable: v2}"]
    recipe = resolve("iou_aware/detached_r50", "coco", changes)
    with torch.device("meta"):
        detector = build_detector(recipe).eval()
        pyramid = detector.neck(detector.backbone(torch.zeros(1, 3, 96, 128)))
    sizes = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
    assert [tuple(level.shape) for level in pyramid] == [(1, 384, *size) for size in sizes]
    assert detector.backbone.weights == "timm/res2net101d.in1k"
