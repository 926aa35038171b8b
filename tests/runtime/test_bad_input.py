"""Inputs that cannot be used, on the command line and in the library: each ends with one line that names it."""

import os
import re
import shutil
import tarfile

import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from tgems.cli import app
from tgems.costs.exit_costs import read_costs
from tgems.data.tar_index import index_shard
from tgems.data.webdataset import shard_paths
from tgems.errors import UserError
from tgems.features.cache import load_features
from tgems.policies.registry import find_policies
from tgems.provenance import read_json

PHOTO = ROOT / "docs/tradeoff.png"


@pytest.fixture(scope="module")
def place(saved, results, make, tmp_path_factory):
    """A folder of things that are not what they seem."""
    root = tmp_path_factory.mktemp("bad")
    shutil.copytree(saved, root / "tgem")
    make("margin").save_pretrained(root / "margin")
    shutil.copytree(results, root / "results")
    (root / "file.txt").write_text("some text")
    (root / "empty.tar").write_bytes(b"")
    tarfile.open(root / "nothing.tar", "w").close()
    (root / "garbage.tar").write_bytes(os.urandom(1024) + bytes(1024))
    (root / "garbage.png").write_bytes(os.urandom(2000))
    (root / "cut.png").write_bytes(PHOTO.read_bytes()[:5000])
    (root / "folder.png").mkdir()
    (root / "no_images").mkdir()
    (root / "no_images/readme.txt").touch()
    pd.DataFrame({"image": ["a"], "embedding": [[0.0]]}).to_csv(root / "index.csv")
    (root / "index.parquet").mkdir()
    pd.DataFrame({"a": range(1000)}).to_parquet(root / "cut.parquet")
    (root / "cut.parquet").write_bytes((root / "cut.parquet").read_bytes()[:-30])
    origin = dict.fromkeys(("model", "backbone", "tgem", "policy", "calibration", "max_rate"), "x")
    for name, column in (("words", ["a", "b"]), ("nulls", [[0.5], None])):
        frame = pd.DataFrame({"image": ["a", "b"], "exit_block": [1, 2], "embedding": column, **origin})
        frame.to_parquet(root / f"{name}.parquet")
    for name in ("cut_tensors", "cut_config", "no_object", "other_format", "no_tensors"):
        shutil.copytree(saved, root / name)
    (root / "cut_tensors/model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-100])
    (root / "cut_config/config.json").write_text((saved / "config.json").read_text()[:500])
    (root / "no_object/config.json").write_text("[1]")
    (root / "other_format/config.json").write_text("{}")
    (root / "no_tensors/model.safetensors").unlink()
    for name in ("unfinished", "cut_run", "no_config", "cut_table", "words_table", "no_full", "no_costs", "no_heads"):
        shutil.copytree(results, root / name)
    (root / "unfinished/tables/tradeoff.csv").unlink()
    (root / "cut_run/tables/provenance.json").write_text('{"config": {"backb')
    (root / "no_config/tables/provenance.json").write_text("{}")
    table = (results / "tables/tradeoff.csv").read_text()
    (root / "cut_table/tables/tradeoff.csv").write_text(table[:40])
    (root / "words_table/tables/tradeoff.csv").write_text(table.replace("0.6,", "much,"))
    (root / "no_full/tables/tradeoff.csv").write_text(re.sub(r"(?m)^.*,full,.*\n", "", table))
    (root / "no_costs/profiling/demo/default/macs.json").write_text('{"costs": {}}')
    shutil.rmtree(root / "no_heads/exits/demo/default/heads")
    (root / "binary.csv").write_bytes(b"\xff\xfe,\x00\n")
    return root


ENCODE = ["-m", "tgem", "-o", "out.parquet"]
CASES = {
    "no image of this name": (["encode", "gone.png", *ENCODE], "gone.png: there is no such file, folder or match"),
    "a name that is too long": (["encode", "x" * 300, *ENCODE], "cannot be read (File name too long)"),
    "no image but a text": (["encode", "file.txt", *ENCODE], "file.txt: not an image"),
    "a folder without images": (["encode", "no_images", *ENCODE], "no_images: no image"),
    "an empty tar": (["encode", "empty.tar", *ENCODE], "empty.tar: damaged archive (no end mark)"),
    "a tar of nothing": (["encode", "nothing.tar", *ENCODE], "nothing.tar: the shard holds no sample"),
    "a tar of garbage": (["encode", "garbage.tar", *ENCODE], "garbage.tar: damaged archive"),
    "an image of garbage": (["encode", "garbage.png", *ENCODE], "garbage.png: cannot be read (cannot identify image"),
    "a truncated image": (["encode", "cut.png", *ENCODE], "cut.png: cannot be read (image file is truncated"),
    "a folder named like an image": (["encode", "folder.png", *ENCODE], "folder.png: no image"),
    "out is a folder": (["encode", PHOTO, "-m", "tgem", "-o", "no_images"], "no_images: a folder; name a Parquet file"),
    "out is below a file": (["encode", PHOTO, "-m", "tgem", "-o", "file.txt/i.parquet"], "cannot be written"),
    "out is too long": (["encode", PHOTO, "-m", "tgem", "-o", "x" * 300], "cannot be written (File name too long)"),
    "a model whose name is too long": (["encode", PHOTO, "-m", "x" * 300, "-o", "o"], "no such folder here"),
    "no such model": (["encode", PHOTO, "-m", "no/such/model", "-o", "o"], "no/such/model: no such folder here"),
    "the model is a file": (["encode", PHOTO, "-m", "file.txt", "-o", "o"], "file.txt: not a saved T-GEM"),
    "a policy that needs texts": (["encode", PHOTO, "-m", "margin", "-o", "o"], "policy 'margin' looks at the texts"),
    "truncated tensors": (["encode", PHOTO, "-m", "cut_tensors", "-o", "o"], "model.safetensors: truncated or altered"),
    "no such tokenizer": (
        ["encode", PHOTO, *ENCODE, "--tokenizer", "local-dir:gone"],
        "tokenizer 'local-dir:gone': folder gone does not exist",
    ),
    "an index that is a CSV": (["search", "x", "-i", "index.csv"], "index.csv: not a Parquet file"),
    "an index that is a folder": (["search", "x", "-i", "index.parquet"], "index.parquet: a folder, not a file; make"),
    "a truncated index": (["search", "x", "-i", "cut.parquet"], "cut.parquet: not a Parquet file"),
    "an index of words": (["search", "x", "-i", "words.parquet"], "words.parquet: not an index of `tgems encode`: "),
    "an index with empty cells": (["search", "x", "-i", "nulls.parquet"], "column 'embedding' has empty cells"),
    "no T-GEM": (["info", "no_images"], "no_images: not a saved T-GEM, config.json is missing"),
    "no folder": (["info", "gone"], "gone: no such folder here, and it cannot be downloaded"),
    "a file instead of a folder": (["info", "file.txt"], "file.txt: not a saved T-GEM"),
    "a truncated configuration": (["info", "cut_config"], "cut_config/config.json: not valid JSON"),
    "a configuration that is no object": (["info", "no_object"], "no_object/config.json: "),
    "a configuration of something else": (["info", "other_format"], "other_format/config.json: format is None"),
    "a T-GEM without tensors": (["info", "no_tensors"], "no_tensors: not a saved T-GEM, model.safetensors is missing"),
    "no results": (
        ["export", "demo", "g", "--results", "gone"],
        "gone/tables/provenance.json: missing; give",
    ),
    "results of an unfinished run": (
        ["export", "demo", "g", "--results", "unfinished"],
        "unfinished/tables/tradeoff.csv: missing; give the results folder of a finished run",
    ),
    "a truncated record": (["export", "demo", "g", "--results", "cut_run"], "provenance.json: not valid JSON"),
    "a record of nothing": (["export", "demo", "g", "--results", "no_config"], "provenance.json: holds no 'config'"),
    "a truncated table": (["export", "demo", "g", "--results", "cut_table"], "tradeoff.csv: has no column"),
    "a table of words": (
        ["export", "demo", "g", "--results", "words_table"],
        "holds more than numbers",
    ),
    "no reference": (["export", "demo", "g", "--results", "no_full"], "of policy 'full' on"),
    "no costs": (["export", "demo", "g", "--results", "no_costs"], "macs.json: holds no costs as this version"),
    "no heads": (
        ["export", "demo", "g", "--results", "no_heads"],
        "heads/seed-0/config.json: missing",
    ),
    "an unknown policy": (
        ["export", "demo", "g", "--results", "results", "--policy", "oracel"],
        "policy 'oracel' is",
    ),
    "an unknown backbone": (
        ["export", "dmo", "g", "--results", "results"],
        "backbone 'dmo' is not in this run",
    ),
    "export to a file": (
        ["export", "demo", "file.txt", "--results", "results"],
        "file.txt: is a file; name a new",
    ),
    "export below a file": (["export", "demo", "file.txt/g", "--results", "results"], "file.txt/g: cannot be written"),
    "export among other files": (
        ["export", "demo", "no_images", "--results", "results"],
        "holds files that are no",
    ),
    "compare with nothing": (["compare", "results", "gone"], "gone/tables/provenance.json: missing"),
    "compare with a file": (["compare", "results", "file.txt"], "file.txt/tables/provenance.json: missing"),
    "compare an unfinished run": (["compare", "unfinished", "results"], "unfinished/tables/tradeoff.csv: missing"),
    "compare a truncated table": (["compare", "results", "cut_table"], "cut_table/tables/tradeoff.csv: has no column"),
    "compare a table of words": (["compare", "results", "words_table"], "holds more than numbers"),
    "an unknown architecture": (["macs", "ViT-B-33"], "did you mean 'ViT-B-32'?"),
    "an architecture that cannot be cut": (["macs", "convnext_base"], "is not supported"),
    "no such backbone": (["macs", "local-dir:gone"], "folder gone does not exist"),
    "a backbone without configuration": (["macs", "local-dir:no_images"], "no_images/open_clip_config.json: missing"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_command_line_names_it_on_one_line(place, monkeypatch, case):
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words, message = CASES[case]
    before = sorted(place.rglob("*"))
    run = CliRunner().invoke(app, [str(word) for word in words])
    assert run.exit_code == 1, (run.output, run.exception)
    lines = run.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], run.output
    assert sorted(place.rglob("*")) == before, "nothing is left behind"


POLICY = "raise ImportError('no module')"
DOORS = {
    "JSON that nests too deeply": (lambda p: read_json(p / "deep.json"), "deep.json: not valid JSON"),
    "JSON that is missing": (lambda p: read_json(p / "gone.json"), "gone.json: cannot be read (No such file"),
    "JSON that is a folder": (lambda p: read_json(p), "cannot be read (Is a directory)"),
    "JSON in other bytes": (lambda p: read_json(p / "binary.json"), "binary.json: not valid JSON"),
    "JSON that is a list": (lambda p: read_json(p / "list.json"), "list.json: not a JSON object"),
    "costs of another version": (lambda p: read_costs(p / "costs.json"), "costs.json: holds no costs as this version"),
    "features without keys": (lambda p: load_features(p / "features"), "features: manifest.json has no key 'blocks'"),
    "features that are a file": (lambda p: load_features(p / "list.json"), "list.json: no manifest.json"),
    "a missing shard": (lambda p: index_shard(p / "0.tar"), "0.tar: cannot be read (No such file or directory)"),
    "a shard that is a folder": (lambda p: index_shard(p), "cannot be read (Is a directory)"),
    "a number of shards that is none": (lambda p: shard_paths(p), "nshards.txt: '1e9' is not a number of shards"),
    "a policy that cannot be imported": (
        lambda p: find_policies([f"{p}/own.py:Own"]),
        r"own.py cannot be imported (ImportError at line 1 of",
    ),
    "a policy that is not a Python file": (
        lambda p: find_policies([f"{p}/list.json:Own"]),
        "is not a Python file; expected",
    ),
    "a policy that is no Python": (lambda p: find_policies([f"{p}/cut.py:Own"]), "(SyntaxError at line 2 of "),
}


@pytest.mark.parametrize("case", DOORS)
def test_the_library_names_it_on_one_line(tmp_path, case):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "costs.json").write_text('{"costs": {"blocks": [1, 2]}}')
    (tmp_path / "features").mkdir()
    (tmp_path / "features/manifest.json").write_text('{"schema_version": 4}')
    (tmp_path / "nshards.txt").write_text("1e9")
    (tmp_path / "own.py").write_text(POLICY)
    (tmp_path / "cut.py").write_text("import torch\nclass Own(")
    call, message = DOORS[case]
    with pytest.raises(UserError) as error:
        call(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
