"""Multi-scale testing: several views of an image are one set of outputs in one frame."""

from dataclasses import replace

import pytest
import torch

from qrepro.engine.datasets import evaluation_views, open_split
from qrepro.engine.predict import predict
from qrepro.ranking import DenseOutputs, concatenate_views
from qrepro.recipe.axes import resolve
from qrepro.recipe.build import build_detector
from qrepro.records.score_rule import Rule

CPU = torch.device("cpu")


def test_views_are_moved_into_the_frame_of_the_first():
    """An image of 100 x 50: first as it is, then mirrored at twice the size, where x = 180 is x = 10 here."""
    first = DenseOutputs(
        torch.tensor([[[0.1, 0.2]]]), torch.tensor([[[0.3]]]), torch.tensor([[[10.0, 5, 30, 25]]]),
        torch.tensor([[20.0, 15]]), torch.tensor([1]), torch.ones(1, 2),
    )  # fmt: skip
    mirrored = DenseOutputs(
        torch.tensor([[[0.4, 0.5]]]), torch.tensor([[[0.6]]]), torch.tensor([[[140.0, 10, 180, 50]]]),
        torch.tensor([[160.0, 30]]), torch.tensor([0]), torch.full((1, 2), 2.0),
    )  # fmt: skip
    moved = mirrored.mirrored(torch.tensor(200.0)).at_scale(first.scale)
    joined = concatenate_views([first, moved])
    assert joined.boxes.tolist() == [[[10, 5, 30, 25], [10, 5, 30, 25]]]
    assert joined.centres.tolist() == [[20, 15], [20, 15]]
    assert joined.level.tolist() == [1, 2]  # the first has levels 0 and 1, so that the second's 0 is 2
    torch.testing.assert_close(joined.log_class, torch.tensor([[[0.1, 0.2], [0.4, 0.5]]]))
    torch.testing.assert_close(joined.log_quality, torch.tensor([[[0.3], [0.6]]]))
    assert concatenate_views([replace(view, log_quality=None) for view in (first, moved)]).log_quality is None


def found(shapes, *overrides):
    torch.manual_seed(0)
    recipe = resolve("gflv2/gflv2", "shapes", ["data.limit=3", "postprocess.score_thr=0", *overrides])
    annotations = open_split(recipe, shapes, recipe.data.eval)
    outputs = predict(recipe, build_detector(recipe), annotations, [Rule.parse("product")], device=CPU, batch=3)
    return recipe, annotations, outputs


def test_one_view_of_the_usual_size_changes_nothing_and_a_mirrored_one_adds_detections(shapes):
    _, _, plain = found(shapes)
    recipe, annotations, same = found(shapes, 'image.tta={"short": [128], "long": 160, "flip": false}')
    assert len(evaluation_views(recipe, annotations).views) == 1
    one, other = plain.detections[Rule.parse("product")], same.detections[Rule.parse("product")]
    assert one["image_id"].equals(other["image_id"]) and one["score"].to_numpy() == pytest.approx(other["score"])
    recipe, annotations, both = found(shapes, 'image.tta={"short": [128, 96], "long": 160}')
    assert [view.mirrored for view in evaluation_views(recipe, annotations).views] == [False, True, False, True]
    more = both.detections[Rule.parse("product")]
    assert set(more["level"]) - set(one["level"])  # of further views
    assert len(both.positives) == len(plain.positives)  # labels are those of the first view
    x2, width = more["x2"].max(), max(image.width for image in annotations.images)
    assert more["x1"].min() >= -1e-3 and x2 <= width + 1e-3
