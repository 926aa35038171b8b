"""Data sets in clip_benchmark's webdataset layout: download, check, read, write and pack them."""
