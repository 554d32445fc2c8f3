"""Analyses of detection results: files and arrays in, rows out. Never imports torch or `qrepro`."""
