"""What computation costs: multiply-accumulates (MACs) per exit, counted from architecture alone."""
