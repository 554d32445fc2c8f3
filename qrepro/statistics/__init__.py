"""Resampling of images, intervals of the draws, and the comparison of two detectors."""
