"""The two forms of a box, by hand."""

import numpy as np
import pytest

from qrepro.records.boxes import is_box, xywh_of, xyxy_of


def test_the_two_forms_by_hand():
    assert xyxy_of([[10, 20, 30, 5], [0.5, 1, 0, 2]]).tolist() == [[10, 20, 40, 25], [0.5, 1, 0.5, 3]]
    assert xywh_of([[10, 20, 40, 25], [0.5, 1, 0.5, 3]]).tolist() == [[10, 20, 30, 5], [0.5, 1, 0, 2]]
    for convert in (xyxy_of, xywh_of):
        assert convert(np.empty((0, 4), np.float32)).shape == (0, 4)


def test_sides_of_float32_corners_are_exact():
    boxes = np.array([[0.1, 0.2, 600.3, 400.7]], np.float32)
    x1, y1, x2, y2 = map(float, boxes[0])
    assert xywh_of(boxes).dtype == np.float64 and xywh_of(boxes).tolist() == [[x1, y1, x2 - x1, y2 - y1]]


def test_what_is_given_is_not_written_to():
    boxes = np.array([[1.0, 2.0, 3.0, 4.0]])
    xywh_of(boxes), xyxy_of(boxes)
    assert boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("value", [[1, 2, 3, 4], [1.5, float("nan"), float("inf"), -1], [0, 0, 0, 1 - 2**63]])
def test_four_numbers_are_a_box(value):
    assert is_box(value)


@pytest.mark.parametrize("value", [None, "1234", (1, 2, 3, 4), [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, True],
                                   [1, 2, 3, "4"], [1, 2, 3, None], [1, 2, 3, 2**63], {"x": 1}])  # fmt: skip
def test_anything_else_is_no_box(value):
    assert not is_box(value)
