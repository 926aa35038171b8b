"""Sizes of exit modules that costs depend on. Imports nothing, so that a dry run can ask."""

BANK_FEATURES = 5
BANK_HISTORY = 3


def bank_gate_inputs(summary_dim: int) -> int:
    """Inputs of a bank gate: the summary, bank features of three exits, and the bank's size."""
    return summary_dim + BANK_FEATURES * BANK_HISTORY + 1
