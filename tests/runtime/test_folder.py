"""A T-GEM's folder: what is saved is loaded again bit for bit, and what is wrong is said in one line."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import DEMO, ROOT
from hostile import edit_t_gem
from huggingface_hub import ModelCard
from runtime.conftest import RUNNABLE

import tgems
from tgems.backbones.load import load_backbone
from tgems.errors import UserError
from tgems.provenance import read_json
from tgems.runtime.folder import tensors_of
from tgems.runtime.model import EarlyExitCLIP
from tgems.runtime.own_folder import save_calibration
from tgems.runtime.saved_config import FILES, read_config


def test_thresholds_that_two_processes_fit_at_once_are_all_kept(saved, tmp_path, demo_backbone):
    folder = shutil.copytree(saved, tmp_path / "g")
    early = EarlyExitCLIP.from_pretrained(folder, backbone=demo_backbone).early_exit
    for name in ("one", "two"):  # neither knows of the other
        own = replace(early, calibrations=early.calibrations | {name: early.calibrations["scenes"]})
        save_calibration(demo_backbone, own, folder, name)
    assert list(read_config(folder).calibrations) == ["scenes", "digits", "one", "two"]


@pytest.mark.parametrize("policy", RUNNABLE)
def test_round_trip_is_bit_identical(make, known, policy, tmp_path, demo_backbone):
    model = make(policy)
    model.save_pretrained(tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == set(FILES)
    again = EarlyExitCLIP.from_pretrained(tmp_path / "a", backbone=demo_backbone)
    before, after = dict(tensors_of(model.early_exit)), dict(tensors_of(again.early_exit))
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert list(again.early_exit.calibrations.items()) == list(model.early_exit.calibrations.items())
    assert again.calibration == model.calibration and again.early_exit.costs == model.early_exit.costs
    assert again.early_exit.about == model.early_exit.about
    for m in (model, again):
        if m.early_exit.policy.needs_bank:
            m.set_text_bank(known.split.features.texts)
    first, second = (m.encode_image(known.images, return_exits=True) for m in (model, again))
    assert torch.equal(first.exits, second.exits) and torch.equal(first.embeddings, second.embeddings)
    again.save_pretrained(tmp_path / "b")
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in FILES)


def test_saving_again_replaces_a_t_gem_and_nothing_else(make, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "g")
    make("fixed").save_pretrained(folder)
    assert {p.name for p in folder.iterdir()} == set(FILES) and read_json(folder / "config.json")["policy"] == "fixed"
    assert EarlyExitCLIP.from_pretrained(folder).early_exit.gates is None
    other = shutil.copytree(ROOT / "assets/backbones/demo-vit-8", tmp_path / "backbone")
    weights = {p.name: p.read_bytes() for p in other.iterdir()}
    with pytest.raises(UserError, match="holds files that are not a T-GEM's"):
        make().save_pretrained(other)
    assert {p.name: p.read_bytes() for p in other.iterdir()} == weights
    with pytest.raises(UserError, match="is a file"):
        make().save_pretrained(folder / "config.json")


@pytest.mark.parametrize("which", FILES)
def test_a_t_gem_survives_an_export_over_it_that_fails(make, saved, tmp_path, monkeypatch, which):
    folder = shutil.copytree(saved, tmp_path / "g")
    (folder / ".git").mkdir()
    (folder / ".git/HEAD").touch()
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    write = Path.write_bytes if which == "model.safetensors" else Path.write_text

    def no_room(path, data, **options):
        if path.name.startswith(which):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data, **options)

    monkeypatch.setattr(Path, write.__name__, no_room)
    with pytest.raises(UserError, match="cannot be written .No space left on device.; free space there"):
        make("fixed").save_pretrained(folder)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    make("fixed").save_pretrained(folder)
    assert EarlyExitCLIP.from_pretrained(folder).early_exit.policy.name == "fixed" and (folder / ".git/HEAD").exists()


def test_what_could_not_be_loaded_is_not_saved(make, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "g")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    model = make()
    model.early_exit.about["more"] = {"nested": {}}
    with pytest.raises(UserError, match="this T-GEM cannot be saved: about.more.* is "):
        model.save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_create_model_and_transforms_mirrors_open_clip(saved):
    import open_clip

    model, train, val = tgems.create_model_and_transforms(saved, calibration="digits", max_rate=0.7)
    assert isinstance(model, EarlyExitCLIP) and (model.calibration, model.max_rate) == ("digits", 0.7)
    _, their_train, their_val = open_clip.create_model_and_transforms(DEMO["pretrained"])
    assert str(train) == str(their_train) and str(val) == str(their_val) and str(train) != str(val)
    _, augmented, _ = tgems.create_model_and_transforms(str(saved), aug_cfg={"scale": (0.5, 0.6)})
    assert "0.5, 0.6" in str(augmented)
    tokens = tgems.get_tokenizer(saved)(["a red four"])
    assert torch.equal(tokens, open_clip.get_tokenizer(DEMO["pretrained"])(["a red four"]))


def test_a_backbone_may_be_read_from_elsewhere(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "g")
    edit_t_gem(folder, lambda c: c["backbone"].update(pretrained="local-dir:gone"))
    with pytest.raises(UserError, match=r"local-dir:gone.*name a copy of it by backbone='local-dir:FOLDER'"):
        EarlyExitCLIP.from_pretrained(folder)
    assert (
        EarlyExitCLIP.from_pretrained(folder, backbone=DEMO["pretrained"]).backbone.entry["pretrained"]
        == DEMO["pretrained"]
    )


def test_another_backbone_is_refused(saved):
    other = load_backbone({"pretrained": f"local-dir:{ROOT}/assets/backbones/demo-vit-12"})
    with pytest.raises(
        UserError, match="made for a backbone with vision_cfg.layers 8, but local-dir:.*demo-vit-12 has 12; give"
    ):
        EarlyExitCLIP.from_pretrained(saved, backbone=other)


@pytest.mark.parametrize("name", ["owner/no-such-model", "no/such/folder", "."])
def test_no_folder_is_one_clear_line(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    message = "not a saved T-GEM" if name == "." else f"{name}: no such folder here, and it cannot be downloaded"
    for call in (tgems.create_model_and_transforms, tgems.get_tokenizer):
        with pytest.raises(UserError, match=message) as error:
            call(name)
        assert "\n" not in str(error.value)


def test_an_unknown_device_is_one_clear_line(saved):
    with pytest.raises(UserError, match="device 'gpu7' cannot be used"):
        tgems.create_model_and_transforms(saved, device="gpu7")


def shareable(model):
    """Return the same model with a backbone entry that names a tag of open_clip."""
    entry = {"model": "ViT-B-32", "pretrained": "openai"}
    return EarlyExitCLIP(replace(model.backbone, entry=entry), model.early_exit)


def test_a_backbone_that_nobody_else_could_load_is_not_uploaded(make):
    with pytest.raises(UserError, match="me/tgem: its backbone is 'local-dir:.*', which nobody else could load; use"):
        make().push_to_hub("me/tgem")


def test_what_is_uploaded_is_the_three_files(make, monkeypatch):
    seen = {}

    class FakeApi:
        """Stands for the hub."""

        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            seen["private"] = private
            return type("Url", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            seen["files"] = {name for name in os.listdir(folder_path) if name in allow_patterns}
            seen["policy"] = read_json(f"{folder_path}/config.json")["policy"]
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    assert shareable(make()).push_to_hub("tgem", private=True, token="t", commit_message="m") == "https://hub/me/tgem"
    assert seen == {"token": "t", "private": True, "files": set(FILES), "policy": "tgem"}


def test_an_upload_that_fails_is_one_line(make, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.HfApi.create_repo", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("x"))
    )
    with pytest.raises(UserError, match=r"me/tgem: cannot be uploaded to the Hugging Face hub \(x\); check the name"):
        shareable(make()).push_to_hub("me/tgem")


def test_the_hub_s_copy_is_loaded_from_its_cache(saved, monkeypatch, tmp_path):
    repo = tmp_path / "models--me--tgem"
    shutil.copytree(saved, repo / "snapshots" / ("0" * 40))
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("0" * 40)
    model, _, _ = tgems.create_model_and_transforms(
        "me/tgem", hub_kwargs={"cache_dir": tmp_path, "local_files_only": True}
    )
    assert model.early_exit.policy.name == "tgem"


@pytest.mark.parametrize("policy", ["tgem", "tgem_bank", "fixed"])
def test_the_card_is_hub_metadata_with_the_run_s_numbers(make, results, policy, tmp_path):
    model = make(policy)
    model.save_pretrained(tmp_path / "g")
    card = ModelCard.load(tmp_path / "g/README.md")
    assert card.data.library_name == "tgems" and "early-exit" in card.data.tags
    points = pd.read_csv(results / "tables/tradeoff.csv").query("seed == '0' and twin_of.isna()", engine="python")
    points = points[
        points["calibration"].ne("online")
        & points["policy"].eq(policy)
        & points["metric"].str.contains("acc1|recall@1$")
    ]
    points = points[points["exit_block"].eq(3)] if policy == "fixed" else points
    assert len(points) == len(model.early_exit.about["results"]) == {"tgem": 4, "tgem_bank": 3, "fixed": 3}[policy]
    for row in points.itertuples():
        by = "all" if policy == "fixed" else "scenes" if row.calibration == "transfer" else row.dataset
        assert f"| {row.dataset} | {by} | {row.metric} | {row.value:.3f} | " in card.text
        assert f" | {row.rate:.3f} |" in card.text
    assert ("no image index can be built" in card.text) == (policy == "tgem_bank")
