"""The embedded data set: painted images, written to disk as an ordinary COCO data set."""

from qrepro.data.shapes.make import make_shapes

__all__ = ["make_shapes"]
