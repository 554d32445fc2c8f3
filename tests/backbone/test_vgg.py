"""VGG-16 in SSD's form, the decimation of its classifier, and the networks of SSD and PASSD that it is part of."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models import VGG16_Weights, vgg16, vgg16_bn

from qrepro.backbone import BACKBONES, VGG
from qrepro.backbone.vgg import thinned
from qrepro.neck import NECKS

WIDTHS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
PAIRS = [pair for block in WIDTHS for pair in pairwise(block)]  # inputs and outputs of 13 layers
CONVS = sum((9 * i + 1) * o for i, o in PAIRS)
FC = (9 * 512 + 1) * 1024 + (1024 + 1) * 1024
MIB = 2**20


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def classifier():
    """Layers fc6 and fc7 of torchvision's size in little memory: entry [o, i] is 3 o + i."""
    values = torch.arange(3 * 4096 + 25088).float() / 1000
    return {
        "classifier.0.weight": values.as_strided((4096, 25088), (3, 1)),
        "classifier.0.bias": torch.arange(4096.0),
        "classifier.3.weight": values.as_strided((4096, 4096), (3, 1)),
        "classifier.3.bias": -torch.arange(4096.0),
    }


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("norm, fourth", [(False, 23), (True, 33)])
def test_its_convolutions_are_torchvisions(norm, fourth, tmp_path):
    """conv4_3 after ReLU is what the fourth pooling layer gets. Sides are multiples of 16: rounding up is idle."""
    with torch.device("meta"):
        theirs = (vgg16_bn if norm else vgg16)().features.eval()
    theirs = theirs.to_empty(device="cpu")
    for name, value in theirs.state_dict().items():
        nn.init.normal_(value, std=0.05) if value.dim() == 4 else value.fill_(1.5 if "running_var" in name else 0.1)
    torch.save({f"features.{k}": v for k, v in theirs.state_dict().items()} | classifier(), tmp_path / "vgg.pth")
    mine = VGG(batch_norm=norm, weights=str(tmp_path / "vgg.pth")).eval()
    mine.load_pretrained()
    image = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        fine, coarse = mine(image)
        assert torch.equal(fine, theirs[:fourth](image))
        x = theirs[:-1](image)  # conv5_3
        x = nn.functional.max_pool2d(x, 3, 1, 1)
        assert torch.equal(coarse, mine.features[len(theirs) :](x))
    assert fine.shape == (1, 512, 8, 6) and coarse.shape == (1, 1024, 4, 3)


def test_the_file_of_a_whole_classifier_fits(tmp_path):
    with torch.device("meta"):
        expected = {k: v.shape for k, v in VGG().state_dict().items() if int(k.split(".")[1]) < 30}
        assert expected == {k: v.shape for k, v in vgg16().state_dict().items() if k.startswith("features")}
    network = VGG(weights=str(tmp_path / "vgg.pth"))
    state = {k: torch.zeros(1).expand(shape) for k, shape in expected.items()}
    torch.save({**state, **classifier()}, tmp_path / "vgg.pth")
    network.load_pretrained()
    fc6, fc7 = network.features[31], network.features[33]
    made = thinned(classifier())
    assert torch.equal(fc6.weight, made[-2, "weight"]) and torch.equal(fc7.bias, made[-1, "bias"])
    assert not network.features[28].weight.any()


def test_decimation_by_hand():
    """Every 4th channel, every 3rd of 7 rows and columns: entry [o, (c 7 + y) 7 + x] of a linear layer."""
    made = thinned(classifier())
    o, c, y, x = (torch.arange(n).view(-1, *[1] * k) for n, k in ((1024, 3), (512, 2), (3, 1), (3, 0)))
    expected = (3 * (4 * o) + (c * 7 + 3 * y) * 7 + 3 * x).float() / 1000
    assert torch.equal(made[-2, "weight"], expected)
    o, c = torch.arange(1024)[:, None], torch.arange(1024)
    assert torch.equal(made[-1, "weight"][..., 0, 0], (3 * 4 * o + 4 * c).float() / 1000)
    assert torch.equal(made[-2, "bias"], torch.arange(0, 4096, 4).float())
    assert torch.equal(made[-1, "bias"], -torch.arange(0, 4096, 4).float())


