"""Ground truth and detections of any detector: what comes back, what is warned of, what is refused in which words."""

import gzip
import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qrepro.records.detections
from qrepro.metrics.coco_ap import ap_metrics, evaluate_ap
from qrepro.metrics.iou import iou_eval
from qrepro.metrics.matching import match
from qrepro.metrics.voc_ap import evaluate_voc
from qrepro.records.detections import DETECTION_COLUMNS, check_detections, read_detections
from qrepro.records.ground_truth import BOX, GroundTruth, read_ground_truth

TRUTHS = {
    "images": [{"id": 5, "file_name": "x/a.png", "width": 64, "height": 48}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 9, "name": "square"}, {"id": 1, "name": "disc"}],
    "annotations": [
        {"id": 0, "image_id": 5, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 1},
        {"id": 7, "image_id": 2, "category_id": 9, "bbox": [0, 0, 3, 4]},
    ],
}
RESULTS = [
    {"image_id": 5, "category_id": 1, "bbox": [1.5, 2, 10, 20], "score": 0.75, "quality": 0.5},
    {"image_id": 2, "category_id": 9, "bbox": [0, 0, 0, 4], "score": 0.25},
]
OBJECT = {"image_id": 5, "category_id": 1, "bbox": [0, 0, 1, 1]}


def write(path, value, **how):
    path.write_text(json.dumps(value, **how))
    return path


@pytest.fixture
def ground_truth(tmp_path) -> GroundTruth:
    return read_ground_truth(write(tmp_path / "ground_truth.json", TRUTHS))


def test_truths_keep_every_value_and_derive_what_is_missing(ground_truth):
    assert ground_truth.images["id"].tolist() == [5, 2] and np.isnan(ground_truth.images["width"][1])
    assert ground_truth.categories.to_dict("records") == [{"id": 1, "name": "disc"}, {"id": 9, "name": "square"}]
    assert ground_truth.annotations.to_dict("records") == [
        {"id": 0, "image_id": 5, "category_id": 1, "x1": 1, "y1": 2, "x2": 11, "y2": 22, "area": 150.5, "iscrowd": 1},
        {"id": 7, "image_id": 2, "category_id": 9, "x1": 0, "y1": 0, "x2": 3, "y2": 4, "area": 12, "iscrowd": 0},
    ]


def test_truths_may_leave_out_names_ids_and_objects(tmp_path):
    bare = {"images": [{"id": 5}], "categories": [{"id": 1, "name": None}], "annotations": [OBJECT, OBJECT]}
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", bare))
    assert ground_truth.images["file_name"].tolist() == ["5"] and ground_truth.categories["name"].tolist() == ["1"]
    assert ground_truth.annotations["id"].tolist() == [-1, -1]
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", bare | {"annotations": []}))
    assert len(ground_truth.annotations) == 0 and ground_truth.annotations["image_id"].dtype == np.int64


@pytest.mark.parametrize("written, read", [(True, 1), (False, 0), (1, 1), (None, 0)])
def test_iscrowd_may_be_a_boolean(tmp_path, written, read):
    change = {"annotations": [OBJECT | {"iscrowd": written}]}
    assert read_ground_truth(write(tmp_path / "ground_truth.json", TRUTHS | change)).annotations[
        "iscrowd"
    ].tolist() == [read]


def test_an_area_that_is_nan_is_derived(tmp_path):
    change = {"annotations": [OBJECT | {"bbox": [1, 1, 2, 3], "area": math.nan}]}
    assert read_ground_truth(write(tmp_path / "ground_truth.json", TRUTHS | change)).annotations["area"].tolist() == [6]


def annotation(**change):
    """A second annotation that is wrong."""
    return {"annotations": [OBJECT, OBJECT | change]}


