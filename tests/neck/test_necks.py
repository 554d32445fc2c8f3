"""Necks: what each level is made of, by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qrepro.layers import Deformable
from qrepro.neck import FPN, NECKS, PAFPN, ExtendedFPN, L2Norm, SSDExtra
from qrepro.recipe.axes import resolve


def scaled(conv, factor, bias):
    """Make a convolution of one channel `factor` x + `bias` at the position it is centred at."""
    nn.init.zeros_(conv.weight)
    middle = conv.weight.shape[-1] // 2
    conv.weight.data[0, 0, middle, middle] = factor
    nn.init.constant_(conv.bias, bias)


def maps():
    """C3, C4, C5 of one channel with whole values; C3 has an odd side, which halves to the next whole number."""
    torch.manual_seed(0)
    return [torch.randint(-9, 10, (2, 1, *size)).float() for size in ((7, 8), (4, 4), (2, 2))]


def twice(x, like):
    """Every pixel as two rows and two columns, cut to the size of `like`."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : like.shape[-2], : like.shape[-1]]


def half(x):
    """Every second row and column: where a 3x3 convolution with stride 2 and a rim of 1 is centred."""
    return x[..., ::2, ::2]


@pytest.mark.parametrize("extra", ["c5", "p5"])
@pytest.mark.parametrize("relu", [False, True])
def test_pafpn_by_hand(extra, relu):
    c3, c4, c5 = maps()
    neck = PAFPN((1, 1, 1), channels=1, extra=extra, relu=relu)
    for level, conv in enumerate(neck.lateral):
        scaled(conv, 2, level)
    for level in range(3):
        scaled(neck.inner[level], 3, 10 + level)
        scaled(neck.output[level], -1, 30 + level)
    for level in range(2):
        scaled(neck.down[level], 5, 20 + level)
        scaled(neck.extra[level], -4, level)
    m5 = 2 * c5 + 2
    m4 = 2 * c4 + 1 + twice(m5, c4)
    m3 = 2 * c3 + twice(m4, c3)
    n3 = 3 * m3 + 10
    n4 = 3 * m4 + 11 + 5 * half(n3) + 20
    n5 = 3 * m5 + 12 + 5 * half(n4) + 21
    out = [-n3 + 30, -n4 + 31, -n5 + 32]
    six = -4 * half(c5 if extra == "c5" else out[2])
    seven = -4 * half(six.clamp(min=0) if relu else six) + 1
    found = neck([c3, c4, c5])
    assert all(torch.equal(a, b) for a, b in zip(found, [*out, six, seven], strict=True))
    assert neck.strides == (8, 16, 32, 64, 128) and neck.channels == 1


def test_pafpn_without_its_second_path_is_fpn():
    """Downsampling that gives 0, outputs that change nothing."""
    features = [torch.randn(1, c, s, s) for c, s in ((8, 12), (16, 6), (24, 3))]
    fpn, pafpn = FPN((8, 16, 24), channels=4, extra="p5"), PAFPN((8, 16, 24), channels=4, extra="p5")
    state = {k.replace("output.", "inner."): v for k, v in fpn.state_dict().items()}
    pafpn.load_state_dict(state, strict=False)
    for conv in pafpn.down:
        nn.init.zeros_(conv.weight)
    for conv in pafpn.output:
        nn.init.dirac_(conv.weight)
    for mine, theirs in zip(pafpn(features), fpn(features), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    "values, count",
    [
        # 3 laterals; 3 smoothing, 2 downsampling, 3 output and 2 further 3x3 convolutions, each with a bias
        ({"channels": 16}, (24 + 32 + 40 + 3) * 16 + 9 * (9 * 16 + 1) * 16 + (9 * 40 + 1) * 16),
        # with group norm: no bias but two values a channel; the extra level is made of an output
        (
            {"channels": 16, "extra": "p5", "norm": "group", "groups": 4},
            (24 + 32 + 40 + 3) * 16 + 10 * (9 * 16 + 2) * 16,
        ),
        # VFNet-X: and three layers of 27 offsets and masks
        (
            {"channels": 384, "extra": "p5", "relu": True, "norm": "group", "deformable": "v2"},
            (24 + 32 + 40 + 3) * 384 + 10 * (9 * 384 + 2) * 384 + 3 * 27 * (9 * 384 + 1),
        ),
        ({"channels": 16, "deformable": "v1"}, 99 * 16 + 9 * 145 * 16 + 361 * 16 + 3 * 18 * 145),
    ],
)
def test_parameters_of_pafpn(values, count):
    with torch.device("meta"):
        neck = PAFPN((24, 32, 40), **values)
    assert sum(p.numel() for p in neck.parameters()) == count


