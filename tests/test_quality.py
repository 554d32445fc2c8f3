import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from qrepro.box_coder import Delta, Distance, Gaussian, General, LogDistance, PointSet
from qrepro.quality import Composed, ConvQuality, Describe, EstimatorContext, NoQuality, Sampled, Statistics
from qrepro.records.score_rule import Rule
from qrepro.sampling import Reader, Star


def test_iou_layer_starts_at_one_half():
    context = EstimatorContext(8, 9)
    layer = ConvQuality(context)
    logit = layer(torch.zeros(2, 8, 4, 5), torch.zeros(2, 36, 4, 5), None)
    assert logit.shape == (2, 9, 4, 5)
    assert logit.sigmoid().unique().tolist() == [0.5]
    assert NoQuality(context)(torch.zeros(1), torch.zeros(1), None) is None
    assert math.isclose(layer.conv.weight.std().item(), 0.01, rel_tol=0.2)


@pytest.mark.parametrize(
    "name, needs",
    [
        ("class", False),
        ("power-1", False),
        ("product", True),
        ("oracle-product", False),
        ("oracle@positives-product", True),  # locations without a ground truth keep their estimate
        ("oracle@positives+zero-product", False),
        ("oracle-box-class", False),
        ("oracle-box+zero-product", True),
    ],
)
def test_which_rules_need_an_estimate(name, needs):
    assert Rule.parse(name).needs_estimate is needs


# Statistics of side distributions

FAR = -1e4  # logit of a bin without probability
ONE, TWO, FLAT = (1.0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0.75, 0.25, 0, 0, 0, 0), (0.125,) * 8
MANY = (0, 1 / 16, 1 / 8, 1 / 2, 1 / 4, 1 / 32, 1 / 32, 0)


def side(*probability, shift=0):
    """Logits of a distribution, moved along the bins."""
    return torch.tensor(probability).clamp(min=1e-30).log().clamp(min=FAR).roll(shift)


def sides(*distributions):
    """A raw output (1, 4 * bins, 1, 1) of the distributions of left, top, right, bottom."""
    return torch.cat([side(*one) for one in distributions])[None, :, None, None]


def describe(k=4, top=True, mean=True, variance=True, gradient=True, bins=8, per_cell=1) -> Describe:
    return Describe(EstimatorContext(3, per_cell, bins), k, top, mean, variance, gradient)


def test_statistics_of_simple_distributions_by_hand():
    """Of each side in turn the four largest, falling, then their mean and their variance as a population."""
    found = describe()(sides(ONE, TWO, FLAT, MANY)).flatten()
    expected = [
        *(1, 0, 0, 0, 1 / 4, (9 / 16 + 3 * 1 / 16) / 4),
        *(3 / 4, 1 / 4, 0, 0, 1 / 4, (1 / 4 + 0 + 1 / 16 + 1 / 16) / 4),
        *(1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 0),
        # mean 15/64; from it 17/64, 1/64, -7/64, -11/64: squares 289 + 1 + 49 + 121 = 460 of 4096
        *(1 / 2, 1 / 4, 1 / 8, 1 / 16, 15 / 64, 460 / 4096 / 4),
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "parts, of_each",
    [
        ((True, False, False), (1 / 2, 1 / 4)),
        ((False, True, False), (3 / 8,)),
        ((False, False, True), (1 / 64,)),  # 1/8 from the mean on both sides
        ((False, True, True), (3 / 8, 1 / 64)),
        ((True, False, True), (1 / 2, 1 / 4, 1 / 64)),
        ((True, True, True), (1 / 2, 1 / 4, 3 / 8, 1 / 64)),
    ],
)
def test_which_statistics_enter(parts, of_each):
    """Table 1 of GFLv2: 4 numbers a side for each that is on, k for the largest."""
    module = describe(2, *parts)
    found = module(sides(MANY, MANY, MANY, MANY))
    assert found.shape == (1, module.channels, 1, 1) == (1, 4 * len(of_each), 1, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor(of_each * 4))


