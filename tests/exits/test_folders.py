"""Folders of trained modules: tensors are those that were written, or are not used."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tgems.errors import UserError
from tgems.exits.bank_modules import BankGates
from tgems.exits.modules import ExitHeads, ImageGates, LookaheadGates
from tgems.exits.saved_modules import load_extra, load_module
from tgems.provenance import digest_file, read_json

WEIGHTS = "0" * 64
MODULES = {
    "heads": lambda: ExitHeads(2, 8, 4, 3),
    "linear heads": lambda: ExitHeads(2, 8, 0, 3),
    "narrow heads": lambda: ExitHeads(2, 8, 4, 3, (2, 4)),
    "lookahead": lambda: LookaheadGates(2, 8, 4, [0.2, 0.5, 1.0]),
    "confidence": lambda: ImageGates(2, 8, 4),
    "bank": lambda: BankGates(2, 8, 4),
}


def write(folder, name: str):
    """A module's folder, as the exits stage writes it."""
    module = MODULES[name]()
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors")
    save_file({"right": torch.ones(3)}, folder / "training.safetensors")
    config = {
        "architecture": {"kind": name.split()[-1]} | module.architecture,
        "options": {},
        "blocks": [1, 2, 3],
        "weights": WEIGHTS,
        "training_data": {},
        "model_digest": digest_file(folder / "model.safetensors"),
        "extra_digest": digest_file(folder / "training.safetensors"),
        "recorded": {},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return module


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_rebuilt_bit_for_bit(tmp_path, name):
    module, again = write(tmp_path / "m", name), load_module(tmp_path / "m", WEIGHTS)
    assert type(again) is type(module) and not any(p.requires_grad for p in again.parameters())
    before, after = module.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    summaries = torch.randn(5, 2, 8)
    if name != "bank":
        assert torch.equal(module(summaries), again(summaries))
    assert torch.equal(load_extra(tmp_path / "m")["right"], torch.ones(3))


@pytest.mark.parametrize(("file", "read"), [("model", lambda f: load_module(f, WEIGHTS)), ("training", load_extra)])
def test_a_flipped_bit_is_found(tmp_path, file, read):
    write(tmp_path / "m", "heads")
    path = tmp_path / f"m/{file}.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{file}.safetensors: truncated or altered; delete the folder and run again"):
        read(tmp_path / "m")


def test_what_is_missing_or_of_another_backbone_is_named(tmp_path):
    write(tmp_path / "m", "heads")
    with pytest.raises(UserError, match="trained on backbone weights 000000000000, but features of ffffffffffff are"):
        load_module(tmp_path / "m", "f" * 64)
    config = read_json(tmp_path / "m/config.json")
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"kind": "heads"}))
    with pytest.raises(UserError, match="unknown key 'kind' .*; delete the folder and run again"):
        load_module(tmp_path / "m", WEIGHTS)
    (tmp_path / "m/config.json").unlink()
    with pytest.raises(UserError, match="config.json: missing; delete the folder"):
        load_module(tmp_path / "m", WEIGHTS)
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(UserError, match="config.json: missing; delete the folder"):
        load_module(tmp_path / "m", WEIGHTS)
