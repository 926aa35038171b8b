"""Architectures of CLIP models, as open_clip describes them: read and checked, never built."""
