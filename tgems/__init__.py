"""T-GEMs: train, evaluate and run text-guided exit modules on CLIP image encoders."""
