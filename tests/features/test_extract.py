"""One split through the feature pass: bad samples, killed jobs, parts, streaming, autocast."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from conftest import DEMO
from PIL import Image

from tgems.backbones.load import load_backbone
from tgems.data.webdataset import Prompts, Sample, SplitFiles, write_prompts, write_split
from tgems.demo.datasets import generate_split
from tgems.errors import UserError
from tgems.features import shards
from tgems.features.cache import load_features
from tgems.features.extract import encode_part, extract_features, shard_folder
from tgems.features.shards import Encoding

CLASSIFY = "zeroshot_classification"


def _png():
    buffer = io.BytesIO()
    Image.new("L", (20, 50), 90).save(buffer, "PNG")
    return buffer.getvalue()


def _split(folder, images):
    write_prompts(folder, Prompts(("a", "b"), ("{c}",)))
    write_split([Sample(f"x-{i}", image, "png", 0) for i, image in enumerate(images)], folder / "test", 5)
    return SplitFiles.of_folder(folder / "test", CLASSIFY)


def _equal(a, b):
    assert torch.equal(a.summaries[:], b.summaries[:]) and torch.equal(a.embeddings, b.embeddings)
    assert torch.equal(a.raw_at_all_exits(), b.raw_at_all_exits()) and torch.equal(a.texts, b.texts)
    assert a.samples.equals(b.samples)


def test_one_grey_image_of_odd_shape_is_fine(demo_backbone, tmp_path):
    extract_features(demo_backbone, _split(tmp_path / "d", [_png()]), tmp_path / "f", Encoding())
    assert load_features(tmp_path / "f").summaries.shape == (1, 7, 5 * 64)


def test_without_captions_the_full_encoding_of_an_image_is_its_text(demo_backbone, demo_data, tmp_path):
    split = SplitFiles.of_folder(demo_data / "digits/test", "self_retrieval")
    extract_features(demo_backbone, split, tmp_path / "f", Encoding())
    features = load_features(tmp_path / "f")
    assert torch.equal(features.texts, features.embeddings)
    assert features.text_image.tolist() == list(range(70)) and len(features.samples) == 70
    assert features.captions["caption"].tolist() == features.samples["key"].tolist()
    ranks = (features.embeddings @ features.text_embeddings.T).argmax(1)
    assert ranks.tolist() == list(range(70))


def test_skipped_samples_are_listed_and_not_counted(demo_backbone, tmp_path, caplog):
    split = _split(tmp_path / "d", [_png(), b"garbage", _png()])
    extract_features(demo_backbone, split, tmp_path / "f", Encoding(on_bad_sample="skip"))
    features = load_features(tmp_path / "f")
    assert features.manifest["n"] == 2 == len(features.embeddings)
    assert features.samples["key"].tolist() == ["x-0", "x-2"]
    (skipped,) = features.manifest["skipped"]
    assert (skipped["shard"], skipped["key"]) == ("0.tar", "x-1") and "x-1" in caplog.text


def test_a_shard_of_only_bad_samples_is_an_error(demo_backbone, tmp_path):
    split = _split(tmp_path / "d", [b"garbage"])
    with pytest.raises(UserError, match=r"0\.tar: none of its 1 samples can be used"):
        extract_features(demo_backbone, split, tmp_path / "f", Encoding(on_bad_sample="skip"))


def test_workers_parts_and_small_files_change_no_number(demo_backbone, demo_data, demo_features, tmp_path, monkeypatch):
    split, whole = SplitFiles.of_folder(demo_data / "digits/test", CLASSIFY), load_features(demo_features / "digits")
    monkeypatch.setattr(shards, "ROWS_PER_FILE", 20)
    encoding = Encoding(batch_size=32, workers=1)
    for part in range(3):
        receipt = shard_folder(tmp_path / "f") / f"part-{part}-of-3.json"
        encode_part(demo_backbone, split, receipt, encoding, part, 3)
        assert len(json.loads(receipt.read_text())["shards"]) == (part < 2)
    monkeypatch.setattr(shards, "encode_images", None)
    extract_features(demo_backbone, split, tmp_path / "f", encoding)
    _equal(load_features(tmp_path / "f"), whole)


def test_streamed_features_are_the_same(demo_features):
    whole = load_features(demo_features / "scenes")
    streamed = load_features(demo_features / "scenes", in_memory_gb=0)
    assert streamed.streamed and not whole.streamed and len(streamed.summaries.files) == 2
    _equal(streamed, whole)
    rows = torch.tensor([69, 0, 41, 40, 39, 0])
    assert torch.equal(streamed.summaries[rows], whole.summaries[rows])
    few = streamed.at_exits((2, 5, 8), 64).summaries
    assert torch.equal(few[rows], whole.summaries[:][rows][:, [1, 4], :64])


def test_a_killed_pass_resumes_at_the_first_incomplete_shard(
    demo_backbone, demo_data, demo_features, tmp_path, monkeypatch
):
    shutil.copytree(demo_data / "digits", tmp_path / "digits")
    split, second = SplitFiles.of_folder(tmp_path / "digits/test", CLASSIFY), tmp_path / "digits/test/1.tar"
    intact = second.read_bytes()
    second.write_bytes(intact[:-2000])
    encoding = Encoding(batch_size=32)
    with pytest.raises(UserError, match=r"1\.tar: damaged"):
        extract_features(demo_backbone, split, tmp_path / "f", encoding)
    assert sorted(p.name for p in shard_folder(tmp_path / "f").iterdir()) == ["0"]
    second.write_bytes(intact)
    encoded = []
    index = SplitFiles.index
    monkeypatch.setattr(SplitFiles, "index", lambda self, path: encoded.append(path.name) or index(self, path))
    extract_features(demo_backbone, split, tmp_path / "f", encoding)
    assert encoded == ["1.tar"]
    _equal(load_features(tmp_path / "f"), load_features(demo_features / "digits"))


@pytest.mark.parametrize("change", ["code", "file", "blocks"])
def test_a_damaged_or_outdated_shard_is_encoded_again(demo_backbone, demo_data, tmp_path, change):
    split, out = SplitFiles.of_folder(demo_data / "digits/test", CLASSIFY), tmp_path / "f"
    extract_features(demo_backbone, split, out, Encoding())
    file = shard_folder(out) / "0/000.safetensors"
    before = file.stat().st_ino
    if change == "file":
        file.write_bytes(file.read_bytes()[:-10])
    backbone = load_backbone(DEMO | {"exits": [4]}) if change == "blocks" else demo_backbone
    extract_features(backbone, split, out, Encoding(code="other" if change == "code" else ""))
    assert file.stat().st_ino != before
    assert load_features(out).summaries.shape[1] == (1 if change == "blocks" else 7)


def test_one_key_in_two_shards_is_named(demo_backbone, tmp_path):
    split = _split(tmp_path / "d", [_png()] * 2)
    shutil.copy(tmp_path / "d/test/0.tar", tmp_path / "d/test/1.tar")
    split = replace(split, shards=[*split.shards, tmp_path / "d/test/1.tar"])
    with pytest.raises(UserError, match="key 'x-0' is in two shards"):
        extract_features(demo_backbone, split, tmp_path / "f", Encoding())


def test_autocast_is_recorded_with_exact_embeddings_beside(demo_data, demo_features, tmp_path):
    encoding = Encoding(batch_size=32, precision="bfloat16", dtype="float16")
    backbone = load_backbone(DEMO)
    extract_features(backbone, SplitFiles.of_folder(demo_data / "digits/test", CLASSIFY), tmp_path / "f", encoding)
    features, exact = load_features(tmp_path / "f"), load_features(demo_features / "digits")
    rows, reference = features.reference
    assert features.manifest["precision"] == "bfloat16" and len(rows) == 70
    assert torch.allclose(reference, exact.embeddings[rows], atol=1e-5)
    cosine = (features.embeddings * exact.embeddings).sum(1)
    assert 0.99 < cosine.min() and cosine.max() < 0.999999


def test_features_of_a_shard_are_split_into_small_files(demo_backbone, tmp_path, monkeypatch):
    generate_split("digits", "test", 30, 0, tmp_path / "digits/test", 30)
    write_prompts(tmp_path / "digits", Prompts(tuple("0123456789"), ("{c}",)))
    monkeypatch.setattr(shards, "ROWS_PER_FILE", 8)
    split = SplitFiles.of_folder(tmp_path / "digits/test", CLASSIFY)
    extract_features(demo_backbone, split, tmp_path / "f", Encoding(batch_size=8))
    assert len(split.shards) == 1
    assert len(list((tmp_path / "f.shards/0").glob("*.safetensors"))) == 4


KILLED = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tgems.backbones.load import load_backbone
from tgems.data.webdataset import SplitFiles
from tgems.features import shards
from tgems.features.extract import extract_features
shards.ROWS_PER_FILE = 1
backbone = load_backbone({"pretrained": sys.argv[1]})
split = SplitFiles.of_folder(Path(sys.argv[2]), "zeroshot_classification")
extract_features(backbone, split, Path(sys.argv[3]), shards.Encoding(batch_size=1))
"""


def test_a_killed_process_leaves_no_shard_that_looks_complete(demo_backbone, demo_data, demo_features, tmp_path):
    split, out = demo_data / "digits/test", tmp_path / "f"
    command = [sys.executable, "-c", KILLED, DEMO["pretrained"], str(split), str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while (
        not list(shard_folder(out).glob("0.*.partial/000.safetensors"))
        and child.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    child.kill()
    child.wait()
    (left,) = shard_folder(out).iterdir()
    assert re.fullmatch(r"0\.[0-9a-f]{8}\.partial", left.name) and any(left.iterdir()) and not out.exists()
    extract_features(demo_backbone, SplitFiles.of_folder(split, CLASSIFY), out, Encoding(batch_size=32))
    _equal(load_features(out), load_features(demo_features / "digits"))
    assert sorted(p.name for p in shard_folder(out).iterdir()) == ["0", "1"]
