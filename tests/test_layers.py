"""Imports point down: a package of tgems imports from the layers below its own, and no imports run in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

LAYERS = (
    ("__init__", "cli", "workflow_resources"),
    ("own_training", "run_estimate"),
    ("workload", "throughput", "own_results"),
    ("workflow_config",),
    ("reporting", "runtime"),
    ("evaluation",),
    ("policies",),
    ("profiling",),
    ("exits",),
    ("features",),
    ("backbones",),
    ("costs", "data"),
    ("architectures",),
    ("config", "provenance", "errors", "devices", "untrusted", "failures", "jobs", "process", "model_keys")
    + ("checkout", "extras", "import_closure", "options", "markdown_text", "outputs", "system_errors", "takeover"),
)
"""Packages and modules of tgems, highest first. Those of one layer do not import each other, but for the ground."""
GROUND = set(LAYERS[-1])
HEIGHT = {name: -height for height, names in enumerate(LAYERS) for name in names}


def imports() -> dict[str, set[str]]:
    """Modules that each module of tgems imports, in functions too."""
    found = {}
    files = {_name(path): path for path in sorted((ROOT / "tgems").rglob("*.py"))}
    for module, path in files.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = {f"{node.module}.{name.name}" for name in node.names} & files.keys()
                named |= inside or {node.module}
            elif isinstance(node, ast.Import):
                named |= {name.name for name in node.names}
        found[module] = named & files.keys()
    return found


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _part(module: str) -> str:
    return module.split(".")[1]


IMPORTS = imports()


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_imports_point_down(module):
    own = _part(module)
    for other in map(_part, IMPORTS[module]):
        if own == "demo" or own == other:
            continue
        assert other != "demo", f"{module} imports from demo, which no layer may use"
        assert HEIGHT[other] < HEIGHT[own] or {own, other} <= GROUND, f"{module} imports {other}"


def test_no_imports_run_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {' <- '.join(error.args[1])}")
