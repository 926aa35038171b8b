"""Evaluation: thresholds fitted on validation, policies applied to test, metrics with paired uncertainty."""
