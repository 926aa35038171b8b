"""Draw the exits that images take from the shares of exits."""

import numpy as np


def draw_exits(shares: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Draw exits `[n]` with nearly these shares `[E]`, in random order; rounding is spread evenly."""
    at = (np.arange(n) + 0.5) / n
    exits = np.searchsorted(np.cumsum(shares) / np.sum(shares), at)
    return np.random.default_rng(seed).permutation(exits)
