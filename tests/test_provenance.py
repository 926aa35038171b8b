"""What results record about where they come from, and how outputs are written."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from tgems.errors import UserError
from tgems.provenance import commit, whole_file, whole_folder, write_json

QUIET = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, without the settings of whoever runs the tests."""
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


@pytest.fixture
def small_files():
    """No file may grow beyond 10 kB, as if the disk was full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_that_names_the_output(tmp_path, small_files):
    with pytest.raises(
        UserError, match=r"out\.json: cannot be written \(File too large\); raise the limit on the size"
    ):
        write_json(tmp_path / "out.json", ["long"] * 10_000)
    with (
        pytest.raises(UserError, match=r"folder: cannot be written \(File too large"),
        whole_folder(tmp_path / "folder") as folder,
    ):
        save_file({"a": torch.zeros(10_000)}, folder / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request):
    """What new files may be for others."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_are_as_readable_as_the_umask_says(tmp_path, umask):
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "below").mkdir()
        save_file({"a": torch.zeros(1)}, folder / "below/a.safetensors")
    with whole_file(tmp_path / "b.safetensors") as partial:
        save_file({"a": torch.zeros(1)}, partial)
    write_json(tmp_path / "c.json", {})
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    folders = ("folder", "below")
    assert modes == {name: (0o777 if name in folders else 0o666) & ~umask for name in modes} and len(modes) == 5


def test_a_folder_that_another_process_began_to_write_is_left_to_it(tmp_path):
    """As an orphan of a killed run, and the job that takes its place, write the same output."""
    out = tmp_path / "out"
    with pytest.raises(UserError, match="out: another process has begun to write it"), whole_folder(out) as ours:
        (ours / "tensors").write_text("of the first")
        with whole_folder(out) as theirs:
            assert theirs != ours and not ours.exists()
            (theirs / "tensors").write_text("of the second")
            (theirs / "config").write_text("of the second")
        write_json(ours / "config", {})  # which makes the folder again, without the tensors
    assert list(tmp_path.iterdir()) == [out]
    assert {p.name: p.read_text() for p in out.iterdir()} == dict.fromkeys(("tensors", "config"), "of the second")


def test_a_file_that_another_process_began_to_write_is_left_to_it(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="out: another process has begun to write it"), whole_file(out) as ours:
        with open(ours, "w") as file:
            file.write("of the fi")
            with whole_file(out) as theirs:
                theirs.write_text("of the second")
            file.write("rst")
    assert list(tmp_path.iterdir()) == [out] and out.read_text() == "of the second"


def test_what_a_killed_process_left_is_deleted(tmp_path):
    (tmp_path / "out.0123abcd.partial").mkdir()
    (tmp_path / "out.0123abcd.partial/half").touch()
    (tmp_path / "out.json.89abcdef.partial").touch()
    (tmp_path / "other.89abcdef.partial").touch()
    write_json(tmp_path / "out.json", {})
    with whole_folder(tmp_path / "out"):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"out", "out.json", "other.89abcdef.partial"}


def test_outputs_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, why in (("file/out.json", "Not a directory|File exists"), ("folder", "it is a folder")):
        with pytest.raises(UserError, match=rf"{path}: cannot be written \(({why})\)"):
            write_json(tmp_path / path, {})
    for path in ("file", "file/below"):
        with pytest.raises(UserError, match=f"{path}: cannot be written"), whole_folder(tmp_path / path):
            pass


def test_errors_of_a_body_that_are_not_about_its_output_pass(tmp_path):
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "out"):
        (tmp_path / "input").read_text()
    with pytest.raises(ValueError, match="NaN|nan|JSON"):
        write_json(tmp_path / "out.json", float("nan"))
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "out.txt") as partial:
        partial.write_text(json.dumps(1 / 0))
    assert not list(tmp_path.iterdir())
