import io
import json
import tarfile

import pytest

from tgems.data.fetch import fetch_split
from tgems.data.tar_index import ShardError
from tgems.data.webdataset import SplitFiles
from tgems.errors import UserError
from tgems.provenance import digest_file, read_json


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def pair(key, text=b"a dog\non a sofa\n", **more):
    return {f"{key}.jpg": b"jpeg", f"{key}.txt": text, f"{key}.json": json.dumps({"url": "x"} | more).encode()}


def fetch(tmp_path, where, source="tars", task="zeroshot_retrieval"):
    fetch_split("own", "train", f"{source}:{tmp_path / 'in'}", where, task, tmp_path / "r.json")
    return SplitFiles.of(tmp_path / "r.json", task)


def test_tars_of_pairs_are_read_in_the_order_of_their_names(tmp_path):
    for number in (10, 2, 0):
        write_tar(tmp_path / f"in/{number:05d}.tar", pair(f"{number:05d}0001") | pair(f"./{number:05d}0002"))
    (tmp_path / "in/00000.parquet").write_bytes(b"")
    split = fetch(tmp_path, "[1:]")
    assert [path.name for path in split.shards] == ["00002.tar", "00010.tar"]
    samples = [s for shard in split.shards for s in split.read(shard)]
    assert [s.key for s in samples] == ["000020001", "000020002", "000100001", "000100002"]
    assert samples[0].captions == ("a dog on a sofa",) and samples[0].suffix == "jpg"
    receipt = read_json(tmp_path / "r.json")
    assert receipt["shards"][0] == {
        "path": "00002.tar",
        "sha256": digest_file(tmp_path / "in/00002.tar"),
        "size": (tmp_path / "in/00002.tar").stat().st_size,
    }
    assert len(fetch(tmp_path, "").shards) == 3


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "none-such",
            "in/none-such: no such folder, but datasets.own.splits.train names it",
        ),
        ("empty", "in/empty: no .tar file in this folder"),
        ("[1:]", "in holds 1 shards, but splits names shard 1"),
    ],
)
def test_missing_parts_of_a_folder_are_named(tmp_path, where, message):
    (tmp_path / "in/empty").mkdir(parents=True)
    write_tar(tmp_path / "in/00000.tar", pair("a"))
    with pytest.raises((UserError, ShardError)) as error:
        fetch(tmp_path, where)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "r.json").exists()