def test_fc6_sees_what_the_classifier_saw():
    """Without pool5's stride the map is twice as dense: rows 0, 2, ..., 12 around row 6 are the classifier's seven."""
    state = classifier()
    network = VGG()
    network.load_state_dict(network.translated(state), strict=False)
    dense = torch.rand(1, 512, 13, 13)
    kept = torch.zeros(1, 512, 7, 7)
    kept[..., ::3, ::3] = dense[..., ::6, ::6]
    rows = state["classifier.0.weight"][::4]
    expected = nn.functional.linear(kept.flatten(1).double(), rows.double()) + torch.arange(0, 4096, 4)
    with torch.no_grad():
        found = network.features[31](dense)
    assert found.shape[-2:] == (13, 13)
    torch.testing.assert_close(found[..., 6, 6].double(), expected, rtol=1e-4, atol=0)


def features(network):
    return {k: v.clone() for k, v in network.state_dict().items() if int(k.split(".")[1]) < 30}


@pytest.mark.parametrize("damage", ["absent", "not a number"])
def test_without_a_usable_classifier_fc6_and_fc7_stay(damage, tmp_path):
    path = tmp_path / "vgg.pth"
    nan = {k: torch.full((1,), torch.nan).expand(v.shape) for k, v in classifier().items()}
    torch.save(features(VGG()) | ({} if damage == "absent" else nan), path)
    network = VGG(weights=str(path))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_pretrained()
    same = {k for k, v in network.state_dict().items() if torch.equal(v, before[k]) and v.any()}
    assert same == {f"features.{i}.weight" for i in (31, 33)}
    assert network.state_dict()["features.31.weight"].isfinite().all()


def test_its_own_file_wins_over_a_classifier(tmp_path):
    path = tmp_path / "ssd.pth"
    source = VGG()
    torch.save({f"backbone.{k}": v for k, v in source.state_dict().items()}, path)  # as MMDetection's SSD
    network = VGG(weights=str(path))
    network.load_pretrained()
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in network.state_dict().items())
    assert network.translated({**source.state_dict(), **classifier()})["features.33.bias"] is not None
    kept = network.translated({**source.state_dict(), **classifier()})["features.31.weight"]
    assert torch.equal(kept, source.features[31].weight)


def test_another_classifier_is_refused():
    other = classifier() | {"classifier.3.weight": torch.zeros(1024, 4096)}
    with pytest.raises(ValueError, match=r"classifier.3.weight is \(1024, 4096\), that of VGG-16 is \(4096, 4096\)"):
        VGG().translated(other)


@pytest.mark.parametrize("frozen, layers", [(0, 0), (1, 2), (2, 4), (3, 7), (4, 10), (5, 13)])
def test_frozen_blocks(frozen, layers):
    with torch.device("meta"):
        network = VGG(frozen_stages=frozen)
    convs = [m for m in network.features if isinstance(m, nn.Conv2d)]
    assert [c.weight.requires_grad for c in convs] == [False] * layers + [True] * (15 - layers)


