"""Closed-form multiply-accumulate counts (MACs) of encoders and exit modules, and the cost of leaving at each exit."""
