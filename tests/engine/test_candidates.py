"""Stored candidates: what is kept, and that ranking them again is the same as ranking the dense outputs."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from qrepro.engine.candidates import CandidateFilter, StoredCandidates, gather, rescore
from qrepro.oracle import LocationGroundTruth
from qrepro.postprocess import PostProcess
from qrepro.ranking import DenseOutputs, rank
from qrepro.records.run_folder import CANDIDATE_COLUMNS
from qrepro.records.score_rule import Rule

R, C = 240, 4
LEVEL = torch.tensor([0] * 160 + [1] * 60 + [2] * 20)


def test_gather_by_hand():
    scores = torch.tensor([[0.3, 0.1], [0.2, 0.5], [0.05, 0.2]]).log()

    def stored(kept):
        location, label, rest = gather(scores, kept)
        return list(zip(location.tolist(), label.tolist(), strict=True)), pytest.approx(math.exp(rest))

    assert stored(CandidateFilter(0.1, None)) == ([(0, 0), (1, 0), (1, 1), (2, 1)], 0.1)  # 0.1 is not above 0.1
    assert stored(CandidateFilter(0.0, 2)) == (
        [(0, 0), (1, 1)],
        0.3,
    )  # the others may have as much as the last one stored
    assert stored(CandidateFilter(0.0, 3)) == ([(0, 0), (1, 0), (1, 1)], 0.2)  # of equals the first
    assert stored(CandidateFilter(0.9, 2)) == ([], 0.9)


@pytest.mark.parametrize("bad", [{"score": -0.1}, {"score": 1.0}, {"limit": 0}])
def test_filters_that_make_no_sense(bad):
    with pytest.raises(ValueError, match=r"threshold|limit"):
        CandidateFilter(**bad)


def network(seed):
    """Dense outputs of one image as a network gives them: scores mostly low, boxes in clusters."""
    generator = torch.Generator().manual_seed(seed)
    cls = F.logsigmoid(torch.randn(R, C, generator=generator) * 2 - 3)
    quality = F.logsigmoid(torch.randn(R, generator=generator) * 2)
    corner = torch.rand(R, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(R, 2, generator=generator)], 1)
    truth = torch.rand(R, generator=generator) ** 2
    return cls, quality, boxes, truth


def store(images, floor):
    frames, floors = [], {}
    for image, (cls, quality, boxes, truth) in images.items():
        location, label, floors[image] = gather(cls, floor)
        values = {
            "image_id": np.full(len(location), image),
            "category_id": label.numpy() * 3 + 1,
            **dict(zip(("x1", "y1", "x2", "y2"), boxes[location].T.numpy(), strict=True)),
            "log_class": cls[location, label].numpy(),
            "log_quality": quality[location].numpy(),
            "iou_truth": truth[location].numpy(),
            "level": LEVEL[location].numpy().astype(np.int8),
            "location": location.numpy().astype(np.int32),
        }
        frames.append(pd.DataFrame(values))
    return StoredCandidates(pd.concat(frames, ignore_index=True)[CANDIDATE_COLUMNS], floors)


def expected(image, rule, process):
    """(class, x1, score) of the detections of the dense outputs."""
    cls, quality, boxes, truth = image
    centres = torch.zeros(R, 2)
    outputs = DenseOutputs(cls[None], quality[None, :, None], boxes[None], centres, LEVEL, torch.ones(1, 2))
    iou = truth[None, :, None]
    (kept,) = rank(outputs, rule, process, lambda oracle: LocationGroundTruth(iou, iou > 0))
    return list(zip(kept.label.tolist(), boxes[kept.location, 0].tolist(), kept.score.tolist(), strict=True))


RULES = ["class", "product", "power-0.2", "power-0.5", "power-0.8", "power-0", "oracle-product", "oracle-power-0.3"]


@pytest.mark.parametrize("candidates", ["locations", "pairs"])
@pytest.mark.parametrize("suppression", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("on", ["fused", "class"])
@pytest.mark.parametrize(
    "floor",
    [CandidateFilter(0.0, None), CandidateFilter(0.02, None), CandidateFilter(0.1, 150), CandidateFilter(0.3, None)],
)
def test_what_is_certain_equals_the_dense_outputs(candidates, suppression, on, floor):
    images = {image: network(image) for image in (5, 3, 8)}
    options = {"score_thr_on": on, "rank_by": on, "max_per_img": 25, "nms_pre": 40}
    process = PostProcess(candidates=candidates, suppression=suppression, **options)
    stored = store(images, floor)
    certain = 0
    for rule, found in rescore(stored, [Rule.parse(name) for name in RULES], process):
        for image in found.certain:
            mine = found.detections[found.detections["image_id"] == image]
            got = list(zip((mine["category_id"] - 1) // 3, mine["x1"], mine["score"], strict=True))
            assert got == expected(images[image], rule, process), rule.name
        if rule.name == "class" and floor.score <= 0.05 and floor.limit is None:
            assert found.certain == [5, 3, 8]
        certain += len(found.certain)
    if floor.score == 0 and floor.limit is None:
        # alpha 0: a class score of 0 ranks as high as any, unless the threshold is on it
        assert certain == 3 * (len(RULES) - (on == "fused"))


def test_a_floor_that_hides_detections_is_never_called_certain():
    """One candidate of score 0.2 lies below the floor of 0.3: with a threshold that lets it in, nothing is certain."""
    cls, quality, boxes, truth = network(0)
    cls[:], quality[:] = math.log(0.01), math.log(0.9)
    cls[7, 2], cls[100, 1] = math.log(0.2), math.log(0.6)
    stored = store({1: (cls, quality, boxes, truth)}, CandidateFilter(0.3, None))
    assert len(stored.rows) == 1
    for threshold, certain in ((0.05, []), (0.31, [1])):
        ((_, found),) = rescore(stored, [Rule()], PostProcess(score_thr=threshold))
        assert found.certain == certain
    ((_, found),) = rescore(stored, [Rule()], PostProcess(max_per_img=1))
    assert found.certain == [1]  # one is kept, and it is better than the floor


def test_detections_of_score_zero_settle_nothing():
    """The true IoU of all is 0, so all fused scores are; a threshold on the class lets them be detections."""
    cls, quality, boxes, _ = network(0)
    stored = store({1: (cls, quality, boxes, torch.zeros(R))}, CandidateFilter(0.1, None))
    process = PostProcess(score_thr=0.05, score_thr_on="class", max_per_img=2)
    ((_, found),) = rescore(stored, [Rule.parse("oracle-product")], process)
    assert found.detections["score"].tolist() == [0.0, 0.0]
    assert found.certain == []


def test_pictures_without_candidates_count(tmp_path):
    stored = store({4: network(4)}, CandidateFilter(0.02, None))
    empty = StoredCandidates(stored.rows[:0], {4: math.log(0.02), 9: math.log(0.02)})
    empty.write(tmp_path / "c.parquet")
    ((_, found),) = rescore(StoredCandidates.read(tmp_path / "c.parquet"), [Rule()], PostProcess())
    assert len(found.detections) == 0
    assert found.certain == [4, 9]
    assert list(found.detections) == [*CANDIDATE_COLUMNS[:6], "score", "class_score", "quality", "iou_truth", "level"]


def test_files_keep_every_bit(tmp_path):
    stored = store({4: network(4), 2: network(2)}, CandidateFilter(0.02, 100))
    path = tmp_path / "candidates.parquet"
    stored.write(path)
    again = StoredCandidates.read(path)
    pd.testing.assert_frame_equal(again.rows, stored.rows)
    assert again.unstored == stored.unstored


def test_wrong_files(tmp_path):
    with pytest.raises(ValueError, match="no stored candidates"):
        StoredCandidates.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match="not a Parquet file"):
        StoredCandidates.read(tmp_path / "text.parquet")
    pd.DataFrame({"image_id": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="category_id is missing"):
        StoredCandidates.read(tmp_path / "other.parquet")
    stored = store({4: network(4)}, CandidateFilter(0.02, None))
    stored.rows.to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match="bound on unstored scores is missing"):
        StoredCandidates.read(tmp_path / "bare.parquet")


def test_rules_that_candidates_cannot_answer():
    stored = store({4: network(4)}, CandidateFilter(0.02, None))
    with pytest.raises(ValueError, match="needs the dense outputs"):
        next(rescore(stored, [Rule.parse("oracle-box-class")], PostProcess()))
    without = StoredCandidates(stored.rows.assign(log_quality=math.nan), stored.unstored)
    with pytest.raises(ValueError, match="no quality estimate"):
        next(rescore(without, [Rule.parse("product")], PostProcess()))
    mixed = StoredCandidates(pd.concat([stored.rows, stored.rows.assign(image_id=7), stored.rows]), {4: 0.02, 7: 0.02})
    with pytest.raises(ValueError, match="stand together"):
        next(rescore(mixed, [Rule()], PostProcess()))
