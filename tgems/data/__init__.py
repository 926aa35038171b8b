"""Data sets in clip_benchmark's webdataset layout, and the embedded digit scenes."""