@pytest.mark.parametrize("change, message", [
    ({"images": []}, "images is empty"),
    ({"categories": []}, "categories is empty"),
    ({"images": TRUTHS["images"] * 2}, r"images\[2\]: id must be unique, got 5 \(2 such records\)"),
    ({"categories": TRUTHS["categories"] + [{"id": 1}]}, r"categories\[2\]: id must be unique, got 1"),
    ({"images": [{"id": "5"}]}, r"images\[0\]: id must be a 64-bit integer, got '5'"),
    ({"images": [{"id": 5}, {"id": 2**63}]}, r"images\[1\]: id must be a 64-bit integer, got 9223372036854775808"),
    ({"images": [{"id": True}]}, r"images\[0\]: id must be a 64-bit integer, got True"),
    ({"images": [{"id": 5, "width": "64"}]}, r"images\[0\]: width must be a number, got '64'"),
    ({"categories": {}}, r"categories must be a list, got \{\}"),
    ({"annotations": ["x"]}, r"annotations\[0\]: must be an object, got 'x'"),
    ({"annotations": None}, "annotations must be a list, got none"),
    (annotation(image_id=3), r"annotations\[1\]: image_id must be one of the 2 of the ground truth, got 3"),
    (annotation(category_id=4), r"annotations\[1\]: category_id must be one of the 2 of .* \[1, 9\], got 4"),
    (annotation(image_id=None), r"annotations\[1\]: image_id must be a 64-bit integer, got none"),
    (annotation(bbox=[0, 0, -1, 1]), r"annotations\[1\]: bbox .* has a negative side, got \[0.0, 0.0, -1.0, 1.0\]"),
    (annotation(bbox=[0, 0, math.nan, 1]), r"annotations\[1\]: bbox .* must be finite, got \[0.0, 0.0, nan, 1.0\]"),
    (annotation(bbox=[0, 0, 1]), r"annotations\[1\]: bbox must be 4 numbers .*, got \[0, 0, 1\]"),
    (annotation(bbox=[0, 0, 1, "1"]), r"annotations\[1\]: bbox must be 4 numbers"),
    (annotation(bbox=[0, 0, 1, True]), r"annotations\[1\]: bbox must be 4 numbers"),
    (annotation(bbox=[0, 0, 1, 10**400]), r"annotations\[1\]: bbox must be 4 numbers"),
    (annotation(bbox=None), r"annotations\[1\]: bbox must be 4 numbers .*, got none"),
    (annotation(iscrowd=2), r"annotations\[1\]: iscrowd must be 0 or 1, got 2"),
    (annotation(iscrowd="1"), r"annotations\[1\]: iscrowd must be 0 or 1, got '1'"),
    (annotation(area=-1), r"annotations\[1\]: area must be finite and not negative, got -1.0"),
    (annotation(area=10**400), r"annotations\[1\]: area must be a number, got 1000"),
    ({"annotations": [OBJECT | {"id": 3}] * 3}, r"annotations\[1\]: id must be unique, got 3 \(2 such records\)"),
])  # fmt: skip
def test_bad_truths_name_file_and_record(tmp_path, change, message):
    path = write(tmp_path / "ground_truth.json", TRUTHS | change)
    with pytest.raises(ValueError, match=message) as error:
        read_ground_truth(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("value, message", [
    ({"images": [], "annotations": []}, "no 'categories' among .'images', 'annotations'."),
    ([], "got a list$"),
    ([OBJECT], "got a list$"),
    (RESULTS, "got a list that looks like detections"),
    ("x", "got 'x'"),
])  # fmt: skip
def test_what_is_no_ground_truth_is_said_to_be_none(tmp_path, value, message):
    with pytest.raises(ValueError, match=f"ground truth must be a JSON object with images, categories.*{message}"):
        read_ground_truth(write(tmp_path / "ground_truth.json", value))


@pytest.mark.parametrize("size", [{}, {"width": 0, "height": 0}, {"width": None}])
def test_truths_outside_their_image_are_warned_of(tmp_path, size):
    # image 5 is 64 x 48; image 2 has no size, or one of 0, so that only what is left of it or above is outside
    outside = [(5, [65, 0, 1, 1]), (5, [0, 49, 1, 1]), (2, [-3, 0, 2, 1]), (5, [0, -2, 9, 1])]
    touching = [(5, [64, 48, 0, 0]), (5, [-3, -3, 3, 3]), (2, [999, 999, 1, 1])]
    boxes = [*outside, *touching, (5, [63, 0, 9, 9]), (5, [-9, -9, 99, 99]), (5, [0, 0, 64, 48])]
    change = {"annotations": [OBJECT | {"image_id": image, "bbox": box} for image, box in boxes]}
    images = [TRUTHS["images"][0], TRUTHS["images"][1] | size]
    path = write(tmp_path / "ground_truth.json", TRUTHS | change | {"images": images})
    message = r"4 of 10 annotations: box x1 y1 x2 y2 lies outside its image, first annotations\[0\]: \[65.0, 0.0, 66.0"
    with pytest.warns(UserWarning, match=message) as caught:
        assert len(read_ground_truth(path).annotations) == 10
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("how", [{}, {"separators": (",", ":")}, {"indent": 2}])
@pytest.mark.parametrize("packed", [False, True])
def test_coco_results_become_corners(tmp_path, packed, how):
    path, data = tmp_path / "found.json", json.dumps(RESULTS, **how).encode() + b"\n"
    if packed:
        path, data = tmp_path / "found.json.gz", gzip.compress(data)
    path.write_bytes(data)
    frame = read_detections(path)
    assert list(frame.columns) == DETECTION_COLUMNS
    assert frame[BOX].to_numpy().tolist() == [[1.5, 2, 11.5, 22], [0, 0, 0, 4]]
    assert frame["image_id"].tolist() == [5, 2] and frame["category_id"].tolist() == [1, 9]
    assert frame["score"].tolist() == [0.75, 0.25] and frame["class_score"].isna().all()
    assert frame["quality"][0] == 0.5 and np.isnan(frame["quality"][1])
    assert frame["level"].tolist() == [-1, -1] and frame["level"].dtype == np.int8


@pytest.mark.parametrize("how", [{}, {"separators": (",", ":")}, {"indent": 2}])
def test_plain_results_are_never_read_record_by_record(tmp_path, monkeypatch, how):
    monkeypatch.setattr(qrepro.records.detections, "read_json", None)
    extra = {"segmentation": {"size": [4, 4], "counts": "}{ ,"}, "class_score": None}
    path = write(tmp_path / "found.json", [RESULTS[0] | extra, *RESULTS], **how)
    path.write_text(path.read_text() + "\n")
    frame = read_detections(path)
    assert frame["image_id"].tolist() == [5, 5, 2]


# What is hard for a reader that turns the commas between records into line breaks.
text = st.text(max_size=3) | st.sampled_from(["}, {", "},{", '"}, {"', "}\n{", "\\"])
value = st.none() | st.booleans() | st.integers() | text | st.lists(st.dictionaries(text, text, max_size=2), max_size=3)
finite = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**62), 2**62)
record = st.fixed_dictionaries(
    {
        "image_id": st.integers(-(2**63), 2**63 - 1),
        "category_id": st.integers(0, 99),
        "bbox": st.tuples(*[st.floats(-1e6, 1e6)] * 2, *[st.floats(0, 1e6) | st.integers(0, 9)] * 2),
        "score": finite,
    },
    optional={"quality": st.none() | finite, "extra": value, "}, {": value},
)