def test_group_norm_follows_every_convolution_but_the_laterals():
    neck = PAFPN((4, 4, 4), channels=8, norm="group", groups=2)
    assert all(isinstance(conv, nn.Conv2d) for conv in neck.lateral)
    after = [type(layer) for part in (neck.inner, neck.down, neck.output, neck.extra) for _, layer in part]
    assert after == [nn.GroupNorm] * 10
    for level in neck([torch.randn(2, 4, s, s) for s in (8, 4, 2)])[:4]:  # of P7 only one pixel is left
        groups = level.unflatten(1, (2, 4)).flatten(2)  # zero mean, unit variance: scales begin at 1, shifts at 0
        torch.testing.assert_close(groups.mean(-1), torch.zeros(2, 2), rtol=0, atol=1e-5)
        torch.testing.assert_close(groups.var(-1, unbiased=False), torch.ones(2, 2), rtol=0.01, atol=0)


@pytest.mark.parametrize("version, factor", [("v1", 1), ("v2", 0.5)])
@pytest.mark.parametrize("norm", ["none", "group"])
def test_deformable_outputs_begin_as_plain_ones_or_half_of_them(norm, version, factor):
    torch.manual_seed(0)
    features = [torch.randn(1, 4, s, s) for s in (8, 4, 2)]
    values = {"channels": 8, "norm": norm, "groups": 2}
    plain, moving = PAFPN((4, 4, 4), **values), PAFPN((4, 4, 4), **values, deformable=version)
    found = moving.load_state_dict(plain.state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert {k.partition(".offset.")[0] for k in found.missing_keys} == {
        f"output.{i}" if norm == "none" else f"output.{i}.0" for i in range(3)
    }
    assert sum(isinstance(m, Deformable) for m in moving.modules()) == 3
    for level in plain.output:
        (level if norm == "none" else level[0]).weight.data *= factor
    for mine, theirs in zip(moving(features), plain(features), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_part_of_pafpn():
    neck = PAFPN((4, 4, 4), channels=8, extra="p5", norm="group", groups=2, deformable="v2")
    sum(
        (level * torch.randn_like(level)).sum() for level in neck([torch.randn(2, 4, s, s) for s in (32, 16, 8)])
    ).backward()
    for name, value in neck.named_parameters():
        assert value.grad is not None and value.grad.any(), name


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="divisible"):
        PAFPN((4, 4, 4), channels=10, norm="group", groups=4)


def test_l2_norm_by_hand():
    """||(3, 4)|| = 5, ||(5, 12)|| = 13; nothing stays nothing."""
    norm = L2Norm(2, 20)
    norm.weight.data = torch.tensor([20.0, 10.0])
    x = torch.tensor([[3.0, 5.0, 0.0], [4.0, 12.0, 0.0]])[None, :, None]
    expected = torch.tensor([[12.0, 100 / 13, 0.0], [8.0, 120 / 13, 0.0]])[None, :, None]
    torch.testing.assert_close(norm(x), expected)
    assert L2Norm(3, 20).weight.tolist() == [20] * 3


def test_l2_norm_has_a_gradient_where_nothing_is():
    x = torch.zeros(1, 2, 1, 1, requires_grad=True)
    L2Norm(2, 20)(x.relu()).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_l2_norm_of_half_precision(precision):
    """The norm is 64 x 2048 = 131072, beyond float16."""
    x = torch.full((1, 4096, 1, 1), 2048.0, dtype=precision)
    y = L2Norm(4096, 32)(x)
    assert y.dtype == precision and (y == 0.5).all()  # 32 / sqrt(4096)


@pytest.mark.parametrize(
    "size, sides, places",  # of the maps; stride and padding of the extra layers' second convolutions
    [
        (300, (38, 19, 10, 5, 3, 1), ((2, 1), (2, 1), (1, 0), (1, 0))),
        (512, (64, 32, 16, 8, 4, 2, 1), ((2, 1), (2, 1), (2, 1), (2, 1), (1, 1))),
    ],
)
def test_ssd_maps_by_hand(size, sides, places):
    torch.manual_seed(0)
    neck = SSDExtra((4, 6), size=size)
    for conv in (m for m in neck.modules() if isinstance(m, nn.Conv2d)):
        nn.init.normal_(conv.bias, std=0.1)
    features = [torch.randn(1, 4, sides[0], sides[0]), torch.randn(1, 6, sides[1], sides[1])]
    expected = [20 * features[0] / features[0].square().sum(1, keepdim=True).sqrt(), features[1]]
    for (first, _, second, _), (stride, padding) in zip(neck.extra, places, strict=True):
        x = F.conv2d(expected[-1], first.weight, first.bias).relu()
        expected.append(F.conv2d(x, second.weight, second.bias, stride, padding).relu())
    found = neck(features)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert tuple(level.shape[-1] for level in found) == sides
    assert neck.channels == tuple(level.shape[1] for level in found) == (4, 6, 512, *[256] * (len(sides) - 3))
    assert neck.strides == {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}[size]


@pytest.mark.parametrize(
    "size, count",
    [
        # L2 norm; 1x1 and 3x3 convolutions of conv8 to conv11, with biases
        (300, 512 + 1025 * 256 + (9 * 256 + 1) * 512 + 513 * 128 + 3 * (9 * 128 + 1) * 256 + 2 * 257 * 128),
        # conv8 to conv12, the last of which is 4x4
        (
            512,
            512
            + (1025 * 256 + (9 * 256 + 1) * 512)
            + (513 * 128 + (9 * 128 + 1) * 256)
            + 2 * (257 * 128 + (9 * 128 + 1) * 256)
            + (257 * 128 + (16 * 128 + 1) * 256),
        ),
    ],
)
def test_parameters_of_ssd_extra(size, count):
    assert sum(p.numel() for p in SSDExtra((512, 1024), size=size).parameters()) == count


def test_first_weights_of_ssd_extra():
    """Xavier: variance 2 / (inputs + outputs), of 1 and 9 taps."""
    torch.manual_seed(0)
    first, _, second, _ = SSDExtra((512, 1024)).extra[0]
    assert first.weight.var().item() == pytest.approx(2 / (1024 + 256), rel=0.02)
    assert second.weight.var().item() == pytest.approx(2 / (9 * 256 + 9 * 512), rel=0.02)
    assert not first.bias.any() and not second.bias.any()


def test_ssd_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="needs the two maps of backbone vgg, got 3 maps"):
        SSDExtra((512, 1024, 2048))
    with pytest.raises(ValueError, match=r"257 pixels or more, fc7 is \(1, 6, 20, 16\)"):
        SSDExtra((4, 6))([torch.zeros(1, 4, 40, 32), torch.zeros(1, 6, 20, 16)])
    for size in (300, 512):
        assert SSDExtra((4, 6), size=size)([torch.zeros(1, 4, 33, 33), torch.zeros(1, 6, 17, 17)])[-1].shape[-1] == 1


