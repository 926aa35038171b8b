"""Which jobs a change of the project's own code runs again: those whose scripts import it, and those that follow."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from running import PARTS, SMOKE, planned, snakemake
from workflow.dry_runs import dry_runs

from tgems.import_closure import code_digest, import_closure

pytestmark = pytest.mark.workflow
SCRIPTS = {path.stem: path for path in sorted((ROOT / "workflow/scripts").glob("*.py"))}
SUFFIXES = (".py", ".csv", ".yaml", ".html", ".js")


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


def scripts_by_rule() -> dict[str, str]:
    """Names of the scripts that rules run."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for block in re.split(r"^(?=rule |use rule )", path.read_text(), flags=re.M)[1:]:
            base, name = re.match(r"(?:use rule (\w+) as )?(?:rule )?(\w+)", block).groups()
            script = re.search(r'"\.\./scripts/(\w+)\.py"', block)
            found[name] = script[1] if script else found[base]
    return found


@pytest.fixture(scope="module")
def summary(copy):
    """Of the finished run: the rule that made each file, and the input files of each rule."""
    rows = [line.split("\t") for line in snakemake(copy, "-D", *SMOKE).stdout.splitlines() if "\t" in line][1:]
    inputs: dict[str, set[str]] = {}
    for row in rows:
        inputs.setdefault(row[2], set()).update(row[4].split(","))
    return {row[0]: row[2] for row in rows}, inputs


def test_the_code_of_every_rule_is_the_closure_of_its_script(summary):
    scripts = scripts_by_rule()
    for rule, files in summary[1].items():
        code = {file for file in files if file.startswith("tgems/")}
        assert code == {str(path.relative_to(ROOT)) for path in import_closure(SCRIPTS[scripts[rule]])}, rule


def test_an_edited_module_runs_the_jobs_that_import_it_and_what_follows(copy, summary):
    """One module of each set of modules that the same rules import; the test above has that every one is an input."""
    made_by, inputs = summary
    modules: dict[frozenset[str], Path] = {}
    for path in sorted((ROOT / "tgems").rglob("*")):
        if path.suffix in SUFFIXES:
            name = path.relative_to(ROOT)
            modules[frozenset(rule for rule, files in inputs.items() if str(name) in files)] = name

    def followed(found):
        while more := {rule for rule, files in inputs.items() if {made_by.get(f) for f in files} & found} - found:
            found |= more
        return found

    outputs = dry_runs(copy, [SMOKE] * len(modules), appended=list(modules.values()))
    for (direct, module), output in zip(modules.items(), outputs, strict=True):
        assert set(planned(output)) - {"all", "total"} == followed(set(direct)), module
    assert len(modules) > 10 and frozenset() in modules
    assert "Nothing to be done" in dry_runs(copy, [SMOKE])[0], "files that were touched alone schedule nothing"


def test_jobs_import_nothing_that_their_closure_lacks(smoke):
    """What the jobs of a real run had imported at their end, which tests/workflow/conftest.py has them write."""
    loaded: dict[str, set[Path]] = {}
    for path in (smoke / "imported").iterdir():
        job = json.loads(path.read_text())
        loaded.setdefault(job["script"], set()).update(map(Path, job["files"]))
    assert {"train_heads", "evaluate", "plot_figure", "measure_latency", "extract_features"} <= set(loaded)
    for script, files in loaded.items():
        assert not {f.relative_to(ROOT) for f in files} - {f.relative_to(ROOT) for f in import_closure(SCRIPTS[script])}


def test_no_module_imports_a_function_of_a_package():
    """Bodies of functions in `__init__.py` do not count for the closure, since no job calls them."""
    for path in [*(ROOT / "tgems").rglob("*.py"), *SCRIPTS.values()]:
        for package, names in re.findall(r"^\s*from (tgems[\w.]*) import (.*)$", path.read_text(), re.M):
            folder = ROOT.joinpath(*package.split("."))
            if folder.is_dir():
                for name in re.findall(r"\w+", re.sub(r" as \w+", "", names)):
                    assert (folder / f"{name}.py").is_file() or (folder / name).is_dir(), f"{path}: {package}.{name}"


def test_the_digest_of_code_ignores_comments_docstrings_and_layout(tmp_path):
    texts = [
        "def f(x):\n    return x + 1\n",
        'def f(x):\n    """Add."""\n\n    return (x + 1)  # one\n',
        "def f(x):\n    return x + 2\n",
    ]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.py").write_text(text)
    first, same, other = (code_digest([tmp_path / f"{i}.py"]) for i in range(3))
    assert first == same != other
