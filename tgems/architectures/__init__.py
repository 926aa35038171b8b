"""Configurations of open_clip architectures, read and checked without building a model."""
