"""The generated set: outlines by hand, boxes against the painted pixels, what a set must hold, how it is written."""

import hashlib
import json
import math

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scipy.spatial import ConvexHull

from qrepro.data.coco import read_coco
from qrepro.data.shapes import make as shapes
from qrepro.data.shapes import make_shapes
from qrepro.data.shapes.outlines import CLASSES, Shape, moved, random_shape, window
from qrepro.data.shapes.paint import LEAST_SIDE, TEXTURES, paint


def polygon(*corners, hole=None):
    return Shape(0, np.array(corners, dtype=float), hole)


def everything(height, width):
    return slice(0, height), slice(0, width)


def test_coverage_of_a_rectangle_is_exact():
    found = polygon((1, 2), (4, 2), (4, 4), (1, 4)).coverage(*everything(6, 8))
    expected = np.zeros((6, 8))
    expected[2:4, 1:4] = 1
    assert np.abs(found - expected).max() < 0.27  # PIL's border pixels: at most one of 4 subpixels a side


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_coverage_lies_in_the_extent_and_reaches_it(label):
    rng = np.random.default_rng(label)
    for _ in range(20):
        size = rng.uniform(10, 60)
        shape = moved(random_shape(rng, label, size), 50.3, 48.8)
        x1, y1, x2, y2 = shape.extent()
        assert max(x2 - x1, y2 - y1) == pytest.approx(size)
        assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((50.3, 48.8))
        rows, columns = np.nonzero(shape.coverage(*everything(100, 100)) > 0.02)
        found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert np.abs(np.subtract(found, (x1, y1, x2, y2))).max() < 1.6


# Share of its convex hull that a shape covers, by geometry; stretching and turning leave it as it is.
SHARES = {
    "disc": 1,
    "square": 1,
    "triangle": 1,
    "ring": 1 - 0.58**2,
    "star": (10 / 2 * 0.45 * math.sin(math.pi / 5)) / (5 / 2 * math.sin(2 * math.pi / 5)),
    "cross": (2 * 2 * 0.72 - 0.72**2) / (4 - 4 * 0.64**2 / 2),
}


@pytest.mark.parametrize("label, name", list(enumerate(CLASSES)))
def test_coverage_sums_to_the_area_of_the_class(label, name):
    shape = moved(random_shape(np.random.default_rng(label), label, 90), 50, 50)
    hull = ConvexHull(shape.outline).volume
    assert float(shape.coverage(*everything(100, 100)).sum()) == pytest.approx(SHARES[name] * hull, rel=0.04)


def test_coverage_of_a_window_is_that_part_of_the_whole():
    shape = moved(random_shape(np.random.default_rng(5), 4, 40), 30, 25)
    rows, columns = window((20, 10, 33, 30), 2, 60, 70)
    assert (rows, columns) == (slice(8, 33), slice(18, 36))
    whole = shape.coverage(*everything(60, 70))
    # PIL rounds corners on its own grid of subpixels: one row of four of them may differ.
    assert np.abs(shape.coverage(rows, columns) - whole[rows, columns]).max() <= 4 / 16


@pytest.mark.parametrize(
    "corners, expected",
    [
        ([(2, 3), (7, 3), (7, 8)], (2, 3, 7, 8)),
        ([(-5, 5), (5, -5), (5, 15)], (0, 0, 5, 10)),  # the left corner is cut off
        ([(-4, 2), (4, 2), (-4, 10)], (0, 2, 4, 6)),  # its slanted side meets x = 0 at y = 6, not at the corner's 10
        ([(8, 8), (14, 8), (14, 14), (8, 14)], (8, 8, 10, 10)),
        ([(-9, 4), (-1, 4), (-1, 6)], None),
        ([(-4, 3), (3, -4), (-4, -4)], None),  # beside the corner: its box overlaps the image, it does not
    ],
)
def test_extent_inside_is_that_of_the_part_in_the_picture(corners, expected):
    found = polygon(*corners).extent_inside(10, 10)
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.fixture(scope="module")
def painted():
    return [paint(np.random.default_rng([1, n])) for n in range(250)]


def test_pictures_and_boxes_are_well_formed(painted):
    for image, things in painted:
        height, width, channels = image.shape
        assert image.dtype == np.uint8 and channels == 3
        assert 128 <= height <= 160 and 128 <= width <= 160
        assert len(things) <= 7
        for thing in things:
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 and 0 <= y1 and x2 <= width and y2 <= height
            assert min(x2 - x1, y2 - y1) >= LEAST_SIDE
            assert 0 <= thing.label < len(CLASSES)


