"""The receipt of a split, which lists its files with their digests and states their origin."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tgems.provenance import RUN_AGAIN
from tgems.untrusted import Closed, Digest, read_json_as


class ListedFile(Closed):
    """A file of a split: path below the root, SHA-256, and size in bytes."""

    path: Annotated[str, Field(min_length=1)]
    sha256: Digest
    size: Annotated[int, Field(ge=0)]


class Receipt(Closed):
    """The content of `SPLIT.json`.

    Attributes:
        dataset: Name of the data set.
        split: Role of the split.
        source: Source, as in the configuration.
        folder: Folder of the split below `root`.
        root: Folder of the data set.
        repo: Repository on the hub, or None.
        revision: Requested revision, or None.
        commit: Commit that was downloaded, or None.
        shards: Shards in order.
        prompts: Files of class names and templates; none for retrieval.
    """

    dataset: str
    split: str
    source: str
    folder: str
    root: str
    repo: str | None
    revision: str | None
    commit: str | None
    shards: Annotated[tuple[ListedFile, ...], Field(min_length=1)]
    prompts: tuple[ListedFile, ...]


def read_receipt(path: Path) -> Receipt:
    """Read a receipt.

    Raises:
        UserError: The file is missing or damaged.
    """
    return read_json_as(Receipt, path, RUN_AGAIN)
