"""Fetch one split: make sure that all of its files are there and complete, and write a receipt that lists them.

Missing files of a `hub:` source are downloaded; those of a local folder are an error. Later stages read the receipt.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from tgems.data.dataset_entries import ROLES, Part, licence_of, parse_part
from tgems.data.hub import HubCopy
from tgems.data.receipt import read_receipt
from tgems.data.tar_index import check_end
from tgems.data.webdataset import PROMPT_FILES, read_prompts, shard_paths
from tgems.errors import UserError
from tgems.outputs import write_json
from tgems.provenance import digest_file

logger = logging.getLogger(__name__)


def fetch_split(
    dataset: str,
    split: str,
    source: str,
    where: str,
    task: str,
    out: Path,
    root: str | None = None,
    revision: str | None = None,
) -> None:
    """Fetch or check the shards of a split and write its receipt.

    Args:
        dataset: Name of the data set.
        split: Role of the split.
        source: `hub:ORG/REPO`, `wds:FOLDER` or `tars:FOLDER`.
        where: Folder of the split's shards, or a slice of them; see `parse_part`.
        task: `zeroshot_classification`, which needs class names and templates, `zeroshot_retrieval`, or
            `self_retrieval`.
        out: The receipt.
        root: Local folder of a data set on the hub.
        revision: Revision of a data set on the hub.

    Raises:
        UserError: A file is missing, or differs from the hub's.
    """
    scheme, _, rest = source.partition(":")
    part = parse_part(where, f"datasets.{dataset}.splits.{split}")
    prompts: list[str] = list(PROMPT_FILES) if task == "zeroshot_classification" else []
    receipt = {"dataset": dataset, "split": split, "source": source, "folder": part.folder, "repo": None}
    receipt |= {"revision": revision, "commit": None}
    if scheme == "hub":
        if revision is None or root is None:
            raise ValueError("a data set on the hub needs a revision and a folder")
        copy = HubCopy(dataset, rest, revision, Path(root), pinned_commit(Path(out), rest, revision))
        if licence := licence_of(source):
            logger.info("%s: licence or terms of the data set: %s", dataset, licence)
        shards, texts = copy.provide(part, prompts)
        receipt |= {"repo": rest, "commit": copy.commit}
        logger.info("%s/%s: %s@%s", dataset, split, rest, copy.commit or "a local copy of unknown commit")
    else:
        root = rest
        paths = local_shards(Path(root), part, scheme, f"datasets.{dataset}.splits.{split}")
        shards = _digested(Path(root), paths)
        texts = _digested(Path(root), [Path(root) / name for name in prompts])
    if prompts:
        read_prompts(Path(str(root)))
    write_json(out, receipt | {"root": str(root), "shards": shards, "prompts": texts})


def pinned_commit(out: Path, repo: str, revision: str) -> str | None:
    """Return the commit that a revision referred to when a split of the data set was fetched, from its receipts.

    Args:
        out: The receipt to write. If it exists it is read first, and then the receipts of other splits beside it.
        repo: Repository on the hub.
        revision: Requested revision.

    Returns:
        The commit, or None if no receipt names the same repository and revision.
    """
    for path in (out, *(out.with_name(f"{role}.json") for role in ROLES)):
        receipt = read_receipt(path) if path.is_file() else None
        if receipt and (receipt.repo, receipt.revision) == (repo, revision) and receipt.commit:
            return receipt.commit
    return None


def local_shards(root: Path, part: Part, scheme: str, place: str) -> list[Path]:
    """Find the shards of a split in a local folder.

    Args:
        root: Folder of the data set.
        part: Part of the data set.
        scheme: `wds` for numbered shards with an `nshards.txt`, or `tars` for all tars in alphabetical order.
        place: Key of the configuration that names the part, for the message.

    Raises:
        UserError: The folder or a shard does not exist.
    """
    folder = root / part.folder
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder, but {place} names it; docs/adding-a-dataset.md shows the layout")
    paths = shard_paths(folder) if scheme == "wds" else sorted(folder.glob("*.tar"))
    if not paths:
        raise UserError(f"{folder}: no .tar file in this folder, but {place} names it; add one, or name another folder")
    return part.pick(paths, str(folder))


def _digested(root: Path, paths: Iterable[Path]) -> list[dict]:
    """Describe files for the receipt: path below the root, SHA-256 and size."""
    files = []
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(f"{path}: missing; docs/adding-a-dataset.md shows the layout")
        if path.suffix == ".tar":
            check_end(path)
        name = str(path.relative_to(root))
        files.append({"path": name, "sha256": digest_file(path), "size": path.stat().st_size})
    return files
