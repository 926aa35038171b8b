"""Functions of the library with files that they cannot use raise an error of one line that names the file."""

import pytest
from faults.breaking import check_line

from tgems.costs.saved_costs import read_costs
from tgems.data.tar_index import index_shard
from tgems.errors import UserError
from tgems.features.cache import load_features
from tgems.policies.registry import find_policies
from tgems.provenance import read_json

POLICY = "raise ImportError('no module')"
DOORS = {
    "JSON that nests too deeply": (lambda p: read_json(p / "deep.json"), "deep.json: not valid JSON"),
    "JSON that is missing": (lambda p: read_json(p / "gone.json"), "gone.json: cannot be read (No such file"),
    "JSON that is a folder": (lambda p: read_json(p), "cannot be read (Is a directory)"),
    "JSON in other bytes": (lambda p: read_json(p / "binary.json"), "binary.json: not valid JSON"),
    "JSON that is a list": (lambda p: read_json(p / "list.json"), "list.json: not a JSON object"),
    "costs of another version": (
        lambda p: read_costs(p / "costs.json"),
        "costs.json: key 'encoder' is missing at costs",
    ),
    "features without keys": (
        lambda p: load_features(p / "features"),
        "features/manifest.json: key 'weights' is missing at the top level",
    ),
    "features that are a file": (lambda p: load_features(p / "list.json"), "list.json: no manifest.json"),
    "a missing shard": (lambda p: index_shard(p / "0.tar"), "0.tar: cannot be read (No such file or directory)"),
    "a shard that is a folder": (lambda p: index_shard(p), "cannot be read (Is a directory)"),
    "a policy that cannot be imported": (
        lambda p: find_policies([f"{p}/own.py:Own"]),
        "own.py cannot be imported (ImportError at line 1 of",
    ),
    "a policy that is not a Python file": (
        lambda p: find_policies([f"{p}/list.json:Own"]),
        "is not a Python file; expected",
    ),
    "a policy that is no Python": (lambda p: find_policies([f"{p}/cut.py:Own"]), "(SyntaxError at line 2 of "),
}


@pytest.mark.parametrize("case", DOORS)
def test_bad_input_to_the_library_is_named_on_one_line(tmp_path, case):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "costs.json").write_text('{"costs": {"blocks": [1, 2]}}')
    (tmp_path / "features").mkdir()
    (tmp_path / "features/manifest.json").write_text('{"schema_version": 4}')
    (tmp_path / "own.py").write_text(POLICY)
    (tmp_path / "cut.py").write_text("import torch\nclass Own(")
    call, message = DOORS[case]
    with pytest.raises(UserError) as error:
        call(tmp_path)
    check_line(str(error.value), {"says": message})
