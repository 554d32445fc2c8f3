"""Resampling, intervals, and the comparison of two detectors."""
