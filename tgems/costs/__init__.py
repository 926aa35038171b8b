"""Multiply-accumulates in closed form: of encoders, of exit modules, and of leaving at each exit."""
