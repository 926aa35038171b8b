"""Exit policies: when an image leaves the encoder. Evaluation and the runtime use the same definitions."""
