"""One data set of each task, evaluated by random modules of two seeds on its own thresholds."""

from types import SimpleNamespace

import pytest
import torch
from conftest import DEMO, variant
from toy import gates_of_all_kinds

from tgems.backbones.references import model_config
from tgems.costs.exit_costs import module_costs
from tgems.evaluation.curves import curves_of
from tgems.evaluation.estimates import points_of
from tgems.evaluation.operating_points import endpoint_rows, policy_rows
from tgems.evaluation.split import Split
from tgems.evaluation.thresholds import fit_policies
from tgems.evaluation.tradeoff import tradeoff
from tgems.evaluation.uncertainty import SharedSources
from tgems.exits.modules import ExitHeads
from tgems.features.cache import load_features
from tgems.policies.cached_outputs import ExitModules
from tgems.policies.registry import POLICIES

TARGETS = [0.45, 0.8]
S = 5 * 64


def random_modules(seed: int) -> ExitModules:
    """Untrained modules for the demo backbone's seven exits."""
    torch.manual_seed(seed)
    gates = gates_of_all_kinds(7, 64, TARGETS, [k / 8 for k in range(1, 9)])
    return ExitModules(ExitHeads(7, S, 8, 64), gates)


@pytest.fixture(scope="session", params=["digits", "scenes"])
def evaluated(request, demo_features):
    """Return all results of the evaluation on one split."""
    costs = module_costs(model_config(DEMO), variant())
    features = load_features(demo_features / request.param)
    splits = [Split(features, costs), *(Split(features, costs, random_modules(s), s) for s in (0, 1))]
    fitted, rows = [], []
    for split in splits:
        fitted.append(fit_policies(split, POLICIES, TARGETS))
        rows += policy_rows(split, POLICIES, fitted[-1], "in_domain", True)
        rows += endpoint_rows(split)
    points = points_of(rows)
    metric = "acc1" if features.captions is None else "text_retrieval_recall@1"
    return SimpleNamespace(
        features=features,
        costs=costs,
        splits=splits,
        fitted=fitted,
        rows=rows,
        points=points,
        metric=metric,
        sources=SharedSources(features.sources),
        curves=curves_of(points, features, POLICIES, costs),
        table=tradeoff(points, features, costs, {"backbone": "demo", "variant": "default", "dataset": request.param}),
    )
