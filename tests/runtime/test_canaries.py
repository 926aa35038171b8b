"""Loading a T-GEM runs no code, follows no link out of its folder, and sends nothing to a terminal but text."""

import json
import pickle
import shutil
import tarfile

import pytest
from conftest import ROOT
from data.hub_server import use
from hostile import CONFIG, FOLDER, PICKLES, WEIGHTS, edit, edit_t_gem, refused, write_remote_code
from markdown_it import MarkdownIt
from runtime.test_cli import tgems as command
from safetensors.torch import load_file, save_file

import tgems
from tgems import from_pretrained
from tgems.provenance import digest_file, read_json


@pytest.fixture
def shared(saved, demo_folder, tmp_path):
    """A T-GEM's folder, and the backbone's that it names."""
    t_gem = shutil.copytree(saved, tmp_path / "g")
    edit_t_gem(t_gem, lambda c: c["backbone"].update(pretrained=f"local-dir:{demo_folder}"))
    return t_gem


def test_a_t_gem_runs_no_code_of_its_backbone(shared, demo_folder, canary, tmp_path):
    write_remote_code(demo_folder, canary)
    edit(demo_folder, hf_tokenizer_name="any/name", tokenizer_kwargs={"trust_remote_code": True})
    picture = ROOT / "docs/tradeoff.png"
    output = command("encode", picture, "-m", shared, "-o", tmp_path / "i.parquet", code=1)
    assert "unknown key 'trust_remote_code'" in output and len(output.splitlines()) == 1 and not canary.ran
    for call in (tgems.create_model_and_transforms, tgems.get_tokenizer, from_pretrained):
        assert "unknown key 'trust_remote_code'" in refused(canary, call, shared)


def test_a_t_gem_of_another_backbone_is_refused_before_anything_is_built(shared, demo_folder, canary, monkeypatch):
    from tgems.backbones import load as building

    def never(*_, **__):
        canary.path.touch()
        raise AssertionError("built before the digests were compared")

    monkeypatch.setattr(building, "build_model", never)
    monkeypatch.setattr(building, "build_tokenizer", never)
    state = {k: v.clone() for k, v in load_file(demo_folder / WEIGHTS).items()}
    state["logit_scale"] += 1
    save_file(state, demo_folder / WEIGHTS)
    assert "made for a backbone with weights 3067e8d0fcd6, but local-dir:" in refused(canary, from_pretrained, shared)
    config = read_json(demo_folder / CONFIG)
    (demo_folder / CONFIG).write_text(
        json.dumps(config | {"preprocess_cfg": config["preprocess_cfg"] | {"mean": [0, 0, 0]}})
    )
    shutil.copy(FOLDER / WEIGHTS, demo_folder / WEIGHTS)
    assert "made for a backbone with preprocess Compose" in refused(canary, from_pretrained, shared)
    config["model_cfg"]["quick_gelu"] = not config["model_cfg"].get("quick_gelu", False)
    (demo_folder / CONFIG).write_text(json.dumps(config))
    assert "made for a backbone with quick_gelu False, but local-dir" in refused(canary, from_pretrained, shared)


def test_a_t_gem_names_no_folder_for_a_tokenizer_but_its_user_may(shared, demo_folder, tmp_path, canary):
    write_remote_code(tmp_path / "tokenizer", canary)
    named = f"local-dir:{tmp_path}/tokenizer"
    edit_t_gem(shared, lambda c: c["backbone"].update(tokenizer=named))
    for call in (from_pretrained, tgems.get_tokenizer):
        assert f"if you trust it, pass tokenizer='{named}' (--tokenizer)" in refused(canary, call, shared)
        assert "auto_map is " in refused(canary, call, shared, tokenizer=named)
    edit_t_gem(shared, lambda c: c["backbone"].update(tokenizer="../tokenizer"))
    assert "'../tokenizer'" in refused(canary, from_pretrained, shared)


@pytest.mark.parametrize("policy", ["canary.py:Canary", "{folder}/canary.py:Canary"])
def test_a_t_gem_names_no_policy_file(shared, canary, policy):
    (shared / "canary.py").write_text(f"open({str(canary.path)!r}, 'w')\nclass Canary: pass\n")
    edit_t_gem(shared, lambda c: c.update(policy=policy.format(folder=shared)))
    assert "is not one of tgems' own policies that can be run" in refused(canary, from_pretrained, shared)
    assert "is not one of tgems' own policies that can be run" in command("info", shared, code=1) and not canary.ran


@pytest.mark.parametrize("form", PICKLES)
def test_tensors_of_a_t_gem_are_no_pickle(shared, canary, form):
    PICKLES[form](shared / "model.safetensors", canary)
    edit_t_gem(shared, lambda c: c.update(model_digest=digest_file(shared / "model.safetensors")))
    assert "model.safetensors: not a complete safetensors file" in refused(canary, from_pretrained, shared)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_t_gem_s_links_stay_within_its_folder(shared, tmp_path, canary, name):
    shutil.move(shared / name, tmp_path / name)
    (shared / name).symlink_to(tmp_path / name)
    assert f"{shared / name}: a link to {tmp_path / name}, outside its folder" in refused(
        canary, from_pretrained, shared
    )


