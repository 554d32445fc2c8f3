"""COCO's greedy matching of detections to truths, once, and kept: what AP, LRP, calibration and bootstrap read.

The rules are those of pycocotools. Per image and category, in falling order of score, a detection takes the free truth
that it overlaps most, if by the threshold or more; counted truths come before ignored ones (crowds, difficult objects,
truths outside the area range), and a crowd may be taken again. A detection that took an ignored truth, or took none and
lies outside the area range itself, counts neither way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from qrepro.metrics.area_ranges import SIZES, areas, outside
from qrepro.metrics.iou import pairs_by_key
from qrepro.records.detections import check_detections
from qrepro.records.ground_truth import BOX, Truths

AREAS = areas(SIZES["coco"])  # px^2 of the truth's `area`, both ends included
COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # pycocotools' own values, to the last bit


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections ranked per category, with the truth that each took. T thresholds, N detections, G counted truths.

    Ordered by category, then by falling score, equal scores by image id and then by row: pycocotools' order.

    thresholds: (T,).
    row: (N,) row in the frame of detections; those beyond max_dets of their image and category are left out.
    category, image: (N,) indices into `truths.categories` and into `truths.images`.
    score: (N,).
    truth: (T, N) row of the annotation taken, -1 for none.
    iou: (T, N) IoU with it, 0 for none.
    ignored: (T, N) whether it counts neither as true nor as false positive.
    truth_category, truth_image: (G,) indices of the truths that count.
    categories, images: their numbers in the ground truth.
    """

    thresholds: tuple[float, ...]
    row: np.ndarray
    category: np.ndarray
    image: np.ndarray
    score: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    ignored: np.ndarray
    truth_category: np.ndarray
    truth_image: np.ndarray
    categories: int
    images: int

    @property
    def hit(self) -> np.ndarray:
        """(T, N) true positives: took a truth that counts."""
        return (self.truth >= 0) & ~self.ignored


def match(
    truths: Truths,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    *,
    area: tuple[float, float] = AREAS["all"],
    max_dets: int = 100,
) -> Matches:
    """Match every detection at every threshold.

    truths: iscrowd = 1 marks regions where detections count neither way.
    detections: frame with image_id, category_id, x1, y1, x2, y2 (px of the original image) and score.
    thresholds: IoU in [0, 1]; 0 takes any truth that is overlapped at all.
    area: truths outside this range of px^2, both ends included, are ignored.
    max_dets: best detections kept per image and category.
    """
    check_detections(detections, truths)
    thresholds = tuple(float(value) for value in thresholds)
    if not thresholds or not all(0 <= value <= 1 for value in thresholds):
        raise ValueError(f"IoU thresholds must lie in [0, 1], got {list(thresholds)}")
    if max_dets < 1:
        raise ValueError(f"max_dets must be at least 1, got {max_dets}")
    ranked = _rank(truths, detections, max_dets)
    found, objects = detections.iloc[ranked["row"]], truths.annotations
    sizes = _sides(found).prod(axis=1)
    ignorable = (objects["iscrowd"].to_numpy() == 1) | outside(objects["area"].to_numpy(), area)
    truth, iou = _take(found, objects, ignorable, ranked["place"].to_numpy(), thresholds)
    ignored = np.where(truth >= 0, ignorable[truth] if len(objects) else False, outside(sizes, area))
    counted = objects[~ignorable]
    return Matches(
        thresholds=thresholds,
        row=ranked["row"].to_numpy(),
        category=ranked["category"].to_numpy(),
        image=ranked["image"].to_numpy(),
        score=ranked["score"].to_numpy(),
        truth=truth,
        iou=iou,
        ignored=ignored,
        truth_category=_index(counted["category_id"], truths.categories["id"]),
        truth_image=_index(counted["image_id"], truths.images["id"]),
        categories=len(truths.categories),
        images=len(truths.images),
    )