def test_statistics_do_not_see_where_a_distribution_stands():
    """Figure 4 of GFLv2."""
    module = describe(3)
    expected = module(sides(MANY, TWO, ONE, MANY))
    for shift in range(1, 8):
        moved = torch.cat([side(*one, shift=shift) for one in (MANY, TWO, ONE, MANY)])[None, :, None, None]
        torch.testing.assert_close(module(moved), expected)
    mirrored = sides(MANY[::-1], TWO[::-1], ONE[::-1], MANY[::-1])
    torch.testing.assert_close(module(mirrored), expected)


def test_with_k_1_the_mean_is_the_largest_itself():
    found = describe(1)(sides(ONE, TWO, FLAT, MANY)).reshape(4, 3)
    assert found[:, 0].tolist() == pytest.approx([1, 3 / 4, 1 / 8, 1 / 2])
    assert torch.equal(found[:, 0], found[:, 1]) and found[:, 2].abs().max() == 0


def test_with_all_bins_the_mean_is_the_same_for_all():
    """1 / (n + 1), which is why the mean is of the k largest only."""
    found = describe(8, top=False, variance=False)(sides(ONE, TWO, FLAT, MANY))
    torch.testing.assert_close(found.flatten(), torch.full((4,), 1 / 8))


def wild(module, seed=0):
    """The module with weights that are not small, so that what comes out depends on all of it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def test_estimate_from_statistics_location_by_location():
    """I = W2 ReLU(W1 F + b1) + b2 as sums over F, with the largest found by sorting."""
    k, bins = 3, 5
    module = wild(Statistics(EstimatorContext(7, 1, bins), k=k, hidden=6))
    raw = torch.randn(2, 4 * bins, 2, 3, generator=torch.Generator().manual_seed(1))
    found = module(None, raw, None)
    assert found.shape == (2, 1, 2, 3)
    inner, outer = (layer.weight.detach()[:, :, 0, 0] for layer in (module.inner, module.outer))
    for b in range(2):
        for y in range(2):
            for x in range(3):
                statistics = []
                for one in range(4):
                    e = [math.exp(v) for v in raw[b, one * bins : (one + 1) * bins, y, x].tolist()]
                    largest = sorted((v / sum(e) for v in e), reverse=True)[:k]
                    statistics += [*largest, sum(largest) / k]
                hidden = (inner @ torch.tensor(statistics) + module.inner.bias.detach()).clamp(min=0)
                expected = outer[0] @ hidden + module.outer.bias.detach()[0]
                assert found[b, 0, y, x].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)


def test_priors_of_a_cell_are_described_one_by_one_with_the_same_weights():
    both = wild(Statistics(EstimatorContext(7, 2, 5), k=3, hidden=6, variance=True))
    alone = Statistics(EstimatorContext(7, 1, 5), k=3, hidden=6, variance=True)
    alone.load_state_dict(both.state_dict())
    raw = torch.randn(3, 2 * 20, 2, 4, generator=torch.Generator().manual_seed(1))
    found = both(None, raw, None)
    assert found.shape == (3, 2, 2, 4)
    torch.testing.assert_close(found, torch.cat([alone(None, part, None) for part in raw.chunk(2, 1)], 1))


@pytest.mark.parametrize("gradient", [True, False])
def test_gradient_into_the_distributions_only_when_asked(gradient):
    """The estimate's own layers learn either way."""
    for module in (
        Statistics(EstimatorContext(7, 1, 5), gradient=gradient),
        Composed(EstimatorContext(7, 1, 5), gradient=gradient),
    ):
        raw = torch.randn(2, 20, 2, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        wild(module)(None, raw, None).square().sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())
        assert (raw.grad is not None and bool(raw.grad.any())) is gradient