@pytest.mark.parametrize("smooth", [0, 2, 3])
def test_extended_fpn_by_hand(smooth):
    c3, c4, c5 = maps()
    neck = ExtendedFPN((1, 1, 1), channels=1, widths=(4,), smooth=smooth, l2_scale=7)
    neck.extra[0] = nn.Conv2d(1, 1, 3, 2, 1)
    neck.lateral[3] = nn.Conv2d(1, 1, 1)
    scaled(neck.extra[0], 6, 40)
    for level, conv in enumerate(neck.lateral):
        scaled(conv, 2, level)
    for level, conv in enumerate(neck.output):
        scaled(conv, -1, 30 + level)
    m6 = 2 * (6 * half(c5) + 40) + 3
    m5 = 2 * c5 + 2 + twice(m6, c5)
    m4 = 2 * c4 + 1 + twice(m5, c4)
    m3 = 2 * 7 * c3.sign() + twice(m4, c3)  # the norm of one channel is its size
    smoothed = [-m + 30 + level for level, m in enumerate((m3, m4, m5))]
    found = neck([c3, c4, c5])
    expected = [*smoothed[:smooth], *(m3, m4, m5)[smooth:], m6]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert neck.strides == (8, 16, 32, 64)


@pytest.mark.parametrize(
    "block, counts",  # of blocks from 1024 to 512 and from 512 to 256 channels
    [
        ("ssd", (1025 * 256 + (9 * 256 + 1) * 512, 513 * 128 + (9 * 128 + 1) * 256)),
        ("ssd_norm", (1025 * 256 + 2305 * 512 + 2 * (256 + 512), 513 * 128 + 1153 * 256 + 2 * (128 + 256))),
        (
            "bottleneck",
            (
                1024 * 128 + 128 * 128 * 9 + 128 * 512 + 1024 * 512 + 2 * (128 + 128 + 512 + 512),
                512 * 64 + 64 * 64 * 9 + 64 * 256 + 512 * 256 + 2 * (64 + 64 + 256 + 256),
            ),
        ),
        ("depthwise", (1024 * 9 + 1024 * 512 + 2 * (1024 + 512), 512 * 9 + 512 * 256 + 2 * (512 + 256))),
    ],
)
def test_added_layers(block, counts):
    neck = ExtendedFPN((8, 1024), block=block, widths=(512, 256), channels=8)
    assert tuple(sum(p.numel() for p in layer.parameters()) for layer in neck.extra) == counts
    sizes = [tuple(level.shape[-2:]) for level in neck([torch.randn(2, 8, 22, 18), torch.randn(2, 1024, 11, 9)])]
    assert sizes == [(22, 18), (11, 9), (6, 5), (3, 3)]
    assert neck.lateral[3].in_channels == 256
    for name, value in neck.named_parameters():
        if value.dim() == 4 and value.numel() > 4000:
            assert value.std().item() == pytest.approx(0.01, rel=0.05), name
        elif value.dim() == 1 and isinstance(neck.get_submodule(name.rpartition(".")[0]), nn.Conv2d):
            assert not value.any(), name


def test_more_smoothing_than_levels_is_refused():
    with pytest.raises(ValueError, match=r"neck.smooth 5: the pyramid has 4 levels"):
        ExtendedFPN((4, 4, 4), smooth=5)


def test_recipes_say_which_neck():
    def neck(change):
        return resolve("iou_aware/detached_r50", "coco", ["backbone.kind=vgg", f"neck={{{change}}}"]).neck.build(
            NECKS, (512, 1024)
        )

    assert neck("kind: ssd_extra, size: 512").strides[-1] == 512
    assert neck("kind: extended_fpn, block: ssd, widths: [512, 256], l2_scale: 20").strides == (8, 16, 32, 64)
    with pytest.raises(ValueError, match=r"neck.size: Input should be 300 or 512, got 400"):
        neck("kind: ssd_extra, size: 400")