def _rank(truths: Truths, detections: pd.DataFrame, max_dets: int) -> pd.DataFrame:
    """Rows in the order of `Matches`, with `place`: the rank of a detection within its image and category, from 0."""
    frame = pd.DataFrame(
        {
            "row": np.arange(len(detections)),
            "category": _index(detections["category_id"], truths.categories["id"]),
            "image": _index(detections["image_id"], truths.images["id"]),
            "score": detections["score"].to_numpy(np.float64),
        }
    )
    image_id = detections["image_id"].to_numpy()
    by_image = np.lexsort((-frame["score"], image_id, frame["category"]))  # stable: rows keep their order
    frame, image_id = frame.iloc[by_image], image_id[by_image]
    new = np.diff(frame["category"], prepend=-1).astype(bool) | np.diff(image_id, prepend=-1).astype(bool)
    if len(new):
        new[0] = True
    start = np.maximum.accumulate(np.where(new, np.arange(len(frame)), 0))
    frame["place"] = np.arange(len(frame)) - start
    frame = frame[frame["place"] < max_dets]
    return frame.iloc[np.lexsort((-frame["score"], frame["category"]))]


def _take(
    found: pd.DataFrame,
    objects: pd.DataFrame,
    ignorable: np.ndarray,
    place: np.ndarray,
    thresholds: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """(T, N) row of the truth that each detection takes, -1 for none, and (T, N) its IoU.

    Detections of one place in their image and category compete with none of the same place elsewhere: the loop is over
    places, all images and categories at once.
    """
    floors = np.minimum(np.array(thresholds), 1 - 1e-10)  # pycocotools' own margin for an IoU of 1
    crowd = objects["iscrowd"].to_numpy() == 1
    left, right, overlap = _overlapping(found, objects, crowd, floors.min())
    truth = np.full((len(floors), len(found)), -1)
    iou = np.zeros((len(floors), len(found)))
    free = np.ones((len(objects), len(floors)), dtype=bool)
    # within a place by detection, then from least to most wanted, so that the last allowed pair is the one taken
    order = np.lexsort((right, overlap, ~ignorable[right], left, place[left]))
    left, right, overlap = left[order], right[order], overlap[order]
    bounds = np.flatnonzero(np.diff(place[left])) + 1
    for block in np.split(np.arange(len(left)), bounds) if len(left) else []:
        rows, others, values = left[block], right[block], overlap[block]
        allowed = (values[:, None] >= floors) & (free[others] | crowd[others, None])
        last = np.where(allowed, np.arange(len(block))[:, None], -1)
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        chosen = np.maximum.reduceat(last, first)  # (detections of this place, T)
        which, t = np.nonzero(chosen >= 0)
        pair = chosen[which, t]
        truth[t, rows[first][which]], iou[t, rows[first][which]] = others[pair], values[pair]
        free[others[pair], t] = False
    return truth, iou


def _overlapping(
    found: pd.DataFrame, objects: pd.DataFrame, crowd: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (detection, truth, IoU) of one image and category that overlap, by `floor` or more; the rest match never.

    The IoU with a crowd is the share of the detection that lies in it. Computed from x, y, width, height in the order
    of pycocotools, so that an IoU at a threshold falls on the same side.
    """
    first, second = found[BOX[:2]].to_numpy(np.float64), objects[BOX[:2]].to_numpy(np.float64)
    first_sides, second_sides = _sides(found), _sides(objects)
    parts = []
    for rows, others in pairs_by_key(found, objects, ["image_id", "category_id"]):
        a, b, a_sides, b_sides = first[rows], second[others], first_sides[rows], second_sides[others]
        sides = np.minimum(a + a_sides, b + b_sides) - np.maximum(a, b)
        shared = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
        own, theirs = a_sides[:, 0] * a_sides[:, 1], b_sides[:, 0] * b_sides[:, 1]
        union = np.where(crowd[others], own, own + theirs - shared)
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
        kept = (iou > 0) & (iou >= floor)
        parts.append((rows[kept], others[kept], iou[kept]))
    left, right, overlap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return left, right, overlap


def _sides(frame: pd.DataFrame) -> np.ndarray:
    """Widths and heights (N, 2) in px."""
    boxes = frame[BOX].to_numpy(np.float64)
    return boxes[:, 2:] - boxes[:, :2]


def _index(values: pd.Series, ids: pd.Series) -> np.ndarray:
    """Position of each value in the table of ids."""
    return pd.Index(ids).get_indexer(pd.Index(values))
