"""VOC reader: small folders by hand, and every way they can be wrong."""

import pytest
from PIL import Image

from qrepro.data.voc import read_voc

CLASSES = ("cat", "dog")


def box(name="dog", corners=(11, 21, 30, 40), extra="<difficult>0</difficult>"):
    xmin, ymin, xmax, ymax = corners
    return (
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
    )


def write(root, files, size="<size><width>100</width><height>50</height><depth>3</depth></size>", names=None):
    """A VOC folder with one XML file for each name -> objects."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, objects in files.items():
        text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "some.txt").write_text(names if names is not None else "\n".join(files) + "\n")
    return root


def read(root, one_based=False):
    return read_voc(root, "some", CLASSES, one_based)


def test_small_folder_by_hand(tmp_path):
    root = write(tmp_path, {"b": box() + box("cat", (0, 0, 100, 50), "<difficult>1</difficult>"), "a": ""})
    found = read(root)
    assert found.name == f"{tmp_path.name}/some"
    assert (found.classes, found.category_ids) == (CLASSES, (1, 2))
    assert [(image.id, image.file) for image in found.images] == [
        (1, tmp_path / "JPEGImages" / "b.jpg"),
        (2, tmp_path / "JPEGImages" / "a.jpg"),
    ]
    assert (found.images[0].width, found.images[0].height) == (100, 50)
    b, a = found.objects
    assert b.boxes.tolist() == [[11, 21, 30, 40], [0, 0, 100, 50]]
    assert (b.labels.tolist(), b.ignore.tolist()) == ([1, 0], [False, True])
    assert b.area.tolist() == [19 * 19, 5000]
    assert a.boxes.shape == (0, 4)
    assert found.defects == ()


def test_one_based_boxes_include_their_last_pixel(tmp_path):
    root = write(tmp_path, {"a": box(corners=(1, 1, 100, 50)) + box(corners=(7, 8, 7, 8))})
    found = read(root, one_based=True)
    assert found.objects[0].boxes.tolist() == [[0, 0, 100, 50], [6, 7, 7, 8]]
    assert found.objects[0].area.tolist() == [5000, 1]
    assert found.defects == ()


def test_boxes_without_area_are_reported_and_skipped(tmp_path):
    found = read(
        write(tmp_path, {"a": box("cat", (7, 8, 7, 8), "<difficult>1</difficult>") + box(corners=(1, 2, 3, 4))})
    )
    assert found.objects[0].boxes.tolist() == [[1, 2, 3, 4]]
    assert (found.objects[0].labels.tolist(), found.objects[0].ignore.tolist()) == ([1], [False])
    (defect,) = found.defects
    assert defect.where == "a.xml: object 0 (cat)"
    assert defect.what == "box [7, 8, 7, 8] (xyxy) has no positive area: skipped"


def test_boxes_are_clipped_and_fractions_are_read(tmp_path):
    found = read(write(tmp_path, {"a": box(corners=("45.25", 21, 130, 40), extra="")}))
    assert found.objects[0].boxes.tolist() == [[45.25, 21, 100, 40]]
    assert found.objects[0].ignore.tolist() == [False]
    assert "clipped" in found.defects[0].what


def test_parts_of_objects_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    found = read(write(tmp_path, {"a": box(extra=part)}))
    assert found.objects[0].boxes.tolist() == [[11, 21, 30, 40]]


def test_lists_may_have_a_second_column_and_repeat_names(tmp_path):
    found = read(write(tmp_path, {"a": "", "b": box()}, names="b  1\n\na -1\nb  1\n"))
    assert [image.file.stem for image in found.images] == ["b", "a"]
    assert [defect.what for defect in found.defects] == ["1 names are listed again: skipped"]


def test_the_ending_of_pictures_is_that_of_the_xml(tmp_path):
    root = write(tmp_path, {"a": ""})
    file = root / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("a.jpg", "old_name.png"))
    assert read(root).images[0].file.name == "a.png"


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height></size>",
                                  "<size><width>-9</width><height>9</height></size>"])  # fmt: skip
def test_missing_size_is_read_from_the_image(tmp_path, size):
    root = write(tmp_path, {"a": box(corners=(1, 2, 90, 20))}, size=size)
    Image.new("RGB", (80, 30)).save(root / "JPEGImages" / "a.jpg")
    found = read(root)
    assert (found.images[0].width, found.images[0].height) == (80, 30)
    assert found.objects[0].boxes.tolist() == [[1, 2, 80, 20]]
    assert found.defects[0].what == "<size> is missing or zero: 80 x 30 taken from the image"


def test_missing_size_without_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.xml: has no <size>, and its image .*a\.jpg cannot be read"):
        read(write(tmp_path, {"a": ""}, size=""))


def test_unknown_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.xml: object 1 of class 'cow', allowed: cat, dog$"):
        read(write(tmp_path, {"a": box() + box("cow")}))


@pytest.mark.parametrize("corners", [("", 1, 2, 3), ("one", 1, 2, 3)])
def test_box_without_its_numbers_is_refused(tmp_path, corners):
    with pytest.raises(ValueError, match=r"a\.xml: object 0 has xmin .*, four numbers are needed"):
        read(write(tmp_path, {"a": box(corners=corners)}))


def test_object_without_box_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.xml: object 0 has xmin None"):
        read(write(tmp_path, {"a": "<object><name>cat</name></object>"}))


def test_malformed_xml_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"a\.xml: not well-formed XML") as caught:
        read(write(tmp_path, {"a": "<object>"}))
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    root = write(tmp_path, {"a": ""}, names="a\nb\n")
    with pytest.raises(FileNotFoundError, match=r"b\.xml: no such annotation file"):
        read(root)
    with pytest.raises(FileNotFoundError, match=r"other\.txt: no such list of images; lists found there: some$"):
        read_voc(root, "other", CLASSES, False)


def test_empty_list_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"some\.txt: the list of images is empty"):
        read(write(tmp_path, {"a": ""}, names="\n"))
