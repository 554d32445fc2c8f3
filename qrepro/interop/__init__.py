"""Detectors that other projects trained."""
