"""Images with boxes."""

import torch

from qrepro.data.transforms import Sample


def sample(height, width, boxes, labels=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.arange(len(boxes)) if labels is None else torch.tensor(labels)
    image = torch.arange(3 * height * width).reshape(3, height, width).remainder(256).to(torch.uint8)
    return Sample(image, boxes, labels)
