"""Deformable stages of the residual network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qrepro.backbone import Residual
from qrepro.layers import FLOPS, Deformable
from qrepro.recipe.axes import network_hash, resolve
from qrepro.recipe.build import build_detector

BOTH = pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])


def integers(*shape):
    """Small whole numbers: sums of their products are exact in float32, in any order."""
    return torch.randint(-3, 4, shape).float()


def plain(stride=1, groups=1):
    """A 3x3 convolution from 8 to 12 channels with whole weights."""
    conv = nn.Conv2d(8, 12, 3, stride=stride, padding=1, groups=groups, bias=False)
    conv.weight.data = integers(12, 8 // groups, 3, 3)
    return conv


def moved(x, conv, dy, dx):
    """`conv` of x with every tap `dy` rows and `dx` columns on, whole pixels; zeros outside x."""
    rim = 3  # output i of an unpadded convolution of the wider image is centred at i + 1 - rim of x
    wide = F.conv2d(F.pad(x, (rim,) * 4), conv.weight, groups=conv.groups)
    height, width = x.shape[-2:]
    return wide[..., rim - 1 + dy :, rim - 1 + dx :][..., : height : conv.stride[0], : width : conv.stride[1]]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@BOTH
@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_it_begins_as_the_plain_convolution_or_half_of_it(modulated, stride, groups):
    """Offsets 0; masks sigmoid(0) = 1/2."""
    x, conv = integers(2, 8, 6, 7), plain(stride, groups)
    y = Deformable(conv, modulated)(x)
    assert torch.equal(y, conv(x) / 2 if modulated else conv(x))
    assert torch.equal(moved(x, conv, 0, 0), conv(x))  # of the tests below


@BOTH
def test_a_bias_stays_whole(modulated):
    conv = plain()
    layer = Deformable(conv, modulated)
    x = integers(1, 8, 6, 7)
    without = layer(x)
    conv.bias = nn.Parameter(integers(12))
    assert torch.equal(Deformable(conv, modulated)(x), without + conv.bias[:, None, None])
    assert "bias" in Deformable(conv, modulated).state_dict() and "bias" not in layer.state_dict()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dy, dx", [(1, 0), (0, 1), (-1, 2)])
def test_one_offset_for_all_taps_moves_the_picture(dy, dx, stride):
    x, conv = integers(2, 8, 6, 7), plain(stride)
    layer = Deformable(conv, modulated=False)
    layer.offset.bias.data[0::2], layer.offset.bias.data[1::2] = dy, dx  # y, x, y, x, ...
    assert torch.equal(layer(x), moved(x, conv, dy, dx))


def test_half_a_pixel_is_the_mean_of_two_pixels():
    x, conv = integers(1, 8, 6, 7), plain()
    layer = Deformable(conv, modulated=False)
    layer.offset.bias.data[0::2] = 0.5
    assert torch.equal(layer(x), (conv(x) + moved(x, conv, 1, 0)) / 2)


@pytest.mark.parametrize("tap", range(9))
def test_every_tap_has_its_own_offset_and_mask(tap):
    """Taps row by row. Tap k alone moves (channels 2k, 2k + 1) or is switched off (channel 18 + k)."""
    x, conv, alone = integers(1, 8, 6, 7), plain(), plain()
    alone.weight.data = torch.zeros_like(conv.weight)
    alone.weight.data[:, :, tap // 3, tap % 3] = conv.weight.data[:, :, tap // 3, tap % 3]
    layer = Deformable(conv, modulated=True)
    bias = layer.offset.bias.data
    bias[18:] = torch.inf  # sigmoid 1
    bias[2 * tap], bias[2 * tap + 1] = -1, 2
    assert torch.equal(layer(x), conv(x) - alone(x) + moved(x, alone, -1, 2))
    bias[18 + tap] = -torch.inf  # sigmoid 0
    assert torch.equal(layer(x), conv(x) - alone(x))


@BOTH
@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_offsets_that_follow_the_picture(modulated, stride, groups):
    """Against bilinear sampling by `grid_sample`, one tap after the other."""
    conv = plain(stride, groups).double()
    layer = Deformable(conv, modulated)
    layer.offset.double()
    nn.init.normal_(layer.offset.weight, std=0.2)
    nn.init.normal_(layer.offset.bias)
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    moves = F.conv2d(x, layer.offset.weight, layer.offset.bias, stride, 1)
    rows, columns = torch.meshgrid(*(stride * torch.arange(n) for n in moves.shape[-2:]), indexing="ij")
    expected = torch.zeros(2, 12, *moves.shape[-2:], dtype=torch.float64)
    for tap in range(9):
        y = rows + tap // 3 - 1 + moves[:, 2 * tap]
        x_ = columns + tap % 3 - 1 + moves[:, 2 * tap + 1]
        grid = torch.stack((2 * x_ / (7 - 1) - 1, 2 * y / (6 - 1) - 1), -1)  # -1 and 1: centres of the corner pixels
        sampled = F.grid_sample(x, grid, align_corners=True)
        if modulated:
            sampled = sampled * moves[:, 18 + tap, None].sigmoid()
        weight = conv.weight[:, :, tap // 3, tap % 3, None, None]
        expected += F.conv2d(sampled, weight, groups=groups)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@BOTH
def test_gradients(modulated):
    """Against differences, away from whole offsets, where bilinear interpolation has kinks."""
    layer = Deformable(plain(groups=4), modulated).double()
    layer.offset.bias.data = 0.4 * torch.rand(27 if modulated else 18, dtype=torch.float64) + 0.3
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64, requires_grad=True)

    def of(x, weight, slope, bias):
        values = {"weight": weight, "offset.weight": slope, "offset.bias": bias}
        return torch.func.functional_call(layer, values, x)

    assert torch.autograd.gradcheck(of, (x, layer.weight, layer.offset.weight, layer.offset.bias), fast_mode=True)


@BOTH
def test_gradients_reach_offsets_that_are_zero(modulated):
    layer = Deformable(plain(), modulated)
    layer(torch.randn(1, 8, 6, 7)).square().sum().backward()
    assert (layer.offset.bias.grad != 0).all()
    assert (layer.offset.weight.grad.flatten(1) != 0).any(1).all()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@BOTH
def test_mixed_precision_leaves_it_in_float32(modulated, precision):
    """Offset 2.004 has no bfloat16 or float16 value: half precision anywhere would show."""
    layer = Deformable(plain(), modulated)
    nn.init.constant_(layer.offset.bias, 2.004)
    x = torch.randn(1, 8, 6, 7).to(precision)
    with torch.autocast("cpu", precision):
        y = layer(x)
        assert F.conv2d(x, layer.weight).dtype == precision  # autocast is on again
    assert y.dtype == torch.float32 and torch.equal(y, layer(x.float()))


def test_a_network_under_mixed_precision():
    network = Residual(depth=50, group_width=16, deformable="v2", frozen_stages=0).train()
    with torch.autocast("cpu", torch.bfloat16):
        features = network(torch.randn(1, 3, 32, 32))
    sum(f.float().mean() for f in features).backward()
    for name, value in network.named_parameters():
        assert value.grad is not None and value.grad.dtype == torch.float32 and value.grad.isfinite().all(), name


def test_channels_last():
    network = Residual(depth=18, deformable="v2").eval()
    x = torch.randn(2, 3, 64, 64)
    expected = network(x)
    network.to(memory_format=torch.channels_last)
    for found, same in zip(network(x.to(memory_format=torch.channels_last)), expected, strict=True):
        torch.testing.assert_close(found, same, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "values, version, stages",
    [
        ({"depth": 18}, "v2", (3, 4, 5)),
        ({"depth": 50, "group_width": 16}, "v1", (3, 4, 5)),
        ({"depth": 50, "group_width": 16, "style": "caffe"}, "v2", (4, 5)),
        ({"depth": 50, "groups": 32, "group_width": 1}, "v2", (4, 5)),
    ],
)
def test_with_pretrained_weights_it_begins_as_the_plain_network(values, version, stages):
    """v1 as it is; v2 as the network whose conv2 in these stages has half the weights."""
    before = Residual(**values).eval()
    after = Residual(**values, deformable=version, deformable_stages=stages).eval()
    found = after.load_state_dict(before.state_dict(), strict=False)
    assert found.unexpected_keys == [] and all(".conv2.offset." in name for name in found.missing_keys)
    if version == "v2":
        layers = {3: before.layer2, 4: before.layer3, 5: before.layer4}
        for unit in (unit for stage in stages for unit in layers[stage]):
            unit.conv2.weight.data *= 0.5
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for deformed, straight in zip(after(x), before(x), strict=True):
            torch.testing.assert_close(deformed, straight, rtol=1e-4, atol=1e-5 * straight.abs().max().item())


def test_names():
    """Those of the plain network, and an offset layer in each of layer3's 6 and layer4's 3 blocks."""
    before = Residual(depth=50).state_dict()
    after = Residual(depth=50, deformable="v2", deformable_stages=(4, 5)).state_dict()
    assert {k: v.shape for k, v in after.items() if k in before} == {k: v.shape for k, v in before.items()}
    blocks = [f"layer3.{i}" for i in range(6)] + [f"layer4.{i}" for i in range(3)]
    assert set(after) - set(before) == {f"{b}.conv2.offset.{k}" for b in blocks for k in ("weight", "bias")}
    assert after["layer3.0.conv2.offset.weight"].shape == (27, 256, 3, 3)


@pytest.mark.parametrize(
    "values, more",
    [
        # a block of width w: 18 (9 w + 1), in v2 27 (9 w + 1). C3, C4, C5 of R-50: 4, 6, 3 blocks, 128, 256, 512 wide
        ({"depth": 50, "deformable": "v1"}, 18 * (4 * 1153 + 6 * 2305 + 3 * 4609)),
        ({"depth": 50, "deformable": "v2"}, 27 * (4 * 1153 + 6 * 2305 + 3 * 4609)),
        ({"depth": 101, "deformable": "v2"}, 27 * (4 * 1153 + 23 * 2305 + 3 * 4609)),
        # 32x4d is twice as wide
        (
            {"depth": 101, "groups": 32, "group_width": 4, "deformable": "v1", "deformable_stages": (4, 5)},
            18 * (23 * 4609 + 3 * 9217),
        ),
        ({"depth": 18, "deformable": "v1"}, 18 * (2 * 1153 + 2 * 2305 + 2 * 4609)),
        ({"depth": 50, "deformable": "none"}, 0),
    ],
)
def test_parameters(values, more):
    base = {k: v for k, v in values.items() if not k.startswith("deformable")}
    with torch.device("meta"):
        count, before = (sum(p.numel() for p in Residual(**v).parameters()) for v in (values, base))
    assert count - before == more


def test_the_stride_stays_where_the_style_has_it():
    for style, strides in (("pytorch", ((1, 1), (2, 2))), ("caffe", ((2, 2), (1, 1)))):
        unit = Residual(depth=50, style=style, deformable="v1").layer2[0]
        assert (unit.conv1.stride, unit.conv2.offset.stride) == strides


def test_stages_may_be_named_twice():
    network = Residual(depth=18, deformable="v1", deformable_stages=(5, 5))
    assert sum(isinstance(m, Deformable) for m in network.modules()) == 2


def test_weight_files(tmp_path):
    path = tmp_path / "weights.pth"
    values = {"depth": 18, "deformable": "v1", "weights": str(path)}
    ordinary = Residual(depth=18).state_dict()
    torch.save(ordinary, path)
    network = Residual(**values)
    network.load_pretrained()  # ImageNet: no offset layers
    assert torch.equal(network.layer2[0].conv2.weight, ordinary["layer2.0.conv2.weight"])
    assert not network.layer2[0].conv2.offset.weight.any()

    network.layer2[0].conv2.offset.bias.data.fill_(3)
    torch.save(network.state_dict(), path)
    again = Residual(**values)
    again.load_pretrained()  # a deformable network's own
    assert (again.layer2[0].conv2.offset.bias == 3).all()
    with pytest.raises(ValueError, match=r"conv2.offset.weight is \(18, 128, 3, 3\), this backbone has \(27, "):
        Residual(**values | {"deformable": "v2"}).load_pretrained()

    del ordinary["layer2.0.conv2.weight"]
    torch.save(ordinary, path)
    with pytest.raises(ValueError, match=r"lacks 1 entries of this backbone, e.g. layer2.0.conv2.weight"):
        network.load_pretrained()


@pytest.mark.parametrize("frozen, stages", [(0, {2, 3, 4, 5}), (1, {3, 4, 5}), (2, {4, 5}), (4, set())])
def test_frozen_stages_freeze_their_offsets_and_no_others(frozen, stages):
    network = Residual(depth=18, deformable="v2", deformable_stages=(2, 3, 4, 5), frozen_stages=frozen)
    trained = {name for name, value in network.named_parameters() if value.requires_grad and ".offset." in name}
    assert {int(name[len("layer")]) + 1 for name in trained} == stages


def test_a_step_moves_offsets_above_the_frozen_stage():
    network = Residual(depth=18, deformable="v2", frozen_stages=1).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sum(f.square().mean() for f in network(torch.randn(1, 3, 64, 64))).backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    for name, value in network.state_dict().items():
        if ".offset." in name:
            assert value.any(), name
        elif name.startswith(("conv1", "bn1", "layer1")):
            assert torch.equal(value, before[name]), name


def test_multiply_adds_are_those_of_both_convolutions():
    """2 x 3 x 4 positions: 12 outputs of 2 inputs a group and 9 taps; 27 of 8 and 9. Two flops a multiply-add."""
    with torch.device("meta"), FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        Deformable(nn.Conv2d(8, 12, 3, 2, 1, groups=4, bias=False), modulated=True)(torch.zeros(2, 8, 5, 7))
    assert counter.get_total_flops() == 2 * (2 * 3 * 4) * (12 * 2 * 9 + 27 * 8 * 9)


@pytest.mark.parametrize("profile", ["coco", "shapes"])
def test_a_recipe_reaches_it(profile):
    base = resolve("iou_aware/detached_r50", profile)
    recipe = resolve("iou_aware/detached_r50", profile, ["backbone.deformable=v2", "backbone.deformable_stages=[4, 5]"])
    assert len({base.hash, recipe.hash, network_hash(base), network_hash(recipe)}) == 4
    detector = build_detector(recipe).eval()
    deformable = [name for name, m in detector.named_modules() if isinstance(m, Deformable)]
    assert {name.split(".")[1] for name in deformable} == {"layer3", "layer4"}
    image = torch.randn(1, 3, 64, 64)
    pyramid = detector.neck(detector.backbone(image))
    assert [tuple(p.shape[-2:]) for p in pyramid] == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    prediction = detector(image)
    assert prediction.cls.isfinite().all() and prediction.cls.shape[1] == 86 * detector.head.per_cell


@pytest.mark.parametrize(
    "change, message",
    [
        ("backbone.deformable=v3", "backbone.deformable: Input should be 'none', 'v1' or 'v2', got 'v3'"),
        ("backbone.deformable_stages=[3, 6]", "deformable_stages.1: Input should be 2, 3, 4 or 5, got 6"),
        ("backbone.deformable_stages=3", "deformable_stages: Input should be a valid tuple, got 3"),
    ],
)
def test_bad_values_are_one_clear_line(change, message):
    with pytest.raises(ValueError) as error:
        resolve("iou_aware/detached_r50", "coco", [change])
    assert message in str(error.value) and "\n" not in str(error.value)
