"""Canaries: code that writes a file when it runs, in the forms in which data can carry code."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import strategies as st

from tgems.errors import UserError
from tgems.provenance import read_json

FOLDER = ROOT / "assets/backbones/demo-vit-8"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
REMOTE_CODE = {
    "tokenization_canary.py": "from transformers import PreTrainedTokenizerFast as Base",
    "configuration_canary.py": "from transformers import PretrainedConfig as Base",
}


class Canary:
    """A file that exists once the code of a test has run; pickling it makes a pickle that creates the file."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def ran(self) -> bool:
        return self.path.exists()

    def __reduce__(self):
        return open, (str(self.path), "w")


def write_remote_code(folder: Path, canary: Canary) -> Path:
    """Files of a tokenizer and a text tower that transformers builds by code beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, code in REMOTE_CODE.items():
        (folder / name).write_text(f"open({str(canary.path)!r}, 'w')\n{code}\nclass Canary(Base): pass\n")
    tokenizer = {"auto_map": {"AutoTokenizer": [None, "tokenization_canary.Canary"]}, "tokenizer_class": "Canary"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    model = {"auto_map": {"AutoConfig": "configuration_canary.Canary"}, "model_type": f"canary {folder}"}
    (folder / "config.json").write_text(json.dumps(model))
    return folder


def write_tokenizer(folder: Path) -> None:
    """Files of a harmless tokenizer of transformers that knows three words, 1 to 3."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "red": 2, "four": 3}, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    folder.mkdir()
    words.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def edit(folder: Path, **text_cfg) -> None:
    """Change `text_cfg` of a backbone's configuration."""
    config = read_json(folder / CONFIG)
    config["model_cfg"]["text_cfg"] |= text_cfg
    (folder / CONFIG).write_text(json.dumps(config))


def refused(canary: Canary, call, *arguments, **options) -> str:
    """The one line that a call ends with; nothing has run."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert not canary.ran and "\n" not in str(error.value)
    return str(error.value)


def backbone(folder: Path, **entry) -> dict:
    """The entry of a backbone in a folder."""
    return {"pretrained": f"local-dir:{folder}"} | entry


PICKLES = {
    "zip": lambda path, harm: torch.save({"state_dict": harm}, path),
    "legacy": lambda path, harm: torch.save({"state_dict": harm}, path, _use_new_zipfile_serialization=False),
    "plain": lambda path, harm: path.write_bytes(pickle.dumps(harm)),
    "npz": lambda path, harm: np.savez(path.open("wb"), a=np.array([harm], dtype=object)),
}


def edit_t_gem(folder: Path, change) -> None:
    """Change a T-GEM's config.json by hand."""
    config = read_json(folder / "config.json")
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def places(value, place=()):
    """Paths to all values within a JSON value."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*place, key))


def changes(value):
    """Copies of a JSON value with a part taken away or replaced by something odd; of lists, the first and last part."""
    odd = (None, -1, 10**400, "word", [], {"a": {}})
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        if isinstance(value, list) and key not in (0, len(value) - 1):
            continue
        less = copy.copy(value)
        del less[key]
        yield less
        for other in (*odd, *changes(part)):
            yield {**value, key: other} if isinstance(value, dict) else [*value[:key], other, *value[key + 1 :]]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(-2, 2) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
