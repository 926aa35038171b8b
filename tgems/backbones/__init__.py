"""CLIP backbones: loading them through open_clip, and pretraining the demo's own."""