@settings(max_examples=300, deadline=None)
@given(st.lists(record, max_size=4), st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}]), st.booleans())
def test_results_are_read_as_json_means_them(tmp_path_factory, records, how, ascii_only):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(records, ensure_ascii=ascii_only, **how), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = read_detections(path)
    corners = [[x, y, x + w, y + h] for x, y, w, h in (record["bbox"] for record in records)]
    assert frame[BOX].to_numpy().tolist() == corners
    for name in ("image_id", "category_id"):
        assert frame[name].tolist() == [record[name] for record in records]
    assert frame["score"].tolist() == [float(record["score"]) for record in records]
    quality = [record.get("quality") for record in records]
    assert frame["quality"].isna().tolist() == [value is None for value in quality]
    assert frame["quality"].dropna().tolist() == [float(value) for value in quality if value is not None]


def test_of_a_key_that_occurs_twice_the_last_counts(tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(RESULTS).replace('"score"', '"score": 0.125, "score"'))
    assert read_detections(path)["score"].tolist() == [0.75, 0.25]


def test_parquet_results_round_trip(tmp_path):
    written = read_detections(write(tmp_path / "found.json", RESULTS)).assign(level=np.int8([3, 4]))
    written.to_parquet(tmp_path / "found.parquet")
    pd.testing.assert_frame_equal(read_detections(tmp_path / "found.parquet"), written)


