"""Folders in the form of PASCAL VOC."""

SIZE = "<size><width>100</width><height>50</height></size>"


def box(name="dog", corners=(11, 21, 30, 40), extra="<difficult>0</difficult>"):
    sides = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


def write(root, files, size=SIZE, **splits):
    """A VOC folder of name -> objects, with lists of image names."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, objects in files.items():
        text = f"<annotation><filename>old/{name}.png</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for split, names in splits.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    return root
