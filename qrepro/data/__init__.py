"""Data sets: one annotation model, readers for COCO and VOC layouts, transforms, download, checks, a generated set."""