@pytest.mark.parametrize(
    "k, hidden, parts, count",
    [
        (4, 64, {}, 20 * 64 + 64 + 64 + 1),
        (4, 64, {"variance": True}, 24 * 64 + 64 + 64 + 1),
        (4, 64, {"mean": False}, 16 * 64 + 64 + 64 + 1),
        (4, 64, {"top": False}, 4 * 64 + 64 + 64 + 1),
        (16, 8, {}, 68 * 8 + 8 + 8 + 1),
    ],
)
def test_parameters_of_the_estimate(k, hidden, parts, count):
    """1,409 of the paper's choice with biases: GFLv2 speaks of thousands."""
    module = Statistics(EstimatorContext(256, 1, 17), k=k, hidden=hidden, **parts)
    assert sum(p.numel() for p in module.parameters()) == count
    if (k, hidden, parts) == (4, 64, {}):
        assert count == 1409


def test_the_estimate_starts_near_one_half():
    raw = torch.randn(2, 68, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    module = Statistics(EstimatorContext(256, 1, 17))
    assert (module(None, raw, None).sigmoid() - 0.5).abs().max() < 0.01
    assert module.inner.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert module.outer.bias.item() == 0 and module.inner.bias.abs().max() == 0


@pytest.mark.parametrize("build", [Statistics, Composed])
@pytest.mark.parametrize("k", [0, 6, -1])
def test_more_than_all_bins_or_none_are_refused(build, k):
    with pytest.raises(ValueError, match="largest of 5 probabilities"):
        build(EstimatorContext(7, 1, 5), k=k)
    build(EstimatorContext(7, 1, 5), k=5)


def test_no_statistics_are_refused():
    with pytest.raises(ValueError, match="at least one of top, mean and variance"):
        Statistics(EstimatorContext(7, 1, 5), top=False, mean=False)


def test_statistics_of_a_box_without_distributions_are_refused():
    with pytest.raises(ValueError, match="general"):
        Statistics(EstimatorContext(7, 9, 0))


@pytest.mark.parametrize("box", [Distance(), Gaussian(), PointSet(), LogDistance(), Delta()])
def test_statistics_of_a_box_without_distributions_are_refused_whatever_k(box):
    """They have 4, 8 and 18 numbers, but no bins."""
    with pytest.raises(ValueError, match="general"):
        Statistics(EstimatorContext(7, 1, box.bins), k=1)
    assert General(n=7).bins == 8


# Other forms


def test_composed_form_is_a_layer_on_the_statistics():
    context = EstimatorContext(7, 1, 5)
    module = wild(Composed(context, k=3, d=6))
    raw = torch.randn(2, 20, 2, 3, generator=torch.Generator().manual_seed(1))
    found = module(None, raw, None)
    assert found.shape == (2, 6, 2, 3) and module.appended == 6 and not module.estimates
    statistics = describe(3, variance=False, bins=5)(raw)
    expected = F.linear(statistics.movedim(1, -1), module.layer.weight[:, :, 0, 0], module.layer.bias).relu()
    torch.testing.assert_close(found, expected.movedim(-1, 1))
    assert (found == 0).any() and (found > 0).any()
    paper = Composed(EstimatorContext(256, 1, 17), k=4, d=64)
    assert sum(p.numel() for p in paper.parameters()) == 20 * 64 + 64


def test_composed_form_refuses_several_priors_a_cell():
    with pytest.raises(ValueError, match="one prior a cell, this host has 9"):
        Composed(EstimatorContext(7, 9, 5))


def test_estimate_from_sampled_features_by_torch():
    """Without distances every point of a star is the cell: the 3x3 weights add up to those of one 1x1 layer."""
    module = wild(Sampled(EstimatorContext(5, 1, 0, partial(Reader, Star)), hidden=6))
    features = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    found = module(features, torch.zeros(2, 4, 3, 4), lambda: torch.zeros(2, 4, 3, 4))
    assert found.shape == (2, 1, 3, 4)
    weight = module.inner.layer.weight.sum((2, 3), keepdim=True)
    hidden = F.conv2d(features, weight, module.inner.bias).relu()
    expected = F.conv2d(hidden, module.outer.weight, module.outer.bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [EstimatorContext(5), EstimatorContext(5, 9, 0, partial(Reader, Star))])
def test_sampled_features_need_a_place_to_read_at_and_one_prior(context):
    with pytest.raises(ValueError, match=r"sampling.quality"):
        Sampled(context)
