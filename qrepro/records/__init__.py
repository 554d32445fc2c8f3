"""What lies on disk and its words: run folders, detections, ground truth, score rules."""
