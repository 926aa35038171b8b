"""Paths for promises from few images: they begin nearer to the full encoder than the fit does."""

from functools import partial

from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.interface import ThresholdPolicy
from tgems.policies.operating_point import OperatingPoint
from tgems.policies.per_exit_thresholds import PathCosts, more_careful

CAREFUL_POINTS = 10


def careful_path(policy: ThresholdPolicy, outputs: CachedOutputs, rate_target: float) -> list[OperatingPoint]:
    """Return a policy's path, with points ahead of it at which fewer images leave.

    Thresholds per exit that lose next to nothing on the images that they were fitted on lose more on others, and the
    more so, the fewer images there were. Between them and the full encoder a path has no point of its own.

    Args:
        policy: The policy.
        outputs: Outputs on the images that points are fitted on.
        rate_target: Rate that gates were trained for.
    """
    path = policy.path(outputs, [rate_target])
    if not path or not policy.per_exit:
        return path
    scores = policy.scores(outputs, rate_target)
    costs = PathCosts.of(partial(policy.costs, outputs.costs, len(outputs.bank)))
    each = more_careful(scores.numpy(), path[0].at_exits(scores.shape[1]).numpy(), costs, CAREFUL_POINTS)
    ahead = [OperatingPoint.visiting(rate_target, thresholds) for thresholds in each]
    return list(dict.fromkeys([*ahead, *path]))