def test_saving_onto_a_stranger_s_folder_writes_nowhere_else(shared, make, tmp_path):
    (tmp_path / "precious").write_text("mine")
    for name in ("config.json.partial", "model.safetensors.partial", "README.md.partial"):
        (shared / name).symlink_to(tmp_path / "precious")
    (shared / "README.md").unlink()
    (shared / "README.md").symlink_to(tmp_path / "precious")
    make().save_pretrained(shared)
    assert (tmp_path / "precious").read_text() == "mine" and not (shared / "README.md").is_symlink()


def test_a_hub_s_snapshot_of_links_is_loaded(saved, tmp_path, monkeypatch, canary):
    with use({"me/tgem": saved}, monkeypatch):
        from tgems.runtime.fetching import fetch

        folder = fetch("me/tgem", cache_dir=tmp_path / "cache")
    assert (folder / "config.json").is_symlink(), "the hub's cache links to blobs"
    assert from_pretrained(folder).early_exit.policy.name == "tgem"
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(saved / "config.json")
    assert "outside its folder" in refused(canary, from_pretrained, folder)


def test_clip_benchmark_does_not_unpickle_a_shard(saved, tmp_path, canary, demo_data):
    from clip_benchmark.datasets.builder import build_wds_dataset
    from webdataset import autodecode

    from tgems.runtime.clip_benchmark import refuse_pickles

    root = shutil.copytree(demo_data / "digits", tmp_path / "digits")
    for shard in (root / "test").glob("*.tar"):
        with tarfile.open(shard) as tar:
            key = tar.getnames()[0].partition(".")[0]
        (tmp_path / f"{key}.pyd").write_bytes(pickle.dumps(canary))
        with tarfile.open(tmp_path / "first.tar", "w") as new, tarfile.open(shard) as tar:
            new.add(tmp_path / f"{key}.pyd", f"{key}.pyd")
            for member in tar:
                new.addfile(member, tar.extractfile(member))
        shutil.move(tmp_path / "first.tar", shard)

    def read():
        return next(iter(build_wds_dataset("digits", lambda image: image, data_dir=str(root))))

    decoders = dict(autodecode.decoders)
    read()
    assert canary.ran, "left alone, it does"
    canary.path.unlink()
    try:
        refuse_pickles()
        with pytest.raises(autodecode.DecodingError) as error:
            read()
        assert "a shard holds a pickle" in str(error.value.__context__)
    finally:
        autodecode.decoders.update(decoders)
    assert not canary.ran


def test_names_cannot_give_orders_to_a_terminal(saved, tmp_path):
    evil = "\x1b[2J\x1b]0;owned\x07\u202egnp.\r\n"
    shown = "\\x1b[2J\\x1b]0;owned\\x07\\u202egnp.\\r\\n"
    picture = (ROOT / "docs/tradeoff.png").read_bytes()
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / f"a{evil}.png").write_bytes(picture)
    (folder / f"b{evil}.png").write_bytes(b"no image")
    output = command("encode", folder, "-m", saved, "-o", tmp_path / "i.parquet", code=1)
    assert shown in output and "\x1b" not in output
    output = command("encode", folder, "-m", saved, "-o", tmp_path / "i.parquet", "--skip-bad", code=3)
    assert f"left out: {folder}/b{shown}.png" in output and "\x1b" not in output
    output = command("search", "x", "-i", tmp_path / "i.parquet")
    assert shown in output and "\x1b" not in output and "\u202e" not in output

    t_gem = shutil.copytree(saved, tmp_path / "g")
    edit_t_gem(t_gem, lambda c: c["about"].update(name=evil, **{f"k{evil}": evil}))
    output = command("info", t_gem)
    assert output.count(shown) == 3 and "\x1b" not in output


def test_names_are_text_in_a_model_card(saved, tmp_path, demo_backbone):
    evil = "a\n---\n# b | `c` <script>alert(1)</script> ![d](http://e/f) \x1b[2J"
    t_gem = shutil.copytree(saved, tmp_path / "g")

    def change(config):
        config["about"].update(name=evil, trained_on=f"``{evil}")
        config["about"]["results"][0].update(dataset=evil)
        config["calibrations"][evil] = config["calibrations"].pop("digits")

    edit_t_gem(t_gem, change)
    from_pretrained(t_gem, backbone=demo_backbone).save_pretrained(tmp_path / "again")
    cards = [(folder / "README.md").read_text() for folder in (saved, tmp_path / "again")]
    shown = [MarkdownIt("commonmark", {"html": True}).enable("table").render(c.split("---\n", 2)[2]) for c in cards]
    for tag in ("<script", "<img", "<a ", "<h1", "<h2", "<tr", "<td", "<hr", "<li"):
        assert shown[0].count(tag) == shown[1].count(tag), tag
    assert cards[0].split("---\n")[1] == cards[1].split("---\n")[1], "metadata"
    assert "<code>``a\\n---" in shown[1] and "&lt;script&gt;" in shown[1]
    assert all(c == "\n" or c.isprintable() for c in cards[1])
