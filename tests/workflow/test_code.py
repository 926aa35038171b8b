"""Which jobs a change of the project's own code runs again: those whose scripts import it, and those that follow."""

import re
import shutil

import pytest
from conftest import ROOT
from running import PARTS, SMOKE, planned, snakemake
from workflow.dry_runs import dry_runs

from tgems.import_closure import import_closure

pytestmark = pytest.mark.workflow
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))
MODULES = sorted(
    path.relative_to(ROOT) for path in (ROOT / "tgems").rglob("*") if path.suffix in (".py", ".csv", ".yaml")
)
LOADED = """
import json, runpy, sys
from types import SimpleNamespace
class Unbounded:
    def __getattr__(self, name): raise SystemExit(0)
"""


@pytest.fixture(scope="module")
def copy(smoke, tmp_path_factory):
    """A finished run in a project of real files, whose code may be edited."""
    folder = tmp_path_factory.mktemp("code") / "project"
    shutil.copytree(smoke, folder, symlinks=True)
    for part in PARTS:
        (folder / part).unlink()
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy2)(ROOT / part, folder / part)
    assert "Nothing to be done" in snakemake(folder, "-n", *SMOKE).stdout
    return folder


def scripts_of(project) -> dict[str, str]:
    """Script of every rule."""
    text = "\n".join(path.read_text() for path in (project / "workflow/rules").glob("*.smk"))
    found = {}
    for block in re.split(r"^(?=rule |use rule )", text, flags=re.M)[1:]:
        rule, base = re.match(r"(?:use rule (\w+) as )?(?:rule )?(\w+)", block).group(2, 1)
        script = re.search(r'"../scripts/(\w+)\.py"', block)
        found[rule] = script[1] if script else found[base]
    return found


def test_an_edited_module_runs_the_jobs_that_import_it_and_what_follows(copy):
    """Expected are rules whose closure has the module, and rules with an input that a scheduled rule makes."""
    rows = [line.split("\t") for line in snakemake(copy, "-D", *SMOKE).stdout.splitlines() if "\t" in line][1:]
    made_by = {row[0]: row[2] for row in rows}
    inputs: dict[str, set[str]] = {}
    for row in rows:
        inputs.setdefault(row[2], set()).update(row[4].split(","))
    scripts = scripts_of(copy)
    closures = {rule: {str(p.relative_to(ROOT)) for p in import_closure(ROOT / f"workflow/scripts/{name}.py")}
                for rule, name in scripts.items() if rule in inputs}  # fmt: skip

    def expected(module):
        found = {rule for rule, closure in closures.items() if module in closure}
        while True:
            more = {rule for rule, files in inputs.items() if {made_by.get(f) for f in files} & found} - found
            if not more:
                return found
            found |= more

    edited = []
    for module in MODULES:
        before = (copy / module).read_bytes()
        (copy / module).write_bytes(before + b"\n#\n" if module.suffix != ".csv" else before + b"\n")
        edited.append((module, before))
        output = dry_runs(copy, [SMOKE])[0]
        (copy / module).write_bytes(before)
        assert set(planned(output)) - {"all", "total"} == expected(str(module)), module
    assert "Nothing to be done" in dry_runs(copy, [SMOKE])[0], "files that were touched alone schedule nothing"
