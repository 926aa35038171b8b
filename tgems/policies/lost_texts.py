"""Which images lose the best text that the full encoder gives them, if they leave early. No labels are read."""

from collections.abc import Sequence

import numpy as np
import torch

from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.interface import Policy
from tgems.policies.operating_point import OperatingPoint


def lost_texts(policy: Policy, outputs: CachedOutputs, points: Sequence[OperatingPoint]) -> np.ndarray:
    """Return which images have another best text than at the last exit, at each operating point `[n, J]` bool."""
    winner = outputs.statistics.winner
    differs = winner != winner[:, -1:]
    if not points:
        return np.zeros((len(outputs), 0), dtype=bool)
    exits = torch.stack([policy.decide(outputs, point) for point in points], 1)
    return differs.gather(1, exits).numpy()
