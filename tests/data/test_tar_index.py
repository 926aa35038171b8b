"""Tars of any content are indexed, or give one line."""

import io
import tarfile

import numpy as np
import pytest

from tgems.data.tar_index import index_shard
from tgems.errors import UserError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def written(kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[kind]) as tar:
        for key in ("a", "b", "c" * 90):
            for suffix, data in {"png": b"x" * 700, "cls": b"1", "json": b'{"sources": ["a"]}'}.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_changed_headers_give_one_line_at_most(tmp_path, kind):
    random, intact, path = np.random.default_rng(0), written(kind), tmp_path / "0.tar"
    refused = 0
    for _ in range(400):
        data = bytearray(intact)
        for block in random.integers(0, len(data) // 512 - 2, 2) * 512:
            data[block + random.integers(512)] = random.integers(256)
            header = data[block : block + 148] + b" " * 8 + data[block + 156 : block + 512]
            data[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        path.write_bytes(data)
        try:
            index_shard(path, "zeroshot_classification")
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
    assert refused


def test_headers_of_headers_give_one_line(tmp_path):
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    (tmp_path / "0.tar").write_bytes(header.tobuf() * 5000 + bytes(1024))
    with pytest.raises(UserError, match="0.tar: damaged archive"):
        index_shard(tmp_path / "0.tar")
