"""`tgems encode`: what it writes, and how it goes on after a kill, a bad image or a change."""

import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image
from runtime.test_cli import tgems

from tgems.data.webdataset import read_shard
from tgems.errors import UserError
from tgems.runtime import image_files, index


def interrupted(model, images, out, monkeypatch, **options):
    """Encode one part of five, and be interrupted in the second."""
    encode, calls = model.encode_stream, []

    def dies_in_the_second_part(batches, batch_size):
        calls.append(batch_size)
        return encode(until_dead(batches), batch_size)

    def until_dead(batches):
        for batch in batches:
            yield batch
            if len(calls) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(index, "PART", 5)
    with monkeypatch.context() as patch:
        patch.setattr(model, "encode_stream", dies_in_the_second_part)
        with pytest.raises(KeyboardInterrupt):
            index.encode_images(model, "m", images, out, **options)


def test_an_image_that_is_named_twice_counts_once(saved, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(pictures)
    output = tgems("encode", "01.png", pictures / "01.png", "./below/../01.png", "-m", saved, "-o", tmp_path / "i")
    assert "1 images in" in output and list(pd.read_parquet(tmp_path / "i")["image"]) == ["01.png"]


def test_a_name_that_is_not_utf_8_is_escaped(saved, pictures, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(pictures / "01.png", odd)
    tgems("encode", odd, "-m", saved, "-o", tmp_path / "i.parquet")
    assert list(pd.read_parquet(tmp_path / "i.parquet")["image"]) == [f"{tmp_path}/caf\\xe9.png"]
    assert "caf\\xe9.png" in tgems("search", "a red four", "-i", tmp_path / "i.parquet", "-m", saved)


def test_encode_takes_files_folders_globs_and_tars(saved, pictures, demo_data, tmp_path, make):
    tar = demo_data / "scenes/test/0.tar"
    words = [pictures / "01.png", pictures / "below", f"{pictures}/*.png", tar]
    output = tgems("encode", *words, "-m", saved, "-o", tmp_path / "i.parquet", "--batch-size", 5)
    frame = pd.read_parquet(tmp_path / "i.parquet")
    assert f"{len(frame)} images in" in output and len(frame) == 12 + 40 and frame["image"].is_unique
    assert list(frame["image"][:2]) == [str(pictures / "01.png"), str(pictures / "below/00.png")]
    keys = [f"{tar}::{s.key}" for s in read_shard(tar)]
    assert list(frame["image"][12:]) == keys
    assert not (tmp_path / "i.parquet.parts").exists()
    model = make()
    pixels = torch.stack([model.preprocess(Image.open(p).convert("RGB")) for p in frame["image"][:12]])
    expected = model.encode_image(pixels, return_exits=True)
    assert np.allclose(np.stack(frame["embedding"][:12]), expected.embeddings.numpy(), atol=1e-5)
    blocks = np.array(model.early_exit.costs.blocks)[expected.exits.numpy()]
    assert list(frame["exit_block"][:12]) == list(blocks)
    assert np.allclose(frame["rate"][:12], model.rates[expected.exits.numpy()])
    assert (frame["model"] == str(saved)).all() and (frame["calibration"] == "scenes").all()


def test_a_killed_run_goes_on_where_it_stopped(saved, pictures, tmp_path, make, monkeypatch):
    monkeypatch.setattr(index, "PART", 5)
    images, model, out = image_files.find_images([str(pictures)]), make(), tmp_path / "i.parquet"
    whole = tmp_path / "whole.parquet"
    index.encode_images(model, "m", images, whole, batch_size=2)
    interrupted(model, images, out, monkeypatch, batch_size=2)
    assert not out.exists() and [p.name for p in out.with_name("i.parquet.parts").glob("*.parquet")] == [
        "000000.parquet"
    ]
    encode, encoded, told = model.encode_stream, [], []

    def counted(batches, batch_size):
        return encode((encoded.append(len(x)) or x for x in batches), batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(model, "encode_stream", counted)
        done = index.encode_images(model, "m", images, out, batch_size=2, advance=told.append)
    assert encoded == [2, 2, 1, 2] and sum(told) == done.images == 12
    assert out.read_bytes() == whole.read_bytes()
    out.with_name("i.parquet.parts").mkdir()
    (out.with_name("i.parquet.parts") / "run.json").write_text("{}")
    with pytest.raises(UserError, match="holds parts of another model or of other images; delete it"):
        index.encode_images(model, "m", images, out)


def test_an_image_replaced_between_two_calls_is_encoded_again(saved, pictures, tmp_path, make, monkeypatch):
    folder = shutil.copytree(pictures, tmp_path / "p")
    images, model, out = image_files.find_images([str(folder)]), make(), tmp_path / "i.parquet"
    interrupted(model, images, out, monkeypatch)
    shutil.copy(images[11].path, images[1].path)
    index.encode_images(model, "m", images, out)
    frame = pd.read_parquet(out)
    assert np.allclose(frame["embedding"][1], frame["embedding"][11], atol=1e-5)
    monkeypatch.undo()
    index.encode_images(model, "m", images, tmp_path / "whole.parquet")
    whole = pd.read_parquet(tmp_path / "whole.parquet")
    assert list(whole["image"]) == list(frame["image"])
    assert np.allclose(np.stack(whole["embedding"]), np.stack(frame["embedding"]), atol=1e-5)


@pytest.mark.parametrize("time_kept", [False, True])
def test_an_image_left_out_is_tried_again(saved, pictures, tmp_path, make, monkeypatch, time_kept):
    folder = shutil.copytree(pictures, tmp_path / "p")
    images, model, out = image_files.find_images([str(folder)]), make(), tmp_path / "i.parquet"
    mended, spoilt = images[2].path.read_bytes(), images[3].path.read_bytes()[:200]
    images[2].path.write_bytes(mended[:200] + bytes(len(mended) - 200))
    images[3].path.write_bytes(spoilt)
    before = images[2].path.stat()
    interrupted(model, images, out, monkeypatch, skip_bad=True)
    images[2].path.write_bytes(mended)
    if time_kept:  # as on a file system that failed to read it once
        os.utime(images[2].path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = index.encode_images(model, "m", images, out, skip_bad=True)
    assert [name for name, _ in done.left_out] == [images[3].name] and done.images == 11
    assert list(pd.read_parquet(out)["image"]) == [image.name for i, image in enumerate(images) if i != 3]


def test_two_runs_onto_one_output_do_not_meet(saved, pictures, tmp_path, make):
    out, outputs = tmp_path / "i.parquet", []
    images = image_files.find_images([str(pictures)])

    def meanwhile(n: int) -> None:
        outputs.append(tgems("encode", pictures, "-m", saved, "-o", out, code=1))

    assert index.encode_images(make(), "m", images, out, batch_size=6, advance=meanwhile).images == 12
    for output in outputs:
        assert f"{out}: another process is writing it; wait until that one has ended, or choose another" in output
    assert len(outputs) >= 2 and list(tmp_path.iterdir()) == [out]


def test_names_that_look_like_places_in_a_tar_are_read(saved, pictures, demo_data, tmp_path):
    folder = tmp_path / "a::b"
    folder.mkdir()
    shutil.copy(demo_data / "scenes/test/1.tar", folder / "x::y.tar")
    shutil.copy(pictures / "01.png", folder / "p::q.png")
    output = tgems("encode", folder, "-m", saved, "-o", tmp_path / "i.parquet")
    assert "31 images in" in output, output


def test_a_bad_image_ends_the_run_or_is_left_out(saved, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "p")
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:200])
    words = ["encode", folder, "-m", saved, "-o", tmp_path / "i.parquet"]
    assert re.search(r"error: .*05\.png: cannot be read \(.*\); fix it, or leave it out", tgems(*words, code=1))
    assert not (tmp_path / "i.parquet").exists()
    output = tgems(*words, "--skip-bad", code=3)
    assert "11 images in" in output and re.search(r"left out: .*05\.png cannot be read", output)
    assert len(pd.read_parquet(tmp_path / "i.parquet")) == 11
    (tmp_path / "q").mkdir()
    shutil.copy(folder / "05.png", tmp_path / "q")
    words = ["encode", tmp_path / "q", "-m", saved, "-o", tmp_path / "j.parquet", "--skip-bad"]
    assert "none of 1 images can be read" in tgems(*words, code=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/*.png"], "nowhere/*.png: there is no such file, folder or match"),
        ([ROOT / "README.md"], "README.md: not an image"),
        ([ROOT / "configs"], "no image (png, jpg, jpeg, webp) and no tar with images"),
        ([ROOT / "docs/tradeoff.png", "--device", "gpu7"], "device 'gpu7' cannot be used"),
        ([ROOT / "docs/tradeoff.png", "--max-rate", "0.01"], "max_rate 0.01 is below the cheapest exit"),
        ([ROOT / "docs/tradeoff.png", "--calibration", "cats"], "no thresholds for 'cats'"),
        ([ROOT / "docs/tradeoff.png", "--backbone", "local-dir:gone"], "local-dir:gone"),
    ],
)
def test_bad_input_is_one_line(saved, tmp_path, words, message):
    output = tgems("encode", *words, "-m", saved, "-o", tmp_path / "i.parquet", code=1)
    assert message in output and len(output.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_an_index_by_a_policy_that_looks_at_texts_is_refused(make, pictures, tmp_path):
    make("margin").save_pretrained(tmp_path / "margin")
    output = tgems("encode", pictures, "-m", tmp_path / "margin", "-o", tmp_path / "i.parquet", code=1)
    assert "policy 'margin' looks at the texts" in output and not (tmp_path / "i.parquet.parts").exists()
