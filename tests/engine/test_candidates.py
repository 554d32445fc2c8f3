"""Stored candidates: what is kept, and that ranking them again is the same as ranking the dense outputs."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from qrepro.engine.candidates import COLUMNS, Floor, Stored, gather, rescore
from qrepro.postprocess import PostProcess
from qrepro.quality import Rule, fuse

R, C = 240, 4
LEVEL = torch.tensor([0] * 160 + [1] * 60 + [2] * 20)


def test_gather_by_hand():
    scores = torch.tensor([[0.3, 0.1], [0.2, 0.5], [0.05, 0.2]])

    def stored(floor):
        location, label, rest = gather(scores, floor)
        return list(zip(location.tolist(), label.tolist(), strict=True)), pytest.approx(rest)

    assert stored(Floor(0.1, None)) == ([(0, 0), (1, 0), (1, 1), (2, 1)], 0.1)  # 0.1 is not above 0.1
    assert stored(Floor(0.0, 2)) == ([(0, 0), (1, 1)], 0.3)  # the others may have as much as the last one stored
    assert stored(Floor(0.0, 3)) == ([(0, 0), (1, 0), (1, 1)], 0.2)  # of equals the first
    assert stored(Floor(0.9, 2)) == ([], 0.9)


@pytest.mark.parametrize("bad", [{"score": -0.1}, {"score": 1.0}, {"limit": 0}])
def test_floors_that_make_no_sense(bad):
    with pytest.raises(ValueError, match=r"floor|limit"):
        Floor(**bad)


def network(seed):
    """Dense outputs of one picture as a network gives them: scores mostly low, boxes in clusters."""
    generator = torch.Generator().manual_seed(seed)
    cls = (torch.randn(R, C, generator=generator) * 2 - 3).sigmoid()
    quality = (torch.randn(R, generator=generator) * 2).sigmoid()
    corner = torch.rand(R, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(R, 2, generator=generator)], 1)
    truth = torch.rand(R, generator=generator) ** 2
    return cls, quality, boxes, truth


def store(pictures, floor):
    frames, floors = [], {}
    for image, (cls, quality, boxes, truth) in pictures.items():
        location, label, floors[image] = gather(cls, floor)
        values = {
            "image_id": np.full(len(location), image),
            "category_id": label.numpy() * 3 + 1,
            **dict(zip(("x1", "y1", "x2", "y2"), boxes[location].T.numpy(), strict=True)),
            "class_score": cls[location, label].numpy(),
            "quality": quality[location].numpy(),
            "iou_truth": truth[location].numpy(),
            "level": LEVEL[location].numpy().astype(np.int8),
            "location": location.numpy().astype(np.int32),
        }
        frames.append(pd.DataFrame(values))
    return Stored(pd.concat(frames, ignore_index=True)[COLUMNS], floors)


def expected(picture, rule, process):
    """(class, x1, score) of the detections of the dense outputs."""
    cls, quality, boxes, truth = picture
    score = fuse(cls.log()[None], (truth if rule.oracle else quality).log()[None], rule)
    (kept,) = process(score, cls.log()[None], boxes[None], LEVEL)
    return list(zip(kept.label.tolist(), boxes[kept.location, 0].tolist(), kept.score.tolist(), strict=True))


RULES = ["class", "product", "power-0.2", "power-0.5", "power-0.8", "power-0", "oracle-product", "oracle-power-0.3"]


@pytest.mark.parametrize("candidates", ["locations", "pairs"])
@pytest.mark.parametrize("suppression", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("on", ["fused", "class"])
@pytest.mark.parametrize("floor", [Floor(0.0, None), Floor(0.02, None), Floor(0.1, 150), Floor(0.3, None)])
def test_what_is_certain_equals_the_dense_outputs(candidates, suppression, on, floor):
    pictures = {image: network(image) for image in (5, 3, 8)}
    options = {"threshold_on": on, "limit_by": on, "keep": 25, "per_level": 40}
    process = PostProcess(candidates=candidates, suppression=suppression, **options)
    stored = store(pictures, floor)
    certain = 0
    for rule, found in rescore(stored, [Rule.parse(name) for name in RULES], process):
        for image in found.certain:
            mine = found.detections[found.detections["image_id"] == image]
            got = list(zip((mine["category_id"] - 1) // 3, mine["x1"], mine["score"], strict=True))
            assert got == expected(pictures[image], rule, process), rule.name
        if rule.name == "class" and floor.score <= 0.05 and floor.limit is None:
            assert found.certain == [5, 3, 8]
        certain += len(found.certain)
    if floor.score == 0 and floor.limit is None:
        # alpha 0: a class score of 0 ranks as high as any, unless the threshold is on it
        assert certain == 3 * (len(RULES) - (on == "fused"))


def test_a_floor_that_hides_detections_is_never_called_certain():
    """One candidate of score 0.2 lies below the floor of 0.3: with a threshold that lets it in, nothing is certain."""
    cls, quality, boxes, truth = network(0)
    cls[:], quality[:] = 0.01, 0.9
    cls[7, 2], cls[100, 1] = 0.2, 0.6
    stored = store({1: (cls, quality, boxes, truth)}, Floor(0.3, None))
    assert len(stored.rows) == 1
    for threshold, certain in ((0.05, []), (0.31, [1])):
        ((_, found),) = rescore(stored, [Rule()], PostProcess(threshold=threshold))
        assert found.certain == certain
    ((_, found),) = rescore(stored, [Rule()], PostProcess(keep=1))
    assert found.certain == [1]  # one is kept, and it is better than the floor


def test_detections_of_score_zero_settle_nothing():
    """The true IoU of all is 0, so all fused scores are; a threshold on the class lets them be detections."""
    cls, quality, boxes, _ = network(0)
    stored = store({1: (cls, quality, boxes, torch.zeros(R))}, Floor(0.1, None))
    process = PostProcess(threshold=0.05, threshold_on="class", keep=2)
    ((_, found),) = rescore(stored, [Rule.parse("oracle-product")], process)
    assert found.detections["score"].tolist() == [0.0, 0.0]
    assert found.certain == []


def test_pictures_without_candidates_count(tmp_path):
    stored = store({4: network(4)}, Floor(0.02, None))
    empty = Stored(stored.rows[:0], {4: 0.02, 9: 0.02})
    empty.write(tmp_path / "c.parquet")
    ((_, found),) = rescore(Stored.read(tmp_path / "c.parquet"), [Rule()], PostProcess())
    assert len(found.detections) == 0
    assert found.certain == [4, 9]
    assert list(found.detections) == [*COLUMNS[:6], "score", *COLUMNS[6:-1]]


def test_files_keep_every_bit(tmp_path):
    stored = store({4: network(4), 2: network(2)}, Floor(0.02, 100))
    path = tmp_path / "candidates.parquet"
    stored.write(path)
    again = Stored.read(path)
    pd.testing.assert_frame_equal(again.rows, stored.rows)
    assert again.floors == stored.floors


def test_wrong_files(tmp_path):
    with pytest.raises(ValueError, match="no stored candidates"):
        Stored.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match="not a Parquet file"):
        Stored.read(tmp_path / "text.parquet")
    pd.DataFrame({"image_id": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="category_id is missing"):
        Stored.read(tmp_path / "other.parquet")
    stored = store({4: network(4)}, Floor(0.02, None))
    stored.rows.to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match="floor is missing"):
        Stored.read(tmp_path / "bare.parquet")


def test_rules_that_candidates_cannot_answer():
    stored = store({4: network(4)}, Floor(0.02, None))
    with pytest.raises(ValueError, match="needs the dense outputs"):
        next(rescore(stored, [Rule.parse("oracle-box-class")], PostProcess()))
    without = Stored(stored.rows.assign(quality=math.nan), stored.floors)
    with pytest.raises(ValueError, match="no quality estimate"):
        next(rescore(without, [Rule.parse("product")], PostProcess()))
    mixed = Stored(pd.concat([stored.rows, stored.rows.assign(image_id=7), stored.rows]), {4: 0.02, 7: 0.02})
    with pytest.raises(ValueError, match="stand together"):
        next(rescore(mixed, [Rule()], PostProcess()))
