"""Outputs are written completely or not at all, by one writer, readable, and with one line on failure."""

import json
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from tgems.errors import UserError
from tgems.outputs import whole_file, whole_folder, write_json


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
    """Set the umask, which says what others may do with new files."""
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
