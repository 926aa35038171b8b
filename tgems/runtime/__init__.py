"""Early exit for real: images that leave stop costing. A drop-in for open_clip's image encoder, saved and shared."""
