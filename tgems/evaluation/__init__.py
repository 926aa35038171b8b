"""Evaluation: thresholds fitted on validation images, policies applied to test images, metrics with intervals."""
