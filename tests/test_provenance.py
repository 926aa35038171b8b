"""Results record the commit of the code that they come from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from tgems.provenance import commit

QUIET = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, without the settings of the user who runs the tests."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    run = subprocess.run(
        ["git", *identity, *words], cwd=folder, env=os.environ | QUIET, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


def commit_seen_by(package_parent: Path, **environment: str) -> str:
    """Return what `commit` says in a copy of the package."""
    code = "from tgems.provenance import commit; print(commit())"
    environment = os.environ | {"PYTHONPATH": str(package_parent)} | environment
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd="/", env=environment, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, and a copy of the part of the package that `commit` needs."""
    git(tmp_path, "init", "-q", "work")
    folder = tmp_path / "work"
    (folder / "README.md").touch()
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "Begin")
    shutil.copytree(ROOT / "tgems", folder / "tgems", ignore=shutil.ignore_patterns("__pycache__", "*.csv"))
    return folder


def test_the_commit_is_that_of_the_package_s_own_checkout(repository):
    assert commit_seen_by(repository) == "unknown", "the repository does not track the package"
    git(repository, "add", "tgems")
    git(repository, "commit", "-qm", "Add the package")
    head = git(repository, "rev-parse", "HEAD")
    assert commit_seen_by(repository) == head
    (repository / "README.md").write_text("changed")
    assert commit_seen_by(repository) == f"{head}+dirty"


def test_a_repository_around_an_installed_package_is_not_recorded(repository):
    site = repository / ".venv/lib/site-packages"
    site.mkdir(parents=True)
    (repository / "tgems").rename(site / "tgems")
    assert commit_seen_by(site) == "unknown"
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "Track even the environment")
    assert commit_seen_by(site) == "unknown"


def test_an_image_s_commit_is_the_one_that_its_build_wrote(repository):
    head = git(repository, "rev-parse", "HEAD")
    for written, expected in ((f"{head}\n", head), (f"{head}+dirty\n", f"{head}+dirty"), ("unknown\n", "unknown")):
        (repository / "tgems/COMMIT").write_text(written)
        assert commit_seen_by(repository) == expected
    (repository / "tgems/COMMIT").write_text(f"{'0' * 40}\n")
    git(repository, "add", "tgems")
    git(repository, "commit", "-qm", "Add the package")
    assert commit_seen_by(repository) == git(repository, "rev-parse", "HEAD"), "a checkout knows better"


def test_variables_of_another_repository_s_hook_change_nothing(repository):
    places = {"GIT_DIR": str(repository / ".git"), "GIT_WORK_TREE": str(repository)}
    assert commit_seen_by(ROOT, **places) == commit_seen_by(ROOT)


def test_without_git_it_is_unknown(monkeypatch):
    commit.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() == "unknown"
    commit.cache_clear()
