"""Trace towers and exit modules with fvcore, and check the closed-form multiply-accumulate counts (MACs)."""