def test_every_case_that_matters_occurs(painted):
    things = [thing for _, found in painted for thing in found]
    objects = [thing for thing in things if not thing.crowd]
    areas = np.array([(t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in objects])
    assert (areas < 32**2).mean() > 0.25
    assert ((areas >= 32**2) & (areas < 96**2)).mean() > 0.25
    assert (areas >= 96**2).mean() > 0.1
    assert min(np.bincount([thing.label for thing in objects], minlength=6)) > len(objects) / 10
    assert 3 <= sum(not found for _, found in painted) <= 40
    assert 3 <= sum(thing.crowd for thing in things) <= 40
    assert {len(found) for _, found in painted} >= set(range(7))
    truncated = [
        thing
        for image, found in painted
        for thing in found
        if min(thing.box[:2]) == 0 or thing.box[2] == image.shape[1] or thing.box[3] == image.shape[0]
    ]
    assert 0.02 < len(truncated) / len(objects) < 0.3
    overlapping = sum(a is not b and _overlap(a.box, b.box) > 0.2 for _, found in painted for a in found for b in found)
    assert overlapping > len(objects) / 10


def _overlap(box, other):
    """Share of `box` that `other` covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(0, width) * max(0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


def test_the_border_of_objects_shows_in_the_pixels(painted):
    """Pixels just inside a box of a square-ish class differ from those just outside: boxes are where objects are."""
    inside, shifted = [], []
    for image, found in painted:
        single = [thing for thing in found if not thing.crowd]
        if len(single) != 1:
            continue
        x1, y1, x2, y2 = (round(value) for value in single[0].box)
        inside.append(_contrast(image, x1, y1, x2, y2))
        shift = 20 if x2 + 20 <= image.shape[1] else -20
        shifted.append(_contrast(image, x1 + shift, y1, x2 + shift, y2))
    assert len(inside) > 15
    assert np.mean(inside) > 1.5 * np.mean(shifted)


def _contrast(image, x1, y1, x2, y2):
    """Distance in colour between the middle of a box's columns inside and a frame of 6 pixels around it."""
    height, width, _ = image.shape
    x1, x2 = max(0, x1), min(width, x2)
    mask = np.zeros((height, width), dtype=bool)
    mask[max(0, y1 - 6) : y2 + 6, max(0, x1 - 6) : x2 + 6] = True
    mask[y1:y2, x1:x2] = False
    middle = image[y1:y2, x1:x2].reshape(-1, 3).astype(float)
    return float(np.linalg.norm(middle.mean(axis=0) - image[mask].astype(float).mean(axis=0)))


def test_textures_stay_in_their_range_and_differ():
    planes = [texture(np.random.default_rng(0), 40, 50, 9.0) for texture in TEXTURES]
    assert len(planes) == len(CLASSES)
    for plane in planes:
        assert plane.shape == (40, 50) and np.abs(plane).max() <= 1.2
    assert len({plane.tobytes() for plane in planes}) == len(planes)


def digests(root):
    """sha256 of every file below a folder."""
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "deep" / "set"
    make_shapes(root, train=12, val=5, seed=3)
    return root


def test_a_set_is_an_ordinary_coco_set(made):
    for split, count in (("train", 12), ("val", 5)):
        judge = COCO(str(made / "annotations" / f"instances_{split}.json"))
        found = read_coco(made / "annotations" / f"instances_{split}.json", made / split)
        assert found.defects == ()
        assert (found.classes, found.category_ids) == (CLASSES, (1, 2, 3, 4, 5, 6))
        assert len(found) == len(judge.imgs) == count
        assert sum(len(objects) for objects in found.objects) == len(judge.anns) > 0
        assert sorted(judge.anns) == list(range(1, len(judge.anns) + 1))
        for image in found.images:
            with Image.open(image.file) as image:
                assert image.size == (image.width, image.height)


def test_nothing_else_is_left_behind(made):
    assert [path.name for path in made.parent.iterdir()] == ["set"]
    assert len(digests(made)) == 12 + 5 + 2 + 1


def test_same_seed_same_bytes_and_pictures_do_not_depend_on_the_count(made, tmp_path):
    make_shapes(tmp_path / "again", train=12, val=5, seed=3)
    assert digests(tmp_path / "again") == digests(made)
    make_shapes(tmp_path / "fewer", train=2, val=1, seed=3)
    make_shapes(tmp_path / "other", train=2, val=1, seed=4)
    whole, fewer, other = digests(made), digests(tmp_path / "fewer"), digests(tmp_path / "other")
    for name in ("train/000001.jpg", "train/000002.jpg", "val/000001.jpg"):
        assert whole[name] == fewer[name] != other[name]
    assert whole["train/000001.jpg"] != whole["val/000001.jpg"]


def test_a_complete_set_is_kept(made):
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    make_shapes(made, train=12, val=5, seed=3)
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before


@pytest.mark.parametrize("other", [{"train": 13}, {"val": 6}, {"seed": 4}])
def test_a_set_of_other_parameters_is_refused(made, other):
    before = digests(made)
    with pytest.raises(ValueError, match=r"holds a shapes set made with .*give another DIR"):
        make_shapes(made, **({"train": 12, "val": 5, "seed": 3} | other))
    assert digests(made) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is no shapes set"):
        make_shapes(tmp_path, train=1, val=1)
    with pytest.raises(ValueError, match="exists and is no shapes set"):
        make_shapes(tmp_path / "notes.txt", train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    make_shapes(tmp_path / "a", train=1, val=1)
    (tmp_path / "b").mkdir()
    make_shapes(tmp_path / "b", train=1, val=1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "shapes.json").read_text())["train"] == 1


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupted(rng):
        calls.append(rng)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return paint(rng)

    monkeypatch.setattr(shapes, "paint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "set", train=5, val=5)
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [{"train": 0}, {"val": 0}, {"seed": -1}])
def test_impossible_parameters_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="counts are needed from 1, the seed from 0"):
        make_shapes(tmp_path / "set", **({"train": 1, "val": 1} | value))
