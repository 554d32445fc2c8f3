"""Measures of detections and of quality estimates, as functions of arrays and records."""
