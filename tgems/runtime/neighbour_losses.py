"""The share of its nearest neighbours that an image loses at an operating point, in a collection of other images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.interface import ThresholdPolicy
from tgems.policies.operating_point import OperatingPoint
from tgems.runtime.neighbours import lost_share, nearest


@dataclass(frozen=True)
class NeighbourLosses:
    """Losses along a path: the neighbours before are the full encoder's, those after are of images that left early.

    Attributes:
        policy: The policy that decides where images leave.
        collection: Outputs on the images among which neighbours are looked for.
        images: Outputs on other images.
        neighbours: Number of neighbours.
        path: Operating points.
    """

    policy: ThresholdPolicy
    collection: CachedOutputs
    images: CachedOutputs
    neighbours: int
    path: Sequence[OperatingPoint]

    def at(self, point: int) -> np.ndarray:
        """Return what the images lose at a point of the path `[n]`."""
        after = nearest(self._embeddings(self.images, point), self._embeddings(self.collection, point), self._k)
        return lost_share(self._before, after).numpy()

    def of_collection(self) -> np.ndarray:
        """Return what images of the collection lose at all points, if none counts as its own neighbour `[m, J]`."""
        k = min(self._k, len(self.collection) - 1)
        last, found = self.collection.embeddings[:, -1], []
        before = nearest(last, last, k, others=True)
        for point in range(len(self.path)):
            early = self._embeddings(self.collection, point)
            found.append(lost_share(before, nearest(early, early, k, others=True)).numpy())
        return np.stack(found, 1) if found else np.zeros((len(last), 0))

    @property
    def _k(self) -> int:
        return min(self.neighbours, len(self.collection))

    @cached_property
    def _before(self) -> Tensor:
        return nearest(self.images.embeddings[:, -1], self.collection.embeddings[:, -1], self._k)

    def _embeddings(self, outputs: CachedOutputs, point: int) -> Tensor:
        """Return the embeddings at the exits that images take at a point `[n, D]`."""
        return outputs.embeddings[torch.arange(len(outputs)), self.policy.decide(outputs, self.path[point])]
