"""The interface of exit policies (docs/adding-a-policy.md).

A policy is fitted on validation images for every rate target. It then decides for each image independently of the other
images in its batch. Its cost follows from what it reads (tgems/policies/exit_view.py).
"""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.exits.thresholds import choose_exits, fit_threshold, threshold_path
from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.exit_view import ExitView, Reads, TrialView
from tgems.policies.online import score_spread
from tgems.policies.operating_point import OperatingPoint
from tgems.policies.per_exit_thresholds import PathCosts, fit_thresholds, path_of_prices

BANK_GATES = ("bank", "variance")
PATH_POINTS = 40


class Policy:
    """An exit policy. Subclasses define how to fit it and how it decides.

    Class attributes are literals, since dry runs and figures read them from the source without importing it.

    Attributes:
        name: Name in configurations and tables.
        label: Name in figures; the default is `name`.
        color: Color in figures; the default is one of a palette, by the name.
        marker: Marker in figures.
        line: Line style in figures; empty for none.
        guidance: Input of the trained gate, for the tables: `none`, `image` or `bank`.
        gates: Kind of trained gates that it needs (`tgems.costs.exit_costs.GATES`); None for none.
        needs_bank: Whether the texts must be known before the image is encoded. If so, it cannot build an image index.
        adaptive: Whether it looks at the image; adaptive policies are compared with their own exits shuffled.
        frozen_head: Whether it embeds by the backbone's own pooling and projection, which need no training.
        oracle: Whether it looks at the right answer, which makes it a bound instead of a competitor.
        mixes: Whether exits are drawn at random, with the same `shares` for all images; results are expectations.
        contender: Whether it is a T-GEM, which is compared with all other policies.
        runs: Whether it decides image by image, so that it can be exported and run.
        own_file: File that the class comes from, if it is not one of tgems' own.
        own_digest: SHA-256 of that file.
    """

    name: ClassVar[str]
    label: ClassVar[str | None] = None
    color: ClassVar[str | None] = None
    marker: ClassVar[str] = "h"
    line: ClassVar[str] = "-"
    guidance: ClassVar[str] = "none"
    gates: ClassVar[str | None] = None
    needs_bank: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    frozen_head: ClassVar[bool] = False
    oracle: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    contender: ClassVar[bool] = False
    runs: ClassVar[bool] = False
    own_file: Path | None = None
    own_digest: str | None = None

    def unusable(self, costs: ExitCosts) -> str:
        """Return why the policy cannot be used with these exits; empty if it can."""
        if self.frozen_head and costs.projection is None:
            return "the frozen projection accepts only the tokens of the last block"
        return ""

    @property
    def index_safe(self) -> bool:
        """Whether it can build an image index, for which it must decide without the texts and without the answer."""
        return not (self.needs_bank or self.oracle)

    def fit(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Fit the policy on validation images.

        Args:
            validation: Outputs on validation images.
            rate_targets: Mean relative costs not to be exceeded.

        Returns:
            Operating points, one per target unless the policy's docstring says otherwise.
        """
        raise NotImplementedError

    def path(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Return operating points from expensive to cheap, among which a promise of quality is kept; none by default.

        Args:
            validation: Outputs on validation images; no labels are read.
            rate_targets: Rates that gates may have been trained for.
        """
        return []

    def decide(self, outputs: CachedOutputs, point: OperatingPoint) -> Tensor:
        """Return the exit of each image `[n]` int64, 0-based."""
        raise NotImplementedError

    def shares(self, point: OperatingPoint, n_exits: int) -> np.ndarray:
        """Return the share of images at every exit `[E]`, in place of `decide`, if the policy `mixes`."""
        raise NotImplementedError

    def reads(self, costs: ExitCosts) -> tuple[Reads, ...]:
        """Return what the policy reads at each exit before the last: by default nothing."""
        return (Reads(),) * (len(costs.blocks) - 1)

    def costs(self, costs: ExitCosts, bank_size: int, visited: Sequence[int] | None = None) -> np.ndarray:
        """Derive the relative cost of leaving at every exit from what the policy reads on the way.

        Args:
            costs: Costs of encoder and modules.
            bank_size: Number of texts.
            visited: Exits (0-based) at which it is evaluated; None for all. A policy that remembers is evaluated at
                all.

        Returns:
            `[E]` float64.
        """
        reads = self.reads(costs)
        n = len(reads)
        head = np.full(n, costs.projection or 0) if self.frozen_head else np.array(costs.head)
        gate = np.array(costs.gates[self.gates]) if self.gates else np.zeros(n)
        needs_head, needs_gate, needs_bank, charged = (
            np.array([getattr(r, what) for r in reads], dtype=np.int64) for what in ("head", "gate", "bank", "charged")
        )
        return costs.at_exits(
            per_visit=needs_head * head + needs_gate * gate + charged,
            at_exit=(1 - needs_head) * head,
            per_pass=needs_bank * costs.answer(bank_size),
            visited=None if remembers(reads) else visited,
        )


class ThresholdPolicy(Policy):
    """A policy that lets an image leave at the first exit where its score exceeds a threshold.

    Attributes:
        per_exit: Whether each exit has a threshold of its own, and `fit` also chooses the exits that are worth a visit
            (tgems/policies/per_exit_thresholds.py). The fit takes from each exit's best text what leaving there is
            worth.
    """

    adaptive = True
    runs = True
    per_exit: ClassVar[bool] = False

    @cached_property
    def _known_reads(self) -> dict[tuple, tuple[Reads, ...]]:
        return {}

    def score(self, view: ExitView) -> Tensor:
        """Score the images at one exit `[n]`; the higher, the sooner an image leaves; -inf where it must go on.

        It may use each image's own row only, and must read the same parts of the view for all images.
        """
        raise NotImplementedError

    def reads(self, costs: ExitCosts) -> tuple[Reads, ...]:
        """Evaluate the policy on artificial images to find out what it reads at each exit."""
        key = (costs.widths, costs.summary_dim, costs.embed_dim)
        if key not in self._known_reads:
            memory: dict[str, Tensor] = {}
            views = [TrialView(k, costs, memory, self.gates in BANK_GATES) for k in range(len(costs.widths))]
            for view in views:
                self.score(view)
            self._known_reads[key] = tuple(view.reads for view in views)
            self._require_declared(self._known_reads[key])
        return self._known_reads[key]

    def _require_declared(self, reads: Sequence[Reads]) -> None:
        """Refuse a policy that reads what its class attributes do not declare.

        Raises:
            UserError: It reads something that is not declared; the message gives the missing line.
        """
        declared = {"bank": ("needs_bank = True", self.needs_bank), "gate": ("gates = KIND", self.gates is not None)}
        for what, (line, found) in declared.items():
            if any(getattr(read, what) for read in reads) and not found:
                raise UserError(f"policy {self.name!r} reads view.{what}; declare that by {line!r} in its class")

    def fit(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Fit one threshold per target, or one per target and exit; needs no labels."""
        prices = partial(self.costs, validation.costs, len(validation.bank))
        points = []
        for target in rate_targets:
            scores = self.scores(validation, target)
            if self.per_exit:
                rewards = validation.last_exits_view.numpy()
                every = fit_thresholds(scores.numpy(), rewards, PathCosts.of(prices), target)
                points.append(OperatingPoint.visiting(target, every))
            else:
                threshold, _ = fit_threshold(scores, prices(None), target)
                points.append(OperatingPoint(target, thresholds=(threshold,) * scores.shape[1]))
        return points

    def path(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Return about `PATH_POINTS` operating points that cost less than the encoder, from expensive to cheap.

        If there are separate gates for each rate target, every point uses those whose target is nearest to its rate.
        """
        gates = {} if validation.modules is None else validation.modules.gates
        targets = [target for target in rate_targets if (self.gates, target) in gates] or [rate_targets[0]]
        found = []
        for target in targets:
            for point in self.path_of_gates(validation, target):
                price = self.costs(validation.costs, len(validation.bank), point.visited)
                rate = float(price[self.decide(validation, point)].mean())
                if rate < 1 and min(targets, key=lambda other: abs(other - rate)) == target:
                    found.append((rate, point))
        return [point for _, point in sorted(found, key=lambda own: own[0], reverse=True)]

    def path_of_gates(self, validation: CachedOutputs, rate_target: float) -> list[OperatingPoint]:
        """Return operating points with the gates of one rate target, at rates that are about evenly spaced."""
        scores, prices = (
            self.scores(validation, rate_target),
            partial(self.costs, validation.costs, len(validation.bank)),
        )
        if not self.per_exit:
            common = threshold_path(scores, prices(None), PATH_POINTS)
            return [OperatingPoint(rate_target, thresholds=(t,) * scores.shape[1]) for t in common]
        rewards = validation.last_exits_view.numpy()
        each = path_of_prices(scores.numpy(), rewards, PathCosts.of(prices), PATH_POINTS)
        return list(dict.fromkeys(OperatingPoint.visiting(rate_target, thresholds) for thresholds in each))

    def decide(self, outputs: CachedOutputs, point: OperatingPoint) -> Tensor:
        """Apply the frozen thresholds."""
        scores = self.scores(outputs, point.rate_target)
        return choose_exits(scores, point.at_exits(scores.shape[1]))

    def spread(self, outputs: CachedOutputs, point: OperatingPoint) -> float:
        """Return the spread of the scores at the exits that a point visits (`tgems.policies.online`)."""
        scores = self.scores(outputs, point.rate_target)
        return score_spread(scores[:, point.at_exits(scores.shape[1]).isfinite()].numpy())

    def scores(self, outputs: CachedOutputs, rate_target: float | None) -> Tensor:
        """Score all images at every exit before the last `[n, E-1]` float64, once per rate target."""
        key = (self.name, rate_target)
        if key not in outputs.scores:
            reads = self.reads(outputs.costs)
            blocks = [
                torch.stack([self.score(view).double() for view in views], 1)
                for views in outputs.views(self.gates, rate_target, reads)
            ]
            outputs.scores[key] = torch.cat(blocks)
        return outputs.scores[key]


def remembers(reads: Sequence[Reads]) -> bool:
    """Return whether a policy that reads this must be evaluated at every exit on the way."""
    return any(read.remembered for read in reads)


def require_index_safe(policy: Policy) -> None:
    """Refuse a policy that cannot build an image index.

    Raises:
        UserError: The policy needs the texts before the image is encoded.
    """
    if policy.needs_bank:
        raise UserError(
            f"policy {policy.name!r} looks at the texts while the image is encoded, but in text-to-image retrieval the "
            "index is built before a query is known; use an index-safe policy such as 'tgem' or 'saturation', or let "
            "datasets.*.directions hold image_to_text too"
        )
