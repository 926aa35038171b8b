"""Break files as the cases in tests/faults/*.yaml say, each of which also holds the expected line.

An operation is a mapping, whose first key is the operation and its value the path of a file or folder:

    {text: a.json, is: "[1]"}                 {bytes: a.json, hex: fffe00, times: 64}    {folder: a}
    {sparse: a.txt, size: 1073741824}
    {cut: a.tar, to: 5000}                    {flip: a.safetensors, byte: -9}            {delete: a.json}
    {copy: a, to: b}                          {link: a, to: b}                           {replace: a.csv, pattern: x, by: y}
    {set: a.json, at: costs.blocks.7, to: 9}  {drop: a.json, at: costs.blocks.7}         {nest: a.json, with: "[", times: 100000}
    {digest: config.json, of: model.safetensors}
    {tensor: a.safetensors, named: x, shape: [2]}, {..., value: .nan}, {..., drop: true}
    {parquet: a.parquet, columns: {image: [a, b]}}
    {tar: a.tar, members: [{name: a.png, copy: photo.png}, {name: a.cls, text: "1"}, {name: b.png, kind: symlink, to: a.png}]}
"""  # noqa: E501

import io
import json
import os
import re
import shutil
import tarfile
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml

from tgems.provenance import digest_file

KINDS = {
    "link": tarfile.LNKTYPE,
    "symlink": tarfile.SYMTYPE,
    "device": tarfile.CHRTYPE,
    "fifo": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
}


def cases(name: str) -> list:
    """Return the cases of a file as parameters of a test; they are named by what is broken."""
    listed = yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text())
    assert len({case["case"] for case in listed}) == len(listed), "each case has a name of its own"
    return [pytest.param(case, id=case["case"]) for case in listed]


def break_(folder: Path, operations: list[dict]) -> None:
    """Apply operations one after the other; their paths are relative to the folder."""
    for operation in operations:
        name, *_ = operation
        OPERATIONS[name](folder / operation[name], **{k: v for k, v in operation.items() if k != name})


def check_line(message: str, case: dict, longest: int = 1000) -> None:
    """Check that a message is one line that says what the case expects; `...` stands for any text."""
    pattern = ".*".join(re.escape(part) for part in case["says"].split("..."))
    assert "\n" not in message and re.search(pattern, message) and len(message) < longest, message


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _cut(path: Path, to: int) -> None:
    path.write_bytes(path.read_bytes()[:to])


def _flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _copy(path: Path, to: str) -> None:
    (shutil.copytree if path.is_dir() else shutil.copy)(path, path.with_name(to))


def _replace(path: Path, pattern: str, by: str) -> None:
    text = path.read_text()
    changed = re.sub(pattern, by, text, flags=re.MULTILINE)
    assert changed != text, f"{path.name} holds no {pattern!r}"
    path.write_text(changed)


def _edit(path: Path, at: str, change) -> None:
    value = json.loads(path.read_text())
    *keys, last = (int(key) if re.fullmatch(r"-?\d+", key) else key for key in at.split("."))
    change(reduce(getitem, keys, value), last)
    path.write_text(json.dumps(value))


def _set(path: Path, at: str, to: object) -> None:
    _edit(path, at, lambda inner, key: inner.__setitem__(key, to))


def _drop(path: Path, at: str) -> None:
    _edit(path, at, lambda inner, key: inner.pop(key))


def _tensor(path: Path, named: str, shape: list | None = None, value: float = 0, drop: bool = False) -> None:
    """Take away, replace, add or fill a tensor."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    if drop:
        del tensors[named]
    elif shape is None:
        tensors[named].view(-1)[0] = value
    else:
        tensors[named] = torch.full(shape, float(value))
    save_file(tensors, path)


def _parquet(path: Path, columns: dict) -> None:
    import pandas as pd

    pd.DataFrame(columns).to_parquet(path)


def _tar(path: Path, members: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            data = b""
            if "copy" in member:
                data = (path.parent / member["copy"]).read_bytes()
            elif "text" in member:
                data = member["text"].encode() * member.get("times", 1)
            elif "hex" in member:
                data = bytes.fromhex(member["hex"])
            info = tarfile.TarInfo(member["name"])
            info.size, info.linkname = len(data), member.get("to", "")
            info.type = KINDS[member["kind"]] if "kind" in member else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))


OPERATIONS = {
    "text": lambda path, **o: _write(path, o["is"].encode()),
    "bytes": lambda path, hex, times=1: _write(path, bytes.fromhex(hex) * times),
    "nest": lambda path, times, before="", **o: _write(path, (before + o["with"] * times).encode()),
    "digest": lambda path, of: _set(path, "model_digest", digest_file(path.with_name(of))),
    "folder": lambda path: path.mkdir(parents=True),
    "sparse": lambda path, size: os.truncate(path, size),
    "link": lambda path, to: path.symlink_to(to),
    "cut": _cut,
    "flip": _flip,
    "delete": _delete,
    "copy": _copy,
    "replace": _replace,
    "set": _set,
    "drop": _drop,
    "tensor": _tensor,
    "parquet": _parquet,
    "tar": _tar,
}
