"""CLIP backbones: load open_clip models, and run their image towers block by block."""
