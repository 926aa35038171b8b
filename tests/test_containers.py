"""The recipes of the container images: both install what is locked, copy what exists, and start what is installed."""

import json
import os
import re
import shutil
import sys
import tomllib
from fnmatch import fnmatch

import pytest
import yaml
from conftest import ROOT

DOCKER, APPTAINER = ((ROOT / name).read_text() for name in ("Dockerfile", "apptainer.def"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def docker_instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile and their arguments, on one line each."""
    lines = "\n".join(line for line in DOCKER.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in lines.splitlines() if line.strip()]


def apptainer_section(name: str) -> list[str]:
    """Lines of a section of the Apptainer recipe, without comments."""
    body = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", APPTAINER, re.M | re.S)[1]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


def commands(recipe: str) -> list[str]:
    """Shell commands that a recipe runs, with build arguments as `$NAME`."""
    if recipe == "apptainer":
        return [re.sub(r"\{\{ (\w+) \}\}", r"$\1", line) for line in apptainer_section("post")]
    run = [argument for name, argument in docker_instructions() if name == "RUN"]
    joined = [" ".join(part.split()) for argument in run for part in argument.split("&&")]
    return [re.sub(r"\$\{(\w+)\}", r"$\1", command) for command in joined]


def test_python_is_the_one_of_the_conda_environment_and_supported():
    (python,) = (argument for name, argument in docker_instructions() if name == "ARG" and "PYTHON" in argument)
    version = python.removeprefix("PYTHON=")
    assert f"PYTHON={version}" in apptainer_section("arguments")
    assert f"python={version}" in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert [int(n) for n in version.split(".")] >= [int(n) for n in oldest.split(".")]
    (base,) = (argument for name, argument in docker_instructions() if name == "FROM")
    assert f"From: {base.replace('${PYTHON}', '{{ PYTHON }}')}\n" in APPTAINER


@pytest.mark.parametrize("recipe", ["docker", "apptainer"])
def test_packages_come_from_the_lock_alone(recipe):
    installs = [command for command in commands(recipe) if re.search(r"\b(pip|conda|uv) .*install", command)]
    options = r"(--no-cache-dir|--no-deps|--index-url \"\$TORCH_INDEX\")"
    expected = ["--requirement /tmp/torch.lock", "--requirement requirements.lock", r"--editable \."]
    assert len(installs) == len(expected)
    for command, wanted in zip(installs, expected, strict=True):
        assert re.fullmatch(rf"pip install( {options})+ {wanted}", command), command
    assert "--no-deps" in installs[0] and "--no-deps" in installs[2]


def test_torch_is_locked_under_the_names_that_the_recipes_look_for():
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    for recipe in ("docker", "apptainer"):
        (pattern,) = (found for command in commands(recipe) for found in re.findall(r"grep --\S+ '(.*)' req", command))
        found = [line.partition("==")[0] for line in lock if re.match(pattern, line)]
        assert found == ["torch", "torchvision"]


def test_both_recipes_install_in_the_same_way():
    def kept(recipe):
        return [c for c in commands(recipe) if c.startswith(("pip", "grep", "apt-get", "git", "printf"))]

    assert kept("docker") == kept("apptainer") and len(kept("docker")) == 8


def test_what_is_copied_exists_and_is_not_ignored():
    copied = [a.split()[0] for name, a in docker_instructions() if name == "COPY"]
    assert copied == ["requirements.lock", "."]
    listed = [line.split() for line in apptainer_section("files")]
    assert all(target == f"/tgems/{source}" for source, target in listed)
    needed = {source for source, _ in listed}
    assert needed >= {"tgems", "workflow", "configs", "assets", "Snakefile", "requirements.lock", "pyproject.toml"}
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in needed:
        assert (ROOT / name).exists(), name
        assert not any(fnmatch(name, pattern) for pattern in ignored), name
    assert {".git", "data", "results/*", ".snakemake", ".venv"} <= set(ignored)


def test_the_command_that_an_image_starts_is_installed():
    (started,) = (json.loads(argument) for name, argument in docker_instructions() if name == "CMD")
    tested = [line.split()[0] for line in apptainer_section("test")]
    assert started[0] == "snakemake" and set(tested) == {"snakemake", "tgems"}
    locked = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert started[0] in locked and "tgems" in PROJECT["scripts"]
    here = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    assert all(shutil.which(name, path=here) for name in tested)


def test_a_user_without_a_name_has_one_in_the_image():
    (environment,) = (argument for name, argument in docker_instructions() if name == "ENV")
    assert {"HOME", "USER"} <= {word.partition("=")[0] for word in environment.split()}


def test_no_image_runs_as_root():
    users = [argument for name, argument in docker_instructions() if name == "USER"]
    assert users and users[-1] != "root" and int(users[-1]) > 0
