"""Weights from a hub that misbehaves: one line with the way out, and the next call finishes."""

import re
from pathlib import Path

import open_clip
import pytest
from data.hub_server import use
from faults.small_disk import mounted
from open_clip.pretrained import download_pretrained_from_hf
from safetensors.torch import load_file, save_file

from tgems.backbones.hub_files import hub_file
from tgems.backbones.source import find_source
from tgems.errors import UserError
from tgems.provenance import digest_file

REPO, WEIGHTS = "timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"
ENTRY = {"model": "ViT-B-32-quickgelu", "pretrained": "openai"}
"""open_clip's tag `openai` stands for this repository."""


@pytest.fixture
def hub(demo_folder, tmp_path, monkeypatch):
    """A hub on which the weights of a small model stand for OpenAI's."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with use({REPO: demo_folder}, monkeypatch) as running:
        yield running


def line(entry=ENTRY) -> str:
    """Return the line with which a backbone's files are refused."""
    with pytest.raises(UserError) as error:
        find_source(entry)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_tag_openai_is_read_from_the_repository_that_open_clip_names(hub, demo_folder):
    assert open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", "openai")["hf_hub"] == f"{REPO}/"
    found = find_source(ENTRY)
    assert found.checkpoint is not None and digest_file(found.checkpoint) == digest_file(demo_folder / WEIGHTS)
    assert found.config.model_cfg.quick_gelu and found.config.preprocess_cfg.interpolation == "bicubic"
    hub.requests.clear()
    find_source(ENTRY)
    assert hub.downloads() == []


def test_the_choice_of_the_file_is_open_clip_s(hub, demo_folder):
    (demo_folder / WEIGHTS).rename(demo_folder / "open_clip_pytorch_model.bin")
    assert hub_file(REPO).name == download_pretrained_from_hf(REPO).split("/")[-1]
    save_file(load_file(demo_folder / "open_clip_pytorch_model.bin"), demo_folder / "other.safetensors")
    (demo_folder / "other.bin").write_bytes(b"x")
    for name in ("other.bin", "open_clip_config.json"):
        assert str(hub_file(REPO, name)) == download_pretrained_from_hf(REPO, filename=name)


def test_a_download_that_breaks_off_is_finished_by_the_next_call(hub):
    hub.break_off[WEIGHTS] = [9_000] + [0] * 10
    said = line()
    assert re.match("backbone weights 'openai' of 'ViT-B-32-quickgelu' cannot be loaded: .*; connect to the in", said)
    assert ".bin" not in said, "the file that is not there is not blamed"
    hub.break_off.clear()
    assert find_source(ENTRY).weights_digest


def test_a_hub_that_is_busy_says_how_long(hub):
    hub.busy = [40] * 30
    assert line().endswith("too many requests; run again in 40 seconds, or set HF_TOKEN for a higher limit")
    hub.busy.clear()
    find_source(ENTRY)


def test_a_hub_that_is_busy_for_a_moment_is_waited_for(hub):
    hub.busy = [1]
    assert find_source(ENTRY).weights_digest


def test_gated_weights_name_the_token(hub):
    hub.gated_files.add(REPO)
    assert line().endswith("cannot be loaded: its owner must grant access; ask there, then set HF_TOKEN")


def test_weights_that_differ_from_the_hub_s_digest_are_deleted(hub, tmp_path):
    hub.damaged.add(WEIGHTS)
    assert line().endswith(f"{WEIGHTS} of {REPO} arrived damaged; run again")
    assert not list((tmp_path / "cache").rglob(WEIGHTS))
    hub.damaged.clear()
    assert find_source(ENTRY).weights_digest


def test_a_blob_that_is_itself_a_link_is_compared_by_its_own_name(hub, tmp_path):
    """huggingface_hub can share blobs between caches, in a store that names them by another digest."""
    blob = Path(hub_file(REPO)).resolve()
    stored = tmp_path / ("f" * 64)
    blob.rename(stored)
    blob.symlink_to(stored)
    assert find_source(ENTRY).weights_digest and stored.is_file()


def test_a_full_disk_is_named_and_the_next_call_finishes(hub, tmp_path, monkeypatch, demo_folder):
    size = (demo_folder / WEIGHTS).stat().st_size
    with mounted(tmp_path / "disk", str(size + 400_000)) as disk:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(disk.folder))
        disk.fill(leave=100_000)
        assert re.search(rf"{disk.folder}.*: a download cannot be written \(No space left on device\); free", line())
        disk.free()
        assert find_source(ENTRY).weights_digest