def test_parquet_of_results_equals_their_json(tmp_path, ground_truth):
    expected = read_detections(write(tmp_path / "found.json", RESULTS), ground_truth)
    pd.DataFrame(RESULTS).to_parquet(tmp_path / "found.parquet")
    pd.testing.assert_frame_equal(read_detections(tmp_path / "found.parquet", ground_truth), expected)
    both = pd.DataFrame(RESULTS).assign(category="never read", **{name: expected[name] for name in BOX})
    both.assign(bbox="never read").to_parquet(tmp_path / "found.parquet")
    pd.testing.assert_frame_equal(read_detections(tmp_path / "found.parquet", ground_truth), expected)
    named = [record | {"image_id": name} for record, name in zip(RESULTS, ["a", "b.png"], strict=True)]
    frame = pd.DataFrame(named).rename(columns={"category_id": "category"}).replace({"category": {1: "disc"}})
    frame["category"] = ["disc", "square"]
    frame.convert_dtypes().to_parquet(tmp_path / "found.parquet")
    pd.testing.assert_frame_equal(read_detections(tmp_path / "found.parquet", ground_truth), expected)


def test_no_detections_are_legal_and_score_zero(tmp_path, ground_truth):
    for name in ("found.json", "found.parquet"):
        path = write(tmp_path / "found.json", [])
        if name.endswith(".parquet"):
            path = tmp_path / name
            read_detections(tmp_path / "found.json").to_parquet(path)
        frame = read_detections(path, ground_truth)
        assert len(frame) == 0 and list(frame.columns) == DETECTION_COLUMNS
        assert frame["image_id"].dtype == np.int64 and frame["score"].dtype == np.float64
    # of the two categories only "square" has an object that counts
    assert (
        ap_metrics(evaluate_ap(ground_truth, frame))["AP"]
        == ap_metrics(evaluate_ap(ground_truth, frame, engine="pycocotools"))["AP"]
        == 0
    )
    ap = evaluate_voc(ground_truth, frame).ap
    assert np.isnan(ap[:, 0]).all() and (ap[:, 1] == 0).all()
    assert iou_eval(ground_truth, frame).shape == (0,) and match(ground_truth, frame).hit.shape == (10, 0)


@pytest.mark.parametrize("image, category", [
    ("x/a.png", {"category_id": 1}),
    ("a.png", {"category": "disc"}),
    ("x/a", {"category_id": "disc"}),
    ("a", {"category_id": None, "category": "disc"}),
    ("a", {"category_id": 1, "category": "never read"}),
])  # fmt: skip
def test_names_of_the_ground_truth_stand_for_ids(tmp_path, ground_truth, image, category):
    first = {"image_id": image, "bbox": [0, 0, 1, 1], "score": 0.5} | category
    frame = read_detections(write(tmp_path / "found.json", [first, RESULTS[1]]), ground_truth)
    assert frame["image_id"].tolist() == [5, 2] and frame["category_id"].tolist() == [1, 9]


