"""Conventions of the project: pinned versions, links, imports and sizes of files."""

import re
import subprocess

import pytest
import yaml
from conftest import LONGEST_FIRST, ROOT

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_conda_and_pip_pins_are_equal():
    lock = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert environment[-1]["pip"] == lock
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[^ ]+", line) for line in lock)


def test_readme_opens_with_exactly_two_commands():
    first_screen = (ROOT / "README.md").read_text().split("\n## ")[0]
    commands = [c for block in re.findall(r"```\w*\n(.*?)```", first_screen, re.S) for c in block.strip().splitlines()]
    assert [c.split("#")[0].strip() for c in commands] == ["make reproduce", "make test"]


def test_links_of_pages_lead_to_files():
    for page in [
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "configs/README.md",
        *(ROOT / "docs").glob("*.md"),
    ]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_sections_that_docstrings_cite_exist():
    headings = {
        page.name: {
            re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-")
            for h in re.findall(r"^#+ (.+)$", page.read_text(), re.M)
        }
        for page in (ROOT / "docs").glob("*.md")
    }
    cited = [
        c for p in (ROOT / "tgems").rglob("*.py") for c in re.findall(r"docs/([\w-]+\.md)#([\w-]+)", p.read_text())
    ]
    assert cited
    for page, section in cited:
        assert section in headings[page], f"docs/{page}#{section}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("open_clip", {"backbones", "demo"}),
        ("fvcore", {"profiling"}),
        ("huggingface_hub", {"backbones", "data", "runtime"}),
        ("seaborn", {"reporting"}),
        ("snakemake", set()),
        ("pickle", set()),
    ],
)
def test_only_one_part_imports_a_framework(package, allowed):
    importing = {
        p.relative_to(ROOT / "tgems").parts[0]
        for p in (ROOT / "tgems").rglob("*.py")
        if re.search(rf"^\s*(import|from) {package}\b", p.read_text(), re.M)
    }
    assert importing <= allowed


def test_files_that_are_tested_first_exist():
    assert {f"tests/workflow/test_{name}.py" for name in LONGEST_FIRST} <= set(TRACKED)


def test_files_stay_readable():
    for name in TRACKED:
        if name.endswith((".py", ".smk")):
            assert len((ROOT / name).read_text().splitlines()) <= 300, name


def test_shipped_weights_stay_small():
    weights = [ROOT / name for name in TRACKED if name.endswith(".safetensors")]
    assert len(weights) == 2 and sum(p.stat().st_size for p in weights) <= 16e6
