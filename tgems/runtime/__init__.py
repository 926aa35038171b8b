"""Early exit at run time: a drop-in for open_clip's image encoder, which can be saved and shared."""