def test_a_name_that_two_records_share_stands_for_neither(tmp_path):
    files = ["x/a.jpg", "y/a.jpg", "a", "c.jpg", "c.jpg.png"]
    images = [{"id": number, "file_name": file} for number, file in enumerate(files, start=1)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]
    value = {"images": images, "categories": categories, "annotations": []}
    ground_truth = read_ground_truth(write(tmp_path / "ground_truth.json", value))

    def ids(*names):
        records = [{"image_id": name, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5} for name in names]
        return read_detections(write(tmp_path / "found.json", records), ground_truth)["image_id"].tolist()

    # a whole file name goes before the stem of another
    assert ids("x/a.jpg", "y/a", "a", 2, "c.jpg", "c") == [1, 2, 3, 2, 4, 4]
    with pytest.raises(ValueError, match=r"detections\[1\]: image_id .* name that just one .*, got 'a.jpg'"):
        ids("a", "a.jpg")
    with pytest.raises(ValueError, match=r"detections\[0\]: category_id .* name that just one .*, got 'cat'"):
        read_detections(
            write(tmp_path / "found.json", [RESULTS[0] | {"image_id": 1, "category_id": "cat"}]), ground_truth
        )


@pytest.mark.parametrize("change, message", [
    ({"image_id": 4}, "image_id must be one of the 2 of the ground truth, got 4"),
    ({"category_id": 2}, r"category_id must be one of the 2 of .* \[1, 9\] \(class .* --classes-from\), got 2"),
    ({"image_id": "c.png"}, "image_id must be a 64-bit integer or a name that just one of the ground truth has, got"),
    ({"category_id": "ring"}, "category_id must be a 64-bit integer or a name that just one .*, got 'ring'"),
    ({"image_id": 2.5}, "image_id must be a 64-bit integer, got 2.5"),
    ({"image_id": None}, "image_id must be a 64-bit integer, got none"),
    ({"score": math.nan}, "score must be a finite number, got nan"),
    ({"bbox": [0, 0, math.inf, 1]}, r"bbox .* must be finite, got \[0.0, 0.0, inf, 1.0\]"),
    ({"bbox": [5, 5, 1, -2]}, r"bbox \[x, y, width, height\] has a negative side, got \[5.0, 5.0, 1.0, -2.0\]"),
    ({"bbox": [0, 0, 1]}, r"bbox must be 4 numbers .*, got \[0"),
    ({"bbox": None}, "bbox must be 4 numbers .*, got none"),
    ({"score": "0.5"}, "score must be a number, got '0.5'"),
    ({"score": True}, "score must be a number, got True"),
    ({"image_id": 2**63}, "image_id must be a 64-bit integer, got 9223372036854775808"),
    ({"image_id": [2]}, r"image_id must be a 64-bit integer, got \[2\]"),
    ({"image_id": False}, "image_id must be a 64-bit integer, got False"),
    ({"score": None}, "score must be a number, got none"),
    ({"score": -math.inf}, "score must be a finite number, got -inf"),
    ({"quality": "high"}, "quality must be a number, got 'high'"),
    ({"class_score": [1]}, r"class_score must be a number, got \[1\]"),
    ({"bbox": "0 0 1 1"}, "bbox must be 4 numbers .*, got '0 0 1 1'"),
    ({"bbox": [0, 0, 1, None]}, "bbox must be 4 numbers"),
    ({"bbox": [0, 0, 1, "1"]}, "bbox must be 4 numbers"),
    ({"bbox": [0, 0, 1, True]}, "bbox must be 4 numbers"),
    ({"bbox": [0, 0, 1, 1, 1]}, "bbox must be 4 numbers"),
    ({"bbox": {"x": 0}}, "bbox must be 4 numbers"),
])  # fmt: skip
def test_bad_detections_name_file_record_and_count(tmp_path, ground_truth, change, message):
    path = write(tmp_path / "found.json", [RESULTS[0], RESULTS[1] | change, RESULTS[0], RESULTS[1] | change])
    with pytest.raises(ValueError, match=rf"detections\[1\]: {message}.* \(2 such records\)") as error:
        read_detections(path, ground_truth)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("columns, message", [
    ({"image_id": [5, 4]}, "image_id must be one of the 2 of the ground truth, got 4"),
    ({"category_id": [1, 2]}, r"category_id must be one of the 2 of .* \[1, 9\] \(class .* --classes-from\), got 2"),
    ({"image_id": ["a", "c"]}, "image_id must be a 64-bit integer or a name that just one .*, got 'c'"),
    ({"category": ["disc", "ring"], "category_id": None}, "category_id must be .* or a name .*, got 'ring'"),
    ({"image_id": [5, 2.5]}, r"image_id must be a 64-bit integer, got 5.0 \(2 such"),
    ({"image_id": pd.array([5, None], dtype="Int64")}, "image_id must be a 64-bit integer, got <NA>"),
    ({"score": [0.5, None]}, "score must be a finite number, got nan"),
    ({"score": pd.array([0.5, None], dtype="Float64")}, "score must be a finite number, got nan"),
    ({"score": ["0.5", "0.25"]}, "score must be a number, got '0.5'"),
    ({"score": [True, False]}, "score must be a number, got True"),
    ({"x1": [0.0, 2.0]}, r"box x1 y1 x2 y2 has a negative side, got \[2.0, 0.0, 1.0, 1.0\]"),
    ({"y2": [1.0, math.nan]}, r"box x1 y1 x2 y2 must be finite, got \[0.0, 0.0, 1.0, nan\]"),
    ({"y2": [1.0, None]}, r"box x1 y1 x2 y2 must be finite"),
    ({"bbox": [[0, 0, 1, 1], [5, 5, 1, -2]], "x1": None}, r"bbox .* has a negative side, got \[5.0, 5.0, 1.0, -2.0\]"),
    ({"bbox": [[0, 0, 1, 1], [0, 0, 1]], "x1": None}, r"bbox must be 4 numbers .*, got \[0, 0, 1\]"),
    ({"bbox": [[0, 0, 1, 1], None], "x1": None}, "bbox must be 4 numbers .*, got none"),
    ({"bbox": [[0, 0, 1, 1], [0, 0, 1, None]], "x1": None}, "bbox .* must be finite"),
])  # fmt: skip
def test_bad_rows_of_parquet_are_named_likewise(tmp_path, ground_truth, columns, message):
    good = {"image_id": [5, 5], "category_id": 1, "x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0, "score": 0.5}
    filled = {name: values for name, values in {**good, **columns}.items() if values is not None}
    path = tmp_path / "found.parquet"
    pd.DataFrame(filled).to_parquet(path)
    with pytest.raises(ValueError, match=rf"^{path}: detections\[[01]\]: {message}"):
        read_detections(path, ground_truth)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_record_without_a_key_is_named(tmp_path, key):
    records = [RESULTS[0], {name: value for name, value in RESULTS[1].items() if name != key}]
    with pytest.raises(ValueError, match=rf"detections\[1\]: {key} must be .*, got none"):
        read_detections(write(tmp_path / "found.json", records))


def test_names_need_a_ground_truth_that_knows_them(tmp_path):
    with pytest.raises(
        ValueError, match=r"detections\[0\]: image_id must be .* where no ground truth knows names, got 'a'"
    ):
        read_detections(write(tmp_path / "found.json", [RESULTS[0] | {"image_id": "a"}]))


def test_a_frame_is_checked_by_row():
    frame = pd.DataFrame(
        {"image_id": [5, 5], "category_id": 1, "x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0, "score": 0.5}
    )
    check_detections(frame)
    for name, value, message in (
        ("x1", 2.0, r"box x1 y1 x2 y2 has a negative side, got \[2.0, 0.0, 1.0, 1.0\]"),
        ("y2", -1.0, r"box x1 y1 x2 y2 has a negative side, got \[0.0, 0.0, 1.0, -1.0\]"),
        ("y1", math.nan, "box x1 y1 x2 y2 must be finite"),
        ("x2", math.inf, "box x1 y1 x2 y2 must be finite"),
        ("score", math.nan, "score must be a finite number"),
    ):
        wrong = frame.copy()
        wrong.loc[1, name] = value
        with pytest.raises(ValueError, match=rf"^detections: detections\[1\]: {message}"):
            check_detections(wrong)
    with pytest.raises(ValueError, match="column 'score' is missing; present: image_id"):
        check_detections(frame.drop(columns="score"))


@pytest.mark.parametrize("changes, message", [
    ([{"score": 1.5}], r"1 of 3 detections: score lies outside \[0, 1\], first detections\[1\]: 1.5"),
    ([{"score": 2}, {"score": -0.5}], r"2 of 3 detections: score lies outside \[0, 1\], first detections\[1\]: 2.0"),
    ([{"quality": -0.1}], r"1 of 3 detections: quality lies outside \[0, 1\], first detections\[1\]: -0.1"),
    ([{}, {"bbox": [70, 1, 2, 3]}], r"1 of 3 detections: box .* outside its image, first detections\[2\]: \[70.0, 1"),
])  # fmt: skip
def test_strange_detections_are_read_with_one_warning(tmp_path, ground_truth, changes, message):
    records = [RESULTS[0] | change for change in [{}, *changes, {}][:3]]
    path = write(tmp_path / "found.json", records)
    with pytest.warns(UserWarning, match=message) as caught:
        assert len(read_detections(path, ground_truth)) == 3
    assert len(caught) == 1 and caught[0].filename == __file__ and str(caught[0].message).startswith(f"{path}: ")


def test_ordinary_detections_are_read_without_a_warning(tmp_path, ground_truth):
    ends = [{"score": 0}, {"score": 1}, {"quality": 0}, {"quality": 1}, {"bbox": [-5, -5, 200, 200]}, {}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_detections(write(tmp_path / "found.json", [RESULTS[0] | change for change in ends]), ground_truth)


def test_files_that_are_not_what_they_claim(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_detections(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_ground_truth(tmp_path / "none.json")
    packed = gzip.compress(json.dumps(RESULTS * 99).encode())
    damaged = packed[:60] + bytes(20) + packed[80:]
    for name, content, message in (
        ("a.json", b"{", "not JSON"),
        ("a.json", b"", "not JSON"),
        ("a.json", json.dumps(RESULTS).encode()[:-20], "not JSON"),
        ("a.json", json.dumps(RESULTS).encode().replace(b"}, {", b"} {"), "not JSON"),
        ("a.json", b"(" + json.dumps(RESULTS).encode()[1:], "not JSON"),
        ("a.json", json.dumps(RESULTS).encode()[:-1] + b")", "not JSON"),
        ("a.json", b"[" * 100_000, "not JSON"),
        ("a.json", b"\xff\xfe\x00", "not JSON"),
        ("a.json.gz", b"plain", "cannot be read"),
        ("a.json.gz", packed[:-30], "cannot be read"),
        ("a.json.gz", damaged, "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        for read in (read_detections, read_ground_truth):
            with pytest.raises(ValueError, match=message) as error:
                read(tmp_path / name)
            assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)
    (tmp_path / "a.parquet").write_bytes(b"plain")
    with pytest.raises(ValueError, match="not a Parquet file"):
        read_detections(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="ground truth is read from COCO-format"):
        read_ground_truth(tmp_path / "a.parquet")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_detections(tmp_path / "preds")
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="detections are read from"):
        read_detections(tmp_path / "a.pkl")


@pytest.mark.parametrize("value, message", [
    (TRUTHS, "got an object with .'images', 'categories', 'annotations'. that looks like ground truth"),
    ({"results": []}, "got an object with .'results'.$"),
    (3, "got 3"),
])  # fmt: skip
def test_what_is_no_list_of_results_is_said_to_be_none(tmp_path, value, message):
    expected = rf"detections must be a JSON list of .image_id, category_id, bbox, score.; {message}"
    with pytest.raises(ValueError, match=expected):
        read_detections(write(tmp_path / "found.json", value))


def test_parquet_without_a_column_is_refused(tmp_path):
    path = tmp_path / "found.parquet"
    pd.DataFrame({"image_id": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="column 'category_id' is missing; present: image_id"):
        read_detections(path)
    pd.DataFrame(RESULTS).drop(columns="bbox").to_parquet(path)
    with pytest.raises(ValueError, match="column 'x1' is missing"):
        read_detections(path)
