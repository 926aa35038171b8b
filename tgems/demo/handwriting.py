"""The 1,797 handwritten digits that scikit-learn ships, in disjoint parts."""

from functools import cache
from importlib.metadata import distribution

import numpy as np

PARTS = ("backbone", "train", "validation", "test")
SHARES = (0.45, 0.15, 0.15, 0.25)


@cache
def load_handwriting() -> tuple[np.ndarray, np.ndarray]:
    """Load the digits.

    This reads the same file as `sklearn.datasets.load_digits`, but without importing scikit-learn, which takes longer
    than drawing a split.

    Returns:
        Images `[1797, 8, 8]` float32 in [0, 1] and their values `[1797]` int64 (Alpaydin and Kaynak 1998, UCI optdigits
        test set).
    """
    path = str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz"))
    rows = np.loadtxt(path, delimiter=",")
    return (rows[:, :-1].reshape(-1, 8, 8) / 16.0).astype(np.float32), rows[:, -1].astype(np.int64)


@cache
def split_handwriting(part: str, seed: int) -> tuple[np.ndarray, ...]:
    """Return the source images of one part, by value.

    Args:
        part: One of `PARTS`; `backbone` is for pretraining and `train` for exit modules.
        seed: Seed of the split.

    Returns:
        Ten int64 arrays of indices into `load_handwriting()`, one for each value 0..9.

    Raises:
        ValueError: `part` is unknown.
    """
    if part not in PARTS:
        raise ValueError(f"handwriting part {part!r} is unknown: expected one of {', '.join(PARTS)}")
    values = load_handwriting()[1]
    bounds = np.cumsum((0.0, *SHARES))
    which = PARTS.index(part)
    rng = np.random.default_rng([seed, 0x5911])
    chosen = []
    for value in range(10):
        indices = rng.permutation(np.flatnonzero(values == value))
        low, high = (int(round(bounds[i] * len(indices))) for i in (which, which + 1))
        chosen.append(indices[low:high])
    return tuple(chosen)