def test_parameters_of_vgg():
    """13 convolutions, fc6 and fc7; with norms two values a channel more."""
    with torch.device("meta"):
        plain, normed = VGG(), VGG(batch_norm=True)
    linear = (25088 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert CONVS == VGG16_Weights.IMAGENET1K_V1.meta["num_params"] - linear
    assert count(plain) == CONVS + FC == 14_714_688 + 5_769_216
    assert count(normed) == count(plain) + 2 * (sum(o for _, o in PAIRS) + 2 * 1024)


@pytest.mark.parametrize("size, sides", [(300, (38, 19, 10, 5, 3, 1)), (512, (64, 32, 16, 8, 4, 2, 1))])
def test_maps_of_ssd(size, sides):
    """With 4 or 6 default boxes a cell these are SSD's 8732 boxes at 300 and 24564 at 512."""
    with torch.device("meta"):
        backbone, image = VGG(), torch.zeros(1, 3, size, size)
        neck = NECKS["ssd_extra"](backbone.channels, size=size)
        maps = neck(backbone(image))
    widths = (512, 1024, 512, *[256] * (len(sides) - 3))
    assert [tuple(m.shape) for m in maps] == [(1, w, s, s) for w, s in zip(widths, sides, strict=True)]
    assert neck.channels == widths
    per_cell = (4, 6, 6, 6, *[6] * (len(sides) - 6), 4, 4)
    assert sum(n * s * s for n, s in zip(per_cell, sides, strict=True)) == {300: 8732, 512: 24564}[size]


SSD_BLOCK = {"block": "ssd", "l2_scale": 20}
PASSD = [
    # backbone, its values, neck's values, input; default boxes (3 a cell), classes and background, what is printed
    ("vgg", {}, {**SSD_BLOCK, "widths": (512, 256)}, 320, 6375, 21, "24.87M"),
    ("vgg", {}, {**SSD_BLOCK, "widths": (512, 256)}, 512, 16320, 81, "25M, 96MB"),
    ("resnet", {"depth": 101}, {"block": "bottleneck", "widths": (512,)}, 320, 6375, 81, "47M, 181MB"),
    ("resnet", {"depth": 101}, {"block": "bottleneck", "widths": (512, 512)}, 768, 36828, 81, "48M, 184MB"),
    ("mobilenet", {}, {"block": "depthwise", "widths": (512,)}, 320, 6375, 81, "6.7M"),
]


@pytest.mark.parametrize("kind, values, neck_values, size, boxes, classes, printed", PASSD)
def test_passd_has_the_printed_size(kind, values, neck_values, size, boxes, classes, printed):
    """Backbone and neck, plus the head by hand: 3x3 convolutions of 256 channels with a bias, shared by all levels.

    3 boxes a cell: their classes and offsets when attending, 2 scores and 4 offsets when proposing.
    """
    if kind == "mobilenet":
        pytest.importorskip("timm")
    with torch.device("meta"):
        backbone = BACKBONES[kind](**values)
        neck = NECKS["extended_fpn"](backbone.channels, **neck_values)
        pyramid = neck(backbone(torch.zeros(2, 3, size, size)))
    head = (9 * 256 + 1) * 3 * (classes + 4 + 2 + 4)
    total = count(backbone, neck) + head
    mega, _, mib = printed.partition(", ")
    digits = len(mega.removesuffix("M").partition(".")[2])
    assert total / 1e6 == pytest.approx(float(mega[:-1]), abs=0.75 * 10**-digits)  # 24.863 is printed as 24.87
    assert not mib or round(total * 4 / MIB) == int(mib[:-2])
    sides = [size // s for s in neck.strides]
    assert [tuple(level.shape[1:]) for level in pyramid] == [(256, s, s) for s in sides]
    assert 3 * sum(s * s for s in sides) == boxes


def test_parameters_of_passds_vgg():
    """Plain head (tables 1, 3: 24.82M): laterals of 512, 1024, 512, 256 channels, three 3x3 convolutions, L2 norm."""
    with torch.device("meta"):
        backbone = VGG()
        neck = NECKS["extended_fpn"](backbone.channels, widths=(512, 256), **SSD_BLOCK)
    extra = 1025 * 256 + (9 * 256 + 1) * 512 + 513 * 128 + (9 * 128 + 1) * 256
    pyramid = (512 + 1024 + 512 + 256 + 4) * 256 + 3 * (9 * 256 + 1) * 256
    assert count(neck) == extra + pyramid + 512
    assert round((count(backbone, neck) + (9 * 256 + 1) * 3 * (21 + 4)) / 1e6, 2) == 24.82


def test_normed_vgg_trains_every_layer_from_scratch():
    backbone = VGG(batch_norm=True)
    neck = NECKS["extended_fpn"](backbone.channels, channels=8, block="ssd_norm", widths=(512, 256), l2_scale=20)
    backbone.train(), neck.train()
    sum(level.square().mean() for level in neck(backbone(torch.randn(2, 3, 64, 64)))).backward()
    for name, value in [*backbone.named_parameters(), *neck.named_parameters()]:
        assert value.grad is not None and value.grad.isfinite().all(), name
        assert value.dim() == 1 or value.grad.any(), name
