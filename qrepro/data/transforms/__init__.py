"""Images and boxes on their way to the network. Each transform is a value, Sample -> Sample, that a recipe names.

Random draws come from torch's global generator only (`draw`): the loader seeds it for each sample, so that a resumed
run sees what an uninterrupted one would have seen.
"""

from collections.abc import Callable

from qrepro.data.transforms.colour import Normalise, Photometric
from qrepro.data.transforms.erase import Cutout
from qrepro.data.transforms.frame import Crop, CropIoU, ZoomOut
from qrepro.data.transforms.mirror import Flip
from qrepro.data.transforms.sample import THINNEST, Compose, Sample, Transform
from qrepro.data.transforms.size import Resize, ResizeExact

__all__ = [
    "THINNEST",
    "TRANSFORMS",
    "Compose",
    "Crop",
    "CropIoU",
    "Cutout",
    "Flip",
    "Normalise",
    "Photometric",
    "Resize",
    "ResizeExact",
    "Sample",
    "Transform",
    "ZoomOut",
]

# What a recipe may name; the values are its further keys.
TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "resize": Resize,
    "resize_exact": ResizeExact,
    "flip": Flip,
    "photometric": Photometric,
    "zoom_out": ZoomOut,
    "crop_iou": CropIoU,
    "crop": Crop,
    "cutout": Cutout,
}
